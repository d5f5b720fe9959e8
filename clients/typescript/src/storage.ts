/** Cursors that survive a reload: written at most once a second, and when the page goes. */
import type { CursorStore, SavedCursors } from './types.js';

const EVERY = 1000;

/** Cursors in `sessionStorage`: of one tab, gone with it. */
export const sessionStore = (url: string): CursorStore => {
  const key = `tickgate:${url}`;
  return {
    load: () => JSON.parse(sessionStorage.getItem(key) ?? 'null') ?? undefined,
    save: (saved) => sessionStorage.setItem(key, JSON.stringify(saved)),
  };
};

const isSaved = (saved: any): saved is SavedCursors =>
  typeof saved?.cursors === 'object' && Object.values(saved.cursors ?? {}).every((cursor) => typeof cursor === 'string');

/** Loads once, and saves what `current` returns after `changed`. A store that fails is reported once. */
export const createSaver = (
  store: CursorStore | undefined,
  current: () => SavedCursors | undefined,
  report: (error: unknown) => void,
) => {
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
    if (store && saved) attempt(() => store.save(saved));
  };

  return {
    load(): SavedCursors | undefined {
      const saved = store && attempt(() => store.load());
      return isSaved(saved) ? saved : undefined;
    },
    changed() {
      if (store) timer ??= setTimeout(flush, EVERY);
    },
    flush,
  };
};
