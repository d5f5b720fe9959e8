import assert from 'node:assert/strict';
import { test } from 'node:test';
import { afterCode, backOff } from '../src/backoff.js';
import { createChannels } from '../src/channels.js';
import { createOutbox } from '../src/outbox.js';
import { createPace } from '../src/pace.js';
import { checked, messagesOf, pushOf } from '../src/read.js';
import { createTrace } from '../src/trace.js';

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

test('what cannot be read is named', () => {
  const parse = JSON.parse;
  for (const frame of ['', '7', '{"a":1', '{"a":1}', '[{"type":"x"},"text"]', new ArrayBuffer(2)]) {
    assert.throws(() => messagesOf(frame, parse), /unreadable|binary|JSON|object|type/i);
  }
  assert.deepEqual(messagesOf(' [] ', parse), []);
  assert.throws(() => pushOf({ _meta: { id: '7-1' } }), /channel/);
  assert.throws(() => checked({ type: 'gap', channels: 'orders' }), /channels/);
  assert.throws(() => checked({ type: 'closing', code: 1012 }), /reconnect/);
  assert.throws(() => checked({ type: 'connection_established' }), /heartbeat_interval/);
  assert.deepEqual(checked({ type: 'news' }), { type: 'news' });
});

test('a push with the type of a notice stays what was published', () => {
  const push = pushOf({ type: 'gap', channels: 7, _meta: { channel: 'orders', id: '7-1', replayed: true } });
  assert.deepEqual(push.data, { type: 'gap', channels: 7 });
  assert.ok(push.replayed && !push.snapshot && push.conflated === 0);
});

test('nothing is received of a channel between its subscribe and the reply', () => {
  const channels = createChannels(() => {});
  const push = (id: string) => channels.push(pushOf({ _meta: { channel: 'a', id } }));
  channels.want('a', {}, '7-1');
  assert.equal(push('7-2'), false, 'it is left from the subscription before, and will be replayed');
  assert.deepEqual(channels.ask(0, 1, 9, 999), [
    { channel: 'a', since: '7-1', last: undefined, max_rate: undefined, snapshot: undefined },
  ]);
  assert.equal(push('7-2'), false);
  assert.ok(channels.granted({ channel: 'a', cursor: '7-1', live: false }, 1));
  assert.equal(push('7-2'), true);
});

test('requests are bounded in names and bytes', () => {
  const channels = createChannels(() => {});
  for (const name of ['a', 'b', 'c']) channels.want(name, {}, undefined);
  assert.equal(channels.ask(0, 1, 2, 999).length, 2);
  channels.disconnected();
  assert.equal(channels.ask(0, 2, 9, 1).length, 1, 'one is always asked for');
  assert.equal(channels.ask(0, 3, 9, 999).length, 2);
});

test('the number of pending requests is bounded', async () => {
  const outbox = createOutbox();
  const request = { type: 'publish', fields: {}, within: 1000 };
  const pending = Array.from({ length: 1024 }, () => outbox.add(request, 0));
  await assert.rejects(outbox.add(request, 0), { outcome: 'refused' });
  outbox.end();
  await assert.rejects(Promise.any(pending));
});

test('the trace has the last frames and no token', () => {
  const trace = createTrace();
  for (let n = 0; n < 201; n++) trace.frame(false, n);
  trace.frame(true, '{"type":"auth","id":1,"token":"secret"}');
  const { frames } = trace.debug();
  assert.equal(frames.length, 200);
  assert.equal(frames[0]!.text, '2');
  assert.ok(!frames.at(-1)!.text.includes('secret'));
});

test('a burst of channels is followed by a rate', () => {
  const pace = createPace(4, 2, 0);
  assert.equal(pace.available(0), 2);
  pace.take(2);
  assert.equal(pace.available(0), 0);
  const next = pace.next(0);
  assert.ok(next >= 250 && next < 253);
  assert.equal(pace.available(next), 1);
  assert.equal(pace.available(60_000), 2);
});
