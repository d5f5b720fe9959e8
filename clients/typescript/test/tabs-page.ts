/** A page for tabs.browser.ts: a client over a worker of some address, and what happened to it. */
import { type Client, connect, requests } from '@tickgate/client';
import { share } from '@tickgate/client/tabs';

declare global {
  interface Window {
    tab: { client: Client; orders: (string | null)[]; errors: string[]; published: Promise<unknown> };
    start(url: string, worker: string, publishes?: boolean): void;
    /** What `start` gives to the client. */
    token?: () => Promise<string>;
  }
}

window.start = (url, worker, publishes) => {
  const tab = (window.tab = { orders: [], errors: [] } as unknown as Window['tab']);
  tab.client = connect(url, {
    token: window.token,
    link: share(() => new SharedWorker(worker, { type: 'module' })),
    onError: (error) => tab.errors.push(String(error)),
  });
  tab.client.messages('orders', { onGap() {} }).each(({ id }) => tab.orders.push(id));
  if (publishes) tab.published = requests(tab.client).publish('orders', { side: 'buy' }, { msgId: 'm-1' });
};
