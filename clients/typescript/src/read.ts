/** Reads fields of what the gateway sends. Whatever throws on the way makes a message unreadable. Pure. */
import type { Message, Refusal } from './types.js';

/** A value that must be of a type. */
export const is = <T>(type: 'string' | 'number', value: T): T => {
  if (typeof value !== type) throw new TypeError(`not a ${type}`);
  return value;
};

/** A cursor, or `null`. */
export const cursorOf = (value: any): string | null => (value == null ? null : is('string', value));

/** A push without its `_meta`. */
export const pushOf = ({ _meta: meta, ...data }: any): Message => ({
  channel: is('string', meta.channel),
  id: cursorOf(meta.id),
  data,
  replayed: !!meta.replayed,
  snapshot: !!meta.snapshot,
  conflated: meta.conflated ?? 0,
});

/** Why the gateway refused something. */
export const refusalOf = ({ code, error, message }: any): Refusal => ({ code, error, message: message || error || 'refused' });

/** After how many milliseconds it may be tried again; `undefined`: never. */
export const retryOf = ({ details }: any): number | undefined => {
  const ms = details?.retry_after_ms;
  return typeof ms === 'number' ? ms : undefined;
};
