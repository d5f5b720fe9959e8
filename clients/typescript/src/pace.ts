/** How many channels may be subscribed now: the gateway's token bucket, copied. Pure: the time is an argument. */

export const createPace = (perSecond: number, burst: number, now: number) => {
  const perMs = Math.max(perSecond, 1) / 1000;
  const most = Math.max(burst, 1);
  let left = most;
  let at = now;
  return {
    available(time: number): number {
      left = Math.min(most, left + (time - at) * perMs);
      at = time;
      return Math.floor(left);
    },
    take(count: number) {
      left -= count;
    },
    /** When at least one may be subscribed; a millisecond later, so that rounding wakes nobody early. */
    next: (time: number) => (left >= 1 ? time : time + (1 - left) / perMs + 1),
  };
};
