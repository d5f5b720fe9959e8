/** The SharedWorker: one connection for all tabs of a site. A tab that joins a channel late catches up from its history. */
import { type Channel, type Link, newChannel, Phase, type Sink } from './link.js';
import { createOutbox } from './outbox.js';
import { type Happening, type ToTab, type ToWorker, VERSION } from './protocol.js';
import { pushOf } from './read.js';
import { socketLink } from './socket.js';
import type { ChannelOptions, Message, Options, Status } from './types.js';

/** How many messages may wait for a tab that catches up; beyond it, it starts again from where it is. */
const WAITING_MAX = 10_000;
/** Until another tab is asked for a token, and until there is none, in milliseconds. */
const TOKEN_PATIENCE = 3000;
const TOKEN_TIMEOUT = 30_000;
/** Between two attempts to catch up. */
const RETRY = 1000;
const HISTORY_WITHIN = 10_000;

interface Tab {
  port: MessagePort;
  site: Site;
}

/** A tab's place in a channel. */
interface Place {
  number: number;
  /** What came while the tab catches up; `undefined` once it is live. */
  waiting?: Happening[];
  /** Up to here the tab has been given everything. */
  cursor: string | undefined;
}

interface Shared extends Channel {
  newest: Message | undefined;
  readonly places: Map<Tab, Place>;
}

interface Site {
  link: Link<Shared>;
  tabs: Set<Tab>;
  channels: Map<string, Shared>;
  status: Status;
  user: string | null | undefined;
}

const sites = new Map<string, Site>();

const send = (tab: Tab, message: ToTab) => tab.port.postMessage(message);

const tell = (tab: Tab, name: string, { number }: Place, what: Happening) =>
  send(tab, { to: 'channel', name, number, what });

const changed = (channel: Shared, live: boolean): Happening => ({ to: 'changed', class: channel._class!, live });

const openSite = (key: string, url: string, auth: 'handshake' | 'message', hasToken: boolean): Site => {
  const tabs = new Set<Tab>();
  const channels = new Map<string, Shared>();
  const to = (message: ToTab) => tabs.forEach((tab) => send(tab, message));

  /** Gives something of a channel to each tab, or keeps it for those that catch up. */
  const give = (channel: Shared, what: Happening, cursor?: string | null) => {
    for (const [tab, place] of channel.places) {
      if (place.waiting) {
        place.waiting.push(what);
        if (place.waiting.length > WAITING_MAX) void catchUp(site, channel, tab, place);
      } else {
        place.cursor = cursor ?? place.cursor;
        tell(tab, channel._name, place, what);
      }
    }
  };

  const sink: Sink<Shared> = {
    _push(channel, message) {
      channel.newest = message;
      give(channel, { to: 'push', message }, message.id);
    },
    _gap(affected, gap, cursor) {
      for (const channel of affected) give(channel, { to: 'gap', gap, cursor }, cursor);
    },
    _moved: (channel) => give(channel, { to: 'moved', cursor: channel._cursor }, channel._cursor),
    _changed: (channel) => give(channel, changed(channel, channel._phase === Phase.Live)),
    _refused({ _name: name, places }, refusal) {
      channels.delete(name);
      places.forEach((_, tab) => send(tab, { to: 'refused', name, refusal }));
    },
    _status(status) {
      site.status = status;
      if (status.state === 'closed') sites.delete(key);
      to({ to: 'status', status });
    },
    _user(user, isOther) {
      site.user = user;
      if (isOther) for (const channel of channels.values()) channel._cursor = channel.newest = undefined;
      to({ to: 'user', user, changed: isOther });
    },
    _error: (error) => to({ to: 'error', text: String(error) }),
  };

  let number = 0;
  /** Asks one tab after the other, the newest first: one may hang, and one may be logged out. */
  const token = () =>
    new Promise<string>((resolve, reject) => {
      const asked = new Map<Tab, number>();
      const end = performance.now() + TOKEN_TIMEOUT;
      let timer: ReturnType<typeof setTimeout>;
      const finish = (text: string | undefined, error?: string) => {
        clearTimeout(timer);
        asked.forEach((id) => answers.delete(id));
        if (text) resolve(text);
        else reject(new Error(error));
      };
      const next = (error?: string) => {
        clearTimeout(timer);
        const tab = [...tabs].reverse().find((each) => !asked.has(each));
        if (!tab && (error || performance.now() > end)) return finish(undefined, error);
        // A tab that comes later is asked as well.
        timer = setTimeout(next, TOKEN_PATIENCE);
        if (!tab) return;
        const id = ++number;
        asked.set(tab, id);
        answers.set(id, ({ token: text, error: why }) => (text ? finish(text) : next(why ?? 'no token')));
        send(tab, { to: 'token', id });
      };
      next();
    });

  const site: Site = { tabs, channels, status: { state: 'connecting' }, user: undefined, link: undefined as never };
  sites.set(key, site);
  site.link = socketLink(url, { auth, ...(hasToken && { token }) } satisfies Options, sink, channels);
  return site;
};

const answers = new Map<number, (answer: { token?: string; error?: string }) => void>();

/** Gives a tab what it has missed of a channel that others read, from its history; then what came meanwhile. */
const catchUp = async (site: Site, channel: Shared, tab: Tab, place: Place, last?: number) => {
  const name = channel._name;
  const waiting: Happening[] = (place.waiting = []);
  const current = () => site.channels.get(name)?.places.get(tab) === place && place.waiting === waiting;
  const give = (what: Happening) => tell(tab, name, place, what);
  const given = new Set<string>();
  for (let more = true; more; ) {
    const fields = { channel: name, since: place.cursor, last: place.cursor ? undefined : last };
    try {
      const page = await site.link._request({ type: 'history', fields, within: HISTORY_WITHIN }, createOutbox);
      if (!current()) return;
      if (page.gap) give({ to: 'gap', gap: { ...page.gap, channels: [name] }, cursor: page.gap.cursor });
      for (const message of page.messages.map(pushOf) as Message[]) {
        if (message.id) given.add(message.id);
        give({ to: 'push', message: { ...message, replayed: true } });
      }
      place.cursor = page.cursor ?? place.cursor;
      ({ more } = page);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY));
      if (!current()) return;
    }
  }
  delete place.waiting;
  for (const what of waiting) {
    const known = what.to === 'push' && given.has(what.message.id ?? '');
    // Where the channel stands now is told below.
    if (!known && what.to !== 'moved') give(what);
  }
  place.cursor = channel._cursor ?? place.cursor;
  give({ to: 'moved', cursor: place.cursor });
  if (channel._phase === Phase.Live) give(changed(channel, true));
};

const want = (tab: Tab, { name, number, options, cursor }: Extract<ToWorker, { do: 'want' }>) => {
  const { site } = tab;
  const channel = site.channels.get(name);
  if (!channel || (channel.places.size === 1 && channel.places.has(tab))) {
    const places = new Map<Tab, Place>([[tab, { number, cursor }]]);
    const first: Shared = { ...newChannel(name, options, cursor), newest: undefined, places };
    site.channels.set(name, first);
    return site.link._want(first);
  }
  const place: Place = { number, cursor: cursor ?? channel._cursor };
  channel.places.set(tab, place);
  const rate = channel._options.maxRate;
  if (rate !== undefined && (options.maxRate ?? Infinity) > rate) {
    channel._options = { ...channel._options, maxRate: options.maxRate } as ChannelOptions;
    site.link._want(channel);
  }
  if (!channel._class) return;
  const isState = channel._class === 'state';
  const behind = !isState && ((cursor !== undefined && cursor !== channel._cursor) || (!cursor && options.last));
  const give = (what: Happening) => tell(tab, name, place, what);
  if (!behind && channel._cursor) give({ to: 'moved', cursor: channel._cursor });
  give(changed(channel, channel._phase === Phase.Live && !behind));
  if (isState && channel.newest) give({ to: 'push', message: { ...channel.newest, snapshot: true } });
  if (behind) {
    if (!cursor) place.cursor = undefined;
    void catchUp(site, channel, tab, place, options.last);
  }
};

const leave = (tab: Tab, name: string) => {
  const channel = tab.site.channels.get(name);
  if (!channel?.places.delete(tab) || channel.places.size) return;
  tab.site.channels.delete(name);
  tab.site.link._drop(channel);
};

const gone = (tab: Tab, key: string) => {
  const { site } = tab;
  if (!site.tabs.delete(tab)) return;
  for (const name of [...site.channels.keys()]) leave(tab, name);
  if (site.tabs.size) return;
  sites.delete(key);
  void site.link._close();
};

const connected = (port: MessagePort) => {
  let tab: Tab | undefined;
  let key = '';
  port.onmessage = ({ data }: MessageEvent<ToWorker>) => {
    if (data.do === 'hello') {
      key = JSON.stringify([data.url, data.auth, data.hasToken]);
      tab = { port, site: sites.get(key) ?? openSite(key, data.url, data.auth, data.hasToken) };
      const { site } = tab;
      site.tabs.add(tab);
      if (site.user !== undefined) send(tab, { to: 'user', user: site.user, changed: false });
      send(tab, { to: 'status', status: site.status });
      // The lock is free once the tab is gone, however it went.
      void navigator.locks?.request(data.lock, () => gone(tab!, key));
      return;
    }
    if (!tab) return;
    const { link } = tab.site;
    switch (data.do) {
      case 'want':
        return want(tab, data);
      case 'leave':
        return leave(tab, data.name);
      case 'token':
        return answers.get(data.id)?.(data);
      case 'request':
        return void link._request(data.request, createOutbox).then(
          (reply) => send(tab!, { to: 'reply', id: data.id, reply }),
          // An error loses its fields on its way.
          (error) => send(tab!, { to: 'reply', id: data.id, refused: { ...error, message: error.message } }),
        );
      case 'nudge':
        return link._nudge();
      case 'debug':
        return send(tab, { to: 'debug', debug: link._debug() });
      case 'bye':
        return gone(tab, key);
    }
  };
};

// Held as long as the worker lives, so that its tabs learn when it dies.
const lock = `tickgate-worker-${Math.random()}`;
const held = new Promise<void>((resolve) => {
  const hold = () => {
    resolve();
    return new Promise<void>(() => {});
  };
  if (navigator.locks) void navigator.locks.request(lock, hold);
  else resolve();
});

const scope = globalThis as unknown as { onconnect?: (event: MessageEvent) => void };
scope.onconnect = ({ ports: [port] }) => {
  connected(port!);
  void held.then(() => port!.postMessage({ to: 'lock', name: lock, version: VERSION } satisfies ToTab));
};
