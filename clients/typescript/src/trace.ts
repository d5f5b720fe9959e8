/** The last frames, for people who look for a fault. Never keeps a token. */
import type { Frame } from './types.js';

const enum Count {
  Frames = 200,
  Characters = 500,
}

/** Adds a frame to the last ones. */
export const keepFrame = (frames: Frame[], sent: boolean, data: unknown) => {
  const text = String(data).slice(0, Count.Characters);
  const shown = sent ? text.replace(/^({"type":"auth").*/, '$1,…') : text;
  if (frames.push({ at: Date.now(), sent, text: shown }) > Count.Frames) frames.shift();
};
