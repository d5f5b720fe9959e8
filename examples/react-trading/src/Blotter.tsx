import { useMessages } from '@tickgate/client/react';
import { memo, useState } from 'react';
import type { Order } from './channels';

/** How many orders are shown. */
const SHOWN = 30;

const Row = memo(({ order }: { order: Order }) => (
  <tr data-order={order.order_id} className={order.side === 'sell' ? 'down' : 'up'}>
    <th scope="row">{order.order_id}</th>
    <td className="text">{order.symbol}</td>
    <td className="text change">{order.side}</td>
    <td>{order.quantity}</td>
    <td>{order.price}</td>
    <td>{order.status.replace('partially_filled', 'partial')}</td>
  </tr>
));

export const Blotter = () => {
  const [orders, setOrders] = useState<readonly Order[]>([]);
  const [incomplete, setIncomplete] = useState(false);
  useMessages(
    'orders',
    (messages) =>
      setOrders((before) => {
        // The most recently changed order comes first.
        const changed = new Map(messages.map(({ data }) => [data.order_id, data]));
        const others = before.filter(({ order_id }) => !changed.has(order_id));
        return [...[...changed.values()].reverse(), ...others].slice(0, SHOWN);
      }),
    // A platform loads its open orders here; this example has no order service, so it shows a notice.
    { onGap: () => setIncomplete(true) },
  );
  return (
    <section className="blotter" aria-label="Orders">
      <h2>Orders</h2>
      {incomplete && <p role="alert">Some orders are missing.</p>}
      <div className="scroll" tabIndex={0} role="region" aria-label="Table of orders">
        <table>
          <thead>
            <tr>
              <th scope="col">Order</th>
              <th className="text" scope="col">
                Symbol
              </th>
              <th className="text" scope="col">
                Side
              </th>
              <th scope="col">Quantity</th>
              <th scope="col">Price</th>
              <th scope="col">Status</th>
            </tr>
          </thead>
          <tbody>
            {orders.map((order) => (
              <Row key={order.order_id} order={order} />
            ))}
          </tbody>
        </table>
        {orders.length === 0 && <p className="none">No orders yet</p>}
      </div>
    </section>
  );
};
