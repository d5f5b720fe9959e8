import { useMessages } from '@tickgate/client/react';
import { useState } from 'react';
import type { Trade } from './channels';

const SHOWN = 16;

interface Print extends Trade {
  key: string;
}

export const Tape = ({ symbol }: { symbol: string }) => {
  const [prints, setPrints] = useState<Print[]>([]);
  useMessages(
    `trades:${symbol}`,
    (messages) =>
      setPrints((before) => {
        const fresh = messages.map(({ id, data }) => ({ ...data, key: id! })).reverse();
        return [...fresh, ...before].slice(0, SHOWN);
      }),
    { last: SHOWN },
  );
  return (
    <section className="tape" aria-label={`Trades of ${symbol}`}>
      <h2>Trades</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">Price</th>
            <th scope="col">Quantity</th>
          </tr>
        </thead>
        <tbody>
          {prints.map((trade) => (
            <tr key={trade.key} className={trade.side.toLowerCase() === 'sell' ? 'down' : 'up'}>
              <td className="price">{trade.price}</td>
              <td>{trade.quantity}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
};
