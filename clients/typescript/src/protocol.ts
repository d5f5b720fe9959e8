/** What tabs and their worker send each other. */
import type { Request } from './link.js';
import type { ChannelOptions, DebugInfo, Gap, Message, Refusal, Status } from './types.js';

/** To be raised with each change of what follows: a tab may meet the worker of an older page. */
export const VERSION = 1;

export type ToWorker =
  | { do: 'hello'; url: string; auth: 'handshake' | 'message'; hasToken: boolean; lock: string }
  | { do: 'want'; name: string; number: number; options: ChannelOptions; cursor: string | undefined }
  | { do: 'leave'; name: string }
  | { do: 'token'; id: number; token?: string; error?: string }
  | { do: 'request'; id: number; request: Request }
  | { do: 'nudge' }
  | { do: 'debug' }
  | { do: 'bye' };

/** What happens to a channel. */
export type Happening =
  | { to: 'changed'; class: string; live: boolean }
  | { to: 'push'; message: Message }
  | { to: 'gap'; gap: Gap; cursor: string | null | undefined }
  | { to: 'moved'; cursor: string | undefined };

export type ToTab =
  /** `number` is that of the `want` that it answers: what was on its way before another one does not count. */
  | { to: 'channel'; name: string; number: number; what: Happening }
  | { to: 'lock'; name: string; version: number }
  | { to: 'refused'; name: string; refusal: Refusal }
  | { to: 'status'; status: Status }
  | { to: 'user'; user: string | null; changed: boolean }
  | { to: 'token'; id: number }
  | { to: 'reply'; id: number; reply?: unknown; refused?: Refusal }
  | { to: 'debug'; debug: Pick<DebugInfo, 'frames' | 'roundTripMs'> }
  | { to: 'error'; text: string };
