/** Adapters in a page, one for each run of the suite: lines go through functions of the window. */
import { start } from './adapter.js';

declare global {
  interface Window {
    startAdapter(run: number, setup: { url: string; channels: string; auth: string }): void;
    toAdapter(run: number, line: string): void;
    /** An empty line says that the client has stopped. */
    fromAdapter(run: number, line: string): void;
  }
}

const inputs = new Map<number, (line: string) => void>();

window.startAdapter = (run, setup) => {
  const write = (event: object) => window.fromAdapter(run, JSON.stringify(event));
  const ended = () => {
    inputs.delete(run);
    window.fromAdapter(run, '');
  };
  inputs.set(run, start({ ...setup, options: {}, write, ended }));
};
window.toAdapter = (run, line) => inputs.get(run)?.(line);
