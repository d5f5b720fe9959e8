/** What a client and its link share: the records of the channels, and how the two call each other. Names that begin with `_`
 * are private to the package: the build shortens them. */
import type { ChannelOptions, DebugInfo, Gap, Message, Options, Refusal, SavedCursors, Status } from './types.js';

/** Left, its place kept; to be requested; requested; its past is coming; up to date. In this order. */
export const enum Phase {
  Left,
  Due,
  Asked,
  Past,
  Live,
}

/** A channel that is wanted. Its link keeps all but the name and the options. */
export interface Channel {
  readonly _name: string;
  _options: ChannelOptions;
  _class?: string;
  _phase: Phase;
  /** Up to here everything was received. */
  _cursor: string | undefined;
  /** Channels of one stream move together. */
  _stream: string;
  /** `Due`: not before this time. */
  _at: number;
  /** The number under which it was requested. */
  _request: number;
}

/** A new record of a channel. */
export const newChannel = (name: string, options: ChannelOptions, cursor: string | undefined): Channel => ({
  _name: name,
  _options: options,
  _phase: Phase.Left,
  _cursor: cursor,
  _stream: name,
  _at: 0,
  _request: 0,
});

/** What a link reports. When it does, the record of the channel says so already. */
export interface Sink<C extends Channel> {
  _push(channel: C, message: Message): void;
  _gap(channels: C[], gap: Gap, cursor: string | null | undefined): void;
  /** The cursor moved without a message. */
  _moved(channel: C): void;
  /** The class or the phase changed. */
  _changed(channel: C): void;
  /** The channel was permanently refused: its record must be removed. */
  _refused(channel: C, refusal: Refusal): void;
  _status(status: Status): void;
  /** The user of the connection; `changed`: another one than before, whose cursors do not count any more. */
  _user(user: string | null, changed: boolean): void;
  _error(error: unknown): void;
}

/** A request of the application. */
export interface Request {
  readonly type: string;
  readonly fields: Readonly<Record<string, unknown>>;
  /** With it, the request is repeated until its deadline. */
  readonly msgId?: string | undefined;
  /** Milliseconds until the deadline. */
  readonly within: number;
  /** Refuse it at once where there is no connection. */
  readonly now?: boolean;
}

/** Sends a message with a new number. `since`: from when on the reply is awaited; `Infinity`: for ever. */
export type Ask = (type: string, fields: object, done: (reply: any) => void, since?: number) => void;

/** The pending requests of the application. */
export interface Outbox {
  _add(request: Request, now: number, isConnected: boolean): Promise<any>;
  /** Gives up what is past its deadline and, with a connection, sends what is due. Returns when to be called again. */
  _act(now: number, ask?: Ask, bytes?: number): number;
  /** The connection has ended. */
  _disconnected(): void;
}

/** A connection to the gateway: an own socket, or a worker that shares one. */
export interface Link<C extends Channel> {
  /** Subscribes to a channel from its cursor. */
  _want(channel: C): void;
  /** Leaves a channel. */
  _drop(channel: C): void;
  /** Sends a request, by an outbox that `create` makes if there is none yet. */
  _request(request: Request, create: () => Outbox): Promise<any>;
  /** Something happened that makes it worth looking whether the connection lives, or trying at once. */
  _nudge(): void;
  _debug(): Pick<DebugInfo, 'frames' | 'roundTripMs'>;
  _close(): Promise<void>;
}

/** Makes a link for the channels of a map, which its client changes. */
export type MakeLink = <C extends Channel>(
  url: string,
  options: Options,
  sink: Sink<C>,
  channels: ReadonlyMap<string, C>,
) => Link<C>;

/** Keeps cursors over a reload. */
export interface Saver {
  _load(): SavedCursors | undefined;
  /** A cursor has moved. */
  _changed(): void;
  _end(): void;
}

/** `current` returns what is to be kept. */
export type Persist = (
  url: string,
  current: () => SavedCursors | undefined,
  report: (error: unknown) => void,
) => Saver;

/** Passes something of this package through the hands of the application. */
export const hide = (inner: unknown) => inner as any;

/** The link of a client. */
export const linkOf = (client: object): Link<Channel> => (client as { _link: Link<Channel> })._link;
