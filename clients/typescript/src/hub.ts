/** The channels of a page: who reads which, what was handled, and the cursors that follow from it. Never touches a socket. */
import type {
  ChannelOptions,
  DebugChannel,
  Gap,
  Link,
  Message,
  Refusal,
  SavedCursors,
  Sink,
  Status,
} from './types.js';
import { RefusedError } from './types.js';

/** How many gaps are kept for `debug`. */
const GAPS = 50;
/** From how many deliveries on they are compacted. */
const COMPACT = 4096;

/** A delivery that readers have to handle before the cursor moves. */
export interface Delivery {
  cursor: string | null;
  /** How many readers have not handled it yet. */
  left: number;
}

/** A reader of one channel. */
export interface Reader {
  push(message: Message, delivery: Delivery): void;
  gap(gap: Gap, delivery: Delivery): void;
  refused(error: RefusedError): void;
  /** Forget everything: the user has changed. */
  reset(): void;
  /** The class became known, or whether the channel is up to date may have changed. */
  changed(): void;
  /** Holds no more than it can take, so that the channel can go on. */
  roomy(): boolean;
}

export interface Channel {
  readonly name: string;
  options: ChannelOptions;
  class: string | undefined;
  live: boolean;
  suspended: boolean;
  /** Up to here everything was received. */
  received: string | undefined;
  /** Up to here everything was handled. */
  handled: string | undefined;
  deliveries: Delivery[];
  /** The number of deliveries at which they are compacted. */
  compactAt: number;
  readers: Set<Reader>;
  newest: Message | undefined;
}

/** `store` is called when a cursor has moved. */
export const createHub = (report: (error: unknown) => void, store: () => void) => {
  const channels = new Map<string, Channel>();
  const watchers = new Set<(status: Status) => void>();
  const gaps: Gap[] = [];
  let link: Link;
  let status: Status = { state: 'connecting' };
  let user: string | null | undefined;
  let stored: SavedCursors | undefined;

  const cursors = () => {
    const all: Record<string, string> = {};
    for (const { name, handled } of channels.values()) if (handled) all[name] = handled;
    return all;
  };

  /** Something of a channel was handled: moves its cursor as far as nothing unhandled is before it. */
  const settle = (channel: Channel, delivery?: Delivery) => {
    if (delivery) delivery.left--;
    let moved = false;
    while (channel.deliveries[0]?.left === 0) {
      channel.handled = channel.deliveries.shift()!.cursor ?? channel.handled;
      moved = true;
    }
    if (moved) store();
  };

  /** Of deliveries that were handled behind one that was not, only the last of each run counts. */
  const compact = (channel: Channel) => {
    channel.deliveries = channel.deliveries.filter(({ left }, at, all) => left || all[at + 1]?.left !== 0);
    channel.compactAt = Math.max(COMPACT, channel.deliveries.length * 2);
  };

  const deliver = (channel: Channel, cursor: string | null, give: (reader: Reader, delivery: Delivery) => void) => {
    const delivery = { cursor, left: channel.readers.size };
    if (cursor) channel.received = cursor;
    channel.deliveries.push(delivery);
    if (channel.deliveries.length > channel.compactAt) compact(channel);
    for (const reader of channel.readers) give(reader, delivery);
    settle(channel);
  };

  const remove = (channel: Channel) => {
    channels.delete(channel.name);
    if (stored && channel.name in stored.cursors) {
      const { [channel.name]: _, ...rest } = stored.cursors;
      stored = { ...stored, cursors: rest };
    }
    store();
  };

  const changed = ({ readers }: Channel) => readers.forEach((reader) => reader.changed());

  const want = (channel: Channel) => {
    channel.suspended = channel.live = false;
    link.want(channel.name, channel.options, channel.received);
  };

  const sink: Sink = {
    granted(name, deliveryClass, live) {
      const channel = channels.get(name);
      if (!channel) return;
      channel.class = deliveryClass;
      channel.live = live;
      changed(channel);
    },
    push(message) {
      const channel = channels.get(message.channel);
      if (!channel || channel.suspended) return;
      channel.newest = message;
      deliver(channel, message.id, (reader, delivery) => reader.push(message, delivery));
    },
    gap(gap, cursor) {
      gaps.push(gap);
      if (gaps.length > GAPS) gaps.shift();
      for (const name of gap.channels) {
        const channel = channels.get(name);
        if (channel && !channel.suspended) deliver(channel, cursor, (reader, delivery) => reader.gap(gap, delivery));
      }
    },
    caughtUp(name) {
      const channel = channels.get(name);
      if (!channel) return;
      channel.live = true;
      changed(channel);
    },
    moved(name, cursor) {
      const channel = channels.get(name);
      if (!channel || channel.suspended) return;
      channel.received = cursor ?? undefined;
      const last = channel.deliveries.at(-1);
      if (last) last.cursor = cursor;
      else if (channel.handled !== channel.received) {
        channel.handled = channel.received;
        store();
      }
    },
    refused(name, refusal: Refusal) {
      const channel = channels.get(name);
      if (!channel) return;
      const error = new RefusedError(name, refusal);
      remove(channel);
      for (const reader of channel.readers) reader.refused(error);
    },
    status(next) {
      status = next;
      const connected = ['live', 'catching_up', 'stale'].includes(next.state);
      for (const watcher of watchers) {
        try {
          watcher(next);
        } catch (error) {
          report(error);
        }
      }
      for (const channel of channels.values()) {
        channel.live &&= connected;
        changed(channel);
      }
    },
    user(next, isOther) {
      if (isOther || (stored && stored.user !== next)) {
        stored = undefined;
        for (const channel of channels.values()) {
          // What is being handled belongs to the user before.
          channel.deliveries = [];
          channel.received = channel.handled = channel.newest = undefined;
          for (const reader of channel.readers) reader.reset();
          want(channel);
        }
      }
      user = next;
      store();
    },
    error: report,
  };

  return {
    sink,
    settle,

    /** What is to be kept over a reload, once the user is known. */
    saved(): SavedCursors | undefined {
      if (user === undefined) return;
      const kept: Record<string, string> = { ...stored?.cursors };
      // A page that comes back needs the current value of a state, not what follows the last one.
      for (const { name, handled, class: c } of channels.values()) if (handled && c !== 'state') kept[name] = handled;
      return { user, cursors: kept };
    },
    cursors,
    watchers,
    status: () => status,
    user: () => user,
    attach(to: Link, saved: SavedCursors | undefined) {
      link = to;
      stored = saved;
    },

    /** Adds a reader to a channel, and subscribes to it if it is the first one. */
    read(name: string, options: ChannelOptions, reader: Reader): Channel {
      let channel = channels.get(name);
      if (!channel) {
        const since = options.since ?? stored?.cursors[name];
        // Nothing else of what a reader may be given: a worker takes no functions.
        const { last, maxRate, snapshot } = options;
        channel = {
          name,
          options: { last, maxRate, snapshot },
          class: undefined,
          live: false,
          suspended: false,
          received: since,
          handled: since,
          deliveries: [],
          compactAt: COMPACT,
          readers: new Set([reader]),
          newest: undefined,
        };
        channels.set(name, channel);
        want(channel);
      } else {
        channel.readers.add(reader);
        const [rate, wanted] = [channel.options.maxRate, options.maxRate];
        if (rate !== undefined && (wanted === undefined || wanted > rate)) {
          channel.options = { ...channel.options, maxRate: wanted };
          want(channel);
        }
        const { newest } = channel;
        if (newest && channel.class === 'state') reader.push(newest, { cursor: null, left: 1 });
        reader.changed();
      }
      return channel;
    },

    /** Removes a reader that has handled everything it was given, and the channel with its last one. */
    leave(channel: Channel, reader: Reader) {
      if (!channel.readers.delete(reader) || channels.get(channel.name) !== channel) return;
      if (channel.readers.size) return this.resume(channel);
      link.drop(channel.name);
      remove(channel);
    },

    /** A reader holds more than it can take: the channel stops, and comes back from its cursor. */
    suspend(channel: Channel) {
      if (channel.suspended) return;
      channel.suspended = true;
      channel.live = false;
      link.suspend(channel.name);
      changed(channel);
    },

    resume(channel: Channel) {
      if (!channel.suspended || ![...channel.readers].every((reader) => reader.roomy())) return;
      want(channel);
    },

    debug: () => ({
      status,
      user,
      gaps: [...gaps],
      channels: [...channels.values()].map(
        ({ name, class: c, handled, deliveries, live }): DebugChannel => ({
          name,
          class: c,
          cursor: handled,
          waiting: deliveries.length,
          live,
        }),
      ),
    }),
  };
};

export type Hub = ReturnType<typeof createHub>;
