import { useStale, useValue } from '@tickgate/client/react';
import { memo } from 'react';
import { SYMBOLS } from './symbols';

interface Choice {
  chosen: string;
  choose(symbol: string): void;
}

const Row = memo(({ symbol, isChosen, choose }: { symbol: string; isChosen: boolean; choose: Choice['choose'] }) => {
  const ticker = useValue(`ticker:${symbol}`, undefined, { maxRate: 4 });
  const stale = useStale(`ticker:${symbol}`, { maxRate: 4 });
  const change = ticker?.price_change_percent ?? '';
  return (
    <tr className={`${stale ? 'stale' : change.startsWith('-') ? 'down' : 'up'} ${isChosen ? 'chosen' : ''}`}>
      <th scope="row">
        <button type="button" aria-pressed={isChosen} onClick={() => choose(symbol)}>
          {symbol}
        </button>
      </th>
      <td className="price">{ticker?.price ?? '…'}</td>
      <td className="change">{change && `${change} %`}</td>
    </tr>
  );
});

export const Grid = ({ chosen, choose }: Choice) => (
  <section className="grid" aria-label="Prices">
    <h2>Prices</h2>
    <div className="scroll" tabIndex={0} role="region" aria-label="Table of prices">
      <table>
        <thead>
          <tr>
            <th scope="col">Symbol</th>
            <th scope="col">Last</th>
            <th scope="col">Today</th>
          </tr>
        </thead>
        <tbody>
          {SYMBOLS.map((symbol) => (
            <Row key={symbol} symbol={symbol} isChosen={symbol === chosen} choose={choose} />
          ))}
        </tbody>
      </table>
    </div>
  </section>
);
