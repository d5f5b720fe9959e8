/** What an application asks of the gateway: to publish, to command, to look back. */
import type { Client } from './client.js';
import { linkOf } from './link.js';
import { createOutbox } from './outbox.js';
import { pushOf } from './read.js';
import type { Accepted, Data, History, Name, UntypedChannels } from './types.js';

/** How long a request may take, by default, in milliseconds. */
const WITHIN = 10_000;

/** A request of the application. */
export interface RequestOptions {
  /** Names the publication, so that it is accepted once however often it is sent. Made up by default. */
  msgId?: string;
  /** Milliseconds after which nothing is sent any more; 10,000 by default. */
  within?: number;
}

/** What {@link requests} returns. */
export interface Requests<C = UntypedChannels> {
  /**
   * Publishes an object. While there is no connection it waits, and after a lost one it is sent again with the same
   * `msgId`, until its deadline. Rejects with a {@link RequestError}.
   */
  publish<N extends Name<C>>(name: N, data: Data<C, N>, options?: RequestOptions & { user?: string }): Promise<Accepted>;
  /** Sends a command to a run. Rejects at once, as `refused`, while there is no connection. */
  command(name: string, args?: unknown, options?: RequestOptions): Promise<Accepted>;
  /** A page of what was published before, without subscribing. */
  history<N extends Name<C>>(
    name: N,
    options?: { since?: string; last?: number; within?: number },
  ): Promise<History<Data<C, N>>>;
}

/** Requests over the connection of a client: `const { publish, command, history } = requests(client)`. */
export const requests = <C>(client: Client<C>): Requests<C> => {
  const link = linkOf(client);
  const send = async (type: string, fields: object, { msgId, within }: RequestOptions, now = false): Promise<Accepted> => {
    const request = { type, fields: { ...fields }, msgId: msgId ?? randomId(), within: within ?? WITHIN, now };
    const { publication_id, duplicate } = await link._request(request, createOutbox);
    return { id: publication_id ?? null, duplicate: !!duplicate };
  };
  return {
    publish: (channel, data, { user, ...rest } = {}) => send('publish', { channel, user, data }, rest),
    command: (command, args, rest = {}) => send('command', { command, args }, rest, true),
    async history(channel, { within = WITHIN, ...fields } = {}) {
      const page = await link._request({ type: 'history', fields: { channel, ...fields }, within }, createOutbox);
      return { messages: page.messages.map(pushOf), cursor: page.cursor ?? null, more: page.more, gap: page.gap };
    },
  };
};

/** 128 random bits; `crypto.randomUUID` is missing on pages without TLS. */
const randomId = () => crypto.getRandomValues(new Uint32Array(4)).join('-');
