/** Pending requests of the application: sent when there is a connection, repeated where that is safe, given up at their
 * deadline. Pure: the time is an argument. */
import type { Ask, Outbox, Request } from './link.js';
import { refusalOf, retryOf } from './read.js';
import { type Refusal, RequestError } from './types.js';

/** How many requests may be pending. */
const PENDING_MAX = 1024;

interface Pending {
  readonly _request: Request;
  readonly _deadline: number;
  /** It was sent on this connection, and not answered yet. */
  _sent: boolean;
  _notBefore: number;
  /** The gateway may have acted on it. */
  _maybeDone: boolean;
  _refused: RequestError;
  _resolve(reply: any): void;
  _reject(error: RequestError): void;
}

const refused = (refusal: Refusal) => new RequestError({ outcome: 'refused', ...refusal } as Refusal);

export const createOutbox = (): Outbox => {
  const all = new Set<Pending>();

  /** Ends a request that no answer is expected for any more. */
  const giveUp = (one: Pending) => {
    all.delete(one);
    const unknown = { outcome: 'unknown', message: 'not answered in time: it may have been accepted' };
    one._reject(one._maybeDone || one._sent ? new RequestError(unknown) : one._refused);
  };

  const reply = (one: Pending, message: any) => {
    if (message.type !== 'error') {
      all.delete(one);
      return one._resolve(message);
    }
    const retry = retryOf(message);
    one._sent = false;
    one._maybeDone ||= message.details?.outcome === 'unknown';
    one._refused = refused(refusalOf(message));
    if (one._request.msgId && retry !== undefined) one._notBefore = performance.now() + retry;
    else giveUp(one);
  };

  return {
    _add: (request, now, isConnected) =>
      new Promise((resolve, reject) => {
        if (request.now && !isConnected) return reject(refused({ message: 'not connected' }));
        if (all.size >= PENDING_MAX) return reject(refused({ message: 'too many requests are pending' }));
        all.add({
          _request: request,
          _deadline: now + request.within,
          _sent: false,
          _notBefore: 0,
          _maybeDone: false,
          _refused: refused({ message: 'not sent before the deadline' }),
          _resolve: resolve,
          _reject: reject,
        });
      }),

    _act(now, ask, bytes = 0) {
      let next = Infinity;
      for (const one of all) {
        const { type, fields, msgId } = one._request;
        if (one._deadline <= now) {
          giveUp(one);
          continue;
        }
        if (ask && !one._sent && one._notBefore <= now) {
          const sent = { ...fields, msg_id: msgId };
          // The gateway would close with 1009, and the client would stop.
          if (new TextEncoder().encode(JSON.stringify(sent)).length > bytes) {
            one._refused = refused({ message: 'larger than the gateway takes' });
            giveUp(one);
            continue;
          }
          one._sent = true;
          ask(type, sent, (message) => reply(one, message), Infinity);
        }
        next = Math.min(next, one._deadline, ask && !one._sent ? one._notBefore : Infinity);
      }
      return next;
    },

    _disconnected() {
      for (const one of all) {
        if (!one._sent) continue;
        one._sent = false;
        one._maybeDone = true;
        if (!one._request.msgId) giveUp(one);
      }
    },
  };
};
