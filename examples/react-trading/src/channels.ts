/** The channels of this platform and their messages. */
import type { EventChannel, ReliableChannel, StateChannel } from '@tickgate/client';

export interface Ticker {
  symbol: string;
  price: string;
  price_change_percent: string;
}

export interface Trade {
  symbol: string;
  price: string;
  quantity: string;
  side: string;
}

export interface OrderBook {
  bids: [price: string, quantity: string][];
  asks: [price: string, quantity: string][];
}

export interface Order {
  order_id: string;
  symbol: string;
  side: string;
  quantity: string;
  price: string;
  status: string;
}

export interface Channels {
  orders: ReliableChannel<Order>;
  [ticker: `ticker:${string}`]: StateChannel<Ticker>;
  [trades: `trades:${string}`]: EventChannel<Trade>;
  [book: `orderbook:${string}`]: StateChannel<OrderBook>;
}

declare module '@tickgate/client/react' {
  interface Register {
    channels: Channels;
  }
}
