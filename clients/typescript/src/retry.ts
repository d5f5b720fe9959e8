/** Another attempt at once, for a button. */
import type { Client } from './client.js';
import { linkOf } from './link.js';

/**
 * While the client waits: tries again now, but not before the time for which the gateway asked. While it is connected: checks
 * whether the connection still lives. A client that is `closed` stays so: call `connect` again.
 */
export const retry = (client: Client<any>): void => linkOf(client)._nudge();
