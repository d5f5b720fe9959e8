/** Cursors in the sessionStorage of Chromium, where it works, is full, and is forbidden, against a scripted gateway. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
// @ts-expect-error: a module without types
import { launch } from '../test/browser.mjs';
import { Gateway } from './gateway.js';

const TIMEOUT = { timeout: 60_000 };
const site = createServer((request, response) => {
  // Such a document has an origin of its own, which may store nothing.
  if (request.url === '/forbidden') response.setHeader('Content-Security-Policy', 'sandbox allow-scripts');
  response.end('<!doctype html><title>storage</title>');
});
let browser: Browser;
let page: Page;
let gateway: Gateway;

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
  page = await browser.newPage();
});
afterEach(async () => {
  await page.close();
  gateway.close();
});

const HTTP = () => `http://127.0.0.1:${(site.address() as AddressInfo).port}/`;
/** Opens a page, receives an order, and leaves. */
const visit = async (address: string, prepare: () => void = () => {}) => {
  await page.goto(address);
  await page.addScriptTag({ content: readFileSync('build/tab-page.js', 'utf8') });
  await page.evaluate(prepare);
  await page.evaluate((url) => window.start(url, { persists: true }), gateway.url);
  const line = await gateway.line();
  const { channels } = await line.request('subscribe');
  line.push('orders', '7-1');
  await page.waitForFunction(() => window.tab.orders.length === 1);
  await page.evaluate(() => void dispatchEvent(new Event('pagehide')));
  return { channels, errors: await page.evaluate(() => window.tab.errors) };
};

test('a reload continues from the cursor', TIMEOUT, async () => {
  assert.deepEqual(await visit(HTTP()), { channels: [{ channel: 'orders' }], errors: [] });
  assert.deepEqual(await visit(HTTP()), { channels: [{ channel: 'orders', since: '7-1' }], errors: [] });
});

test('a full sessionStorage is reported once, and the client goes on without', TIMEOUT, async () => {
  const fill = () => {
    for (let size = 1 << 22; size; size >>= 1) {
      try {
        for (let n = 0; ; n++) sessionStorage.setItem(`${size} ${n}`, 'x'.repeat(size));
      } catch {
        // Less fits.
      }
    }
  };
  const { errors } = await visit(HTTP(), fill);
  assert.equal(errors.length, 1);
  assert.match(errors[0]!, /QuotaExceededError/);
});

test('a forbidden sessionStorage is reported once, and the client goes on without', TIMEOUT, async () => {
  const { errors } = await visit(`${HTTP()}forbidden`);
  assert.equal(errors.length, 1);
  assert.match(errors[0]!, /SecurityError/);
});

test('what others wrote to sessionStorage is no cursor', TIMEOUT, async () => {
  await visit(HTTP());
  const wrong = () => Object.keys(sessionStorage).forEach((key) => (sessionStorage[key] = '{"user":"alice","cursors":{"a":7}}'));
  assert.deepEqual(await visit(HTTP(), wrong), { channels: [{ channel: 'orders' }], errors: [] });
  const cut = () => Object.keys(sessionStorage).forEach((key) => (sessionStorage[key] = '{"user'));
  const { channels, errors } = await visit(HTTP(), cut);
  assert.deepEqual(channels, [{ channel: 'orders' }]);
  assert.match(errors.join(), /^SyntaxError/);
});
