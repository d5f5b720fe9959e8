// Plays tickgate-client-suite with the client in Chromium: `node test/suite-chromium.mjs SUITE [scenario…]`.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { launch } from './browser.mjs';

const [suite, ...scenarios] = process.argv.slice(2);
const script = readFileSync('build/adapter-page.js', 'utf8');
const site = createHttp((_, response) => response.end('<!doctype html><title>adapter</title>'));
await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
// One process for all pages: each scenario opens at least one.
const browser = await launch('--process-per-site', '--renderer-process-limit=1');
const context = await browser.newContext();

const play = async (socket) => {
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  const setup = JSON.parse((await lines.next()).value);
  const page = await context.newPage();
  await page.exposeFunction('fromAdapter', (line) => (line ? socket.write(`${line}\n`) : socket.end()));
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  await page.addScriptTag({ content: script });
  await page.evaluate((setup) => window.startAdapter(setup), setup);
  socket.on('close', () => page.close().catch(() => {}));
  for await (const line of lines) page.evaluate((line) => window.toAdapter(line), line).catch(() => {});
};
// The suite ends a run whose scenario has failed: its socket and its page are gone then.
const relay = createServer((socket) => play(socket).catch(() => socket.destroy()));
await new Promise((resolve) => relay.listen(0, '127.0.0.1', resolve));

const env = { ...process.env, TICKGATE_RELAY_PORT: String(relay.address().port) };
const command = `${process.execPath} ${new URL('relay.mjs', import.meta.url).pathname}`;
const played = spawn(suite, ['--jobs', '6', '--run', command, ...scenarios], { env, stdio: 'inherit' });
const code = await new Promise((resolve) => played.on('close', resolve));
await browser.close();
process.exit(code ?? 1);
