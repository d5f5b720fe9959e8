import { connect, persist } from '@tickgate/client';
import { TickgateProvider } from '@tickgate/client/react';
import { share } from '@tickgate/client/tabs';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import type { Channels } from './channels';
import { Desk } from './Desk';
import './style.css';

const client = connect<Channels>(`${location.origin.replace('http', 'ws')}/ws/desk`, {
  token: () => fetch('/token').then((response) => response.text()),
  persist: persist(),
  link: share(() => new SharedWorker(new URL('@tickgate/client/worker', import.meta.url), { type: 'module' })),
});

// For the browser's console, and for tests.
Object.assign(window, { tickgate: client });

if (location.hash === '#debug') void import('@tickgate/client/overlay').then(({ showOverlay }) => showOverlay(client));

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <TickgateProvider client={client}>
      <Desk />
    </TickgateProvider>
  </StrictMode>,
);
