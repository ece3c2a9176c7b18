// A server for the observer's tests: `node server.js KIND SOCKET [ROOMS PEERS]`.
//
// Commands come as JSON lines on stdin, answers go as JSON lines to stdout:
//   {"do":"truth"}                      what an observer has to find
//   {"do":"open-peer","room":R,"peer":P}  {"do":"close-peer",…}  {"do":"close-room","room":R}
//   {"do":"lobby","room":R,"peer":P}    somebody waits to be let in
//   {"do":"pause","producer":true}      pauses the first producer of the first room
//   {"do":"visit","port":N}            a plain transport from there that closes at once
//   {"do":"census"}                     listeners, sockets and globals that a visitor could leave
//   {"do":"gap"}                        the longest hold-up of the event loop since the last asking
//   {"do":"rooms","rooms":[…]}          room server only: the rooms of a media node
'use strict';

const readline = require('readline');
const repl = require('repl');
const { listen } = require('./console.js');
const { Scene, roomServer } = require('./scene.js');
const { Gaps } = require('./gaps.js');

const [kind, path, rooms, peers] = process.argv.slice(2);
const { displayPrompt } = repl.REPLServer.prototype;
const gaps = new Gaps();
let scene = null;
let consoles = null;

async function main() {
  if (kind === 'edumeet4-room-server') {
    roomServer([]);
  } else {
    // An ECMAScript module has imported it for us.
    scene = new Scene(kind, global.mediasoup || require('mediasoup'));
    await scene.open(Number(rooms || 2), Number(peers || 2));
    // With the agent loaded there is no console, and its globals are nobody's business.
    if (kind === 'agent') hideGlobals();
  }
  if (kind !== 'agent') consoles = await listen(kind, path);
  answer({ ready: true, pid: process.pid });
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    run(JSON.parse(line)).then(answer, (error) => answer({ error: String(error.stack || error) }));
  }).on('close', () => process.exit());
}

function answer(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

const hidden = {};

function hideGlobals() {
  for (const name of ['workers', 'routers', 'transports', 'producers', 'consumers']) {
    hidden[name] = global[name];
    delete global[name];
  }
}

// The scene reads the Maps from the globals.
async function withGlobals(f) {
  Object.assign(global, hidden);
  try { return await f(); } finally { Object.keys(hidden).forEach((name) => delete global[name]); }
}

async function run(command) {
  const room = scene && scene.rooms.get(command.room || 'room-0');
  const act = {
    'truth': () => withGlobals(() => scene.truth()),
    'view': () => scene.roomServerView(),
    'open-peer': async () => { await scene.openPeer(room, command.peer); return { done: true }; },
    'lobby': () => { scene.waitInLobby(room, command.peer); return { done: true }; },
    'close-peer': () => { scene.closePeer(room, command.peer); return { done: true }; },
    'close-room': () => {
      room.routers.forEach(({ router }) => router.close());
      scene.rooms.delete(command.room);
      if (global.rooms) global.rooms.delete(command.room);
      if (global.peers) {
        [room.peers, room.lobby].forEach((peers) => {
          peers.forEach((peer) => global.peers.delete(peer.id));
        });
      }
      return { done: true };
    },
    'pause': async () => {
      const peer = room.peers.values().next().value;
      await peer.producers[0].object[command.producer ? 'pause' : 'resume']();
      return { done: true };
    },
    'visit': () => visit(room, command.port),
    'rooms': () => { roomServer(command.rooms); return { done: true }; },
    'census': () => withGlobals(census),
    'gap': () => gaps.take()
  }[command.do];
  return act();
}

// Somebody comes by a plain transport and goes in the same moment.
async function visit(room, port) {
  const { router } = room.routers.values().next().value;
  const transport = await router.createPlainTransport({ listenIp: '127.0.0.1', rtcpMux: true });
  await transport.connect({ ip: '127.0.0.1', port: port });
  const { localPort } = transport.tuple;
  transport.close();
  return { port: localPort };
}

function census() {
  return { listeners: scene ? scene.listeners() : 0, consoles: consoles ? consoles.open.size : 0,
    registry: global[Symbol.for('mediasoup-exporter')] ? 1 : 0,
    prompts: repl.REPLServer.prototype.displayPrompt === displayPrompt ? 0 : 1,
    pipes: process._getActiveHandles().filter((handle) => handle.constructor.name === 'Socket'
      && handle.remoteAddress === undefined && !handle.fd).length };
}

main().catch((error) => { answer({ error: String(error.stack || error) }); process.exit(1); });
