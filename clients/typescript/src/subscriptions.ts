/** The channels on the wire: which to subscribe to next, and what the gateway says of them. Pure: the time is an argument. */
import { type Channel, Phase, type Sink } from './link.js';
import { cursorOf, is, pushOf, refusalOf, retryOf } from './read.js';

const enum Ms {
  /** A channel that a reply does not name is asked for again after this time. */
  UnnamedRetry = 5000,
}

export const createSubscriptions = <C extends Channel>(channels: ReadonlyMap<string, C>, sink: Sink<C>) => {
  const all = () => [...channels.values()];
  const named = (name: string) => channels.get(is('string', name));
  /** The channel of a name, if anything of it is received. */
  const receiving = (name: string) => {
    const channel = named(name);
    return channel && channel._phase > Phase.Asked ? channel : undefined;
  };
  const askedBy = (request: number) => all().filter((c) => c._phase === Phase.Asked && c._request === request);

  const move = (channel: C, cursor: string | null) => {
    channel._cursor = cursor ?? undefined;
    sink._moved(channel);
  };

  /** All channels of a stream that are up to date, but one, have reached a cursor. */
  const advance = (stream: string, cursor: string, but?: C) => {
    for (const channel of all()) {
      if (channel._stream === stream && channel._phase === Phase.Live && channel !== but) move(channel, cursor);
    }
  };

  const askAgain = (channel: C, at: number) => {
    channel._phase = Phase.Due;
    channel._at = at;
  };

  const refuse = (channel: C, message: any, now: number) => {
    const retry = retryOf(message);
    if (retry === undefined) sink._refused(channel, refusalOf(message));
    else askAgain(channel, now + retry);
  };

  return {
    _want(channel: C) {
      askAgain(channel, 0);
      channel._stream = channel._name;
    },

    /** Leaves a channel. True if the gateway has to be told. */
    _drop(channel: C): boolean {
      const told = channel._phase > Phase.Due;
      channel._phase = Phase.Left;
      return told;
    },

    _live: () => all().every(({ _phase: phase }) => !phase || phase === Phase.Live),

    /** When the next channel is due; `Infinity` if none is. */
    _due: () => Math.min(...all().map((channel) => (channel._phase === Phase.Due ? channel._at : Infinity))),

    /** The connection has ended. */
    _disconnected() {
      for (const channel of all()) if (channel._phase) askAgain(channel, 0);
    },

    /** The elements of the next `subscribe`: at most `most`, and at most `bytes` unless a single one is longer. */
    _ask(now: number, request: number, most: number, bytes: number): object[] {
      const elements: object[] = [];
      for (const channel of all()) {
        if (channel._phase !== Phase.Due || channel._at > now) continue;
        const { last, maxRate, snapshot } = channel._options;
        const since = channel._cursor;
        const element = { channel: channel._name, since, last: since ? undefined : last, max_rate: maxRate, snapshot };
        bytes -= JSON.stringify(element).length + 1;
        if (elements.length + 1 > most || (bytes < 0 && elements.length)) break;
        channel._phase = Phase.Asked;
        channel._request = request;
        elements.push(element);
      }
      return elements;
    },

    /** The reply to a `subscribe`. Channels that it does not name are asked for again. */
    _reply(message: any, request: number, now: number) {
      if (message.type === 'error') return askedBy(request).forEach((channel) => refuse(channel, message, now));
      message.channels.forEach((grant: any) => {
        const channel = named(grant.channel);
        if (channel?._phase !== Phase.Asked || channel._request !== request) return;
        channel._phase = grant.live ? Phase.Live : Phase.Past;
        channel._class = grant.class;
        channel._stream = grant.stream ?? channel._name;
        move(channel, cursorOf(grant.cursor));
        sink._changed(channel);
      });
      for (const channel of askedBy(request)) {
        const error = message.errors.find((each: any) => each.channel === channel._name);
        if (error) refuse(channel, error, now);
        else askAgain(channel, now + Ms.UnnamedRetry);
      }
    },

    /** A push, which moves the others of its stream as well. */
    _push(push: any) {
      const message = pushOf(push);
      const channel = receiving(message.channel);
      if (!channel) return;
      if (message.id) {
        channel._cursor = message.id;
        if (channel._phase === Phase.Live) advance(channel._stream, message.id, channel);
      }
      sink._push(channel, message);
    },

    _gap({ channels: names, after = null, before = null, count = null, reason, cursor }: any) {
      const ours: C[] = names.flatMap((name: any) => receiving(name) ?? []);
      // Nothing moves before all of it is read: a gap that cannot be read comes again.
      const gap = { channels: ours.map(({ _name }) => _name), after, before, count, reason: is('string', reason) };
      const next = cursorOf(cursor);
      for (const channel of ours) channel._cursor = next ?? channel._cursor;
      if (ours.length) sink._gap(ours, gap, next);
    },

    _caughtUp({ channels: done }: any) {
      done.forEach(({ channel: name, cursor }: any) => {
        const channel = receiving(name);
        if (!channel) return;
        channel._phase = Phase.Live;
        if (cursorOf(cursor)) move(channel, cursor);
        sink._changed(channel);
      });
    },

    /** The cursors of a heartbeat, by stream. */
    _heartbeat({ cursors = {} }: any) {
      for (const stream in cursors) if (cursorOf(cursors[stream])) advance(stream, cursors[stream]);
    },

    _unsubscribed(message: any, now: number) {
      message.channels.forEach((name: any) => {
        const channel = named(name);
        if (channel?._phase) refuse(channel, message, now);
      });
    },
  };
};
