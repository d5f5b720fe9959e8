/** A client of Tickgate for browsers and Node. */
export { connect, type Client, type MessagesArguments, type RequestOptions } from './client.js';
export type { Messages } from './messages.js';
export * from './types.js';
export type { Value } from './value.js';
