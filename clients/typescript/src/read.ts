/** Reads what arrives: tells pushes, replies and notices apart, and checks what a known message must have. Pure. */
import type { Message } from './types.js';

/** The gateway sent something that cannot be read. */
export class UnreadableError extends Error {
  override name = 'UnreadableError';
}

type Check = (value: any) => boolean;

const isText: Check = (value) => typeof value === 'string';
const isNumber: Check = (value) => typeof value === 'number';
const isList: Check = Array.isArray;
const isCursor: Check = (value) => value == null || isText(value);
const isName: Check = (value) => isText(value?.channel);
const isNames: Check = (value) => isList(value) && value.every(isText);
const isElements: Check = (value) => isList(value) && value.every(isName);

/** The fields that a message of each known type must have. */
const REQUIRED: Record<string, Record<string, Check>> = {
  connection_established: { heartbeat_interval: isNumber, limits: (value) => isNumber(value?.names_per_second) },
  subscribed: { channels: isElements, errors: isElements },
  caught_up: { channels: isElements },
  gap: { channels: isNames, reason: isText, cursor: isCursor },
  unsubscribed: { channels: isNames },
  closing: { code: isNumber, reconnect: isText },
  error: { code: isNumber },
};

/** Checks a reply or notice. */
export const checked = (message: any): any => {
  const required = REQUIRED[message.type] ?? {};
  for (const field in required) {
    if (!required[field]!(message[field])) throw new UnreadableError(`${message.type} without a valid ${field}`);
  }
  return message;
};

/** The messages of a frame. */
export const messagesOf = (data: unknown, parse: (text: string) => any): any[] => {
  if (typeof data !== 'string') throw new UnreadableError('a binary frame');
  let parsed: any;
  try {
    parsed = parse(data);
  } catch (error) {
    throw new UnreadableError(String(error));
  }
  const list: any[] = isList(parsed) ? parsed : [parsed];
  for (const message of list) {
    if (message == null || typeof message !== 'object' || isList(message)) throw new UnreadableError('not an object');
    if (message._meta == null && !isText(message.type)) throw new UnreadableError('a message without a type');
  }
  return list;
};

/** A push without its `_meta`. */
export const pushOf = (push: any): Message => {
  const meta = push._meta;
  if (!isName(meta) || !isCursor(meta.id)) throw new UnreadableError('a push without a channel');
  delete push._meta;
  return {
    channel: meta.channel,
    id: meta.id ?? null,
    data: push,
    replayed: !!meta.replayed,
    snapshot: !!meta.snapshot,
    conflated: meta.conflated ?? 0,
  };
};

/** The error object of a message: when it may be tried again, and why. */
export const refusalOf = (message: any): { code?: number; error?: string; message: string; retryMs?: number } => ({
  code: message.code,
  error: message.error,
  message: message.message || message.error || 'refused',
  retryMs: isNumber(message.details?.retry_after_ms) ? message.details.retry_after_ms : undefined,
});
