// Bundles what tests run, in Node and in pages, into build/.
import { build } from 'esbuild';
import { readdirSync } from 'node:fs';

const tests = readdirSync('test').filter((name) => /\.(test|browser)\.ts$|^adapter-node/.test(name));
await build({
  entryPoints: tests.map((name) => `test/${name}`),
  outdir: 'build',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  packages: 'external',
  external: ['../test/browser.mjs'],
  platform: 'node',
  format: 'esm',
  sourcemap: 'inline',
  logLevel: 'error',
});
await build({
  entryPoints: ['test/adapter-page.ts', 'test/react-page.tsx', 'test/tab-page.ts'],
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"development"' },
  outdir: 'build',
  bundle: true,
  format: 'iife',
  logLevel: 'error',
});
