/** The public types: channels, messages, gaps, states and errors. */

/** A channel of class `reliable`: orders, fills, alerts. Nothing is missed without a {@link Gap}. */
export interface ReliableChannel<T> {
  readonly class: 'reliable';
  readonly data: T;
}

/** A channel of class `event`: trades, logs. If the reader is slow, the oldest are dropped, reported by a {@link Gap}. */
export interface EventChannel<T> {
  readonly class: 'event';
  readonly data: T;
}

/** A channel of class `state`: prices, order books. Only the newest value counts. */
export interface StateChannel<T> {
  readonly class: 'state';
  readonly data: T;
}

/** A channel of any delivery class. */
export type AnyChannel = ReliableChannel<any> | EventChannel<any> | StateChannel<any>;

/** The channels of a platform that has not declared its own. */
export interface UntypedChannels {
  [name: string]: AnyChannel;
}

/** The names of a platform's channels. */
export type Name<C> = keyof C & string;
/** The channels that {@link Client.messages} accepts. */
export type MessageName<C> = { [N in Name<C>]: C[N] extends { class: 'state' } ? never : N }[Name<C>];
/** The channels that {@link Client.value} accepts. */
export type ValueName<C> = {
  [N in Name<C>]: C[N] extends { class: 'reliable' | 'event' } ? never : N;
}[Name<C>];
/** What is published on a channel. */
export type Data<C, N extends Name<C>> = C[N] extends { data: infer T } ? T : never;

/** A publication. */
export interface Message<T = any> {
  /** Where it was published. */
  readonly channel: string;
  /** Its id; `null` where the gateway keeps no history of the channel. */
  readonly id: string | null;
  /** The publisher's object. */
  readonly data: T;
  /** It was published before the subscription began, or while the client was away. */
  readonly replayed: boolean;
  /** It is the current value at the beginning of a subscription. */
  readonly snapshot: boolean;
  /** How many older values it replaced on its way. */
  readonly conflated: number;
}

/** Messages that are missing and will not come. Take a snapshot by the platform's own means, then go on. */
export interface Gap {
  /** The channels that are affected. */
  readonly channels: readonly string[];
  /** The missing messages come after this id; `null` if not known. */
  readonly after: string | null;
  /** The missing messages come before this id; `null` if not known. */
  readonly before: string | null;
  /** How many are missing; `null` if not known. */
  readonly count: number | null;
  /** `slow_page`: this page did not take them in time. Otherwise the gateway's reason, such as `retention` or `failover`. */
  readonly reason: string;
}

/** The state of a client. */
export type StateName = 'connecting' | 'catching_up' | 'live' | 'stale' | 'waiting' | 'closed';

/** The state of a client, with its reason. */
export interface Status {
  /**
   * `connecting`: opening a connection. `catching_up`: connected, but the past of a channel is still coming. `live`: all
   * is up to date. `stale`: nothing was received for longer than a heartbeat interval. `waiting`: not connected, another
   * attempt follows. `closed`: stopped permanently.
   */
  readonly state: StateName;
  /** `waiting`, `closed`: the close code, if there was one. */
  readonly code?: number;
  /** `waiting`, `closed`: why, in words. */
  readonly reason?: string;
  /** `waiting`: milliseconds until the next attempt. */
  readonly retryInMs?: number;
}

/** Why the gateway refused something. */
export interface Refusal {
  /** A code of the wire contract, such as 4502. */
  readonly code?: number;
  /** Its name, such as `forbidden`. */
  readonly error?: string;
  /** What was wrong, for people. */
  readonly message: string;
}

/** What the errors of this client have in common: they carry what the gateway said. */
class GatewayError extends Error implements Refusal {
  declare readonly code?: number;
  declare readonly error?: string;

  /** @internal */
  constructor(fields: Refusal) {
    super(fields.message);
    Object.assign(this, fields);
  }
}

/** A channel was permanently refused, or its subscription was ended. */
export class RefusedError extends GatewayError {
  override name = 'RefusedError';
  /** The channel. */
  declare readonly channel: string;
}

/** A publication or command that is not known to be accepted. */
export class RequestError extends GatewayError {
  override name = 'RequestError';
  /** `refused`: the gateway did not take it. `unknown`: it may have. */
  declare readonly outcome: 'refused' | 'unknown';
}

/** An accepted publication or command. */
export interface Accepted {
  /** Its id; `null` where the gateway keeps no history of the channel. */
  readonly id: string | null;
  /** It was accepted before under the same `msgId`. */
  readonly duplicate: boolean;
}

/** A page of a channel's history. */
export interface History<T = any> {
  /** Oldest first. */
  readonly messages: readonly Message<T>[];
  /** Where the next page starts. */
  readonly cursor: string | null;
  /** There is a next page. */
  readonly more: boolean;
  /** What is missing before the first message. */
  readonly gap?: Gap;
}

/** The positions to resume from, and whose they are. */
export interface SavedCursors {
  readonly user: string | null;
  readonly cursors: Readonly<Record<string, string>>;
}

/** Where cursors are kept over a reload of the page. */
export interface CursorStore {
  load(): SavedCursors | undefined;
  save(saved: SavedCursors): void;
}

/** How to subscribe to a channel. */
export interface ChannelOptions {
  /** Continue after this cursor, or begin with all that is kept: `earliest`, unless a cursor was kept over a reload. */
  since?: string;
  /** Channels of class `event` and public ones of class `reliable`: begin with this many of the newest messages. */
  last?: number;
  /** Class `state`: updates per second, at most. */
  maxRate?: number;
  /** Class `state`: `false` leaves out the current value. */
  snapshot?: boolean;
}

/** How {@link Client.messages} delivers. */
export interface MessagesOptions extends Pick<ChannelOptions, 'since' | 'last'> {
  /**
   * Called in the place of messages that are missing. Following messages are held until it has ended. If it throws, the
   * error is reported and it is called again: after 1 s, then twice as long each time, up to 30 s.
   */
  onGap?: (gap: Gap) => void | Promise<void>;
  /** Called once if the channel is permanently refused. Without it, the error is reported by `onError`. */
  onRefused?: (error: RefusedError) => void;
  /**
   * How many messages may wait for the page, 1,000 by default. Beyond it, a channel of class `reliable` is suspended and
   * catches up from the gateway; any other drops the oldest and reports a gap `slow_page`.
   */
  buffer?: number;
}

/** How {@link Client.value} delivers. */
export interface ValueOptions extends Pick<ChannelOptions, 'maxRate'> {
  /** What happens while the page is hidden for more than 10 s: `pause` (default) receives nothing, `continue` does. */
  hidden?: 'pause' | 'continue';
  /** Called once if the channel is permanently refused. Without it, the error is reported by `onError`. */
  onRefused?: (error: RefusedError) => void;
}

/** What a client can be told at the beginning. */
export interface Options {
  /**
   * Returns a token. Called before the first connection, whenever the present token nears its end, and when the gateway
   * asks for a new one. A failure, or no answer within 30 s, counts as a failed attempt.
   */
  token?: () => string | Promise<string>;
  /** `message` sends the token as the first message instead of in the handshake. */
  auth?: 'handshake' | 'message';
  /** `persist()`: where cursors survive a reload. By default they do not. */
  persist?: Persistence;
  /** The link to use instead of an own socket: `share()` of `@tickgate/client/tabs`. */
  link?: LinkFactory;
  /** The WebSocket class where there is no global one: that of the package `ws`. */
  WebSocket?: unknown;
  /** Reads JSON; `JSON.parse` by default. For numbers beyond 2^53 give one that keeps them. */
  parse?: (text: string) => any;
  /** Called with what went wrong without an addressee, such as a handler that throws. By default the console's `error`. */
  onError?: (error: unknown) => void;
}

/** A frame that was sent or received. */
export interface Frame {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly sent: boolean;
  /** At most its first 500 characters; tokens are left out. */
  readonly text: string;
}

/** What a client knows about itself. */
export interface DebugInfo {
  readonly status: Status;
  readonly user: string | null | undefined;
  /** Milliseconds from a ping to its answer. */
  readonly roundTripMs: number | undefined;
  /** The last 200 frames, oldest first. */
  readonly frames: readonly Frame[];
  /** The last 50 gaps, oldest first. */
  readonly gaps: readonly Gap[];
  readonly channels: readonly DebugChannel[];
}

/** What a client knows about a channel. */
export interface DebugChannel {
  readonly name: string;
  readonly class: string | undefined;
  /** Up to here everything was handled. */
  readonly cursor: string | undefined;
  /** Messages that wait to be handled. */
  readonly waiting: number;
  readonly live: boolean;
}

declare const inner: unique symbol;

/** Connects a client by other means than a socket of its own. Made by `share` of `@tickgate/client/tabs`. */
export interface LinkFactory {
  readonly [inner]: 'link';
}

/** Keeps cursors over a reload. Made by {@link persist}. */
export interface Persistence {
  readonly [inner]: 'persist';
}
