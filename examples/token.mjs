// The login service of the examples: returns a token for the user `demo` at GET /token. A platform has its own.
import { createHmac } from 'node:crypto';

const SECRET = 'a secret of the examples, and of nothing else';
const part = (data) => Buffer.from(data).toString('base64url');

/** A token that is valid for this many seconds. */
export const token = (seconds = 600, secret = SECRET) => {
  const claims = { sub: 'demo', exp: Math.floor(Date.now() / 1000) + seconds };
  const text = `${part('{"alg":"HS256","typ":"JWT"}')}.${part(JSON.stringify(claims))}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
};
