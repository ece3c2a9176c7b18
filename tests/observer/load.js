// A server with many streams, for measuring what an observer's visit costs:
// `node load.js KIND SOCKET PRODUCERS CONSUMERS`. Commands on stdin: {"do":"gap"}, {"do":"churn"}
// (all consumers' scores change at once), {"do":"count"}.
'use strict';

const readline = require('readline');
const { listen } = require('./console.js');
const { Scene } = require('./scene.js');
const { Gaps } = require('./gaps.js');

const [kind, path, producers, consumers] = process.argv.slice(2);
const gaps = new Gaps();

async function main() {
  const scene = new Scene(kind, require('mediasoup'));
  scene.speak = async () => null;
  scene.pipe = async () => null;
  await scene.open(1, 0);
  const room = scene.rooms.get('room-0');
  // Each peer: two WebRTC transports, five producers on the one, twenty consumers on the other.
  const peers = Math.ceil(Number(producers) / 5);
  const each = Math.ceil(Number(consumers) / peers);
  const all = [];
  for (let i = 0; i < peers; i++) {
    const peer = { id: `peer-${i}`, name: `Peer ${i}`, agent: `Browser/1.0 (${i})`,
      transports: [], producers: [], consumers: [] };
    const { router, pid } = room.routers[0];
    const receiving = await scene.addTransport(room, peer, 'webrtc', router, pid);
    await scene.addTransport(room, peer, 'webrtc', router, pid);
    for (const what of ['audio', 'ssrc-simulcast', 'audio', 'ssrc-simulcast', 'audio']) {
      all.push(await scene.produce(room, peer, receiving, what));
    }
    room.peers.set(peer.id, peer);
    scene.addShape(room, peer);
  }
  let next = 0;
  for (const peer of room.peers.values()) {
    for (let i = 0; i < each; i++) {
      await scene.consume(room, peer, peer.transports[1], all[next++ % all.length]);
    }
  }
  await listen(kind, path);
  console.log(JSON.stringify({ ready: true, pid: process.pid }));
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const command = JSON.parse(line).do;
    const answer = { gap: () => gaps.take(), churn, count }[command]();
    console.log(JSON.stringify(answer));
  }).on('close', () => process.exit());
}

// As the worker's notifications would: every consumer's observer says that its score changed.
function churn() {
  global.consumers.forEach((consumer) => consumer.observer.emit('score', consumer.score));
  return { done: true };
}

function count() {
  return { transports: global.transports.size, producers: global.producers.size,
    consumers: global.consumers.size };
}

main().catch((error) => {
  console.log(JSON.stringify({ error: String(error.stack || error) }));
  process.exit(1);
});
