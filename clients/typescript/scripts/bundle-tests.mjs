// Bundles what tests run, in Node and in pages, into build/.
import { build } from 'esbuild';
import { readdirSync } from 'node:fs';

const tests = readdirSync('test').filter((name) => name.endsWith('.test.ts') || name === 'adapter-node.ts');
await build({
  entryPoints: tests.map((name) => `test/${name}`),
  outdir: 'build',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
  sourcemap: 'inline',
  logLevel: 'error',
});
await build({
  entryPoints: ['test/adapter-page.ts'],
  outdir: 'build',
  bundle: true,
  format: 'iife',
  logLevel: 'error',
});
