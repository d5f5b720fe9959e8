/** Ordered messages, each once: a bounded queue between a channel and its handler or loop. */
import type { Channel, Hub, Item, Reader } from './hub.js';
import { Phase } from './link.js';
import type { Gap, Message, MessagesOptions } from './types.js';
import type { RefusedError } from './types.js';

const enum Limit {
  /** So many messages may wait, by default. */
  Buffer = 1000,
  /** Between two calls of an `onGap` that throws, in milliseconds. */
  GapRetry = 1000,
  GapRetryMax = 30_000,
}

/** The messages of a channel, in order. */
export interface Messages<T> extends AsyncIterable<Message<T>[]> {
  /** The channel. */
  readonly channel: string;
  /** All that is published has arrived, and is handled as it arrives. */
  readonly live: boolean;
  /** Messages are missing, and `onGap` has not ended yet. */
  readonly gap: Gap | undefined;
  /** Why the channel was permanently refused. */
  readonly refused: RefusedError | undefined;
  /**
   * Calls a function with each message, one after the other: the next once the promise it returns has settled. An error
   * is reported, and the message counts as handled.
   */
  each(handler: (message: Message<T>) => unknown): this;
  /** The same with all messages that have arrived meanwhile. */
  batches(handler: (messages: Message<T>[]) => unknown): this;
  /** Leaves the channel, and forgets its cursor. */
  close(): void;
}

export const createMessages = <T>(hub: Hub, name: string, options: MessagesOptions): Messages<T> => {
  const most = options.buffer ?? Limit.Buffer;
  let items: Item[] = [];
  let claimed = false;
  let refused: RefusedError | undefined;
  let held: Gap | undefined;
  let busy = false;
  let closed = false;
  let wake = () => {};
  /** What the page is handling. */
  let current: Item[] = [];
  /** The id of the last message that was given to the page. */
  let lastId: string | null = null;

  /** Makes room: the oldest message is replaced with a gap, which grows with each. False if there is none. */
  const dropOldest = (): boolean => {
    const at = items.findIndex((item) => item._message);
    if (at < 0) return false;
    const before = items[at - 1]?._gap;
    const merges = before?.reason === 'slow_page';
    const gap: Gap = {
      channels: [name],
      after: merges ? before.after : lastId,
      before: items[at + 1]?._message?.id ?? null,
      count: (merges ? before.count! : 0) + 1,
      reason: 'slow_page',
    };
    const [dropped] = items.splice(at, 1, { _channel: items[at]!._channel, _gap: gap, _left: 1 });
    if (merges) items.splice(at - 1, 1);
    hub._settle(dropped!);
    return true;
  };

  const reader: Reader = {
    _take(item) {
      items.push(item);
      if (items.length > most && (item._channel._class === 'reliable' || !dropOldest())) hub._suspend(item._channel);
      wake();
    },
    _refused(error) {
      refused = error;
      hub._guard(() => (options.onRefused ?? hub._error)(error));
      wake();
    },
    _reset() {
      items = [];
    },
    // The client may be closed.
    _changed: () => wake(),
    _roomy: () => items.length <= most / 2,
  };
  const channel: Channel = hub._read(name, options, reader);

  const handleGap = async (gap: Gap) => {
    held = gap;
    for (let wait = Limit.GapRetry; !closed; wait = Math.min(wait * 2, Limit.GapRetryMax)) {
      try {
        if (options.onGap) await options.onGap(gap);
        else hub._error(new Error(`${name}: a gap (${gap.reason}), and no onGap`));
        break;
      } catch (error) {
        hub._error(error);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
    held = undefined;
  };

  /** Handles the gaps at the front of the queue. */
  const handleGaps = async () => {
    for (let item; (item = items[0])?._gap; ) {
      await handleGap(item._gap);
      // A slow page's gap may have grown meanwhile: it is handled again.
      if (items[0] === item) {
        items.shift();
        hub._settle(item);
      }
    }
  };

  /** The next messages up to a gap. */
  const take = (limit = items.length): Message<T>[] => {
    const end = items.findIndex((item) => item._gap);
    current = items.splice(0, end < 0 ? limit : Math.min(end, limit));
    lastId = current.at(-1)?._message!.id ?? lastId;
    return current.map((item) => item._message!);
  };

  const handled = () => {
    current.forEach(hub._settle);
    current = [];
    if (!closed) hub._resume(channel);
  };

  const claim = () => {
    if (claimed) throw new Error(`${name}: read already`);
    claimed = true;
  };

  const start = (give: (batch: Message<T>[]) => unknown, limit?: number) => {
    claim();
    wake = async () => {
      if (busy) return;
      busy = true;
      while (items.length && !closed) {
        // Without an `await` that is not needed, messages of several channels are handled in the order of arrival.
        if (items[0]!._gap) await handleGaps();
        const batch = take(limit);
        if (!batch.length) continue;
        try {
          const result = give(batch);
          if (result) await result;
        } catch (error) {
          hub._error(error);
        }
        handled();
      }
      busy = false;
    };
    wake();
  };

  const messages: Messages<T> = {
    channel: name,
    get live() {
      return channel._phase === Phase.Live && !items.length && !current.length && !held;
    },
    get gap() {
      return held;
    },
    get refused() {
      return refused;
    },
    each(give) {
      start(([message]) => give(message!), 1);
      return messages;
    },
    batches(give) {
      start(give);
      return messages;
    },
    close() {
      if (closed) return;
      closed = true;
      handled();
      items.forEach(hub._settle);
      items = [];
      hub._leave(channel, reader);
      wake();
    },
    async *[Symbol.asyncIterator]() {
      claim();
      try {
        while (!closed) {
          await handleGaps();
          const batch = take();
          if (batch.length) {
            yield batch;
            handled();
          } else if (refused) {
            throw refused;
          } else if (hub._state.state === 'closed') {
            return;
          } else {
            await new Promise<void>((resolve) => (wake = resolve));
          }
        }
      } finally {
        messages.close();
      }
    },
  };
  return messages;
};
