/** The link over an own WebSocket: opens one connection after the other, and decides whether and when to reconnect. */
import { afterCode, backOff } from './backoff.js';
import type { Ask, Link, MakeLink, Outbox } from './link.js';
import { createPace } from './pace.js';
import { is, refusalOf, retryOf } from './read.js';
import { createSubscriptions } from './subscriptions.js';
import { createToken } from './token.js';
import { keepFrame } from './trace.js';
import type { Frame, Status } from './types.js';

const PROTOCOL = 'tickgate.v1';
const enum Ms {
  /** From the start of an attempt to the welcome. */
  Opening = 10_000,
  /** For the reply to a request of the client's own. */
  Answer = 12_000,
  /** For anything at all after a nudge. */
  Probe = 5000,
  /** A connection that lasted this long resets the back-off. */
  Held = 5000,
  /** A delay that a timer can hold. */
  DelayMax = 86_400_000,
}

const enum Most {
  /** Bytes of a `subscribe` besides its elements. */
  Envelope = 64,
  /** So many unknown types are reported. */
  Unknown = 64,
}

/** What the welcome said. */
interface Welcome {
  _at: number;
  _interval: number;
  _bytes: number;
  _most: number;
  _perSecond: number;
  _pace: ReturnType<typeof createPace>;
}

const now = () => performance.now();

export const socketLink: MakeLink = (url, options, sink, channels) => {
  const WebSocketClass: any = options.WebSocket ?? globalThis.WebSocket;
  if (!WebSocketClass) throw new TypeError('no WebSocket: give that of the package ws');
  const subscriptions = createSubscriptions(channels, sink);
  const token = createToken(options.token);
  const frames: Frame[] = [];
  const unknown = new Set<string>();
  /** What handles the reply to each open request, and since when it is waited for: never, where the application waits. */
  const open = new Map<number, [since: number, done: (reply: any) => void]>();
  let outbox: Outbox | undefined;
  let socket: WebSocket | undefined;
  let welcome: Welcome | undefined;
  let session: string | undefined;
  let user: string | null | undefined;
  let state = '';
  let attempt = 0;
  let failures = 0;
  let tokensRefused = 0;
  let number = 0;
  let heard = 0;
  let stale = false;
  let probe = Infinity;
  let deadline = Infinity;
  let nextAt = 0;
  let notBefore = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let roundTripMs: number | undefined;
  let drift = Date.now() - now();

  const show = (status: Status) => {
    if (status.state === state && state !== 'waiting') return;
    state = status.state;
    sink._status(status);
  };

  const ask: Ask = (type, fields, done, since = now()) => {
    open.set(++number, [since, done]);
    const text = JSON.stringify({ type, id: number, ...fields });
    keepFrame(frames, true, text);
    socket!.send(text);
  };

  const ping = () => {
    const at = now();
    ask('ping', {}, () => (roundTripMs = now() - at));
  };

  const authenticate = (text: string) =>
    ask('auth', { token: text }, (reply) => {
      if (reply.type !== 'error') return token._accepted(text, reply.expires_at, now());
      const retry = retryOf(reply);
      token._refused(text, retry, now());
      // The next handshake says what is wrong with the token.
      if (retry === undefined) lostTo(reply, 'yes');
    });

  /** Leaves the socket at once: nothing that still arrives counts. With a code, says goodbye; without, does not wait either. */
  const leave = (code?: number) => {
    const old: (WebSocket & { terminate?(): void }) | undefined = socket;
    attempt++;
    socket = welcome = undefined;
    if (!old) return;
    old.onopen = old.onmessage = old.onclose = null;
    old.close(code);
    // The package `ws` waits 30 s for the other side.
    if (!code) old.terminate?.();
  };

  const close = (reason?: string, code?: number) => {
    clearTimeout(timer);
    state = 'closed';
    act();
    sink._status({ state: 'closed', code, reason });
  };

  const lost = (reason: string, code?: number, reconnect?: unknown, afterMs = 0) => {
    const welcomed = welcome;
    leave();
    subscriptions._disconnected();
    outbox?._disconnected();
    if (welcomed && now() - welcomed._at >= Ms.Held) failures = 0;
    const fate = /^(yes|no|new_token)$/.test(reconnect as string) ? reconnect : afterCode(code);
    if (fate === 'new_token') {
      token._forget();
      if (!welcomed) tokensRefused++;
    }
    if (fate === 'no' || (fate === 'new_token' && (tokensRefused > 1 || !options.token))) return close(reason, code);
    notBefore = now() + (Math.min(afterMs, Ms.DelayMax) || 0);
    nextAt = Math.max(now() + backOff(failures++, Math.random()), notBefore);
    show({ state: 'waiting', retryInMs: Math.round(nextAt - now()), code, reason });
    act();
  };

  const lostTo = (message: any, reconnect?: unknown, afterMs?: number) =>
    lost(refusalOf(message).message, is('number', message.code), reconnect, afterMs);

  const connect = async () => {
    nextAt = Infinity;
    show({ state: 'connecting' });
    act();
    const mine = ++attempt;
    let text: string | undefined;
    try {
      text = await token._get(now());
    } catch (error) {
      if (mine === attempt) lost(`no token: ${error}`);
    }
    if (mine !== attempt) return;
    const late = text && options.auth === 'message';
    const place = session ? `${url.includes('?') ? '&' : '?'}session=${encodeURIComponent(session)}` : '';
    deadline = now() + Ms.Opening;
    open.clear();
    number = 0;
    stale = false;
    probe = Infinity;
    let fresh: WebSocket;
    try {
      fresh = socket = new WebSocketClass(url + place, text && !late ? [PROTOCOL, `bearer.${text}`] : PROTOCOL) as WebSocket;
    } catch (error) {
      return close(String(error));
    }
    fresh.onerror = () => {};
    fresh.onopen = () => {
      if (fresh.protocol !== PROTOCOL) lost(`${PROTOCOL} was not selected`);
      else if (late) authenticate(text!);
    };
    fresh.onmessage = ({ data }) => receive(fresh, data);
    fresh.onclose = ({ code, reason }) =>
      lost(reason || (fresh.protocol ? 'connection lost' : 'cannot connect'), code === 1005 || code === 1006 ? undefined : code);
    act();
  };

  const receive = (from: WebSocket, data: unknown) => {
    heard = now();
    probe = Infinity;
    keepFrame(frames, false, data);
    // Pushes on a connection that lives make nothing due.
    let quiet = !stale;
    stale = false;
    try {
      const parsed = (options.parse ?? JSON.parse)(is('string', data) as string);
      for (const message of Array.isArray(parsed) ? parsed : [parsed]) {
        if (message._meta != null) {
          subscriptions._push(message);
        } else {
          quiet = false;
          handle(message);
        }
        // It may have ended the connection.
        if (socket !== from) return;
      }
    } catch (error) {
      const reason = `unreadable: ${error}`;
      sink._error(new Error(reason, { cause: data }));
      return lost(reason);
    }
    if (!quiet) act();
  };

  const welcomed = (message: any, at: number) => {
    const { limits, heartbeat_interval: interval } = message;
    const perSecond = Math.max(is('number', limits.names_per_second), 1);
    welcome = {
      _at: at,
      _interval: Math.min(Math.max(is('number', interval), 1), 3600) * 1000,
      _bytes: is('number', limits.message_bytes) - Most.Envelope,
      _most: is('number', limits.subscriptions),
      _perSecond: perSecond,
      _pace: createPace(perSecond, Math.max(is('number', limits.names_burst), 1), at),
    };
    const before = user;
    user = message.user ?? null;
    session = message.session ?? undefined;
    tokensRefused = 0;
    token._welcome(message, at);
    const other = before !== undefined && before !== user;
    // What is open is the other user's.
    if (other) outbox?._act(Infinity);
    sink._user(user!, other);
  };

  const notices: Record<string, (message: any, at: number) => void> = {
    connection_established: welcomed,
    caught_up: subscriptions._caughtUp,
    gap: subscriptions._gap,
    heartbeat: subscriptions._heartbeat,
    token_expiring: token._expiring,
    unsubscribed: subscriptions._unsubscribed,
    closing: (message) => lostTo(message, message.reconnect, message.after_ms),
    error: (message) => sink._error(new Error(refusalOf(message).message)),
  };

  /** Handles a reply or a notice. */
  const handle = (message: any) => {
    const { id, type } = message;
    if (!welcome && type === 'error') {
      // It can only be about the token.
      const retry = retryOf(message);
      lostTo(message, retry === undefined ? 'new_token' : 'yes', retry);
    } else if (id != null) {
      const request = open.get(id);
      open.delete(id);
      request?.[1](message);
    } else if (Object.hasOwn(notices, is('string', type))) {
      notices[type]!(message, now());
    } else if (unknown.size < Most.Unknown && !unknown.has(type)) {
      unknown.add(type);
      sink._error(new Error(`unknown notice: ${type}`));
    }
  };

  /** Subscribes to what is due, as far as the limits allow. Returns when more may be. */
  const subscribe = ({ _pace: pace, _most: most, _bytes: bytes, _perSecond: perSecond }: Welcome, at: number): number => {
    for (let left; (left = pace(at)) >= 1; ) {
      const request = number + 1;
      const elements = subscriptions._ask(at, request, Math.min(left, most), bytes);
      if (!elements.length) return subscriptions._due();
      pace(at, elements.length);
      ask('subscribe', { channels: elements }, (reply) => subscriptions._reply(reply, request, now()));
    }
    return Math.max(subscriptions._due(), at + 1000 / perSecond);
  };

  const renew = async () => {
    const mine = attempt;
    try {
      const text = await token._renew();
      if (mine === attempt) authenticate(text);
    } catch (error) {
      sink._error(error);
    }
    act();
  };

  /** Does what is due, and sets the timer for what will be. */
  const act = () => {
    const at = now();
    if (state === 'closed') return void outbox?._act(Infinity);
    let due: number;
    if (welcome) {
      const { _interval: interval } = welcome;
      /** When the oldest request of the client's own must be answered. */
      const answerDue = () => Math.min(...[...open.values()].map(([since]) => since)) + Ms.Answer;
      const silent = at - heard;
      if (answerDue() <= at) return lost('no reply');
      if (silent >= interval * 2 || probe <= at) return lost('no heartbeat');
      if (silent >= interval && !stale) {
        stale = true;
        ping();
      }
      if (token._due() <= at) void renew();
      const subscribes = subscribe(welcome, at);
      show({ state: stale ? 'stale' : subscriptions._live() ? 'live' : 'catching_up' });
      due = Math.min(subscribes, heard + interval * (stale ? 2 : 1), answerDue(), probe, token._due());
    } else if (socket) {
      if (deadline <= at) return lost('no welcome');
      due = deadline;
    } else if (nextAt <= at) {
      return void connect();
    } else {
      due = nextAt;
    }
    due = Math.min(due, outbox?._act(at, welcome && ask, welcome?._bytes) ?? Infinity);
    clearTimeout(timer);
    if (due < Infinity) timer = setTimeout(wake, Math.max(Math.ceil(due - at), 0));
  };

  /** A timer has fired. Where the clock shows that the machine slept, looks whether the connection lives. */
  const wake = () => {
    const slept = Date.now() - now() - drift;
    drift += slept;
    if (Math.abs(slept) > Ms.Probe) link._nudge();
    else act();
  };

  const link: Link<any> = {
    _want(channel) {
      subscriptions._want(channel);
      queueMicrotask(act);
    },
    _drop(channel) {
      if (subscriptions._drop(channel) && welcome) ask('unsubscribe', { channels: [channel._name] }, () => {});
      queueMicrotask(act);
    },
    _request(request, create) {
      outbox ??= create();
      const answer = outbox._add(request, now(), !!welcome);
      act();
      return answer;
    },
    _nudge() {
      if (welcome && probe === Infinity && now() - heard > 1000) {
        probe = now() + Ms.Probe;
        ping();
      } else if (state === 'waiting') {
        nextAt = Math.min(nextAt, notBefore);
      }
      act();
    },
    _debug: () => ({ frames: [...frames], roundTripMs }),
    async _close() {
      if (state === 'closed') return;
      const old = socket;
      leave(1000);
      close();
      await new Promise<void>((resolve) => {
        old?.addEventListener('close', () => resolve());
        setTimeout(resolve, old ? 1000 : 0);
      });
    },
  };
  queueMicrotask(act);
  return link;
};
