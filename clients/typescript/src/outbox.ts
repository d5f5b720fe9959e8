/** Pending requests of the application: sent when there is a connection, repeated where that is safe, given up at their
 * deadline. Pure: the time is an argument. */
import { refusalOf } from './read.js';
import { type Request, RequestError } from './types.js';

/** How many requests may be pending. */
const PENDING_MAX = 1024;

interface Pending {
  request: Request;
  deadline: number;
  /** The number under which it was sent on this connection; 0 if it was not. */
  sent: number;
  notBefore: number;
  /** The gateway may have acted on it. */
  maybeDone: boolean;
  refused: RequestError | undefined;
  resolve: (reply: any) => void;
  reject: (error: RequestError) => void;
}

const unknown = () => new RequestError('unknown', 'not answered in time: it may have been accepted');

export const createOutbox = () => {
  let all: Pending[] = [];

  const finish = (pending: Pending, error?: RequestError, reply?: unknown) => {
    all = all.filter((other) => other !== pending);
    if (error) pending.reject(error);
    else pending.resolve(reply);
  };

  return {
    add: (request: Request, now: number): Promise<any> =>
      new Promise((resolve, reject) => {
        if (all.length >= PENDING_MAX) return reject(new RequestError('refused', 'too many requests are pending'));
        const deadline = now + request.within;
        all.push({ request, deadline, sent: 0, notBefore: 0, maybeDone: false, refused: undefined, resolve, reject });
      }),

    /** When a deadline passes or, with a connection, a request is to be sent. */
    due(connected: boolean): number {
      let due = Infinity;
      for (const one of all) due = Math.min(due, one.deadline, connected && !one.sent ? one.notBefore : Infinity);
      return due;
    },

    /** Gives up what is past its deadline. */
    expire(now: number) {
      for (const one of all.filter(({ deadline }) => deadline <= now)) {
        const late = one.refused ?? new RequestError('refused', 'not sent before the deadline');
        finish(one, one.maybeDone || one.sent ? unknown() : late);
      }
    },

    /** The next request to send under this number. */
    next(now: number, id: number): object | undefined {
      const one = all.find(({ sent, notBefore }) => !sent && notBefore <= now);
      if (!one) return;
      one.sent = id;
      const { type, fields, msgId } = one.request;
      return { type, id, ...fields, msg_id: msgId };
    },

    /** Handles a reply, if it is one to a request of the application. */
    reply(now: number, id: number, message: any) {
      const one = all.find(({ sent }) => sent === id);
      if (!one) return;
      if (message.type !== 'error') return finish(one, undefined, message);
      const { code, error, message: text, retryMs } = refusalOf(message);
      one.sent = 0;
      one.maybeDone ||= message.details?.outcome === 'unknown';
      one.refused = new RequestError('refused', text, code, error);
      if (one.request.msgId && retryMs !== undefined) one.notBefore = now + retryMs;
      else finish(one, one.maybeDone ? unknown() : one.refused);
    },

    /** The connection has ended. */
    disconnected() {
      for (const one of all) {
        if (!one.sent) continue;
        one.sent = 0;
        one.maybeDone = true;
        if (!one.request.msgId) finish(one, unknown());
      }
    },

    /** The client stops. */
    end() {
      for (const one of all) {
        finish(one, one.maybeDone || one.sent ? unknown() : new RequestError('refused', 'the client is closed'));
      }
    },
  };
};
