import { useMessages } from '@tickgate/client/react';
import { useState } from 'react';
import type { Order } from './channels';

/** How many orders are shown. */
const SHOWN = 50;

export const Blotter = () => {
  const [orders, setOrders] = useState<ReadonlyMap<string, Order>>(new Map());
  const [incomplete, setIncomplete] = useState(false);
  useMessages(
    'orders',
    (messages) =>
      setOrders((before) => {
        const after = new Map(before);
        for (const { data } of messages) {
          // The order that changed last comes first.
          after.delete(data.order_id);
          after.set(data.order_id, data);
        }
        return after;
      }),
    // A platform loads its open orders here; this example has no place to load them from, and says so.
    { onGap: () => setIncomplete(true) },
  );
  const rows = [...orders.values()].reverse().slice(0, SHOWN);
  return (
    <section className="blotter" aria-label="Orders">
      <h2>Orders</h2>
      {incomplete && <p role="alert">Some orders are missing.</p>}
      <div className="scroll" tabIndex={0} role="region" aria-label="Table of orders">
        <table>
          <thead>
            <tr>
              <th scope="col">Order</th>
              <th scope="col">Symbol</th>
              <th scope="col">Side</th>
              <th scope="col">Quantity</th>
              <th scope="col">Price</th>
              <th scope="col">Status</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((order) => (
              <tr key={order.order_id} data-order={order.order_id} className={order.side === 'sell' ? 'down' : 'up'}>
                <th scope="row">{order.order_id}</th>
                <td>{order.symbol}</td>
                <td className="change">{order.side}</td>
                <td>{order.quantity}</td>
                <td>{order.price}</td>
                <td>{order.status}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {rows.length === 0 && <p className="none">No orders yet</p>}
      </div>
    </section>
  );
};
