/** How many channels may be subscribed now: the gateway's token bucket, copied. Pure: the time is an argument. */

/** Returns a function that takes some, and says how many are left: a fraction is a part of the next one. */
export const createPace = (perSecond: number, burst: number, now: number) => {
  let left = burst;
  return (time: number, taken = 0): number => {
    left = Math.min(burst, left + ((time - now) * perSecond) / 1000) - taken;
    now = time;
    return left;
  };
};
