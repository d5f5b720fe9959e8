/** The wanted channels, their cursors on the wire, and which to subscribe to next. Pure: the time is an argument. */
import type { ChannelOptions, Message } from './types.js';

/** When to ask again for a channel that a reply does not name, in milliseconds. */
const UNNAMED_RETRY = 5000;

/** To be requested; requested; its past is coming; live; left for a while with its place kept. */
export const enum Phase {
  Due,
  Asked,
  Past,
  Live,
  Suspended,
}

interface Wanted {
  options: ChannelOptions;
  cursor: string | undefined;
  stream: string;
  phase: Phase;
  /** `Due`: not before this time. */
  at: number;
  /** `Asked`: the number of the request. */
  request: number;
}

/** Calls back for each cursor that moves without a message of its own. */
export type Moved = (name: string, cursor: string | null) => void;

export type Channels = ReturnType<typeof createChannels>;

export const createChannels = (moved: Moved) => {
  const wanted = new Map<string, Wanted>();
  const receives = (channel: Wanted | undefined) => channel?.phase === Phase.Past || channel?.phase === Phase.Live;

  const advance = (from: string, stream: string, cursor: string) => {
    for (const [name, channel] of wanted) {
      if (channel.stream === stream && channel.phase === Phase.Live && name !== from) {
        channel.cursor = cursor;
        moved(name, cursor);
      }
    }
  };

  const refuse = (name: string, retryMs: number | undefined, now: number): boolean => {
    const channel = wanted.get(name);
    if (!channel || channel.phase === Phase.Suspended) return false;
    if (retryMs === undefined) return wanted.delete(name);
    channel.phase = Phase.Due;
    channel.at = now + retryMs;
    return false;
  };

  return {
    /** Adds a channel, or subscribes to it again. */
    want(name: string, options: ChannelOptions, cursor: string | undefined) {
      wanted.set(name, { options, cursor, stream: name, phase: Phase.Due, at: 0, request: 0 });
    },

    /** Removes a channel. True if the gateway has to be told. */
    drop(name: string): boolean {
      const channel = wanted.get(name);
      wanted.delete(name);
      return !!channel && channel.phase !== Phase.Due && channel.phase !== Phase.Suspended;
    },

    /** Leaves a channel for a while. True if the gateway has to be told. */
    suspend(name: string): boolean {
      const channel = wanted.get(name);
      if (!channel) return false;
      const told = channel.phase !== Phase.Due && channel.phase !== Phase.Suspended;
      channel.phase = Phase.Suspended;
      return told;
    },

    /** The connection has ended. */
    disconnected() {
      for (const channel of wanted.values()) {
        if (channel.phase !== Phase.Suspended) {
          channel.phase = Phase.Due;
          channel.at = 0;
        }
      }
    },

    /** Another user: no cursor counts any more. */
    forget() {
      for (const channel of wanted.values()) channel.cursor = undefined;
    },

    live: () => [...wanted.values()].every((channel) => channel.phase >= Phase.Live),

    /** When the next channel is due; `Infinity` if none is. */
    due(): number {
      let due = Infinity;
      for (const channel of wanted.values()) if (channel.phase === Phase.Due) due = Math.min(due, channel.at);
      return due;
    },

    /** The elements of the next `subscribe`: at most `most`, and at most `bytes` unless a single one is longer. */
    ask(now: number, request: number, most: number, bytes: number): object[] {
      const elements: object[] = [];
      for (const [name, channel] of wanted) {
        if (channel.phase !== Phase.Due || channel.at > now) continue;
        const { last, maxRate, snapshot } = channel.options;
        const since = channel.cursor;
        const element = { channel: name, since, last: since ? undefined : last, max_rate: maxRate, snapshot };
        bytes -= JSON.stringify(element).length + 1;
        if (elements.length >= most || (bytes < 0 && elements.length)) break;
        channel.phase = Phase.Asked;
        channel.request = request;
        elements.push(element);
      }
      return elements;
    },

    /** The channels that were asked for under this number. */
    askedBy: (request: number): string[] =>
      [...wanted].filter(([, c]) => c.phase === Phase.Asked && c.request === request).map(([name]) => name),

    /** A channel is granted. True if it is wanted. */
    granted(grant: any, request: number): boolean {
      const name: string = grant.channel;
      const channel = wanted.get(name);
      if (channel?.phase !== Phase.Asked || channel.request !== request) return false;
      channel.phase = grant.live ? Phase.Live : Phase.Past;
      channel.stream = grant.stream ?? name;
      channel.cursor = grant.cursor ?? undefined;
      moved(name, grant.cursor ?? null);
      return true;
    },

    refuse,

    /** Channels that a reply did not name are asked for again. */
    unnamed(request: number, now: number) {
      for (const name of this.askedBy(request)) refuse(name, UNNAMED_RETRY, now);
    },

    /** A push: false if its channel is not wanted. Other channels of its stream move. */
    push({ channel: name, id }: Message): boolean {
      const channel = wanted.get(name);
      if (!receives(channel)) return false;
      if (id) {
        channel!.cursor = id;
        if (channel!.phase === Phase.Live && channel!.stream !== name) advance(name, channel!.stream, id);
      }
      return true;
    },

    /** The channels of a gap that are wanted; their cursors move. */
    gap(names: string[], cursor: string | null): string[] {
      const ours = names.filter((name) => receives(wanted.get(name)));
      if (cursor) for (const name of ours) wanted.get(name)!.cursor = cursor;
      return ours;
    },

    /** A channel has caught up. True if it is wanted. */
    caughtUp(name: string, cursor: string | null | undefined): boolean {
      const channel = wanted.get(name);
      if (!receives(channel)) return false;
      channel!.phase = Phase.Live;
      if (cursor) {
        channel!.cursor = cursor;
        moved(name, cursor);
      }
      return true;
    },

    /** The cursors of a heartbeat, by stream. */
    heartbeat(cursors: Record<string, string | null>) {
      for (const stream in cursors) if (cursors[stream]) advance('', stream, cursors[stream]!);
    },
  };
};
