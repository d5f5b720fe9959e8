/** The hooks under StrictMode, and a page that is hidden, in Chromium against a scripted gateway. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
// @ts-expect-error: a module without types
import { launch } from '../test/browser.mjs';
import { Gateway, type Line } from './gateway.js';

let browser: Browser;
let page: Page;
let gateway: Gateway;
const site = createServer((_, response) => response.end('<!doctype html><title>hooks</title><body></body>'));

before(async () => {
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve));
  browser = await launch();
});
after(async () => {
  await browser.close();
  site.close();
  site.closeAllConnections();
});
beforeEach(async () => {
  gateway = new Gateway();
  await gateway.listening();
  gateway.classes = { ticker: 'state' };
  page = await browser.newPage();
  await page.clock.install();
  await page.goto(`http://127.0.0.1:${(site.address() as AddressInfo).port}/`);
  await page.addScriptTag({ content: readFileSync('build/react-page.js', 'utf8') });
});
afterEach(async () => {
  await page.close();
  gateway.close();
});

const open = async (): Promise<Line> => {
  await page.evaluate((url) => window.page.open(url), gateway.url);
  return gateway.line();
};
const names = ({ channels }: Record<string, any>) => channels.map(({ channel }: any) => channel).sort();
const seen = (count: number) => page.waitForFunction((count) => window.page.messages.length >= count, count);

test('StrictMode subscribes once, and every message comes once', { timeout: 30_000 }, async () => {
  const line = await open();
  assert.deepEqual(names(await line.request('subscribe')), ['orders', 'ticker']);
  for (let n = 1; n <= 50; n++) line.push('orders', `7-${n}`);
  await seen(50);
  const { messages, batches } = await page.evaluate(() => window.page);
  assert.deepEqual(messages, Array.from({ length: 50 }, (_, n) => `7-${n + 1}`));
  assert.ok(batches < 50, `${batches} calls`);
  assert.deepEqual(line.requests, [], 'nothing was left and subscribed again');
});

test('values render at most once a frame', { timeout: 30_000 }, async () => {
  const line = await open();
  await line.request('subscribe');
  await page.locator('#state', { hasText: 'live' }).waitFor();
  const { renders } = await page.evaluate(() => window.page);
  for (let n = 1; n <= 500; n++) line.push('ticker', `7-${n}`, { price: n });
  await page.locator('#price', { hasText: '500 fresh' }).waitFor();
  const after = await page.evaluate(() => window.page.renders);
  // StrictMode renders twice.
  assert.ok(after - renders < 250, `${after - renders} renders for 500 values`);
  line.push('ticker', '7-501', { price: 500 });
  line.push('orders', '7-1');
  await seen(1);
  await page.clock.runFor(100);
  assert.equal(await page.evaluate(() => window.page.renders), after, 'the same price renders nothing');
});

test('a subscription is shared, survives a remount, and ends with its last component', { timeout: 30_000 }, async () => {
  const line = await open();
  await line.request('subscribe');
  line.push('ticker', '7-1', { price: 5 });
  await page.locator('#price', { hasText: '5' }).waitFor();
  await page.locator('#again').click();
  assert.equal(await page.locator('#price', { hasText: '5 fresh' }).count(), 2, 'the second has the value at once');
  await page.locator('#toggle').click();
  await page.locator('#toggle').click();
  line.push('orders', '7-1');
  await seen(1);
  assert.deepEqual(line.requests, []);
  await page.locator('#again').click();
  await page.locator('#toggle').click();
  await page.clock.runFor(1500);
  const left = [await line.request('unsubscribe'), await line.request('unsubscribe')];
  assert.deepEqual(left.flatMap(({ channels }) => channels).sort(), ['orders', 'ticker']);
});

test('a hidden page pauses its values and continues its messages', { timeout: 30_000 }, async () => {
  const line = await open();
  await line.request('subscribe');
  const hide = (hidden: boolean) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
  await hide(true);
  await page.clock.runFor(9000);
  assert.deepEqual(line.requests, []);
  await page.clock.runFor(2000);
  assert.deepEqual((await line.request('unsubscribe')).channels, ['ticker']);
  line.push('orders', '7-1');
  await page.clock.runFor(500);
  await seen(1);
  await hide(false);
  assert.deepEqual(names(await line.request('subscribe')), ['ticker']);
});

test('a refused channel is reported, and the page goes on', { timeout: 30_000 }, async () => {
  gateway.grants = false;
  const reported = page.waitForEvent('console', (message) => message.text().includes('not yours'));
  const line = await open();
  const { id } = await line.request('subscribe');
  const errors = [{ channel: 'ticker', code: 4502, error: 'forbidden', message: 'not yours' }];
  line.send({
    type: 'subscribed',
    id,
    channels: [{ channel: 'orders', class: 'reliable', cursor: '7-0', live: true }],
    errors,
  });
  await reported;
  line.push('orders', '7-1');
  await seen(1);
});

const state = (name: string) => page.locator('#state', { hasText: name }).waitFor();
const online = () => page.evaluate(() => void dispatchEvent(new Event('online')));
const closing = { type: 'closing', code: 1012, message: 'restarting', reconnect: 'yes' };

test('a network that is back ends the back-off, but not the delay that the gateway asks for', { timeout: 30_000 }, async () => {
  const line = await open();
  await state('live');
  // From here on no timer fires: what happens is not the back-off.
  await page.clock.pauseAt(await page.evaluate(() => Date.now() + 10));
  line.send(closing);
  await page.waitForFunction(() => window.page.client.status.state === 'waiting');
  await online();
  const again = await gateway.line();
  await page.waitForFunction(() => window.page.client.status.state === 'live');
  again.send({ ...closing, after_ms: 60_000 });
  await page.waitForFunction(() => window.page.client.status.state === 'waiting');
  await online();
  assert.equal(await page.evaluate(() => window.page.client.status.state), 'waiting');
  await page.clock.runFor(61_000);
  await gateway.line();
});

test('a page that comes back looks whether its connection lives', { timeout: 30_000 }, async () => {
  await open();
  await state('live');
  for (const [type, target, bubbles] of [
    ['online', 'window', false],
    ['offline', 'window', false],
    ['pageshow', 'window', false],
    ['visibilitychange', 'document', true],
    ['resume', 'document', false],
  ] as const) {
    await page.clock.runFor(2000);
    const pong = gateway.nextPing();
    await page.evaluate(
      ([type, target, bubbles]) => void (target === 'window' ? window : document).dispatchEvent(new Event(type, { bubbles })),
      [type, target, bubbles] as const,
    );
    await pong;
  }
  await page.clock.runFor(6000);
  await state('live');
  gateway.answers = false;
  await page.clock.runFor(2000);
  await online();
  await page.clock.runFor(6000);
  assert.equal(new URL((await gateway.line()).path, 'ws://x').search, '?session=s');
});
