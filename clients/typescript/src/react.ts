/** Hooks for React: at most one render a frame, subscriptions counted, safe under StrictMode. */
import {
  createContext,
  createElement,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
} from 'react';
import type { Client } from './client.js';
import type { Messages } from './messages.js';
import type { Data, Gap, Message, MessageName, MessagesOptions, Status, UntypedChannels, ValueName, ValueOptions } from './types.js';
import type { Value } from './value.js';

/** How long a subscription outlives its last component, so that a remount finds it, in milliseconds. */
const LINGER = 1000;
/** How long a frame may take where the page is not drawn. */
const FRAME_MAX = 250;

/**
 * Declare the platform's channels once, and the hooks know them:
 * `declare module '@tickgate/client/react' { interface Register { channels: MyChannels } }`.
 */
export interface Register {}

type Registered = Register extends { channels: infer C } ? C : UntypedChannels;

const Context = createContext<Client<any> | undefined>(undefined);

/** Gives a client to the components below. */
export const TickgateProvider = ({ client, children }: { client: Client<any>; children?: ReactNode }) =>
  createElement(Context.Provider, { value: client }, children);

/** The client of the nearest {@link TickgateProvider}. */
export const useClient = (): Client<Registered> => {
  const client = useContext(Context);
  if (!client) throw new Error('useClient: there is no TickgateProvider above this component');
  return client;
};

let pending: Set<() => void> | undefined;

/** Calls back in the next frame, once however often it is asked. */
const inFrame = (call: () => void) => {
  if (!pending) {
    const batch = (pending = new Set());
    const flush = () => {
      if (pending !== batch) return;
      pending = undefined;
      batch.forEach((each) => each());
    };
    requestAnimationFrame(flush);
    setTimeout(flush, FRAME_MAX);
  }
  pending.add(call);
};

interface Entry {
  value: Value<any>;
  count: number;
  timer?: ReturnType<typeof setTimeout>;
}

const entries = new WeakMap<Client<any>, Map<string, Entry>>();

const keyOf = (name: string, options: ValueOptions) => `${name} ${options.maxRate} ${options.hidden}`;

const acquire = (client: Client<any>, name: string, options: ValueOptions): [Value<any>, release: () => void] => {
  let all = entries.get(client);
  if (!all) entries.set(client, (all = new Map()));
  const key = keyOf(name, options);
  const entry = all.get(key) ?? { value: client.value(name, options), count: 0 };
  all.set(key, entry);
  clearTimeout(entry.timer);
  entry.count++;
  const release = () => {
    if (--entry.count) return;
    entry.timer = setTimeout(() => {
      all.delete(key);
      entry.value.close();
    }, LINGER);
  };
  return [entry.value, release];
};

const useEntry = <S>(name: string, options: ValueOptions, read: (value: Value<any> | undefined) => S): S => {
  const client: Client<any> = useClient();
  const { maxRate, hidden } = options;
  const subscribe = useCallback(
    (changed: () => void) => {
      const [value, release] = acquire(client, name, { maxRate, hidden });
      const stop = value.subscribe(() => inFrame(changed));
      return () => {
        stop();
        release();
      };
    },
    [client, name, maxRate, hidden],
  );
  const peek = () => read(entries.get(client)?.get(keyOf(name, options))?.value);
  return useSyncExternalStore(subscribe, peek, () => read(undefined));
};

const isSame = (a: any, b: any): boolean => {
  if (Object.is(a, b)) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.is(a[key], b[key]));
};

/** The newest value of a channel, or what `select` makes of it; `undefined` before the first. Renders when that changes. */
export const useValue = <N extends ValueName<Registered>, S = Data<Registered, N>>(
  name: N,
  select?: (data: Data<Registered, N>) => S,
  options: ValueOptions = {},
): S | undefined => {
  const last = useRef<S | undefined>(undefined);
  const read = useMemo(() => {
    let known: unknown;
    return (value: Value<any> | undefined) => {
      const data = value?.get();
      if (data === known) return last.current;
      known = data;
      const selected = data === undefined ? undefined : select ? select(data) : data;
      if (!isSame(selected, last.current)) last.current = selected;
      return last.current;
    };
  }, [select, name]);
  return useEntry(name, options, read);
};

/** Whether the value of a channel may be out of date. */
export const useStale = <N extends ValueName<Registered>>(name: N, options: ValueOptions = {}): boolean =>
  useEntry(name, options, (value) => value?.stale ?? true);

/** {@link MessagesOptions} without `onGap`. */
export type MessagesHookOptions = Omit<MessagesOptions, 'onGap'>;
/** See {@link MessagesOptions.onGap}. */
export type GapHandler = (gap: Gap) => void | Promise<void>;

interface Reading {
  messages: Messages<any>;
  of: Client<any>;
  timer?: ReturnType<typeof setTimeout>;
}

/**
 * Calls a function with every message of a channel, once and in order, in lists of at most one a frame. Nothing is rendered
 * by it. `onGap` may be left out only for a channel of class `event`.
 */
export const useMessages = <N extends MessageName<Registered>>(
  name: N,
  handler: (messages: Message<Data<Registered, N>>[]) => void,
  ...[options]: Registered[N] extends { class: 'event' }
    ? [options?: MessagesHookOptions & { onGap?: GapHandler }]
    : [options: MessagesHookOptions & { onGap: GapHandler }]
): void => {
  const client: Client<any> = useClient();
  const latest = useRef({ handler, onGap: options?.onGap });
  const reading = useRef<Reading | undefined>(undefined);
  useEffect(() => {
    latest.current = { handler, onGap: options?.onGap };
  });
  useEffect(() => {
    let now = reading.current;
    if (now?.of === client && now.messages.channel === name) {
      clearTimeout(now.timer);
    } else {
      const messages: Messages<any> = client.messages(name, {
        ...options,
        onGap: (gap) => latest.current.onGap?.(gap),
      });
      messages.batches(async (batch) => {
        latest.current.handler(batch);
        await new Promise<void>((resolve) => inFrame(resolve));
      });
      reading.current = now = { messages, of: client };
    }
    const mine = now;
    return () => {
      mine.timer = setTimeout(() => {
        mine.messages.close();
        if (reading.current === mine) reading.current = undefined;
      }, LINGER);
    };
  }, [client, name]);
};

/** The state of the connection. */
export const useStatus = (): Status => {
  const client = useClient();
  const subscribe = useCallback((changed: () => void) => client.on('status', changed), [client]);
  return useSyncExternalStore(subscribe, () => client.status, () => client.status);
};
