/** A page for react.browser.ts: counts renders and keeps what the hooks delivered. */
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { connect } from '@tickgate/client';
import { TickgateProvider, useMessages, useStale, useStatus, useValue } from '@tickgate/client/react';

declare global {
  interface Window {
    page: { url: string; renders: number; messages: string[]; batches: number; open(url: string): void; client: any };
  }
}

const Price = () => {
  window.page.renders++;
  const price = useValue('ticker', (ticker: any) => ticker.price);
  const stale = useStale('ticker');
  return <b id="price">{`${price} ${stale ? 'stale' : 'fresh'}`}</b>;
};

const Orders = () => {
  useMessages(
    'orders',
    (batch) => {
      window.page.batches++;
      window.page.messages.push(...batch.map(({ id }) => id!));
    },
    { onGap: ({ reason }) => void window.page.messages.push(`gap ${reason}`) },
  );
  return null;
};

const App = () => {
  const [shown, show] = useState(true);
  const [again, readAgain] = useState(false);
  const { state } = useStatus();
  return (
    <>
      <i id="state">{state}</i>
      <button id="toggle" onClick={() => show(!shown)} />
      <button id="again" onClick={() => readAgain(!again)} />
      {shown && <Price />}
      {again && <Price />}
      {shown && <Orders />}
    </>
  );
};

window.page = {
  url: '',
  renders: 0,
  messages: [],
  batches: 0,
  client: undefined,
  open(url) {
    this.client = connect(url);
    createRoot(document.body.appendChild(document.createElement('div'))).render(
      <StrictMode>
        <TickgateProvider client={this.client}>
          <App />
        </TickgateProvider>
      </StrictMode>,
    );
  },
};
