/** The token in use, and when to renew it. Never shows a token. */
import { backOff } from './backoff.js';

/** For getting a token, in milliseconds. */
const TOKEN_TIMEOUT = 30_000;
/** A token is renewed this long before it expires, or when half of its time has passed. */
const RENEW_BEFORE = 60_000;
/** Between two renewals, for sources that return the same token again. */
const RENEW_INTERVAL = 1000;

/** What a sub-protocol can carry, as every JWT: the page of a login that failed is none. */
const TOKEN = /^[\w.-]+$/;

type Source = () => string | Promise<string>;

const fetchToken = (source: Source) =>
  new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no token within 30 s')), TOKEN_TIMEOUT);
    Promise.resolve()
      .then(source)
      .then((value) => {
        if (typeof value === 'string' && TOKEN.test(value)) resolve(value);
        else reject(new TypeError('the token function did not return a token'));
      }, reject)
      .finally(() => clearTimeout(timer));
  });

export const createToken = (source: Source | undefined) => {
  let text: string | undefined;
  let ends = Infinity;
  let renewAt = Infinity;
  let renewing = false;
  let renewedAt = -Infinity;
  let failures = 0;
  /** The gateway's clock minus this one's. */
  let ahead = 0;

  const plan = (expiresAt: string | null | undefined, now: number) => {
    const left = expiresAt ? Math.max(Date.parse(expiresAt) - ahead - now, 0) : Infinity;
    ends = now + left;
    renewing = false;
    renewAt = source ? now + Math.max(left - Math.min(RENEW_BEFORE, left / 2), RENEW_INTERVAL) : Infinity;
    if (!(renewAt < Infinity)) renewAt = Infinity;
  };

  return {
    /** The token for the next connection. */
    async get(now: number): Promise<string | undefined> {
      if (source && !(text && ends > now)) {
        text = await fetchToken(source);
        ends = Infinity;
      }
      return text;
    },

    /** A new token, to be sent on the connection. */
    async renew(): Promise<string> {
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
    clock(serverTime: string, expiresAt: string | null, now: number) {
      ahead = Date.parse(serverTime) - now;
      plan(expiresAt, now);
    },

    /** The gateway says that the token expires soon. */
    expiring(now: number) {
      if (source && !renewing) renewAt = Math.max(now, renewedAt + RENEW_INTERVAL);
    },

    accepted(fresh: string, expiresAt: string | null, now: number) {
      text = fresh;
      failures = 0;
      renewedAt = now;
      plan(expiresAt, now);
    },

    /** True if another connection is needed. */
    refused(fresh: string, retryMs: number | undefined, now: number): boolean {
      renewing = false;
      if (retryMs !== undefined) {
        renewAt = now + retryMs;
        return false;
      }
      text = fresh;
      ends = Infinity;
      return true;
    },

    forget() {
      text = undefined;
    },

    /** When to renew it. */
    due: () => renewAt,
  };
};
