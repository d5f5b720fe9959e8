/** Ordered messages, each once: a bounded queue between a channel and its handler or loop. */
import type { Channel, Delivery, Hub, Reader } from './hub.js';
import type { Gap, Message, MessagesOptions } from './types.js';
import { RefusedError } from './types.js';

/** How many messages may wait, by default. */
const BUFFER = 1000;
/** Between two calls of an `onGap` that throws. */
const GAP_RETRY = 1000;
const GAP_RETRY_MAX = 30_000;

interface Item<T> {
  message?: Message<T>;
  gap?: Gap;
  delivery?: Delivery;
}

/** The messages of a channel, in order. */
export interface Messages<T> extends AsyncIterable<Message<T>[]> {
  /** The channel. */
  readonly channel: string;
  /** All that is published has arrived, and is handled as it arrives. */
  readonly live: boolean;
  /** Messages are missing, and `onGap` has not ended yet. */
  readonly gap: Gap | undefined;
  /** Why the channel was refused for good. */
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

export const createMessages = <T>(
  hub: Hub,
  name: string,
  options: MessagesOptions,
  report: (error: unknown) => void,
): Messages<T> => {
  const most = options.buffer ?? BUFFER;
  let items: Item<T>[] = [];
  let handler: ((batch: Message<T>[]) => unknown) | undefined;
  let refused: RefusedError | undefined;
  let held: Gap | undefined;
  let busy = false;
  let closed = false;
  let channel: Channel;
  let wake = () => {};
  /** What the page is handling. */
  let current: Item<T>[] = [];
  /** The id of the last message that was given to the page. */
  let lastId: string | null = null;

  const settle = ({ delivery }: Item<T>) => delivery && hub.settle(channel, delivery);

  /** Makes room: the oldest message gives way to a gap, which grows with each. */
  const dropOldest = () => {
    const at = items[0]!.gap ? 1 : 0;
    const dropped = items[at]!;
    if (!dropped.message) return;
    const before = items[0]!.gap;
    const merges = before?.reason === 'slow_page';
    const gap: Gap = {
      channels: [name],
      after: merges ? before.after : lastId,
      before: items[at + 1]?.message?.id ?? null,
      count: (merges ? before.count! : 0) + 1,
      reason: 'slow_page',
    };
    items.splice(merges ? 0 : at, merges ? 2 : 1, { gap });
    settle(dropped);
  };

  const reader: Reader = {
    push(message, delivery) {
      items.push({ message: message as Message<T>, delivery });
      if (items.length > most) {
        if (channel.class === 'reliable') hub.suspend(channel);
        else dropOldest();
      }
      wake();
    },
    gap(gap, delivery) {
      items.push({ gap, delivery });
      wake();
    },
    refused(error) {
      refused = error;
      if (options.onRefused) options.onRefused(error);
      else report(error);
      wake();
    },
    reset() {
      items = [];
    },
    changed() {
      if (hub.status().state === 'closed') wake();
    },
    roomy: () => items.length <= most / 2,
  };

  const handleGap = async (gap: Gap) => {
    held = gap;
    for (let wait = GAP_RETRY; !closed; wait = Math.min(wait * 2, GAP_RETRY_MAX)) {
      try {
        if (options.onGap) await options.onGap(gap);
        else report(new Error(`messages of ${name} are missing (${gap.reason}), and there is no onGap`));
        break;
      } catch (error) {
        report(error);
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
    held = undefined;
  };

  /** Handles the gaps at the front of the queue. */
  const handleGaps = async () => {
    while (items[0]?.gap) {
      const item = items[0];
      await handleGap(item.gap!);
      // A slow page's gap may have grown meanwhile: it is handled again.
      if (items[0] === item) {
        items.shift();
        settle(item);
      }
    }
  };

  /** The next messages up to a gap. */
  const take = (most = Infinity): Message<T>[] => {
    const end = items.findIndex(({ gap }) => gap);
    current = items.splice(0, Math.min(end < 0 ? items.length : end, most));
    lastId = current.at(-1)?.message!.id ?? lastId;
    return current.map(({ message }) => message!);
  };

  const handled = () => {
    current.forEach(settle);
    current = [];
    if (!closed) hub.resume(channel);
  };

  const pump = async (most?: number) => {
    if (busy) return;
    busy = true;
    while (items.length && !closed) {
      // Without an `await` that is not needed, messages of several channels are handled in the order of arrival.
      if (items[0]!.gap) await handleGaps();
      const batch = take(most);
      if (!batch.length) continue;
      try {
        const result = handler!(batch);
        if (result) await result;
      } catch (error) {
        report(error);
      }
      handled();
    }
    busy = false;
  };

  const start = (give: (batch: Message<T>[]) => unknown, most?: number) => {
    if (handler) throw new Error(`the messages of ${name} have a reader already`);
    handler = give;
    wake = () => void pump(most);
    wake();
  };

  const messages: Messages<T> = {
    channel: name,
    get live() {
      return channel.live && !items.length && !current.length && !held;
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
      items.forEach(settle);
      items = [];
      hub.leave(channel, reader);
      wake();
    },
    async *[Symbol.asyncIterator]() {
      if (handler) throw new Error(`the messages of ${name} have a reader already`);
      handler = () => {};
      try {
        while (!closed) {
          await handleGaps();
          const batch = take();
          if (batch.length) {
            yield batch;
            handled();
          } else if (refused) {
            throw refused;
          } else if (hub.status().state === 'closed') {
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
  channel = hub.read(name, options, reader);
  return messages;
};
