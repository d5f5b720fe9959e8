// Checks the package as it would be published: packs it, installs it into a fresh project with npm, and uses it there.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';

/** What the examples of the README take for granted. */
const PRELUDE = `
import { type Client, type EventChannel, type ReliableChannel, type StateChannel } from '@tickgate/client';
interface Order { order_id: string; status: string }
interface Channels {
  orders: ReliableChannel<Order>;
  [ticker: \`ticker:\${string}\`]: StateChannel<{ price: string }>;
  [trades: \`trades:\${string}\`]: EventChannel<{ price: string }>;
}
declare const client: Client<Channels>;
declare const url: string;
declare const [order, chart, onGap, draw, save, load, reload]: any;
`;

const here = process.cwd();
const project = mkdtempSync(join(tmpdir(), 'tickgate-package-'));
const run = (command, args, cwd = project) => execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
const write = (name, text) => writeFileSync(join(project, name), text);

try {
  const [packed] = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', project], here));
  const files = packed.files.map(({ path }) => path);
  for (const file of ['LICENSE', 'README.md', 'dist/esm/index.js.map', 'dist/cjs/index.js.map', 'dist/worker.js', 'dist/page.js']) {
    assert.ok(files.includes(file), `${file} is in the package`);
  }
  assert.deepEqual(files.filter((file) => !/^(dist|src)\/|^(LICENSE|README\.md|package\.json)$/.test(file)), []);
  const links = [...readFileSync('README.md', 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path]) => path);
  assert.deepEqual(links.filter((path) => !files.includes(path)), [], 'links of the README lead to files of the package');
  const { dependencies, license } = JSON.parse(readFileSync('package.json', 'utf8'));
  assert.equal(dependencies, undefined, 'no dependency at run time');
  assert.equal(license, 'Apache-2.0');
  const map = JSON.parse(readFileSync('dist/cjs/index.js.map', 'utf8'));
  assert.ok(map.sourcesContent.every((text) => text), 'source maps have their sources');

  write('package.json', '{ "private": true, "type": "module" }');
  const react = ['react', '@types/react'].map((name) => join(here, 'node_modules', name));
  run('npm', ['install', '--no-audit', '--no-fund', '--silent', '--offline', packed.filename, ...react]);
  write('esm.mjs', `import { connect } from '@tickgate/client'; import { share } from '@tickgate/client/tabs'; console.log(typeof connect, typeof share);`);
  write('cjs.cjs', `const { connect } = require('@tickgate/client'); const { share } = require('@tickgate/client/tabs'); console.log(typeof connect, typeof share);`);
  assert.equal(run('node', ['esm.mjs']), 'function function\n');
  assert.equal(run('node', ['cjs.cjs']), 'function function\n');

  const types = `
import { connect, type EventChannel, type ReliableChannel, type StateChannel } from '@tickgate/client';
import { showOverlay } from '@tickgate/client/overlay';
import { share } from '@tickgate/client/tabs';

interface Channels {
  orders: ReliableChannel<{ order_id: string }>;
  [ticker: \`ticker:\${string}\`]: StateChannel<{ price: string }>;
  [trades: \`trades:\${string}\`]: EventChannel<{ price: string }>;
}

const client = connect<Channels>('wss://example.com/ws/trading', { link: share(() => new SharedWorker('/worker.js')) });
export const id: (message: { data: { order_id: string } }) => string = ({ data }) => data.order_id;
client.messages('orders', { onGap() {} }).each((message) => id(message));
client.messages('trades:BTCUSDT').each(({ data }) => data.price.length);
export const price: string | undefined = client.value('ticker:BTCUSDT').get()?.price;
showOverlay(client);
// @ts-expect-error: a reliable channel requires onGap
client.messages('orders');
// @ts-expect-error: a reliable channel requires onGap
client.messages('orders', {});
// @ts-expect-error: a value is of class state
client.value('orders');
// @ts-expect-error: messages are not of class state
client.messages('ticker:BTCUSDT', { onGap() {} });
// @ts-expect-error: no such channel
client.value('orderz');
// @ts-expect-error: the price is a string
client.value('ticker:BTCUSDT').get()!.price.toFixed();
// @ts-expect-error: without declared channels, onGap is required too
connect('wss://example.com').messages('anything');
`;
  write('bundler.ts', types);
  // The examples of the README, as they stand there; the first one is whole, and has at most 20 lines.
  const examples = [...readFileSync('README.md', 'utf8').matchAll(/```tsx?\n(.*?)```/gs)].map(([, text]) => text);
  const [blotter, ...others] = examples;
  assert.ok(blotter.split('\n').filter((line) => line.trim()).length <= 20, 'the blotter has at most 20 lines');
  write('blotter.ts', blotter);
  const names = others.map((text, at) => {
    write(`example${at}.tsx`, `${PRELUDE}${text}`);
    return `example${at}.tsx`;
  });
  write('node.mts', types);
  write('node.cts', types.replace('export const id', 'const id').replace('export const price', 'const price'));
  const tsc = join(here, 'node_modules/typescript/bin/tsc');
  const strict = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2022,dom,dom.iterable'];
  run('node', [tsc, ...strict, '--module', 'esnext', '--moduleResolution', 'bundler', '--jsx', 'react-jsx', 'bundler.ts', 'blotter.ts', ...names]);
  run('node', [tsc, ...strict, '--module', 'nodenext', '--moduleResolution', 'nodenext', 'node.mts', 'node.cts']);

  for (const name of ['connect', 'requests', 'persist', 'retry', 'share', 'showOverlay', 'useValue', 'useMessages', 'useStatus']) {
    const found = readdirSync('api/functions').some((file) => file.split('.').includes(name));
    assert.ok(found, `${name} is in the API reference`);
  }

  const stdin = { contents: `import { RequestError } from '@tickgate/client'; console.log(RequestError);`, resolveDir: project };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: 'esm', write: false });
  const [{ contents }] = outputFiles;
  assert.ok(contents.length < 600, `what is not used is left out: ${contents.length} bytes for an error class`);
  console.log(`the package is right: ${packed.files.length} files, ${(packed.size / 1024).toFixed(0)} KB packed`);
} catch (error) {
  console.error(error.stdout ?? '', error);
  process.exitCode = 1;
} finally {
  rmSync(project, { recursive: true, force: true });
}
