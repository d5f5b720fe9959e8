/** The link over an own WebSocket: opens one connection after the other, and decides whether and when to reconnect. */
import { abandon } from './abandon.js';
import { afterCode, backOff } from './backoff.js';
import { createChannels } from './channels.js';
import { createOutbox } from './outbox.js';
import { createPace } from './pace.js';
import { checked, messagesOf, pushOf, refusalOf, UnreadableError } from './read.js';
import { createToken } from './token.js';
import { createTrace } from './trace.js';
import { type Link, type LinkFactory, RequestError, type Status } from './types.js';

const PROTOCOL = 'tickgate.v1';
/** From the start of an attempt to the welcome. */
const OPENING_TIMEOUT = 10_000;
/** For the reply to a request of the client's own. */
const ANSWER_TIMEOUT = 12_000;
/** For anything at all after a nudge. */
const PROBE_TIMEOUT = 5000;
/** A connection that lasted this long resets the back-off. */
const HELD = 5000;
/** A delay that a timer can hold. */
const DELAY_MAX = 86_400_000;
/** Bytes of a `subscribe` besides its elements. */
const ENVELOPE = 64;
/** How many unknown types are reported. */
const UNKNOWN_MAX = 64;

interface Ending {
  code?: number | undefined;
  reason: string;
  reconnect?: unknown;
  afterMs?: number | undefined;
}

/** What the welcome said. */
interface Welcome {
  at: number;
  interval: number;
  bytes: number;
  most: number;
  pace: ReturnType<typeof createPace>;
}

const now = () => performance.now();

export const socketLink: LinkFactory = (url, options, sink) => {
  const WebSocketClass: any = options.WebSocket ?? globalThis.WebSocket;
  if (!WebSocketClass) throw new TypeError('no WebSocket here: give `WebSocket`, such as that of the package ws');
  const channels = createChannels((name, cursor) => sink.moved(name, cursor));
  const outbox = createOutbox();
  const trace = createTrace();
  const token = createToken(options.token);
  const seen = new Set<string>();
  const open = new Map<number, [kind: string, at: number, token?: string]>();
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
  let drift = Date.now() - now();

  const show = (status: Status) => {
    if (status.state === state && state !== 'waiting') return;
    state = status.state;
    sink.status(status);
  };

  const progress = () => {
    if (welcome) show({ state: stale ? 'stale' : channels.live() ? 'live' : 'catching_up' });
  };

  const send = (message: object) => {
    const text = JSON.stringify(message);
    trace.frame(true, text);
    socket!.send(text);
  };

  /** Sends a request of the client's own. */
  const ask = (type: string, fields: object, secret?: string) => {
    open.set(++number, [type, now(), secret]);
    send({ type, id: number, ...fields });
  };

  const auth = (text: string) => {
    ask('auth', { token: text }, text);
  };

  const leave = (code?: number) => {
    const old = socket;
    attempt++;
    socket = welcome = undefined;
    if (old) abandon(old, code);
  };

  const close = (ending?: Ending) => {
    clearTimeout(timer);
    state = 'closed';
    outbox.end();
    sink.status({ state: 'closed', code: ending?.code, reason: ending?.reason });
  };

  const lost = (ending: Ending) => {
    const welcomed = welcome;
    leave();
    channels.disconnected();
    outbox.disconnected();
    if (welcomed && now() - welcomed.at >= HELD) failures = 0;
    let { reconnect } = ending;
    if (reconnect !== 'yes' && reconnect !== 'no' && reconnect !== 'new_token') reconnect = afterCode(ending.code);
    if (reconnect === 'new_token') {
      token.forget();
      if (!welcomed) tokensRefused++;
    }
    if (reconnect === 'no' || (reconnect === 'new_token' && (tokensRefused > 1 || !options.token))) return close(ending);
    notBefore = now() + Math.min(ending.afterMs ?? 0, DELAY_MAX);
    nextAt = Math.max(now() + backOff(failures++, Math.random()), notBefore);
    show({ state: 'waiting', retryInMs: Math.round(nextAt - now()), code: ending.code, reason: ending.reason });
    act();
  };

  const connect = async () => {
    nextAt = Infinity;
    show({ state: 'connecting' });
    act();
    const mine = ++attempt;
    let text: string | undefined;
    try {
      text = await token.get(now());
    } catch (error) {
      if (mine === attempt) lost({ reason: `no token: ${error}` });
      return;
    }
    if (mine !== attempt) return;
    const late = options.auth === 'message';
    const place = session ? `${url.includes('?') ? '&' : '?'}session=${encodeURIComponent(session)}` : '';
    const protocols = [PROTOCOL, ...(text && !late ? [`bearer.${text}`] : [])];
    deadline = now() + OPENING_TIMEOUT;
    open.clear();
    number = 0;
    stale = false;
    probe = Infinity;
    let fresh: WebSocket;
    try {
      fresh = socket = new WebSocketClass(url + place, protocols) as WebSocket;
    } catch (error) {
      return close({ reason: String(error) });
    }
    fresh.binaryType = 'arraybuffer';
    fresh.onerror = () => {};
    fresh.onopen = () => {
      if (fresh.protocol !== PROTOCOL) return lost({ reason: `the server did not select ${PROTOCOL}` });
      if (late && text) auth(text);
    };
    fresh.onmessage = ({ data }) => receive(fresh, data);
    fresh.onclose = ({ code, reason }) => {
      const none = code === 1005 || code === 1006;
      lost({ code: none ? undefined : code, reason: reason || (none ? 'the connection was lost' : `closed ${code}`) });
    };
    act();
  };

  const receive = (from: WebSocket, data: unknown) => {
    heard = now();
    probe = Infinity;
    trace.frame(false, data);
    const wasStale = stale;
    stale = false;
    let quiet = !wasStale;
    try {
      for (const message of messagesOf(data, options.parse ?? JSON.parse)) {
        if (message._meta != null) {
          const push = pushOf(message);
          if (channels.push(push)) sink.push(push);
        } else {
          quiet = false;
          if (message.id != null) reply(message);
          else notice(message);
        }
        // It may have ended the connection.
        if (socket !== from) return;
      }
    } catch (error) {
      if (!(error instanceof UnreadableError)) throw error;
      sink.error(error);
      return lost({ reason: `unreadable: ${error.message}` });
    }
    if (!quiet) act();
  };

  const refused = (name: string, message: object) => {
    const refusal = refusalOf(message);
    if (channels.refuse(name, refusal.retryMs, now())) sink.refused(name, refusal);
  };

  const reply = (message: any) => {
    const { id } = message;
    const [kind, at, secret] = open.get(id) ?? [];
    open.delete(id);
    if (!kind) return outbox.reply(now(), id, message);
    checked(message);
    const failed = message.type === 'error';
    if (kind === 'ping') trace.roundTrip(now() - at!);
    if (kind === 'auth') {
      if (!failed) token.accepted(secret!, message.expires_at, now());
      else if (token.refused(secret!, refusalOf(message).retryMs, now())) {
        lost({ code: message.code, reason: refusalOf(message).message, reconnect: 'yes' });
      }
    }
    if (kind !== 'subscribe') return;
    if (failed) return channels.askedBy(id).forEach((name) => refused(name, message));
    for (const grant of message.channels) {
      if (channels.granted(grant, id)) sink.granted(grant.channel, grant.class, grant.live);
    }
    const asked = channels.askedBy(id);
    for (const error of message.errors) if (asked.includes(error.channel)) refused(error.channel, error);
    channels.unnamed(id, now());
  };

  const notice = (message: any) => {
    checked(message);
    switch (message.type) {
      case 'connection_established':
        return welcomed(message);
      case 'caught_up':
        for (const { channel, cursor } of message.channels) {
          if (channels.caughtUp(channel, cursor)) sink.caughtUp(channel);
        }
        return;
      case 'gap': {
        const { after = null, before = null, count = null, reason, cursor } = message;
        const names = channels.gap(message.channels, cursor);
        if (names.length) sink.gap({ channels: names, after, before, count, reason }, cursor ?? null);
        return;
      }
      case 'heartbeat':
        return channels.heartbeat(message.cursors ?? {});
      case 'token_expiring':
        return token.expiring(now());
      case 'unsubscribed':
        return message.channels.forEach((name: string) => refused(name, message));
      case 'closing':
        return lost({
          code: message.code,
          reason: message.message || message.error,
          reconnect: message.reconnect,
          afterMs: message.after_ms,
        });
      case 'error':
        return sink.error(new RequestError('refused', message.message, message.code, message.error));
      default:
        if (seen.size < UNKNOWN_MAX && !seen.has(message.type)) {
          seen.add(message.type);
          sink.error(new Error(`unknown notice ${message.type} of a newer gateway: ignored`));
        }
    }
  };

  const welcomed = (message: any) => {
    const { limits } = message;
    const changed = user !== undefined && user !== message.user;
    const at = now();
    user = message.user ?? null;
    session = message.session ?? undefined;
    tokensRefused = 0;
    welcome = {
      at,
      interval: Math.min(Math.max(message.heartbeat_interval, 1), 3600) * 1000,
      bytes: (limits.message_bytes ?? 65_536) - ENVELOPE,
      most: limits.subscriptions ?? 200,
      pace: createPace(limits.names_per_second, limits.names_burst ?? 1, at),
    };
    token.clock(message.server_time, message.expires_at, at);
    if (changed) channels.forget();
    sink.user(user!, changed);
  };

  /** Subscribes to what is due, as far as the limits allow. Returns when more may be. */
  const subscribe = ({ pace, most, bytes }: Welcome): number => {
    const at = now();
    for (let names; (names = Math.min(pace.available(at), most)); ) {
      const elements = channels.ask(at, number + 1, names, bytes);
      if (!elements.length) break;
      pace.take(elements.length);
      ask('subscribe', { channels: elements });
    }
    return Math.max(channels.due(), pace.next(at));
  };

  /** When the oldest request of the client's own must be answered. */
  const answerDue = () => Math.min(...[...open.values()].map(([, sent]) => sent)) + ANSWER_TIMEOUT;

  const renew = async () => {
    const mine = attempt;
    try {
      const text = await token.renew();
      if (mine === attempt) auth(text);
    } catch (error) {
      sink.error(error);
    }
    act();
  };

  /** Does what is due, and sets the timer for what will be. */
  const act = () => {
    const at = now();
    outbox.expire(at);
    if (state === 'closed') return;
    let due = outbox.due(!!welcome);
    if (welcome) {
      const silent = at - heard;
      if (answerDue() <= at) return lost({ reason: 'a request was not answered' });
      if (silent >= welcome.interval * 2 || probe <= at) return lost({ reason: 'nothing was received' });
      if (silent >= welcome.interval && !stale) {
        stale = true;
        ask('ping', {});
      }
      if (token.due() <= at) void renew();
      const subscribes = subscribe(welcome);
      for (let next; (next = outbox.next(at, number + 1)); ) {
        number++;
        send(next);
      }
      const silence = heard + welcome.interval * (stale ? 2 : 1);
      due = Math.min(outbox.due(true), subscribes, silence, answerDue(), probe, token.due());
    } else if (socket) {
      if (deadline <= at) return lost({ reason: 'no welcome in time' });
      due = Math.min(due, deadline);
    } else if (nextAt <= at) {
      return void connect();
    } else {
      due = Math.min(due, nextAt);
    }
    progress();
    clearTimeout(timer);
    if (due < Infinity) timer = setTimeout(wake, Math.max(Math.ceil(due - at), 0));
  };

  /** A timer has fired. Where the clock shows that the machine slept, looks whether the connection lives. */
  const wake = () => {
    const slept = Date.now() - now() - drift;
    drift += slept;
    if (Math.abs(slept) > PROBE_TIMEOUT) link.nudge();
    else act();
  };

  const unsubscribe = (name: string, told: boolean) => {
    if (told && welcome) ask('unsubscribe', { channels: [name] });
    queueMicrotask(act);
  };

  const link: Link = {
    want(name, wish, cursor) {
      channels.want(name, wish, cursor);
      queueMicrotask(act);
    },
    drop: (name) => unsubscribe(name, channels.drop(name)),
    suspend: (name) => unsubscribe(name, channels.suspend(name)),
    request(request) {
      if (state === 'closed' || (request.now && !welcome)) {
        return Promise.reject(new RequestError('refused', 'not connected'));
      }
      const answer = outbox.add(request, now());
      act();
      return answer;
    },
    nudge() {
      if (welcome && probe === Infinity && now() - heard > 1000) {
        probe = Math.min(probe, now() + PROBE_TIMEOUT);
        ask('ping', {});
      } else if (state === 'waiting') {
        nextAt = Math.min(nextAt, notBefore);
      }
      act();
    },
    debug: trace.debug,
    async close() {
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
