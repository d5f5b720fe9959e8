/** The adapter in a page: lines go through functions of the window. */
import { start } from './adapter.js';

declare global {
  interface Window {
    startAdapter(setup: { url: string; channels: string; auth: string }): void;
    toAdapter(line: string): void;
    fromAdapter(line: string): void;
  }
}

window.startAdapter = (setup) => {
  const write = (event: object) => window.fromAdapter(JSON.stringify(event));
  window.toAdapter = start({ ...setup, options: {}, write, ended: () => window.fromAdapter('') });
};
