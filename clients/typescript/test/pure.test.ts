import assert from 'node:assert/strict';
import { test } from 'node:test';
import { afterCode, backOff } from '../src/backoff.js';
import { type Channel, newChannel, type Sink } from '../src/link.js';
import { createOutbox } from '../src/outbox.js';
import { createPace } from '../src/pace.js';
import { pushOf } from '../src/read.js';
import { createSubscriptions } from '../src/subscriptions.js';
import { keepFrame } from '../src/trace.js';
import type { Frame, Message } from '../src/types.js';

test('waits grow to a bound and are never zero', () => {
  const longest = [0, 1, 2, 3, 4, 5, 6, 7, 500].map((failures) => backOff(failures, 1));
  assert.deepEqual(longest, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.equal(backOff(0, 0), 50);
});

test('the code decides whether to reconnect', () => {
  const codes = [undefined, 1001, 1011, 1012, 1013, 4003, 4104, 4499];
  assert.ok(codes.every((code) => afterCode(code) === 'yes'));
  const final = [1000, 1002, 1003, 1007, 1008, 1009, 4002, 4004, 4500, 4501, 4999];
  assert.ok(final.every((code) => afterCode(code) === 'no'));
  assert.equal(afterCode(4001), 'new_token');
});

test('what must have a type is checked', () => {
  assert.throws(() => pushOf({ _meta: { id: '7-1' } }), /not a string/);
  assert.throws(() => pushOf({ _meta: { channel: 'orders', id: 7 } }), /not a string/);
  assert.throws(() => pushOf({ _meta: 7 }), /not a string/);
});

test('a push with the type of a notice stays what was published', () => {
  const push = pushOf({ type: 'gap', channels: 7, _meta: { channel: 'orders', id: '7-1', replayed: true } });
  assert.deepEqual(push.data, { type: 'gap', channels: 7 });
  assert.ok(push.replayed && !push.snapshot && push.conflated === 0);
});

/** The subscriptions of some channels, and the ids of the pushes that arrive. */
const subscriptionsOf = (...names: string[]) => {
  const pushed: (string | null)[] = [];
  const nothing = () => {};
  const sink = { _push: (_: Channel, { id }: Message) => void pushed.push(id), _moved: nothing, _changed: nothing };
  const channels = new Map(names.map((name) => [name, newChannel(name, {}, undefined)]));
  const subscriptions = createSubscriptions(channels, sink as unknown as Sink<Channel>);
  channels.forEach((channel) => subscriptions._want(channel));
  const push = (channel: string, id: string) => subscriptions._push({ _meta: { channel, id } });
  return { channels, subscriptions, push, pushed };
};
const granted = (channels: object[]) => ({ type: 'subscribed', channels, errors: [] });

test('nothing is received of a channel between its subscribe and the reply', () => {
  const { channels, subscriptions, push, pushed } = subscriptionsOf('a');
  channels.get('a')!._cursor = '7-1';
  push('a', '7-2');
  assert.deepEqual(pushed, [], 'it is left from the subscription before, and will be replayed');
  assert.deepEqual(subscriptions._ask(0, 1, 9, 999), [
    { channel: 'a', since: '7-1', last: undefined, max_rate: undefined, snapshot: undefined },
  ]);
  push('a', '7-2');
  subscriptions._reply(granted([{ channel: 'a', cursor: '7-1', live: false }]), 1, 0);
  push('a', '7-2');
  assert.deepEqual(pushed, ['7-2']);
});

test('a channel whose name is the stream of others moves with them', () => {
  const { channels, subscriptions, push } = subscriptionsOf('a', 'b');
  subscriptions._ask(0, 1, 9, 999);
  subscriptions._reply(granted(['a', 'b'].map((channel) => ({ channel, stream: 'a', cursor: '7-1', live: true }))), 1, 0);
  push('a', '7-2');
  assert.equal(channels.get('b')!._cursor, '7-2');
});

test('requests are bounded in names and bytes', () => {
  const { subscriptions } = subscriptionsOf('a', 'b', 'c');
  assert.equal(subscriptions._ask(0, 1, 2.9, 999).length, 2);
  subscriptions._disconnected();
  assert.equal(subscriptions._ask(0, 2, 9, 1).length, 1, 'one is always asked for');
  assert.equal(subscriptions._ask(0, 3, 9, 999).length, 2);
});

test('the number of pending requests is bounded', async () => {
  const outbox = createOutbox();
  const request = { type: 'publish', fields: {}, within: 1000 };
  const pending = Array.from({ length: 1024 }, () => outbox._add(request, 0, true));
  await assert.rejects(outbox._add(request, 0, true), { outcome: 'refused' });
  assert.equal(outbox._act(Infinity), Infinity);
  await assert.rejects(Promise.any(pending));
});

test('the trace has the last frames and no token', () => {
  const frames: Frame[] = [];
  for (let n = 0; n < 201; n++) keepFrame(frames, false, n);
  keepFrame(frames, true, '{"type":"auth","id":1,"token":"secret"}');
  assert.equal(frames.length, 200);
  assert.equal(frames[0]!.text, '2');
  assert.ok(!frames.at(-1)!.text.includes('secret'));
});

test('a burst of channels is followed by a rate', () => {
  const pace = createPace(4, 2, 0);
  assert.equal(pace(0), 2);
  assert.equal(pace(0, 2), 0);
  assert.equal(pace(125), 0.5);
  assert.equal(pace(250), 1);
  assert.equal(pace(60_000), 2);
});
