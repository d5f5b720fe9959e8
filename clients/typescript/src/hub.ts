/** The channels of a page: who reads which, what was handled, and the cursors that follow from it. Never touches a socket. */
import { type Channel as Wanted, type Link, newChannel, Phase, type Sink } from './link.js';
import type { ChannelOptions, DebugInfo, Gap, Message, SavedCursors, Status } from './types.js';
import { RefusedError } from './types.js';

const enum Count {
  /** So many gaps are kept for `debug`. */
  Gaps = 50,
  /** At every multiple of this number, what was handled is compacted. */
  Compact = 4096,
}

/** A message or a gap that readers have to handle before the cursor moves. */
export interface Item {
  readonly _channel: Channel;
  readonly _message?: Message;
  readonly _gap?: Gap;
  _cursor?: string | null | undefined;
  /** How many readers have not handled it yet. */
  _left: number;
}

/** A reader of one channel. */
export interface Reader {
  _take(item: Item): void;
  _refused(error: RefusedError): void;
  /** Forget everything: the user has changed. */
  _reset(): void;
  /** The class became known, or whether the channel is up to date may have changed. */
  _changed(): void;
  /** Holds no more than it can take, so that the channel can go on. */
  _roomy(): boolean;
}

export interface Channel extends Wanted {
  /** Up to here everything was handled. */
  _handled: string | undefined;
  /** In the order of arrival. */
  _items: Item[];
  readonly _readers: Set<Reader>;
  _newest: Message | undefined;
}

export interface Hub extends Sink<Channel> {
  _link: Link<Channel>;
  _stored: { user: string | null; cursors: Record<string, string> } | undefined;
  readonly _channels: Map<string, Channel>;
  readonly _watchers: Set<(status: Status) => void>;
  /** The present one. */
  _state: Status;
  _name: string | null | undefined;
  /** Calls what belongs to the application. */
  _guard(call: () => void): void;
  _cursors(): Record<string, string>;
  /** What is to be kept over a reload, once the user is known. */
  _saved(): SavedCursors | undefined;
  /** Something was handled. */
  _settle(item: Item): void;
  /** Adds a reader to a channel, and subscribes to it if it is the first one. */
  _read(name: string, options: ChannelOptions, reader: Reader): Channel;
  /** Removes a reader that has handled everything it was given, and the channel with its last one. */
  _leave(channel: Channel, reader: Reader): void;
  /** A reader holds more than it can take: the channel stops, and comes back from its cursor. */
  _suspend(channel: Channel): void;
  _resume(channel: Channel): void;
  _debug(): Omit<DebugInfo, 'frames' | 'roundTripMs'>;
}

/** `store` is called when a cursor has moved. The link is to be added before anything is read. */
export const createHub = (report: (error: unknown) => void, store: () => void): Hub => {
  const channels = new Map<string, Channel>();
  const gaps: Gap[] = [];

  /** Adds the cursors of all channels, but those of a class. */
  const cursors = (all: Record<string, string>, but?: string) => {
    channels.forEach(({ _handled, _class }, name) => {
      if (_handled && _class !== but) all[name] = _handled;
    });
    return all;
  };

  const deliver = (channel: Channel, cursor: string | null | undefined, message?: Message, gap?: Gap) => {
    const item = { _channel: channel, _cursor: cursor, _message: message, _gap: gap, _left: channel._readers.size } as Item;
    // Of what was handled behind something that was not, only the last of each run counts.
    if (channel._items.push(item) % Count.Compact === 0) {
      channel._items = channel._items.filter(({ _left: left }, at, all) => left || all[at + 1]?._left !== 0);
    }
    channel._readers.forEach((reader) => reader._take(item));
  };

  const remove = (channel: Channel) => {
    channels.delete(channel._name);
    delete hub._stored?.cursors[channel._name];
    store();
  };

  const changed = (channel: Channel) => channel._readers.forEach((reader) => reader._changed());

  const hub: Hub = {
    _link: undefined as never,
    _stored: undefined,
    _channels: channels,
    _watchers: new Set(),
    _state: { state: 'connecting' },
    _name: undefined,

    _push(channel, message) {
      channel._newest = message;
      deliver(channel, message.id, message);
    },
    _gap(affected, gap, cursor) {
      if (gaps.push(gap) > Count.Gaps) gaps.shift();
      for (const channel of affected) deliver(channel, cursor, undefined, gap);
    },
    _moved(channel) {
      const last = channel._items.at(-1);
      if (last) last._cursor = channel._cursor;
      else if (channel._handled !== channel._cursor) {
        channel._handled = channel._cursor;
        store();
      }
    },
    _changed: changed,
    _refused(channel, refusal) {
      remove(channel);
      const error = new RefusedError({ channel: channel._name, ...refusal } as any);
      channel._readers.forEach((reader) => reader._refused(error));
    },
    _status(status) {
      hub._state = status;
      hub._watchers.forEach((watcher) => hub._guard(() => watcher(status)));
      channels.forEach(changed);
    },
    _user(name, isOther) {
      if (isOther || (hub._stored && hub._stored.user !== name)) {
        hub._stored = undefined;
        channels.forEach((channel) => {
          // What is being handled belongs to the user before.
          channel._items = [];
          channel._cursor = channel._handled = channel._newest = undefined;
          channel._readers.forEach((reader) => reader._reset());
          hub._link._want(channel);
        });
      }
      hub._name = name;
      store();
    },
    _error: report,

    _guard(call) {
      try {
        call();
      } catch (error) {
        report(error);
      }
    },
    _cursors: () => cursors({}),
    _saved: () =>
      // A page that comes back needs the current value of a state, not what follows the last one.
      hub._name === undefined ? undefined : { user: hub._name, cursors: cursors({ ...hub._stored?.cursors }, 'state') },

    _settle(item) {
      const channel = item._channel;
      item._left--;
      // The cursor moves as far as nothing unhandled is before it.
      for (let first: Item | undefined; (first = channel._items[0])?._left === 0; store()) {
        channel._items.shift();
        channel._handled = first!._cursor ?? channel._handled;
      }
    },

    _read(name, { since, last, maxRate, snapshot }, reader) {
      let channel = channels.get(name);
      if (channel) {
        channel._readers.add(reader);
        if (channel._options.maxRate! < (maxRate ?? Infinity)) {
          channel._options = { ...channel._options, maxRate };
          hub._link._want(channel);
        }
        if (channel._newest && channel._class === 'state') {
          reader._take({ _channel: channel, _message: channel._newest, _left: 1 });
        }
      } else {
        // A reload goes on where it was, whatever the first visit began with.
        if (!since || since === 'earliest') since = hub._stored?.cursors[name] ?? since;
        // Nothing else of what a reader may be given: a worker takes no functions.
        channel = newChannel(name, { last, maxRate, snapshot }, since) as Channel;
        Object.assign(channel, { _handled: since, _items: [], _readers: new Set([reader]) });
        channels.set(name, channel);
        hub._link._want(channel);
      }
      return channel;
    },

    _leave(channel, reader) {
      if (!channel._readers.delete(reader) || channels.get(channel._name) !== channel) return;
      if (channel._readers.size) return hub._resume(channel);
      hub._link._drop(channel);
      remove(channel);
    },

    _suspend(channel) {
      if (!channel._phase) return;
      hub._link._drop(channel);
      changed(channel);
    },

    _resume(channel) {
      if (!channel._phase && [...channel._readers].every((reader) => reader._roomy())) hub._link._want(channel);
    },

    _debug: () => ({
      status: hub._state,
      user: hub._name,
      gaps: [...gaps],
      channels: [...channels.values()].map((channel) => ({
        name: channel._name,
        class: channel._class,
        cursor: channel._handled,
        waiting: channel._items.length,
        live: channel._phase === Phase.Live,
      })),
    }),
  };
  return hub;
};
