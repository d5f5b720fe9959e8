/** Whether and how long to wait before the next connection. Pure: chance is an argument. */

const enum Ms {
  First = 500,
  Longest = 30_000,
}

/** A random time between a tenth of a bound and the bound, which doubles with each failure. `chance` is from 0 up to 1. */
export const backOff = (failures: number, chance: number): number =>
  Math.round(Math.min(Ms.First * 2 ** failures, Ms.Longest) * (0.1 + chance * 0.9));

/** Whether a close code leaves room for another connection; 4001 requires a new token. */
export const afterCode = (code = 0): 'yes' | 'no' | 'new_token' => {
  if (code === 4001) return 'new_token';
  return code >= 4500 || [1000, 1002, 1003, 1007, 1008, 1009, 4002, 4004].includes(code) ? 'no' : 'yes';
};
