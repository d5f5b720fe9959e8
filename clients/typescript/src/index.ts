/** A client of Tickgate for browsers and Node. */
export { connect, type Client, type MessagesArguments } from './client.js';
export type { Messages } from './messages.js';
export { persist } from './persist.js';
export { requests, type RequestOptions, type Requests } from './requests.js';
export { retry } from './retry.js';
export * from './types.js';
export type { Value } from './value.js';
