/** The link of a tab to a SharedWorker that holds one connection for all tabs, and to an own socket where there is none. */
import { type Channel, hide, type Link, type MakeLink, Phase } from './link.js';
import { type Happening, type ToTab, type ToWorker, VERSION } from './protocol.js';
import { socketLink } from './socket.js';
import { type DebugInfo, type LinkFactory, type Refusal, RequestError } from './types.js';

/** How long a worker may take to say its first word, in milliseconds. */
const FIRST_WORD = 5000;
/** How often a worker that died is replaced before the tab opens a separate socket. */
const WORKERS = 3;

const failure = (outcome: 'refused' | 'unknown', message: string) => new RequestError({ outcome, message } as Refusal);

/**
 * One connection for all tabs of a site. `start` makes the worker:
 * `() => new SharedWorker(new URL('@tickgate/client/worker', import.meta.url), { type: 'module' })`, or one from the address
 * where `dist/worker.js` is served. Where there is no SharedWorker, or it does not start, each tab has a separate socket.
 */
export const share = (start: () => SharedWorker): LinkFactory => {
  const make: MakeLink = (url, options, sink, channels) => {
    const requests = new Map<number, { resolve(reply: unknown): void; reject(error: RequestError): void }>();
    /** Requests from before the worker or a separate socket is available. */
    let early: (() => void)[] = [];
    let port: MessagePort | undefined;
    let own: Link<any> | undefined;
    let debug: Pick<DebugInfo, 'frames' | 'roundTripMs'> = { frames: [], roundTripMs: undefined };
    let number = 0;
    let workers = 0;
    let closed = false;
    let bye = () => {};

    const post = (message: ToWorker) => port?.postMessage(message);

    const sendEarly = () => {
      const all = early;
      early = [];
      for (const send of all) send();
    };

    const fallBack = () => {
      if (closed || own) return;
      leaveWorker();
      own = socketLink(url, options, sink, channels);
      for (const channel of channels.values()) if (channel._phase) own._want(channel);
      sendEarly();
    };

    const leaveWorker = () => {
      bye();
      port?.close();
      port = undefined;
      for (const { reject } of requests.values()) reject(failure('unknown', 'the shared worker ended'));
      requests.clear();
    };

    /** Nothing is up to date without a connection. */
    const disconnected = () => channels.forEach((channel) => channel._phase && (channel._phase = Phase.Due));

    const lost = () => {
      if (closed || own) return;
      disconnected();
      sink._status({ state: 'waiting', reason: 'the shared worker ended', retryInMs: 0 });
      leaveWorker();
      join();
    };

    const happened = (name: string, number: number, what: Happening) => {
      const channel = channels.get(name);
      if (!channel?._phase || channel._request !== number) return;
      if (what.to === 'changed') {
        channel._class = what.class;
        channel._phase = what.live ? Phase.Live : Phase.Past;
        return sink._changed(channel);
      }
      if (what.to === 'moved') {
        channel._cursor = what.cursor;
        return sink._moved(channel);
      }
      channel._cursor = (what.to === 'push' ? what.message.id : what.cursor) ?? channel._cursor;
      if (what.to === 'push') sink._push(channel, what.message);
      else sink._gap([channel], { ...what.gap, channels: [name] }, what.cursor);
    };

    const want = (channel: Channel) => {
      channel._phase = Phase.Due;
      channel._request = ++number;
      post({ do: 'want', name: channel._name, number, options: channel._options, cursor: channel._cursor });
    };

    const hear = (data: ToTab) => {
      switch (data.to) {
        case 'channel':
          return happened(data.name, data.number, data.what);
        case 'refused': {
          const channel = channels.get(data.name);
          if (channel) sink._refused(channel, data.refusal);
          return;
        }
        case 'status':
          if (!/live|catching_up|stale/.test(data.status.state)) disconnected();
          return sink._status(data.status);
        case 'user':
          return sink._user(data.user, data.changed);
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
          return data.refused ? request?.reject(new RequestError(data.refused)) : request?.resolve(data.reply);
        }
        case 'debug':
          debug = data.debug;
          return;
        case 'error':
          return sink._error(new Error(data.text));
      }
    };

    const join = () => {
      if (typeof SharedWorker === 'undefined' || workers++ >= WORKERS) return fallBack();
      let worker: SharedWorker;
      try {
        worker = start();
      } catch (error) {
        sink._error(error);
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
        sink._error(error);
        fallBack();
      };
      worker.onerror = fallBack;
      worker.port.onmessage = ({ data }: MessageEvent<ToTab>) => {
        if (data.to !== 'lock') return hear(data);
        clearTimeout(silent);
        if (data.version !== VERSION) return fallBack();
        // Free once the worker is gone, however it went.
        void navigator.locks?.request(data.name, { signal, mode: 'shared' }, lost).catch(failed);
      };
      const hello = () => {
        if (signal.aborted) return;
        ({ port } = worker);
        post({ do: 'hello', url, auth: options.auth ?? 'handshake', hasToken: !!options.token, lock });
        for (const channel of channels.values()) if (channel._phase) want(channel);
        sendEarly();
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
    const link: Link<any> = {
      _want: (channel) => (own ? own._want(channel) : want(channel)),
      _drop(channel) {
        if (own) return own._drop(channel);
        channel._phase = Phase.Left;
        post({ do: 'leave', name: channel._name });
      },
      _request(request, create) {
        if (own) return own._request(request, create);
        if (closed || (request.now && !port)) return Promise.reject(failure('refused', 'not connected'));
        const asked = performance.now();
        return new Promise((resolve, reject) => {
          if (port) {
            requests.set(++number, { resolve, reject });
            return post({ do: 'request', id: number, request });
          }
          early.push(() => {
            const within = request.within - (performance.now() - asked);
            if (within > 0) resolve(link._request({ ...request, within }, create));
            else reject(failure('refused', 'not sent before the deadline'));
          });
        });
      },
      _nudge: () => (own ? own._nudge() : post({ do: 'nudge' })),
      _debug() {
        if (own) return own._debug();
        post({ do: 'debug' });
        return debug;
      },
      async _close() {
        closed = true;
        if (own) return own._close();
        post({ do: 'bye' });
        leaveWorker();
        sendEarly();
        sink._status({ state: 'closed' });
      },
    };
    return link;
  };
  return hide(make);
};
