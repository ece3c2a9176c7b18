'use strict';
// A selective forwarding unit on a real mediasoup, told what to do by lines of JSON on stdin:
// {"id":1,"do":"room","room":"a"} is answered on stdout by {"id":1,"ok":{…}} or {"id":1,"error":"…"}.
// It ends with its stdin.
//
// Environment: MEDIASOUP_DIR (a folder whose node_modules holds mediasoup), OBSERVER_SOCKET (path of
// the observer console), WORKERS (how many), PORT_MIN and PORT_MAX.

const path = require('path');
const readline = require('readline');

const mediasoup = require(path.join(process.env.MEDIASOUP_DIR, 'node_modules', 'mediasoup'));
const observer = require('./console');
const house = require('./rooms');
const media = require('./media');
const pages = require('./pages');

const workers = [];

async function each(map, ask) {
  const answers = await Promise.all([...map].map(async ([id, it]) => {
    try {
      return [id, await ask(it)];
    } catch (error) {
      return null; // Closed meanwhile.
    }
  }));
  return Object.fromEntries(answers.filter(Boolean));
}

// Every transport, producer and consumer with its statistics, by id. Of a piped producer, which
// shares its id with its original, the peer's own is told.
async function stats() {
  const producers = new Map(global.producers);
  for (const peer of house.peers.values()) {
    for (const [id, producer] of peer.producers) producers.set(id, producer);
  }
  return {
    transports: await each(global.transports, async (it) => ({
      stats: await it.getStats(), tuple: it.tuple, rtcpTuple: it.rtcpTuple })),
    producers: await each(producers, async (it) => ({
      stats: await it.getStats(), score: it.score, kind: it.kind })),
    consumers: await each(global.consumers, async (it) => ({
      stats: await it.getStats(), score: it.score, kind: it.kind, type: it.type,
      producerId: it.producerId, layers: it.currentLayers || null })),
  };
}

async function dump() {
  return {
    rooms: [...house.rooms.keys()],
    peers: [...house.peers.keys()],
    workers: [...global.workers.keys()],
    transports: await each(global.transports, (it) => it.dump()),
  };
}

const commands = {
  ...media,
  ...pages,
  room: (request) => house.openRoom(request, workers),
  close_room: house.closeRoom,
  join: house.join,
  leave: house.leave,
  stats,
  dump,
};

async function serve(line) {
  let id = null;
  let answer;
  try {
    const request = JSON.parse(line);
    ({ id } = request);
    if (!Object.hasOwn(commands, request.do)) throw new Error(`no command ${request.do}`);
    answer = { id, ok: (await commands[request.do](request)) || {} };
  } catch (error) {
    answer = { id, error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

async function main() {
  const { OBSERVER_SOCKET, WORKERS = '1', PORT_MIN = '40000', PORT_MAX = '49999' } = process.env;
  await observer.open(mediasoup, OBSERVER_SOCKET, { rooms: house.rooms, peers: house.peers });
  for (let i = 0; i < Number(WORKERS); i += 1) {
    const worker = await mediasoup.createWorker({
      logLevel: 'warn', rtcMinPort: Number(PORT_MIN), rtcMaxPort: Number(PORT_MAX) });
    worker.on('died', (error) => {
      console.error(`mediasoup-worker ${worker.pid} died: ${error}`);
      process.exit(1);
    });
    workers.push(worker);
  }
  const ready = { ready: true, version: mediasoup.version, workers: workers.map((it) => it.pid) };
  process.stdout.write(`${JSON.stringify(ready)}\n`);
  const lines = readline.createInterface({ input: process.stdin, terminal: false });
  lines.on('line', serve);
  lines.on('close', () => {
    for (const worker of workers) worker.close();
    process.exit(0);
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
