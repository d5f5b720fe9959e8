import { useStatus } from '@tickgate/client/react';
import { useState } from 'react';
import { Blotter } from './Blotter';
import { Depth } from './Depth';
import { Grid } from './Grid';
import { Tape } from './Tape';

const WORDS = {
  connecting: 'Connecting',
  catching_up: 'Catching up',
  live: 'Live',
  stale: 'No news from the server',
  waiting: 'Connection lost',
  closed: 'Disconnected',
};

const Status = () => {
  const { state, reason, retryInMs } = useStatus();
  const why = state === 'waiting' || state === 'closed' ? reason : undefined;
  const next = retryInMs === undefined ? undefined : `next attempt in ${(retryInMs / 1000).toFixed(1)} s`;
  return (
    <p className={`status ${state}`} role="status" title={[why, next].filter(Boolean).join('; ')}>
      <span aria-hidden="true" /> {WORDS[state]}
    </p>
  );
};

export const Desk = () => {
  const [symbol, choose] = useState<string>('BTCUSDT');
  return (
    <>
      <header>
        <h1>Trading desk</h1>
        <Status />
      </header>
      <main>
        <Grid chosen={symbol} choose={choose} />
        <div className="side">
          <Blotter />
          <div className="market">
            <Depth key={`book ${symbol}`} symbol={symbol} />
            <Tape key={`tape ${symbol}`} symbol={symbol} />
          </div>
        </div>
      </main>
    </>
  );
};
