/** The last frames and the round trip, for people who look for a fault. Never keeps a token. */
import type { Frame } from './types.js';

const FRAMES = 200;
const CHARACTERS = 500;

export const createTrace = () => {
  const frames: Frame[] = [];
  let roundTripMs: number | undefined;
  let at = 0;
  return {
    frame(sent: boolean, data: unknown) {
      let text = String(data).slice(0, CHARACTERS);
      if (sent && text.startsWith('{"type":"auth"')) text = text.replace(/"token":.*/, '"token":"…"}');
      frames[at++ % FRAMES] = { at: Date.now(), sent, text };
    },
    roundTrip(ms: number) {
      roundTripMs = ms;
    },
    debug() {
      const first = at % FRAMES;
      const ordered = at > FRAMES ? [...frames.slice(first), ...frames.slice(0, first)] : [...frames];
      return { frames: ordered, roundTripMs };
    },
  };
};
