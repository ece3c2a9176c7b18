// Makes one file of a server, mediasoup in it: `node bundle.js HOW SERVER OUT`. HOW is `esbuild`,
// `esbuild-module`, `webpack` or `bun`; all shorten names, as people's bundles do. NODE_PATH leads to the
// bundlers and to mediasoup.
'use strict';

const { execFileSync } = require('child_process');
const fs = require('fs');
const path = require('path');

const [how, server, out] = process.argv.slice(2);
const folders = process.env.NODE_PATH.split(path.delimiter);

function esbuild(options) {
  require('esbuild').buildSync(Object.assign({ entryPoints: [server], outfile: out, bundle: true,
    platform: 'node', minify: true, logLevel: 'error', nodePaths: folders }, options));
}

const HOW = {
  bun,
  'esbuild': () => esbuild({ format: 'cjs' }),
  // What CommonJS takes for granted, a module has to be given.
  'esbuild-module': () => esbuild({ format: 'esm', banner: { js: [
    'import { createRequire } from "node:module";',
    'const require = createRequire(import.meta.url);',
    'const __dirname = import.meta.dirname || "/", __filename = __dirname + "/bundle";'].join('') } }),
  'webpack': () => require('webpack')({ mode: 'production', target: 'node', entry: server,
    output: { path: path.dirname(out), filename: path.basename(out) },
    resolve: { modules: folders }, performance: false },
  (error, stats) => {
    if (error || stats.hasErrors()) throw error || new Error(stats.toString('errors-only'));
  })
};
HOW[how]();

// Its program is in a package of its own for each kind of machine.
function bun() {
  const machine = `bun-linux-${process.arch === 'arm64' ? 'aarch64' : 'x64'}`;
  const programs = folders.map((folder) => path.join(folder, '@oven', machine, 'bin', 'bun'));
  execFileSync(programs.find((program) => fs.existsSync(program)), ['build', server, '--target=node',
    '--format=cjs', '--minify', `--outfile=${out}`], { stdio: ['ignore', 'ignore', 'inherit'] });
}
