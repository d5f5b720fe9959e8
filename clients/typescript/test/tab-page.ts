/** A page for tabs.browser.ts and storage.browser.ts: a client, and what happened to it. */
import { type Client, connect, persist, requests } from '@tickgate/client';
import { share } from '@tickgate/client/tabs';

export interface Setup {
  /** The address of the SharedWorker; a socket of its own without one. */
  worker?: string;
  /** Publishes before there is a connection. */
  publishes?: boolean;
  persists?: boolean;
}

declare global {
  interface Window {
    tab: { client: Client; orders: (string | null)[]; errors: string[]; published: Promise<unknown> };
    start(url: string, setup: Setup): void;
    /** What `start` gives to the client. */
    token?: () => Promise<string>;
  }
}

window.start = (url, { worker, publishes, persists }) => {
  const tab = (window.tab = { orders: [], errors: [] } as unknown as Window['tab']);
  tab.client = connect(url, {
    token: window.token,
    link: worker === undefined ? undefined : share(() => new SharedWorker(worker, { type: 'module' })),
    persist: persists ? persist() : undefined,
    onError: (error) => tab.errors.push(String(error)),
  });
  tab.client.messages('orders', { onGap() {} }).each(({ id }) => tab.orders.push(id));
  if (publishes) tab.published = requests(tab.client).publish('orders', { side: 'buy' }, { msgId: 'm-1' });
};
