import { useStale, useValue } from '@tickgate/client/react';

const LEVELS = 8;

const Side = ({ levels, side }: { levels: [string, string][]; side: 'up' | 'down' }) => {
  const most = Math.max(...levels.map(([, quantity]) => Number(quantity)), 0);
  return levels.map(([price, quantity]) => (
    <tr key={price} className={side}>
      <td className="price">{price}</td>
      <td className="bar">
        <span aria-hidden="true" style={{ width: `${(100 * Number(quantity)) / most}%` }} />
        <b>{quantity}</b>
      </td>
    </tr>
  ));
};

export const Depth = ({ symbol }: { symbol: string }) => {
  const book = useValue(`orderbook:${symbol}`);
  const stale = useStale(`orderbook:${symbol}`);
  return (
    <section className={`depth ${stale ? 'stale' : ''}`} aria-label={`Order book of ${symbol}`}>
      <h2>{symbol} order book</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">Price</th>
            <th scope="col">Quantity</th>
          </tr>
        </thead>
        <tbody>
          <Side side="down" levels={(book?.asks ?? []).slice(0, LEVELS).reverse()} />
          <Side side="up" levels={(book?.bids ?? []).slice(0, LEVELS)} />
        </tbody>
      </table>
    </section>
  );
};
