/** The newest value of a channel, and whether it may be out of date. */
import type { Channel, Hub, Reader } from './hub.js';
import type { Message, ValueOptions } from './types.js';
import type { RefusedError } from './types.js';

/** How long a page is hidden until its values pause, in milliseconds. */
const HIDDEN = 10_000;

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

/** Calls `pause` once the page was hidden for a while, and `go` when it is back. Returns how to stop it. */
const whileHidden = (pause: () => void, go: () => void): (() => void) => {
  const page = globalThis.document;
  if (!page) return () => {};
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = () => {
    clearTimeout(timer);
    if (page.hidden) timer = setTimeout(pause, HIDDEN);
    else go();
  };
  page.addEventListener('visibilitychange', look);
  look();
  return () => {
    clearTimeout(timer);
    page.removeEventListener('visibilitychange', look);
  };
};

export const createValue = <T>(
  hub: Hub,
  name: string,
  options: ValueOptions,
  report: (error: unknown) => void,
): Value<T> => {
  let newest: Message<T> | undefined;
  let refused: RefusedError | undefined;
  let channel: Channel | undefined;
  let paused = false;
  let wasStale = true;
  const watchers = new Set<(data: T, message: Message<T>) => void>();
  const subscribers = new Set<() => void>();

  const guarded = (call: () => void) => {
    try {
      call();
    } catch (error) {
      report(error);
    }
  };
  const tell = () => subscribers.forEach(guarded);
  const stale = () => !channel?.live || hub.status().state === 'stale';

  const reader: Reader = {
    push(message, delivery) {
      newest = message as Message<T>;
      if (channel) hub.settle(channel, delivery);
      watchers.forEach((watcher) => guarded(() => watcher(newest!.data, newest!)));
      tell();
    },
    gap(_, delivery) {
      hub.settle(channel!, delivery);
    },
    refused(error) {
      refused = error;
      if (options.onRefused) guarded(() => options.onRefused!(error));
      else report(error);
      tell();
    },
    reset() {
      newest = undefined;
      tell();
    },
    changed() {
      if (stale() === wasStale) return;
      wasStale = !wasStale;
      tell();
    },
    roomy: () => !paused,
  };

  const stop =
    options.hidden === 'continue'
      ? () => {}
      : whileHidden(
          () => {
            paused = true;
            // As long as another reader of this page wants it, it goes on.
            if (![...channel!.readers].some((other) => other.roomy())) hub.suspend(channel!);
          },
          () => {
            paused = false;
            if (channel) hub.resume(channel);
          },
        );

  channel = hub.read(name, options, reader);
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
      watchers.add(handler);
      if (newest) guarded(() => handler(newest!.data, newest!));
      return () => void watchers.delete(handler);
    },
    subscribe(changed) {
      subscribers.add(changed);
      return () => void subscribers.delete(changed);
    },
    close() {
      stop();
      hub.leave(channel!, reader);
    },
  };
};
