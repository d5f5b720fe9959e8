// The messages of the market endpoint, as its document gives them, sent by Node's `ws`.

const WebSocket = require('ws');

const ws = new WebSocket(`${process.env.GATEWAY}/ws/market`);

ws.onopen = () => {
  ws.send(JSON.stringify({ type: 'subscribe_ticker', symbols: ['BTCUSDT', 'ETHUSDT'] }));
  ws.send(JSON.stringify({ type: 'subscribe_trades', symbols: ['BTCUSDT'] }));
  ws.send(JSON.stringify({ type: 'subscribe_orderbook', symbols: ['BTCUSDT'] }));
};

ws.onmessage = (event) => {
  console.log(event.data);
};
