// Plays tickgate-client-suite with the client in Chromium: `node test/suite-chromium.mjs SUITE [scenario…]`. One page runs
// the clients of all scenarios: opening one for each takes longer than playing it.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { launch } from './browser.mjs';

const [suite, ...scenarios] = process.argv.slice(2);
const site = createHttp((_, response) => response.end('<!doctype html><title>adapter</title>'));
await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
const browser = await launch();
const page = await browser.newPage();
const sockets = new Map();
await page.exposeFunction('fromAdapter', (run, line) => {
  if (line) sockets.get(run)?.write(`${line}\n`);
  else sockets.get(run)?.end();
});
await page.goto(`http://127.0.0.1:${site.address().port}/`);
await page.addScriptTag({ content: readFileSync('build/adapter-page.js', 'utf8') });

let runs = 0;
const play = async (socket) => {
  const run = ++runs;
  sockets.set(run, socket);
  const stop = () => {
    sockets.delete(run);
    page.evaluate((run) => window.toAdapter(run, '{"command":"stop"}'), run).catch(() => {});
  };
  socket.on('error', () => {}).on('close', stop);
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  const setup = JSON.parse((await lines.next()).value);
  await page.evaluate(([run, setup]) => window.startAdapter(run, setup), [run, setup]);
  for await (const line of lines) page.evaluate(([run, line]) => window.toAdapter(run, line), [run, line]).catch(() => {});
};
// The suite ends a run whose scenario has failed: its socket is gone then.
const relay = createServer((socket) => play(socket).catch(() => socket.destroy()));
await new Promise((resolve) => relay.listen(0, '127.0.0.1', resolve));

const env = { ...process.env, TICKGATE_RELAY_PORT: String(relay.address().port) };
const command = `${process.execPath} ${new URL('relay.mjs', import.meta.url).pathname}`;
const played = spawn(suite, ['--jobs', '6', '--run', command, ...scenarios], { env, stdio: 'inherit' });
const code = await new Promise((resolve) => played.on('close', resolve));
await browser.close();
process.exit(code ?? 1);
