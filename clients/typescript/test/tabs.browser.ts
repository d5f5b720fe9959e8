/** One socket for all tabs, and a socket for each where the worker does not do, in Chromium against a scripted gateway. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { Browser, BrowserContext, Page } from 'playwright-core';
// @ts-expect-error: a module without types
import { launch } from '../test/browser.mjs';
import { Gateway, type Line } from './gateway.js';

const TIMEOUT = { timeout: 60_000 };
const SCRIPTS: Record<string, string> = {
  '/worker.js': readFileSync('dist/worker.js', 'utf8'),
  '/silent.js': 'onconnect = () => {};',
  '/newer.js': `onconnect = ({ ports: [port] }) => port.postMessage({ to: 'lock', name: 'x', version: 1e9 });`,
};
const site = createServer((request, response) => {
  const script = SCRIPTS[request.url!];
  if (script) return response.writeHead(200, { 'Content-Type': 'text/javascript' }).end(script);
  if (request.url !== '/') return response.writeHead(404).end();
  return response.end('<!doctype html><title>tab</title>');
});

let browser: Browser;
let context: BrowserContext;
let gateway: Gateway;

before(async () => {
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
  browser = await launch(['--host-resolver-rules=MAP plain.test 127.0.0.1']);
});
after(async () => {
  await browser.close();
  site.close();
  site.closeAllConnections();
});
beforeEach(async () => {
  gateway = new Gateway();
  await gateway.listening();
  context = await browser.newContext();
});
afterEach(async () => {
  await context.close();
  gateway.close();
});

const newTab = async (host = '127.0.0.1'): Promise<Page> => {
  const page = await context.newPage();
  await page.goto(`http://${host}:${(site.address() as AddressInfo).port}/`);
  await page.addScriptTag({ content: readFileSync('build/tab-page.js', 'utf8') });
  return page;
};
const start = (page: Page, worker: string, publishes = false) =>
  page.evaluate(([url, setup]) => window.start(url, setup), [gateway.url, { worker, publishes }] as const);
const live = (page: Page) => page.waitForFunction(() => window.tab.client.status.state === 'live');
const received = (page: Page, ids: string[]) =>
  page.waitForFunction((ids) => JSON.stringify(window.tab.orders) === ids, JSON.stringify(ids));
const killWorker = async () => {
  const session = await browser.newBrowserCDPSession();
  const { targetInfos } = await session.send('Target.getTargets');
  const { targetId } = targetInfos.find(({ type }) => type === 'shared_worker')!;
  await session.send('Target.closeTarget', { targetId });
  await session.detach();
};

/** The tab has a connection of its own on which messages arrive. */
const hasOwnSocket = async (page: Page, line: Line) => {
  await line.request('subscribe');
  await live(page);
  line.push('orders', '7-1');
  await received(page, ['7-1']);
  const workers = (await (await browser.newBrowserCDPSession()).send('Target.getTargets')).targetInfos;
  return workers.filter(({ type }) => type === 'shared_worker').length;
};

test('tabs share a socket, and the last one closes it', TIMEOUT, async () => {
  const [one, two] = [await newTab(), await newTab()];
  await start(one, '/worker.js');
  const line = await gateway.line();
  await line.request('subscribe');
  await live(one);
  line.push('orders', '7-1');
  await received(one, ['7-1']);
  await start(two, '/worker.js');
  await live(two);
  line.push('orders', '7-2');
  await received(one, ['7-1', '7-2']);
  await received(two, ['7-2']);
  const closed = new Promise((resolve) => line.socket.on('close', resolve));
  await one.close();
  line.push('orders', '7-3');
  await received(two, ['7-2', '7-3']);
  await two.close();
  await closed;
});

test('tabs share a socket on a page without TLS, which has no locks', TIMEOUT, async () => {
  const [one, two] = [await newTab('plain.test'), await newTab('plain.test')];
  assert.equal(await one.evaluate(() => 'locks' in navigator), false);
  await start(one, '/worker.js');
  const line = await gateway.line();
  await line.request('subscribe');
  await start(two, '/worker.js');
  await Promise.all([live(one), live(two)]);
  line.push('orders', '7-1');
  await Promise.all([received(one, ['7-1']), received(two, ['7-1'])]);
  const closed = new Promise((resolve) => line.socket.on('close', resolve));
  await Promise.all([one, two].map((page) => page.close({ runBeforeUnload: true })));
  await closed;
});

test('without SharedWorker a tab has a socket of its own', TIMEOUT, async () => {
  const page = await newTab();
  await page.evaluate(() => delete (window as any).SharedWorker);
  await start(page, '/worker.js', true);
  const line = await gateway.line();
  const { id, msg_id } = await line.request('publish');
  assert.equal(msg_id, 'm-1', 'a publication from before the socket');
  line.send({ type: 'published', id, channel: 'orders', publication_id: '7-0', duplicate: false });
  assert.deepEqual(await page.evaluate(() => window.tab.published), { id: '7-0', duplicate: false });
  await hasOwnSocket(page, line);
});

test('a worker that cannot be made is reported, and the tab has a socket of its own', TIMEOUT, async () => {
  const page = await newTab();
  await start(page, 'https://elsewhere.test/worker.js');
  assert.equal(await hasOwnSocket(page, await gateway.line()), 0);
  assert.match((await page.evaluate(() => window.tab.errors)).join(), /SecurityError/);
});

test('a worker whose script is missing is left for a socket of its own', TIMEOUT, async () => {
  const page = await newTab();
  await start(page, '/missing.js');
  await hasOwnSocket(page, await gateway.line());
});

test('a worker that says nothing is left after 5 s', TIMEOUT, async () => {
  const page = await newTab();
  await page.clock.install();
  await start(page, '/silent.js', true);
  await page.clock.runFor(4900);
  assert.equal(gateway.connections, 0);
  await page.clock.runFor(200);
  const line = await gateway.line();
  await hasOwnSocket(page, line);
});

test('a worker of another version is left', TIMEOUT, async () => {
  const page = await newTab();
  await start(page, '/newer.js');
  await hasOwnSocket(page, await gateway.line());
});

test('a worker that dies three times is given up', TIMEOUT, async () => {
  const page = await newTab();
  await start(page, '/worker.js');
  for (let n = 1; n <= 3; n++) {
    const line = await gateway.line();
    const { channels } = await line.request('subscribe');
    assert.deepEqual(channels, [n === 1 ? { channel: 'orders' } : { channel: 'orders', since: `7-${n - 1}` }]);
    await live(page);
    line.push('orders', `7-${n}`);
    await page.waitForFunction((n) => window.tab.orders.length === n, n);
    await killWorker();
  }
  const own = await gateway.line();
  assert.deepEqual((await own.request('subscribe')).channels, [{ channel: 'orders', since: '7-3' }]);
  own.push('orders', '7-4');
  await received(page, ['7-1', '7-2', '7-3', '7-4']);
});

test('a tab whose token function hangs or throws does not keep the others from a connection', TIMEOUT, async () => {
  const [hangs, good, throws] = [await newTab(), await newTab(), await newTab()];
  await hangs.evaluate(() => (window.token = () => new Promise(() => {})));
  await good.evaluate(() => (window.token = async () => 'good'));
  await throws.evaluate(() => (window.token = () => Promise.reject(new Error('logged out'))));
  await start(hangs, '/worker.js');
  await hangs.waitForFunction(() => window.tab.client.status.state === 'connecting');
  await start(good, '/worker.js');
  await start(throws, '/worker.js');
  const line = await gateway.line();
  assert.equal(line.protocols, 'tickgate.v1, bearer.good');
  await Promise.all([hangs, good, throws].map(live));
});
