// Measures what a page loads: `esbuild --minify` of an entry that imports the names, `gzip -9`. Fails above the limits.
// `node scripts/sizes.mjs others` measures other clients from npm in the same way, for the table in README.md.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';

/** Bytes: 6, 8 and 10 KB. */
const LIMITS = [
  ['core', 6000, `export { connect } from '@tickgate/client'`],
  ['with React hooks', 8000, `export { connect } from '@tickgate/client'; export { useValue, useMessages, useStatus, TickgateProvider } from '@tickgate/client/react'`],
  ['everything', 10_000, `export * from '@tickgate/client'; export * from '@tickgate/client/react'; export * from '@tickgate/client/tabs'; export * from '@tickgate/client/overlay'`],
];

const OTHERS = {
  'graphql-ws@6.4.2': 'createClient',
  'reconnecting-websocket@4.4.0': 'default',
  'socket.io-client@4.8.4': 'io',
  'pusher-js@8.6.0': 'default',
  'centrifuge@5.8.0': 'Centrifuge',
  'lightstreamer-client-web@9.2.3': 'LightstreamerClient',
  'ably@2.28.0': 'Realtime',
};

const measure = async (contents, resolveDir) => {
  const stdin = { contents, resolveDir };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: 'esm', write: false, external: ['react'] });
  const [{ contents: bytes }] = outputFiles;
  return [bytes.length, execFileSync('gzip', ['-9'], { input: bytes }).length];
};

if (process.argv[2] === 'others') {
  const project = mkdtempSync(join(tmpdir(), 'tickgate-sizes-'));
  try {
    execFileSync('npm', ['install', '--silent', '--no-audit', '--no-fund', '--prefix', project, ...Object.keys(OTHERS)]);
    for (const [spec, name] of Object.entries(OTHERS)) {
      const [, client, version] = spec.match(/^(.+)@(.+)$/);
      const [minified, zipped] = await measure(`export { ${name} } from '${client}'`, project);
      console.log(`| ${client} | ${version} | ${minified.toLocaleString('en')} | ${zipped.toLocaleString('en')} |`);
    }
  } finally {
    rmSync(project, { recursive: true, force: true });
  }
} else {
  for (const [name, limit, contents] of LIMITS) {
    const [minified, zipped] = await measure(contents, process.cwd());
    const isLarge = zipped > limit;
    console.log(`${name}: ${minified} bytes minified, ${zipped} gzip, limit ${limit}${isLarge ? ': TOO LARGE' : ''}`);
    if (isLarge) process.exitCode = 1;
  }
}
