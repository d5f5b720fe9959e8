/** What tabs and their worker send each other. */
import type { ChannelOptions, DebugInfo, Gap, Message, Refusal, Request, Status } from './types.js';

export type ToWorker =
  | { do: 'hello'; url: string; auth: 'handshake' | 'message'; hasToken: boolean; lock: string }
  | { do: 'want'; name: string; options: ChannelOptions; cursor: string | undefined }
  | { do: 'leave'; name: string }
  | { do: 'token'; id: number; token?: string; error?: string }
  | { do: 'request'; id: number; request: Request }
  | { do: 'nudge' }
  | { do: 'debug' }
  | { do: 'bye' };

export type ToTab =
  | { to: 'lock'; name: string }
  | { to: 'granted'; name: string; class: string; live: boolean }
  | { to: 'push'; message: Message }
  | { to: 'gap'; gap: Gap; cursor: string | null }
  | { to: 'caughtUp'; name: string }
  | { to: 'moved'; name: string; cursor: string | null }
  | { to: 'refused'; name: string; refusal: Refusal }
  | { to: 'status'; status: Status }
  | { to: 'user'; user: string | null; changed: boolean }
  | { to: 'token'; id: number }
  | { to: 'reply'; id: number; reply?: unknown; refused?: { outcome: 'refused' | 'unknown' } & Refusal }
  | { to: 'debug'; debug: Pick<DebugInfo, 'frames' | 'roundTripMs'> }
  | { to: 'error'; text: string };
