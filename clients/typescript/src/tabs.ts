/** The link of a tab to a SharedWorker that holds one connection for all tabs, and to an own socket where there is none. */
import type { Happening, ToTab, ToWorker } from './protocol.js';
import { socketLink } from './socket.js';
import { type ChannelOptions, type DebugInfo, type Link, type LinkFactory, RequestError } from './types.js';

/** How long a worker may take to say its first word, in milliseconds. */
const FIRST_WORD = 5000;
/** How often a worker that died is replaced before the tab takes a socket of its own. */
const WORKERS = 3;

interface Wanted {
  /** Of the last `want`; what answers another one is ignored. */
  number: number;
  options: ChannelOptions;
  cursor: string | undefined;
  suspended: boolean;
}

/**
 * One connection for all tabs of a site. `start` makes the worker:
 * `() => new SharedWorker(new URL('@tickgate/client/worker', import.meta.url), { type: 'module' })`, or one from the address
 * where `dist/worker.js` is served. Where there is no SharedWorker, or it does not start, each tab has a socket of its own.
 */
export const share =
  (start: () => SharedWorker): LinkFactory =>
  (url, options, sink) => {
    const wanted = new Map<string, Wanted>();
    const requests = new Map<number, { resolve(reply: unknown): void; reject(error: RequestError): void }>();
    let port: MessagePort | undefined;
    let own: Link | undefined;
    let debug: Pick<DebugInfo, 'frames' | 'roundTripMs'> = { frames: [], roundTripMs: undefined };
    let number = 0;
    let workers = 0;
    let closed = false;
    let bye = () => {};

    const post = (message: ToWorker) => port?.postMessage(message);

    const fallBack = () => {
      if (closed || own) return;
      leaveWorker();
      own = socketLink(url, options, sink);
      for (const [name, { options: wish, cursor, suspended }] of wanted) if (!suspended) own.want(name, wish, cursor);
    };

    const leaveWorker = () => {
      bye();
      port?.close();
      port = undefined;
      for (const { reject } of requests.values()) reject(new RequestError('unknown', 'the shared worker ended'));
      requests.clear();
    };

    const lost = () => {
      if (closed || own) return;
      sink.status({ state: 'waiting', reason: 'the shared worker ended', retryInMs: 0 });
      leaveWorker();
      join();
    };

    const happened = (name: string, number: number, what: Happening) => {
      const channel = wanted.get(name);
      if (channel?.number !== number || channel.suspended) return;
      if (what.to === 'granted') return sink.granted(name, what.class, what.live);
      if (what.to === 'caughtUp') return sink.caughtUp(name);
      if (what.to === 'push') {
        channel.cursor = what.message.id ?? channel.cursor;
        return sink.push(what.message);
      }
      if (what.to === 'moved') {
        channel.cursor = what.cursor ?? undefined;
        return sink.moved(name, what.cursor);
      }
      channel.cursor = what.cursor ?? channel.cursor;
      sink.gap({ ...what.gap, channels: [name] }, what.cursor);
    };

    const want = (name: string) => {
      const channel = wanted.get(name)!;
      channel.number = ++number;
      const { options: wish, cursor } = channel;
      post({ do: 'want', name, number, options: wish, cursor });
    };

    const hear = (data: ToTab) => {
      switch (data.to) {
        case 'channel':
          return happened(data.name, data.number, data.what);
        case 'refused':
          wanted.delete(data.name);
          return sink.refused(data.name, data.refusal);
        case 'status':
          return sink.status(data.status);
        case 'user':
          return sink.user(data.user, data.changed);
        case 'token':
          return void Promise.resolve()
            .then(options.token)
            .then(
              (token) => post({ do: 'token', id: data.id, token }),
              (error) => post({ do: 'token', id: data.id, error: String(error) }),
            );
        case 'reply': {
          const request = requests.get(data.id);
          requests.delete(data.id);
          if (!data.refused) return request?.resolve(data.reply);
          const { outcome, message, code, error } = data.refused;
          return request?.reject(new RequestError(outcome, message, code, error));
        }
        case 'debug':
          debug = data.debug;
          return;
        case 'lock':
          return;
        case 'error':
          return sink.error(new Error(data.text));
      }
    };

    const join = () => {
      if (typeof SharedWorker === 'undefined' || workers++ >= WORKERS) return fallBack();
      let worker: SharedWorker;
      try {
        worker = start();
      } catch (error) {
        sink.error(error);
        return fallBack();
      }
      const lock = `tickgate-tab-${Math.random()}`;
      const silent = setTimeout(fallBack, FIRST_WORD);
      const watch = new AbortController();
      const { signal } = watch;
      let release = () => {};
      bye = () => {
        watch.abort();
        release();
        clearTimeout(silent);
        worker.port.onmessage = null;
      };
      const failed = (error: unknown) => {
        if (signal.aborted) return;
        sink.error(error);
        fallBack();
      };
      worker.onerror = fallBack;
      worker.port.onmessage = ({ data }: MessageEvent<ToTab>) => {
        if (data.to !== 'lock') return hear(data);
        clearTimeout(silent);
        // Free once the worker is gone, however it went.
        void navigator.locks?.request(data.name, { signal, mode: 'shared' }, lost).catch(failed);
      };
      const hello = () => {
        if (signal.aborted) return;
        ({ port } = worker);
        post({ do: 'hello', url, auth: options.auth ?? 'handshake', hasToken: !!options.token, lock });
        for (const [name, { suspended }] of wanted) if (!suspended) want(name);
        return new Promise<void>((resolve) => (release = resolve));
      };
      // The worker asks for the same lock, and gets it once this tab is gone.
      if (navigator.locks) void navigator.locks.request(lock, { signal }, hello).catch(failed);
      else void hello();
    };

    // Locks tell the worker that a tab is gone; pages without TLS have none.
    if (typeof navigator !== 'undefined' && !navigator.locks) {
      addEventListener('pagehide', () => post({ do: 'bye' }));
      addEventListener('pageshow', ({ persisted }) => persisted && lost());
    }

    queueMicrotask(join);
    return {
      want(name, wish, cursor) {
        wanted.set(name, { number, options: wish, cursor, suspended: false });
        if (own) own.want(name, wish, cursor);
        else want(name);
      },
      drop(name) {
        wanted.delete(name);
        if (own) own.drop(name);
        else post({ do: 'leave', name });
      },
      suspend(name) {
        const channel = wanted.get(name);
        if (channel) channel.suspended = true;
        if (own) own.suspend(name);
        else post({ do: 'leave', name });
      },
      request(request) {
        if (own) return own.request(request);
        if (!port) return Promise.reject(new RequestError('refused', 'not connected'));
        return new Promise((resolve, reject) => {
          requests.set(++number, { resolve, reject });
          post({ do: 'request', id: number, request });
        });
      },
      nudge: () => (own ? own.nudge() : post({ do: 'nudge' })),
      debug() {
        if (own) return own.debug();
        post({ do: 'debug' });
        return debug;
      },
      async close() {
        closed = true;
        if (own) return own.close();
        post({ do: 'bye' });
        leaveWorker();
        sink.status({ state: 'closed' });
      },
    };
  };
