// The examples in Chromium against real gateways.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { after, afterEach, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { ARGS, EXECUTABLE } from './browser.mjs';
import { startDevelopment, startWorld, until } from './world.mjs';

const SHOTS = new URL('../build/screenshots/', import.meta.url).pathname;
/** A page asleep: longer than two intervals of 5 s; `just client-sleep` runs it with an interval of 90 s. */
const HEARTBEAT = Number(process.env.TICKGATE_HEARTBEAT ?? 5);
const AXE = readFileSync(new URL('../node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');

let world, server, browser;

before(async () => {
  mkdirSync(SHOTS, { recursive: true });
  world = await startWorld({ heartbeat: `${HEARTBEAT}s` });
  server = await chromium.launchServer({ executablePath: EXECUTABLE, args: ARGS });
  browser = await chromium.connect(server.wsEndpoint());
});
// A page that a failed test leaves behind would slow the others.
afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));
after(async () => {
  await browser?.close();
  await server?.close();
  await world?.stop();
});

/** Opens the React page, or another, and counts the orders that its client delivers. */
const open = async ({ context, path = '', width = 1280, height = 900, colorScheme = 'light' } = {}) => {
  const mine = context ?? (await browser.newContext({ viewport: { width, height }, colorScheme }));
  const page = await mine.newPage();
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && page.errors.push(message.text()));
  await page.goto(world.url + path);
  await page.evaluate(() => {
    window.orders = [];
    window.gaps = [];
    const options = { onGap: (gap) => void window.gaps.push(gap), buffer: 100_000 };
    window.tickgate.messages('orders', options).each(({ id }) => window.orders.push(id));
  });
  await live(page);
  return page;
};

const live = async (page) => {
  try {
    await page.waitForFunction(() => window.tickgate.status.state === 'live', null, { timeout: 20_000 });
  } catch (error) {
    // What a worker knows comes with the next call.
    const { status, channels, frames } = await page.evaluate(async () => {
      window.tickgate.debug();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return window.tickgate.debug();
    });
    const behind = channels.filter((channel) => !channel.live).map(({ name }) => name);
    throw new Error(`not live: ${JSON.stringify({ status, behind, frames: frames.slice(-30) })}`, { cause: error });
  }
};

/** The page got exactly these orders, in order, and no gap. */
const hasExactly = async (page, ids) => {
  await page
    .waitForFunction((count) => window.orders.length >= count || window.gaps.length, ids.length, { timeout: 20_000 })
    .catch(() => {});
  const { orders, gaps } = await page.evaluate(() => ({ orders: window.orders, gaps: window.gaps }));
  assert.deepEqual(gaps, []);
  assert.deepEqual(orders, ids);
};

const price = (page) => page.locator('tbody tr').first().locator('.price').textContent();

test('prices move and an order arrives', { timeout: 60_000 }, async () => {
  const page = await open();
  const first = await price(page);
  await until('another price', async () => ![first, '…'].includes(await price(page)));
  const ids = await world.orders([1, 2, 3]);
  await page.locator('[data-order="A-1003"]').waitFor();
  await hasExactly(page, ids);
  assert.equal(await page.locator('tr.stale').count(), 0);
  assert.deepEqual(page.errors, []);
});

test('the overlay shows the connection', { timeout: 60_000 }, async () => {
  const page = await open({ path: '#debug' });
  await page.getByText(/Tickgate {2}live {2}demo/).click();
  await page.getByText(/● {2}orders {2}reliable/).waitFor();
});

test('the plain page shows the same', { timeout: 60_000 }, async () => {
  const page = await open({ path: 'plain/' });
  await until('a price', async () => Number(await page.locator('#price').textContent()) > 0);
  await world.orders([4]);
  await page.getByText('A-1004').waitFor();
  assert.deepEqual(page.errors, []);
});

for (const colorScheme of ['light', 'dark']) {
  test(`the page fits and can be read: ${colorScheme}`, { timeout: 90_000 }, async () => {
    for (const width of [1280, 390]) {
      const page = await open({ width, height: width > 1000 ? 900 : 844, colorScheme });
      await world.orders(Array.from({ length: 12 }, (_, n) => n + 10));
      await page.locator('[data-order="A-1021"]').waitFor();
      await until('all prices', async () => (await page.locator('td.price', { hasText: '…' }).count()) === 0);
      await page.screenshot({ path: `${SHOTS}${colorScheme}-${width}.png`, fullPage: true });
      await checkLayout(page, width);
      await checkContrast(page);
      await page.goto(`${world.url}plain/`);
      await live(page);
      await checkLayout(page, width);
      await checkContrast(page);
    }
  });
}

const checkLayout = async (page, width) => {
  const found = await page.evaluate(() => {
    const boxes = [...document.querySelectorAll('header, section')].map((each) => each.getBoundingClientRect());
    const overlaps = boxes.filter((a, at) =>
      boxes.slice(at + 1).some((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom),
    );
    return { width: document.documentElement.scrollWidth, overlaps: overlaps.length };
  });
  assert.deepEqual(found, { width, overlaps: 0 });
};

const checkContrast = async (page) => {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  const shown = violations.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
  assert.deepEqual(shown, []);
};

test('a killed replica: nothing is missing and nothing comes twice', { timeout: 90_000 }, async () => {
  const [page, plain] = [await open(), await open({ path: 'plain/' })];
  const ids = [];
  let publishing = true;
  const publisher = (async () => {
    for (let n = 100; publishing; n++) {
      ids.push(...(await world.orders([n])));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  try {
    await page.waitForFunction(() => window.orders.length > 20);
    world.isReachable = false;
    await world.kill(world.replicas[0]);
    await page.getByText('Connection lost').waitFor();
    const prices = page.locator('tr.stale .price');
    const colors = await prices.evaluateAll((all) => all.map((each) => getComputedStyle(each).color));
    assert.deepEqual(colors, Array(100).fill('rgb(86, 97, 111)'), 'all prices are grey');
    await page.screenshot({ path: `${SHOTS}stale.png` });
    await checkContrast(page);
    world.isReachable = true;
    await Promise.all([live(page), live(plain)]);
    assert.equal(await page.locator('.stale').count(), 0);
    const before = await page.evaluate(() => window.orders.length);
    await page.waitForFunction((before) => window.orders.length > before + 20, before);
  } finally {
    world.isReachable = true;
    publishing = false;
    await publisher;
  }
  await hasExactly(page, ids);
  await hasExactly(plain, ids);
  await world.replace();
});

/** The processes of the browser. */
const processes = (root) => {
  const all = execFileSync('ps', ['-eo', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n');
  const pairs = all.map((line) => line.trim().split(/\s+/).map(Number));
  const found = [root];
  for (const pid of found) found.push(...pairs.filter(([, parent]) => parent === pid).map(([child]) => child));
  return found;
};

/** Sends a signal to processes. One of a browser's helpers may have ended by itself meanwhile. */
const signal = (pids, name) => {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }
};

test('a browser asleep for more than two heartbeats catches up', { timeout: (HEARTBEAT * 3 + 60) * 1000 }, async () => {
  const [page, plain] = [await open(), await open({ path: 'plain/' })];
  const ids = await world.orders([900, 901]);
  await hasExactly(page, ids);
  await hasExactly(plain, ids);
  const asleep = processes(server.process().pid);
  signal(asleep, 'SIGSTOP');
  try {
    const end = Date.now() + (HEARTBEAT * 2 + 2) * 1000;
    for (let n = 902; Date.now() < end; n++) {
      ids.push(...(await world.orders([n])));
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  } finally {
    signal(asleep, 'SIGCONT');
  }
  ids.push(...(await world.orders([990])));
  for (const each of [page, plain]) {
    await hasExactly(each, ids);
    await live(each);
  }
});

for (const path of ['', 'plain/']) {
  test(`a token that expires is renewed in place: ${path || 'react'}`, { timeout: 60_000 }, async () => {
    world.tokenSeconds = 6;
    const tokens = world.tokens;
    const page = await open({ path });
    const upgrades = world.upgrades;
    await until('three renewals', () => world.tokens >= tokens + 4, 30);
    world.tokenSeconds = 600;
    await hasExactly(page, await world.orders([1100]));
    assert.equal(world.upgrades, upgrades, 'the connection stayed');
  });
}

test('two tabs share one socket, and a worker that dies is replaced', { timeout: 90_000 }, async () => {
  const before = world.upgrades;
  const one = await open();
  const ids = await world.orders([1200]);
  await hasExactly(one, ids);
  const two = await open({ context: one.context() });
  assert.equal(world.upgrades, before + 1, 'one socket for both');
  const more = await world.orders([1201, 1202]);
  await hasExactly(one, [...ids, ...more]);
  await hasExactly(two, more);
  await until('a price in the second tab', async () => (await price(two)) !== '…');
  await two.close();
  const third = await world.orders([1203]);
  await hasExactly(one, [...ids, ...more, ...third]);

  const session = await browser.newBrowserCDPSession();
  const { targetInfos } = await session.send('Target.getTargets');
  const worker = targetInfos.find(({ type }) => type === 'shared_worker');
  await session.send('Target.closeTarget', { targetId: worker.targetId });
  await until('another connection', () => world.upgrades > before + 1);
  await live(one);
  const last = await world.orders([1204]);
  await hasExactly(one, [...ids, ...more, ...third, ...last]);
});

test('cursors survive a reload', { timeout: 60_000 }, async () => {
  const page = await open({ path: 'plain/' });
  await hasExactly(page, await world.orders([1300]));
  await page.goto('about:blank');
  const missed = await world.orders([1301, 1302]);
  await page.goto(`${world.url}plain/`);
  await page.getByText('A-2302').waitFor();
  assert.equal(await page.getByText('A-2301').count(), 1);
  assert.equal(await page.getByText('A-2300').count(), 0, 'what was handled does not come again');
  assert.equal(missed.length, 2);
});

test('a tab that reloads beside another gets what it missed', { timeout: 60_000 }, async () => {
  const one = await open();
  const two = await open({ context: one.context() });
  const ids = await world.orders([1400]);
  await hasExactly(two, ids);
  await two.goto('about:blank');
  const missed = await world.orders([1401, 1402]);
  await hasExactly(one, [...ids, ...missed]);
  await two.goto(world.url);
  await two.locator('[data-order="A-2402"]').waitFor();
  await two.locator('[data-order="A-2401"]').waitFor();
  assert.equal(await two.locator('[data-order="A-2400"]').count(), 0, 'what was handled does not come again');
  const last = await world.orders([1403]);
  await two.locator('[data-order="A-2403"]').waitFor();
  await hasExactly(one, [...ids, ...missed, ...last]);
});

test('1,000 messages a second while the page stalls', { timeout: 90_000 }, async () => {
  const page = await open();
  await page.evaluate(() => {
    window.frames_ = 0;
    const count = () => {
      window.frames_++;
      requestAnimationFrame(count);
    };
    requestAnimationFrame(count);
    setInterval(() => {
      for (const end = performance.now() + 50; performance.now() < end; );
    }, 1000);
  });
  const frames = () => page.evaluate(() => [window.frames_, performance.now()]);
  const rate = async (work) => {
    const [count, at] = await frames();
    await work();
    const [after, end] = await frames();
    return ((after - count) * 1000) / (end - at);
  };
  // What this machine draws of the page without these messages, to tell a busy one.
  const idle = await rate(() => new Promise((resolve) => setTimeout(resolve, 3000)));
  const ids = [];
  const began = Date.now();
  const drawn = await rate(async () => {
    for (let n = 0; n < 80; n++) {
      ids.push(...(await world.orders(Array.from({ length: 100 }, (_, at) => 2000 + n * 100 + at))));
      const ahead = began + (n + 1) * 100 - Date.now();
      if (ahead > 0) await new Promise((resolve) => setTimeout(resolve, ahead));
    }
  });
  const published = (ids.length * 1000) / (Date.now() - began);
  await hasExactly(page, ids);
  console.log(`# ${published.toFixed(0)} messages/s: ${drawn.toFixed(1)} frames/s, ${idle.toFixed(1)} without`);
  // A busy machine draws fewer, with messages or without.
  assert.ok(drawn >= Math.min(50, idle * 0.8), `${drawn.toFixed(1)} frames/s, ${idle.toFixed(1)} without messages`);
});

test('the page at / in development mode shows prices, a resume and a gap', { timeout: 60_000 }, async () => {
  const { url, stop } = await startDevelopment();
  try {
    const page = await browser.newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    await page.goto(url);
    await page.locator('#prices tr').nth(3).waitFor();
    await page.getByText('live', { exact: true }).nth(1).waitFor();
    const orders = page.locator('#orders tr');
    await page.getByRole('button', { name: 'Send an order' }).click();
    await orders.first().waitFor();
    await page.getByRole('button', { name: 'Disconnect' }).click();
    await page.getByText('All 3 orders arrived, once and in order.').waitFor();
    assert.equal(await orders.count(), 4);
    await page.getByRole('button', { name: 'too old' }).click();
    await page.getByText('A gap is reported (retention)').waitFor();
    await page.screenshot({ path: `${SHOTS}development.png`, fullPage: true });
    assert.deepEqual(errors, []);
  } finally {
    await stop();
  }
});
