/** The last frames and the round trip, for people who look for a fault. Never keeps a token. */
import type { Frame } from './types.js';

const FRAMES = 200;
const CHARACTERS = 500;

export const createTrace = () => {
  const frames: Frame[] = [];
  let roundTripMs: number | undefined;
  return {
    frame(sent: boolean, data: unknown) {
      let text = String(data).slice(0, CHARACTERS);
      if (sent) text = text.replace(/^({"type":"auth".*"token":").*/, '$1…"}');
      if (frames.push({ at: Date.now(), sent, text }) > FRAMES) frames.shift();
    },
    roundTrip(ms: number) {
      roundTripMs = ms;
    },
    debug: () => ({ frames: [...frames], roundTripMs }),
  };
};
