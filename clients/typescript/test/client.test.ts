import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import WebSocket from 'ws';
import { type Client, connect, type Gap, type Options, persist, requests, retry, type Status } from '../src/index.js';
import { createToken } from '../src/token.js';
import { Gateway } from './gateway.js';

let gateway: Gateway;
let client: Client;
let errors: unknown[];

const start = (options: Options = {}) => {
  client = connect(gateway.url, { WebSocket, onError: (error) => errors.push(error), ...options });
  return client;
};

/** Resolves with the first status that fits. */
const status = (fits: (status: Status) => boolean) =>
  new Promise<Status>((resolve) => {
    if (fits(client.status)) return resolve(client.status);
    const stop = client.on('status', (next) => {
      if (!fits(next)) return;
      stop();
      resolve(next);
    });
  });

const turn = () => new Promise((resolve) => setTimeout(resolve, 20));

/** A promise and how to resolve it. */
const later = <T = void>() => {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((done) => (resolve = done));
  return { promise, resolve };
};

beforeEach(async () => {
  gateway = new Gateway();
  await gateway.listening();
  errors = [];
});
afterEach(async () => {
  await client?.close();
  gateway.close();
});

test('messages come once and in order, over a lost connection', async () => {
  const seen: string[] = [];
  const third = later();
  start()
    .messages('orders', { onGap: () => assert.fail('no gap') })
    .each(({ id }) => {
      seen.push(id!);
      if (seen.length === 3) third.resolve();
    });
  const line = await gateway.line();
  await line.request('subscribe');
  line.push('orders', '7-1');
  line.push('orders', '7-2');
  await turn();
  line.socket.terminate();
  const again = await gateway.line();
  assert.equal(again.path, '/ws/trading?session=s');
  assert.deepEqual((await again.request('subscribe')).channels, [{ channel: 'orders', since: '7-2' }]);
  again.push('orders', '7-3');
  await third.promise;
  assert.deepEqual(seen, ['7-1', '7-2', '7-3']);
});

test('an iteration gets what has arrived as lists, and moves the cursor with the next step', async () => {
  const orders = start().messages('orders', { onGap() {} });
  const line = await gateway.line();
  await line.request('subscribe');
  for (const id of ['7-1', '7-2', '7-3']) line.push('orders', id);
  await turn();
  assert.deepEqual(client.cursors(), { orders: '7-0' });
  for await (const batch of orders) {
    assert.deepEqual(batch.map(({ id }) => id), ['7-1', '7-2', '7-3']);
    assert.deepEqual(client.cursors(), { orders: '7-0' });
    break;
  }
  await line.request('unsubscribe');
  assert.deepEqual(client.cursors(), {});
});

test('an iteration ends when the client is closed', async () => {
  const orders = start().messages('orders', { onGap() {} });
  await (await gateway.line()).request('subscribe');
  const iteration = (async () => {
    for await (const _ of orders) assert.fail('no message');
  })();
  await client.close();
  await iteration;
});

test('a handler that throws loses neither the socket nor the messages after', async () => {
  const seen: string[] = [];
  const second = later();
  start()
    .messages('orders', { onGap() {} })
    .each(({ id }) => {
      seen.push(id!);
      if (seen.length === 2) second.resolve();
      throw new Error(`no ${id}`);
    });
  const line = await gateway.line();
  await line.request('subscribe');
  line.push('orders', '7-1');
  line.push('orders', '7-2');
  await second.promise;
  await turn();
  assert.deepEqual(errors.map(String), ['Error: no 7-1', 'Error: no 7-2']);
  assert.deepEqual(client.cursors(), { orders: '7-2' });
});

test('an onGap that throws is called again, and messages are held until it has ended', async () => {
  const events: string[] = [];
  const done = later();
  let calls = 0;
  const orders = start().messages('orders', {
    onGap: async ({ count }) => {
      events.push(`gap of ${count}`);
      if (++calls === 1) throw new Error('the snapshot failed');
    },
  });
  orders.each(({ id }) => {
    events.push(id!);
    done.resolve();
  });
  const line = await gateway.line();
  await line.request('subscribe');
  const gap = { type: 'gap', channels: ['orders'], after: '7-0', before: '7-9', count: 8, reason: 'retention', cursor: '7-8' };
  line.send(gap);
  line.push('orders', '7-9');
  await turn();
  assert.equal(orders.gap?.reason, 'retention');
  assert.deepEqual(client.cursors(), { orders: '7-0' }, 'a reload before the snapshot reports the gap again');
  await done.promise;
  assert.deepEqual(events, ['gap of 8', 'gap of 8', '7-9']);
  assert.deepEqual(errors.map(String), ['Error: the snapshot failed']);
  assert.equal(orders.gap, undefined);
});

test('a slow page learns what it skipped of an event channel', async () => {
  gateway.classes = { trades: 'event' };
  const gaps: Gap[] = [];
  const seen: string[] = [];
  const trades = start().messages('trades', { buffer: 3, onGap: (gap) => void gaps.push(gap) });
  const line = await gateway.line();
  await line.request('subscribe');
  for (let n = 1; n <= 10; n++) line.push('trades', `7-${n}`);
  await turn();
  trades.each(({ id }) => seen.push(id!));
  await turn();
  assert.equal(gaps.length, 1);
  assert.deepEqual({ ...gaps[0] }, { channels: ['trades'], after: null, before: '7-8', count: 7, reason: 'slow_page' });
  assert.deepEqual(seen, ['7-8', '7-9', '7-10']);
  assert.deepEqual(client.cursors(), { trades: '7-10' });
});

test('a reliable channel is left when the page is slow, and caught up afterwards', async () => {
  const orders = start().messages('orders', { buffer: 2, onGap: () => assert.fail('no gap') });
  const line = await gateway.line();
  await line.request('subscribe');
  for (const id of ['7-1', '7-2', '7-3', '7-4']) line.push('orders', id);
  await line.request('unsubscribe');
  const seen: string[] = [];
  const all = later();
  orders.each(({ id }) => {
    seen.push(id!);
    if (seen.length === 4) all.resolve();
  });
  assert.deepEqual((await line.request('subscribe')).channels, [{ channel: 'orders', since: '7-3' }]);
  line.push('orders', '7-4');
  await all.promise;
  assert.deepEqual(seen, ['7-1', '7-2', '7-3', '7-4']);
});

test('a value is stale until it is up to date, and again without a connection', async () => {
  gateway.classes = { ticker: 'state' };
  gateway.live = false;
  const ticker = start().value('ticker', { maxRate: 4 });
  const seen: number[] = [];
  ticker.watch((data) => seen.push(data.price));
  const line = await gateway.line();
  assert.deepEqual((await line.request('subscribe')).channels, [{ channel: 'ticker', max_rate: 4 }]);
  line.push('ticker', '7-1', { price: 5 }, { snapshot: true });
  await turn();
  assert.deepEqual([ticker.get(), ticker.stale], [{ price: 5 }, true]);
  line.send({ type: 'caught_up', channels: [{ channel: 'ticker', cursor: '7-1', replayed: 1, complete: true }] });
  await status(({ state }) => state === 'live');
  assert.equal(ticker.stale, false);
  const joined = client.value('ticker');
  assert.deepEqual(joined.get(), { price: 5 }, 'who joins later has it at once');
  line.socket.terminate();
  await status(({ state }) => state === 'waiting');
  assert.equal(ticker.stale, true);
  assert.deepEqual(seen, [5]);
});

test('a refused channel tells its reader, and an iteration throws', async () => {
  gateway.grants = false;
  const payroll = start().messages('payroll', { onGap() {} });
  const line = await gateway.line();
  const { id } = await line.request('subscribe');
  const errors = [{ channel: 'payroll', code: 4502, error: 'forbidden', message: 'not yours' }];
  line.send({ type: 'subscribed', id, channels: [], errors });
  await assert.rejects(
    async () => {
      for await (const _ of payroll) assert.fail('no message');
    },
    { name: 'RefusedError', channel: 'payroll', code: 4502, message: 'not yours' },
  );
});

test('a command is refused at once while there is no connection, and a publication waits', async () => {
  start();
  const { command, publish } = requests(client);
  await assert.rejects(command('pause'), { name: 'RequestError', outcome: 'refused' });
  const published = publish('orders', { side: 'buy' }, { msgId: 'm-1' });
  const line = await gateway.line();
  const { id, ...rest } = await line.request('publish');
  assert.deepEqual(rest, { type: 'publish', channel: 'orders', data: { side: 'buy' }, msg_id: 'm-1' });
  line.send({ type: 'published', id, channel: 'orders', publication_id: '7-1', duplicate: false });
  assert.deepEqual(await published, { id: '7-1', duplicate: false });
});

test('history is a page of messages', async () => {
  start();
  const page = requests(client).history('logs', { last: 2 });
  const line = await gateway.line();
  const { id, channel, last } = await line.request('history');
  assert.deepEqual([channel, last], ['logs', 2]);
  const messages = [{ text: 'a', _meta: { channel: 'logs', id: '7-1', replayed: true } }];
  line.send({ type: 'history', id, channel, messages, cursor: '7-1', more: false });
  const { messages: read, more, cursor } = await page;
  assert.deepEqual([read[0]!.data, more, cursor], [{ text: 'a' }, false, '7-1']);
});

test('cursors survive in a store, of the same user only', async () => {
  const saved = later<unknown>();
  const store = {
    load: () => ({ user: 'alice', cursors: { orders: '7-33', risk: '7-30' } }),
    save: (cursors: unknown) => saved.resolve(cursors),
  };
  start({ persist: persist(store) }).messages('orders', { onGap() {} });
  const line = await gateway.line();
  assert.deepEqual((await line.request('subscribe')).channels, [{ channel: 'orders', since: '7-33' }]);
  await client.close();
  assert.deepEqual(await saved.promise, { user: 'alice', cursors: { orders: '7-33', risk: '7-30' } });
  start({ persist: persist(store) }).messages('orders', { since: 'earliest', onGap() {} });
  assert.deepEqual((await (await gateway.line()).request('subscribe')).channels, [{ channel: 'orders', since: '7-33' }]);
  await client.close();
  gateway.welcome = { user: 'bob' };
  start({ persist: persist(store) }).messages('orders', { onGap() {} });
  const other = await gateway.line();
  assert.deepEqual((await other.request('subscribe')).channels, [{ channel: 'orders' }]);
});

test('a store that is full or forbidden is reported once, and the client goes on', async () => {
  const store = {
    load: () => {
      throw new Error('forbidden');
    },
    save: () => {
      throw new Error('full');
    },
  };
  start({ persist: persist(store) }).messages('orders', { onGap() {} });
  await (await gateway.line()).request('subscribe');
  await client.close();
  assert.deepEqual(errors.map(String), ['Error: forbidden']);
  start({ persist: persist({ load: () => ({ cursors: { orders: 7 } }) as any, save() {} }) }).messages('orders', { onGap() {} });
  assert.deepEqual((await (await gateway.line()).request('subscribe')).channels, [{ channel: 'orders' }]);
});

test('a token function that throws or returns no token is a failed attempt', async () => {
  const tokens: (() => string)[] = [
    () => {
      throw new Error('the login is down');
    },
    () => undefined as never,
    () => '<!doctype html>',
    () => 'good',
  ];
  start({ token: () => tokens.shift()!() });
  const waiting = await status(({ state }) => state === 'waiting');
  assert.match(waiting.reason!, /the login is down/);
  assert.equal((await gateway.line()).protocols, 'tickgate.v1,bearer.good');
});

test('a retry does not wait for the back-off, and keeps to the time for which the gateway asked', async () => {
  let failures = 8;
  const token = () => {
    if (failures-- > 0) throw new Error('the login is down');
    return 'good';
  };
  start({ token });
  while (failures > 0) {
    await status(({ state }) => state === 'waiting');
    const next = status(({ state }) => state === 'connecting');
    retry(client);
    await next;
  }
  const { retryInMs } = await status(({ state }) => state === 'waiting');
  const began = performance.now();
  retry(client);
  const line = await gateway.line();
  assert.ok(performance.now() - began < retryInMs!, `sooner than after ${retryInMs} ms`);

  line.send({ type: 'closing', code: 1012, error: 'restarting', message: '', reconnect: 'yes', after_ms: 500 });
  await status(({ state }) => state === 'waiting');
  const asked = performance.now();
  retry(client);
  await gateway.line();
  assert.ok(performance.now() - asked >= 450, 'not before the gateway wished');
  retry(client);
  await client.close();
  retry(client);
  assert.equal(client.status.state, 'closed');
});

test('a token function that hangs is given up after 30 s', async () => {
  mock.timers.enable({ apis: ['setTimeout'] });
  const token = createToken(() => new Promise(() => {}))._get(0);
  mock.timers.tick(30_000);
  mock.timers.reset();
  await assert.rejects(token, /timed out/);
});

test('a server of another version is not talked to', async () => {
  gateway.close();
  const { WebSocketServer } = await import('ws');
  const other = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'bearer.x' });
  const got = mock.fn();
  other.on('connection', (socket) => socket.on('message', got));
  await new Promise((resolve) => other.on('listening', resolve));
  const url = `ws://127.0.0.1:${(other.address() as any).port}/`;
  client = connect(url, { WebSocket, token: () => 'x' });
  client.messages('orders', { onGap() {} });
  const { reason } = await status(({ state }) => state === 'waiting');
  assert.match(reason!, /tickgate\.v1/);
  assert.equal(got.mock.callCount(), 0);
  await client.close();
  for (const socket of other.clients) socket.terminate();
  other.close();
});

const MALFORMED = [
  '',
  '7',
  'null',
  '{"a":1',
  '{"a":1}',
  '[{"type":"heartbeat"},"text"]',
  '{"_meta":{"id":"7-2"}}',
  '{"_meta":{"channel":"orders","id":7}}',
  '{"type":"gap","channels":"orders"}',
  '{"type":"gap","channels":[7],"reason":"retention"}',
  '{"type":"gap","channels":["orders"],"cursor":"7-2"}',
  '{"type":"caught_up"}',
  '{"type":"caught_up","channels":[{"channel":"orders","cursor":7}]}',
  '{"type":"unsubscribed","channels":7}',
  '{"type":"heartbeat","cursors":{"orders":7}}',
  '{"type":"connection_established"}',
  '{"type":"connection_established","heartbeat_interval":"30","limits":{"names_per_second":1}}',
  Buffer.from('{"type":"heartbeat"}'),
];
for (const frame of MALFORMED) {
  const shown = typeof frame === 'string' ? frame : 'a binary one';
  test(`a malformed frame is reported, and the connection made again from the cursor: ${shown}`, async () => {
    start().messages('orders', { onGap: () => assert.fail('no gap') });
    const line = await gateway.line();
    await line.request('subscribe');
    line.push('orders', '7-1');
    line.socket.send(frame);
    line.push('orders', '7-3');
    const { channels } = await (await gateway.line()).request('subscribe');
    assert.deepEqual(channels, [{ channel: 'orders', since: '7-1' }]);
    assert.match(String(errors[0]), /^Error: unreadable: /);
    assert.equal(errors.length, 1);
  });
}

test('what stands before an unreadable element is handled', async () => {
  const seen: (string | null)[] = [];
  start()
    .messages('logs', { onGap() {} })
    .each(({ data }) => seen.push(data.text));
  const line = await gateway.line();
  await line.request('subscribe');
  line.socket.send('[{"text":"first","_meta":{"channel":"logs"}},7]');
  await gateway.line();
  assert.deepEqual(seen, ['first']);
});

test('unknown notices are reported once for each type, and ignored', async () => {
  const all = later();
  start()
    .messages('orders', { onGap() {} })
    .each(() => all.resolve());
  const line = await gateway.line();
  await line.request('subscribe');
  line.send({ type: 'news' }, { type: 'constructor' }, { type: 'news' }, { type: 'subscribed', id: 99 });
  line.push('orders', '7-1');
  await all.promise;
  assert.deepEqual(errors.map(String), ['Error: unknown notice: news', 'Error: unknown notice: constructor']);
});

test('a delay that is no number does not stop the client', async () => {
  start();
  const line = await gateway.line();
  line.send({ type: 'closing', code: 1012, reconnect: 'yes', after_ms: 'soon' });
  await gateway.line();
});

test('a closing without reconnect is decided by its code', async () => {
  start();
  (await gateway.line()).send({ type: 'closing', code: 4500, message: 'no more' });
  const { code, reason } = await status(({ state }) => state === 'closed');
  assert.deepEqual([code, reason], [4500, 'no more']);
});

test('callbacks that throw harm nothing', async () => {
  const throws = () => {
    throw new Error('of the application');
  };
  const quiet = mock.method(console, 'error', () => {});
  const all = later();
  gateway.grants = false;
  start({ onError: throws });
  client.on('status', throws);
  client.messages('payroll', { onGap() {}, onRefused: throws });
  const orders = client.messages('orders', { onGap() {} });
  orders.each(() => all.resolve());
  const line = await gateway.line();
  const { id } = await line.request('subscribe');
  const granted = [{ channel: 'orders', class: 'reliable', cursor: '7-0', live: true }];
  line.send({ type: 'subscribed', id, channels: granted, errors: [{ channel: 'payroll', code: 4502 }] });
  line.push('orders', '7-1');
  await all.promise;
  assert.equal(gateway.connections, 1);
  await client.close();
  assert.ok(quiet.mock.callCount() > 0, 'the console has them');
  quiet.mock.restore();
});

test('a queue that holds nothing but gaps is bounded', async () => {
  gateway.classes = { trades: 'event' };
  start().messages('trades', { buffer: 2, onGap: () => new Promise(() => {}) });
  const line = await gateway.line();
  await line.request('subscribe');
  for (let n = 1; n <= 3; n++) line.send({ type: 'gap', channels: ['trades'], reason: 'slow_consumer', cursor: `7-${n}` });
  await line.request('unsubscribe');
});

test('after a sleep of the machine the connection is looked at', async () => {
  start();
  await gateway.line();
  await status(({ state }) => state === 'live');
  const [date, monotonic] = [Date.now, performance.now.bind(performance)];
  // Asleep, only one of the clocks runs.
  mock.method(Date, 'now', () => date() + 62_000);
  mock.method(performance, 'now', () => monotonic() + 2000);
  const pinged = gateway.nextPing();
  // Its deadline is the next timer.
  await assert.rejects(requests(client).publish('orders', {}, { within: 10 }), { outcome: 'unknown' });
  await pinged;
  mock.restoreAll();
});

test('debug tells positions, gaps, frames and the round trip', async () => {
  const held = start().messages('orders', { onGap: () => new Promise(() => {}) });
  held.each(() => {});
  const line = await gateway.line();
  await line.request('subscribe');
  line.push('orders', '7-1');
  const gap = { type: 'gap', channels: ['orders'], after: '7-1', before: '7-9', count: 7, reason: 'retention', cursor: '7-8' };
  line.send(gap);
  line.push('orders', '7-9');
  await turn();
  const { channels, gaps, frames, status: now, user } = client.debug();
  assert.deepEqual(channels, [{ name: 'orders', class: 'reliable', cursor: '7-1', waiting: 2, live: true }]);
  assert.deepEqual(gaps.map(({ reason, count }) => [reason, count]), [['retention', 7]]);
  assert.deepEqual(frames.filter(({ sent }) => sent).map(({ text }) => JSON.parse(text).type), ['subscribe']);
  assert.match(frames.at(-1)!.text, /7-9/);
  assert.deepEqual([now.state, user], ['live', 'alice']);
});

test('without a WebSocket the mistake is named', () => {
  assert.throws(() => connect('ws://127.0.0.1:1/', { WebSocket: undefined, ...noGlobal() }), /package ws/);
});

/** Node before 22 has none; a newer one hides it for this test. */
const noGlobal = () => {
  delete (globalThis as any).WebSocket;
  return {};
};
