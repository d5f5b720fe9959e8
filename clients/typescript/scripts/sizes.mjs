// Measures what a page loads: `esbuild --minify` of an entry that imports the names, `gzip -9`. Fails above the limits.
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

/** Bytes. */
const LIMITS = [
  ['core', 8500, `export { connect } from '@tickgate/client'`],
  ['with React hooks', 9400, `export { connect } from '@tickgate/client'; export { useValue, useMessages, useStatus, TickgateProvider } from '@tickgate/client/react'`],
  ['everything', 11200, `export * from '@tickgate/client'; export * from '@tickgate/client/react'; export * from '@tickgate/client/tabs'; export * from '@tickgate/client/overlay'`],
];

let failed = false;
for (const [name, limit, contents] of LIMITS) {
  const stdin = { contents, resolveDir: process.cwd() };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, format: 'esm', write: false, external: ['react'] });
  const [{ contents: bytes }] = outputFiles;
  const size = gzipSync(bytes, { level: 9 }).length;
  failed ||= size > limit;
  console.log(`${name}: ${bytes.length} bytes minified, ${size} gzip, limit ${limit}${size > limit ? ': TOO LARGE' : ''}`);
}
if (failed) process.exit(1);
