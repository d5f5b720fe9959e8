// Builds the package into dist/: ES modules and CommonJS, each with source maps and types.
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';

const entries = ['index', 'react', 'tabs', 'overlay'];
const common = {
  entryPoints: entries.map((entry) => `src/${entry}.ts`),
  bundle: true,
  sourcemap: true,
  sourcesContent: true,
  target: 'es2022',
  external: ['react'],
  logLevel: 'error',
  // Names that begin with `_` are private, but for the one of the wire.
  mangleProps: /^_/,
  reserveProps: /^_meta$/,
};
let mangleCache = {};
/** Builds with the same short names as before, so that what one entry made fits another. */
const bundle = async (options) => {
  ({ mangleCache } = await build({ ...common, mangleCache, ...options }));
};

rmSync('dist', { recursive: true, force: true });
await bundle({ outdir: 'dist/esm', format: 'esm', splitting: true, chunkNames: 'chunks/[name]-[hash]' });
await bundle({ outdir: 'dist/cjs', format: 'cjs' });
// A page without a bundler loads this one file.
await bundle({ entryPoints: ['src/worker.ts'], outfile: 'dist/worker.js', format: 'esm', minify: true });
await bundle({ entryPoints: ['src/page.ts'], outfile: 'dist/page.js', format: 'esm', minify: true });
execFileSync('npx', ['tsc', '--project', 'tsconfig.types.json'], { stdio: 'inherit' });
mkdirSync('dist/cjs', { recursive: true });
cpSync('dist/esm', 'dist/cjs', { recursive: true, filter: (path) => !/\.js(\.map)?$|chunks/.test(path) });
writeFileSync('dist/cjs/package.json', '{ "type": "commonjs" }\n');
copyFileSync('../../LICENSE', 'LICENSE');
