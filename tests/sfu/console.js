'use strict';
// The observer console of an edumeet-3-like server: a readline prompt on a Unix socket, whose
// command `t` opens a Node REPL. The globals that such a server offers there are kept here, from
// mediasoup's own observer events. Knows nothing of rooms.

const fs = require('fs');
const net = require('net');
const readline = require('readline');
const repl = require('repl');

const maps = {
  workers: new Map(),
  routers: new Map(),
  transports: new Map(),
  producers: new Map(),
  consumers: new Map(),
  dataProducers: new Map(),
  dataConsumers: new Map(),
};

// Keeps `object` in `map` for as long as it lives.
function keep(map, key, object) {
  map.set(key, object);
  object.observer.on('close', () => {
    // pipeToRouter makes two producers of one id; the younger may have taken the place.
    if (map.get(key) === object) map.delete(key);
  });
}

function observe(mediasoup) {
  mediasoup.observer.on('newworker', (worker) => {
    keep(maps.workers, worker.pid, worker);
    worker.observer.on('newrouter', (router) => {
      keep(maps.routers, router.id, router);
      router.observer.on('newtransport', (transport) => {
        keep(maps.transports, transport.id, transport);
        const { observer } = transport;
        observer.on('newproducer', (producer) => keep(maps.producers, producer.id, producer));
        observer.on('newconsumer', (consumer) => keep(maps.consumers, consumer.id, consumer));
        observer.on('newdataproducer', (it) => keep(maps.dataProducers, it.id, it));
        observer.on('newdataconsumer', (it) => keep(maps.dataConsumers, it.id, it));
      });
    });
  });
}

const dumps = {
  dw: maps.workers,
  dr: maps.routers,
  dt: maps.transports,
  dp: maps.producers,
  dc: maps.consumers,
};
const statistics = { st: maps.transports, sp: maps.producers, sc: maps.consumers };

async function answer(line, socket) {
  const [command, id] = line.trim().split(/\s+/);
  const dumped = dumps[command];
  const counted = statistics[command];
  if (!dumped && !counted) return false;
  const map = dumped || counted;
  const all = [...map.values()];
  const last = all[all.length - 1];
  const wanted = id ? map.get(id) || map.get(Number(id)) : last;
  if (!wanted) {
    socket.write(`no such object: ${id}\n`);
    return true;
  }
  const json = dumped ? await wanted.dump() : await wanted.getStats();
  socket.write(`${command}:\n${JSON.stringify(json, null, '  ')}\n`);
  return true;
}

function prompt(socket) {
  const lines = readline.createInterface({ input: socket, output: socket, terminal: true });
  let terminal = false;
  lines.on('close', () => terminal || socket.end());
  const ask = () => {
    lines.question('cmd> ', async (line) => {
      if (line.trim() === 't' || line.trim() === 'terminal') {
        terminal = true;
        lines.close();
        openRepl(socket);
        return;
      }
      try {
        if (!(await answer(line, socket)) && line.trim()) socket.write('h: help, t: terminal\n');
      } catch (error) {
        socket.write(`${error}\n`);
      }
      ask();
    });
  };
  ask();
}

function openRepl(socket) {
  socket.write('\n[opening the Node terminal]\n');
  const it = repl.start({
    input: socket,
    output: socket,
    terminal: true,
    prompt: 'terminal> ',
    useColors: true,
    useGlobal: true,
    ignoreUndefined: false,
  });
  it.on('exit', () => prompt(socket));
}

// Opens the console on the Unix socket `path`; `more` holds the server's own globals.
function open(mediasoup, path, more) {
  observe(mediasoup);
  Object.assign(global, maps, more);
  fs.rmSync(path, { force: true });
  const server = net.createServer((socket) => {
    socket.on('error', () => socket.destroy());
    prompt(socket);
  });
  return new Promise((resolve) => server.listen(path, resolve));
}

module.exports = { open };
