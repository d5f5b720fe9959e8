/** The token in use, and when to renew it. Never shows a token. */
import { backOff } from './backoff.js';

const enum Ms {
  /** For getting a token. */
  Timeout = 30_000,
  /** A token is renewed this long before it expires, or when half of its time has passed. */
  RenewBefore = 60_000,
  /** Between two renewals, for sources that return the same token again. */
  RenewInterval = 1000,
}

type Source = () => string | Promise<string>;

const fetchToken = (source: Source) =>
  new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('timed out')), Ms.Timeout);
    Promise.resolve()
      .then(source)
      .then((value) => {
        // What a sub-protocol can carry, as every JWT: the page of a login that failed is none.
        const token = value?.trim();
        if (!/^[\w.-]+$/.test(token ?? '')) throw new TypeError('not a token');
        resolve(token);
      })
      .catch(reject)
      .finally(() => clearTimeout(timer));
  });

export const createToken = (source: Source | undefined) => {
  let text: string | undefined;
  let ends = Infinity;
  let renewAt = Infinity;
  let renewing = false;
  let notBefore = 0;
  let failures = 0;
  /** The gateway's clock minus this one's. */
  let ahead = 0;

  const plan = (expiresAt: any, now: number) => {
    // A time that is missing or cannot be read is never.
    const left = Math.max(Date.parse(expiresAt) - ahead - now, 1) || Infinity;
    ends = now + left;
    renewing = false;
    renewAt = Math.max(ends - Math.min(Ms.RenewBefore, left / 2), notBefore);
  };

  return {
    /** The token for the next connection. */
    async _get(now: number): Promise<string | undefined> {
      if (source && !(text && ends > now)) {
        text = await fetchToken(source);
        ends = Infinity;
      }
      return text;
    },

    /** A new token, to be sent on the connection. */
    async _renew(): Promise<string> {
      renewing = true;
      renewAt = Infinity;
      try {
        return await fetchToken(source!);
      } catch (error) {
        renewing = false;
        renewAt = performance.now() + backOff(failures++, Math.random());
        throw error;
      }
    },

    /** The welcome says what time it is for the gateway, and when the token expires. */
    _welcome(message: any, now: number) {
      ahead = Date.parse(message.server_time) - now;
      plan(message.expires_at, now);
    },

    /** The gateway says that the token expires soon. */
    _expiring(_: unknown, now: number) {
      if (!renewing) renewAt = Math.max(now, notBefore);
    },

    _accepted(fresh: string, expiresAt: unknown, now: number) {
      text = fresh;
      failures = 0;
      notBefore = now + Ms.RenewInterval;
      plan(expiresAt, now);
    },

    /** Takes the token to the next connection, or renews it on this one, not before `retryMs`. */
    _refused(fresh: string, retryMs = 0, now: number) {
      renewing = false;
      text = fresh;
      ends = Infinity;
      renewAt = notBefore = now + Math.max(retryMs, Ms.RenewInterval);
    },

    _forget() {
      text = undefined;
    },

    /** When to renew it. */
    _due: () => (source ? renewAt : Infinity),
  };
};
