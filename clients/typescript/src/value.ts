/** The newest value of a channel, and whether it may be out of date. */
import type { Hub, Reader } from './hub.js';
import { Phase } from './link.js';
import type { Message, ValueOptions } from './types.js';
import type { RefusedError } from './types.js';

const enum Ms {
  /** A page is hidden for so long until its values pause. */
  Hidden = 10_000,
}

/** The newest value of a channel. */
export interface Value<T> {
  /** The channel. */
  readonly channel: string;
  /** The newest value; `undefined` before the first. */
  get(): T | undefined;
  /** The newest message. */
  readonly message: Message<T> | undefined;
  /** The value may be out of date: there is no connection, it is silent, or the present value is still coming. */
  readonly stale: boolean;
  /** Why the channel was refused for good. */
  readonly refused: RefusedError | undefined;
  /** Calls a function with each value, the present one included. Returns how to stop it. */
  watch(handler: (data: T, message: Message<T>) => void): () => void;
  /** Calls a function when the value, `stale` or `refused` has changed. Returns how to stop it. */
  subscribe(changed: () => void): () => void;
  /** Leaves the channel. */
  close(): void;
}

export const createValue = <T>(hub: Hub, name: string, options: ValueOptions): Value<T> => {
  const page = options.hidden === 'continue' ? undefined : globalThis.document;
  const watchers = new Set<() => void>();
  const subscribers = new Set<() => void>();
  let newest: Message<T> | undefined;
  let refused: RefusedError | undefined;
  let paused = false;
  let wasStale = true;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const tell = () => subscribers.forEach(hub._guard);
  const stale = () => channel._phase !== Phase.Live || hub._state.state === 'stale';

  const reader: Reader = {
    _take(item) {
      hub._settle(item);
      if (!item._message) return;
      newest = item._message;
      watchers.forEach(hub._guard);
      tell();
    },
    _refused(error) {
      refused = error;
      hub._guard(() => (options.onRefused ?? hub._error)(error));
      tell();
    },
    _reset() {
      newest = undefined;
      tell();
    },
    _changed() {
      if (stale() === wasStale) return;
      wasStale = !wasStale;
      tell();
    },
    _roomy: () => !paused,
  };

  /** Pauses once the page was hidden for a while, and goes on when it is back. */
  const look = () => {
    clearTimeout(timer);
    paused = false;
    hub._resume(channel);
    if (!page?.hidden) return;
    timer = setTimeout(() => {
      paused = true;
      // As long as another reader of this page wants it, it goes on.
      if (![...channel._readers].some((other) => other._roomy())) hub._suspend(channel);
    }, Ms.Hidden);
  };

  /** Adds a function to a set. Returns how to remove it. */
  const add = (to: Set<() => void>, call: () => void) => {
    to.add(call);
    return () => void to.delete(call);
  };

  const channel = hub._read(name, options, reader);
  page?.addEventListener('visibilitychange', look);
  look();
  wasStale = stale();
  return {
    channel: name,
    get: () => newest?.data,
    get message() {
      return newest;
    },
    get stale() {
      return stale();
    },
    get refused() {
      return refused;
    },
    watch(handler) {
      const call = () => handler(newest!.data, newest!);
      if (newest) hub._guard(call);
      return add(watchers, call);
    },
    subscribe: (changed) => add(subscribers, () => changed()),
    close() {
      clearTimeout(timer);
      page?.removeEventListener('visibilitychange', look);
      hub._leave(channel, reader);
    },
  };
};
