/** A panel over the page that shows what a client knows about itself. */
import type { Client } from './client.js';

const STYLE = `
:host { position: fixed; right: 8px; bottom: 8px; z-index: 2147483647; max-width: min(560px, calc(100vw - 16px)); }
details { font: 12px/1.5 ui-monospace, monospace; color: #e8e8e8; background: #16191d; border-radius: 6px; padding: 6px 10px; }
pre { margin: 4px 0; max-height: 45vh; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }`;

const line = (cells: unknown[]) => cells.filter((cell) => cell !== undefined).join('  ');

/** Shows the panel, refreshed once a second. Returns how to remove it. */
export const showOverlay = (client: Client<any>): (() => void) => {
  const host = document.createElement('div');
  const root = host.attachShadow({ mode: 'open' });
  const style = document.createElement('style');
  style.textContent = STYLE;
  const details = document.createElement('details');
  const summary = document.createElement('summary');
  const text = document.createElement('pre');
  text.tabIndex = 0;
  details.append(summary, text);
  root.append(style, details);
  document.body.append(host);

  const show = () => {
    const { status, user, roundTripMs, channels, gaps, frames } = client.debug();
    const trip = roundTripMs === undefined ? undefined : `${roundTripMs.toFixed(0)} ms`;
    summary.textContent = line(['Tickgate', status.state, status.code, user ?? undefined, trip]);
    if (!details.open) return;
    const of = channels.map((c) => line([c.live ? '●' : '○', c.name, c.class, c.cursor, c.waiting || undefined]));
    const lost = gaps.map((gap) => line(['gap', gap.reason, gap.count ?? '?', gap.channels.join(',')]));
    const sent = frames.slice(-40).map((f) => `${new Date(f.at).toISOString().slice(11, 23)} ${f.sent ? '→' : '←'} ${f.text}`);
    text.textContent = [...of, ...lost, '', ...sent.reverse()].join('\n');
  };
  show();
  const timer = setInterval(show, 1000);
  details.addEventListener('toggle', show);
  return () => {
    clearInterval(timer);
    host.remove();
  };
};
