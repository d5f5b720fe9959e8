/** Cursors that survive a reload: written at most once a second, and when the page goes. */
import { hide, type Persist, type Saver } from './link.js';
import type { CursorStore, Persistence } from './types.js';

const EVERY = 1000;

/** Cursors in `sessionStorage`: of one tab, gone with it. */
const sessionStore = (url: string): CursorStore => {
  const key = `tickgate:${url}`;
  return {
    load: () => JSON.parse(sessionStorage.getItem(key) ?? 'null') ?? undefined,
    save: (saved) => sessionStorage.setItem(key, JSON.stringify(saved)),
  };
};

/**
 * Keeps cursors over a reload of the page, for the option `persist`: in `sessionStorage`, or in a store of your own. One that
 * fails is reported once, and the client goes on without.
 */
export const persist = (own?: CursorStore): Persistence => {
  const make: Persist = (url, current, report): Saver => {
    const store = own ?? sessionStore(url);
    let timer: ReturnType<typeof setTimeout> | undefined;
    let failed = false;

    const attempt = <T>(action: () => T): T | undefined => {
      try {
        return action();
      } catch (error) {
        if (!failed) report(error);
        failed = true;
        return undefined;
      }
    };

    const flush = () => {
      clearTimeout(timer);
      timer = undefined;
      const saved = current();
      if (saved) attempt(() => store.save(saved));
    };

    globalThis.addEventListener?.('pagehide', flush);
    return {
      _load() {
        const saved = attempt(() => store.load());
        const isSound = Object.values(saved?.cursors ?? {}).every((cursor) => typeof cursor === 'string');
        return isSound ? saved : undefined;
      },
      _changed() {
        timer ??= setTimeout(flush, EVERY);
      },
      _end() {
        flush();
        globalThis.removeEventListener?.('pagehide', flush);
      },
    };
  };
  return hide(make);
};
