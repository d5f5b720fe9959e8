/** The client: what an application calls. */
import { createHub } from './hub.js';
import { createMessages, type Messages } from './messages.js';
import { socketLink } from './socket.js';
import { createSaver, sessionStore } from './storage.js';
import type {
  Accepted,
  Data,
  DebugInfo,
  History,
  MessageName,
  MessagesOptions,
  Name,
  Options,
  Status,
  UntypedChannels,
  ValueName,
  ValueOptions,
} from './types.js';
import { pushOf } from './read.js';
import { createValue, type Value } from './value.js';

/** How long a request may take, by default, in milliseconds. */
const WITHIN = 10_000;

/** A request of the application. */
export interface RequestOptions {
  /** Names the publication, so that it is accepted once however often it is sent. Made up by default. */
  msgId?: string;
  /** Milliseconds after which nothing is sent any more; 10,000 by default. */
  within?: number;
}

/** `onGap` may be left out only where the channel is declared as {@link EventChannel}. */
export type MessagesArguments<C, N extends Name<C>> = C[N] extends { class: 'event' }
  ? [options?: MessagesOptions]
  : [options: MessagesOptions & Required<Pick<MessagesOptions, 'onGap'>>];

/** A connection to a gateway, and the channels read through it. */
export interface Client<C = UntypedChannels> {
  /** Reads a channel of class `reliable` or `event`: every message, in order, once. */
  messages<N extends MessageName<C>>(name: N, ...options: MessagesArguments<C, N>): Messages<Data<C, N>>;
  /** Reads a channel of class `state`: the newest value. */
  value<N extends ValueName<C>>(name: N, options?: ValueOptions): Value<Data<C, N>>;
  /**
   * Publishes an object. While there is no connection it waits, and after a lost one it is sent again with the same
   * `msgId`, until its deadline. Rejects with a {@link RequestError}.
   */
  publish<N extends Name<C>>(name: N, data: Data<C, N>, options?: RequestOptions & { user?: string }): Promise<Accepted>;
  /** Sends a command to a run. Rejects at once, as `refused`, while there is no connection. */
  command(name: string, args?: unknown, options?: RequestOptions): Promise<Accepted>;
  /** A page of what was published before, without subscribing. */
  history<N extends Name<C>>(
    name: N,
    options?: { since?: string; last?: number; within?: number },
  ): Promise<History<Data<C, N>>>;
  /** The present state. */
  readonly status: Status;
  /** The user of the token; `null` without one; `undefined` before the first connection. */
  readonly user: string | null | undefined;
  /** Calls a function with each change of the state. Returns how to stop it. */
  on(event: 'status', handler: (status: Status) => void): () => void;
  /** The positions up to which everything was handled, by channel: what {@link MessagesOptions.since} takes. */
  cursors(): Record<string, string>;
  /** The last frames, gaps and positions. */
  debug(): DebugInfo;
  /** Stops for good. Resolves when the connection has ended, within a second. */
  close(): Promise<void>;
}

/** Connects to an endpoint of a gateway, such as `wss://example.com/ws/trading`. */
export const connect = <C = UntypedChannels>(url: string, options: Options = {}): Client<C> => {
  const report = options.onError ?? ((error: unknown) => console.error('tickgate:', error));
  const store = options.persist === 'session' ? sessionStore(url) : options.persist;
  const hub = createHub(report, () => saver.changed());
  const saver = createSaver(store, hub.saved, report);
  const link = (options.link ?? socketLink)(url, options, hub.sink);
  hub.attach(link, saver.load());
  const stopListening = listen(link.nudge, saver.flush);

  const accepted = async (type: string, fields: object, { msgId, within }: RequestOptions, now = false) => {
    const request = { type, fields: { ...fields }, msgId: msgId ?? randomId(), within: within ?? WITHIN, now };
    const { publication_id, duplicate } = await link.request(request);
    return { id: publication_id ?? null, duplicate: !!duplicate };
  };

  return {
    messages: (name, ...[messagesOptions]) => createMessages(hub, name, messagesOptions ?? {}, report),
    value: (name, valueOptions = {}) => createValue(hub, name, valueOptions, report),
    publish: (channel, data, { user, ...rest } = {}) => accepted('publish', { channel, user, data }, rest),
    command: (command, args, rest = {}) => accepted('command', { command, args }, rest, true),
    async history(channel, { within = WITHIN, ...fields } = {}) {
      const page = await link.request({ type: 'history', fields: { channel, ...fields }, within });
      return { messages: page.messages.map(pushOf), cursor: page.cursor ?? null, more: page.more, gap: page.gap };
    },
    get status() {
      return hub.status();
    },
    get user() {
      return hub.user();
    },
    on(_, handler) {
      hub.watchers.add(handler);
      return () => void hub.watchers.delete(handler);
    },
    cursors: hub.cursors,
    debug: () => ({ ...hub.debug(), ...link.debug() }),
    close() {
      stopListening();
      saver.flush();
      return link.close();
    },
  };
};

/** 128 random bits; `crypto.randomUUID` is missing on pages without TLS. */
const randomId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, '0')).join('');

/** Looks after the connection when the network or the page comes back, and saves when the page goes. */
const listen = (nudge: () => void, save: () => void): (() => void) => {
  const stop = new AbortController();
  const options = { signal: stop.signal };
  const visible = () => document.hidden || nudge();
  for (const type of ['online', 'offline', 'pageshow']) globalThis.addEventListener?.(type, nudge, options);
  globalThis.addEventListener?.('pagehide', save, options);
  for (const type of ['visibilitychange', 'resume']) globalThis.document?.addEventListener(type, visible, options);
  return () => stop.abort();
};
