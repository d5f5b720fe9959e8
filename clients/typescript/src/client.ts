/** The client: what an application calls. */
import { createHub } from './hub.js';
import type { MakeLink, Persist } from './link.js';
import { createMessages, type Messages } from './messages.js';
import { socketLink } from './socket.js';
import type {
  Data,
  DebugInfo,
  MessageName,
  MessagesOptions,
  Name,
  Options,
  Status,
  UntypedChannels,
  ValueName,
  ValueOptions,
} from './types.js';
import { createValue, type Value } from './value.js';

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
  /** Stops permanently. Resolves when the connection has ended, within a second. */
  close(): Promise<void>;
}

/** Connects to an endpoint of a gateway, such as `wss://example.com/ws/trading`. */
export const connect = <C = UntypedChannels>(url: string, options: Options = {}): Client<C> => {
  const report = (error: unknown) => {
    try {
      (options.onError ?? console.error)(error);
    } catch (another) {
      console.error(another);
    }
  };
  const hub = createHub(report, () => saver?._changed());
  const saver = (options.persist as unknown as Persist | undefined)?.(url, hub._saved, report);
  const link = ((options.link as unknown as MakeLink | undefined) ?? socketLink)(url, options, hub, hub._channels);
  hub._link = link;
  hub._stored = saver?._load();

  // Looks after the connection when the network or the page comes back.
  const stop = new AbortController();
  for (const type of ['online', 'offline', 'pageshow', 'visibilitychange', 'resume']) {
    // `capture`: some of these events are the document's, and do not bubble.
    globalThis.addEventListener?.(type, link._nudge, { signal: stop.signal, capture: true });
  }

  return {
    _link: link,
    messages: (name, ...[messagesOptions]) => createMessages(hub, name, messagesOptions ?? {}),
    value: (name, valueOptions = {}) => createValue(hub, name, valueOptions),
    get status() {
      return hub._state;
    },
    get user() {
      return hub._name;
    },
    on(_, handler) {
      hub._watchers.add(handler);
      return () => void hub._watchers.delete(handler);
    },
    cursors: hub._cursors,
    debug: () => ({ ...hub._debug(), ...link._debug() }),
    close() {
      stop.abort();
      saver?._end();
      return link._close();
    },
  } as Client<C>;
};
