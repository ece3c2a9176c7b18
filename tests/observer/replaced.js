// A server with many streams and, within its own event loop, the work of an exporter that asks the
// worker at every scrape: `node replaced.js SOCKET PRODUCERS CONSUMERS`. Commands on stdin, one a
// line: `scrape` and `requests` (how many the workers have been sent so far).
'use strict';

const path = require('path');
const readline = require('readline');
const mediasoup = require('mediasoup');
const { listen } = require('./console.js');
const { Scene } = require('./scene.js');

const [socket, producers, consumers] = process.argv.slice(2);
const KIND = 'edumeet3';

// Counts below everything that anyone may call.
let requests = 0;
const { Channel } = require(path.join(path.dirname(require.resolve('mediasoup')), 'Channel.js'));
const send = Channel.prototype.request;
Channel.prototype.request = function request(...fields) {
  requests += 1;
  return send.apply(this, fields);
};

async function main() {
  const scene = new Scene(KIND, mediasoup);
  scene.speak = async () => null;
  scene.pipe = async () => null;
  await scene.open(1, 0);
  const room = scene.rooms.get('room-0');
  const { router, pid } = room.routers[0];
  // Each peer: two WebRTC transports, five producers on the one, its consumers on the other.
  const peers = Math.ceil(Number(producers) / 5);
  const each = Math.ceil(Number(consumers) / peers);
  const all = [];
  for (let i = 0; i < peers; i++) {
    const peer = { id: `peer-${i}`, name: `Peer ${i}`, agent: `Browser/1.0 (${i})`,
      transports: [], producers: [], consumers: [] };
    const receiving = await scene.addTransport(room, peer, 'webrtc', router, pid);
    await scene.addTransport(room, peer, 'webrtc', router, pid);
    for (let j = 0; j < 5; j++) all.push(await scene.produce(room, peer, receiving, 'audio'));
    room.peers.set(peer.id, peer);
    scene.addShape(room, peer);
  }
  let next = 0;
  for (const peer of room.peers.values()) {
    for (let i = 0; i < each; i++) {
      await scene.consume(room, peer, peer.transports[1], all[next++ % all.length]);
    }
  }
  await listen(KIND, socket);
  answer({ ready: true });
  const commands = { scrape, requests: async () => ({ requests }) };
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    commands[line]().then(answer, (error) => answer({ error: String(error.stack || error) }));
  }).on('close', () => process.exit());
}

function answer(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

// One dump a transport, one getStats a stream, then a text of four families.
async function scrape() {
  const begin = process.hrtime.bigint();
  const families = { mediasoup_producer_byte_count_bytes: [], mediasoup_consumer_byte_count_bytes: [],
    mediasoup_producer_score: [], mediasoup_consumer_score: [] };
  for (const peer of global.peers.values()) {
    const { id: peerId, _roomId: room, _displayName: name } = peer;
    const agent = peer._socket.client.request.headers['user-agent'];
    for (const transport of peer._transports.values()) {
      const dump = await transport.dump();
      const tuple = dump.iceSelectedTuple || {};
      const common = { pid: 1, room_id: room, peer_id: peerId, display_name: name,
        user_agent: agent, transport_id: transport.id, proto: tuple.protocol,
        local_addr: `${tuple.localIp}:${tuple.localPort}`,
        remote_addr: `${tuple.remoteIp}:${tuple.remotePort}` };
      for (const [kind, ids, streams] of [['producer', dump.producerIds, peer._producers],
        ['consumer', dump.consumerIds, peer._consumers]]) {
        for (const id of ids) {
          const stream = streams.get(id);
          if (!stream) continue;
          const codec = stream.rtpParameters.codecs[0].mimeType.replace(/^.*\//, '');
          for (const stats of await stream.getStats()) {
            const labels = { ...common, id, kind: stream.kind, codec, type: stats.type };
            families[`mediasoup_${kind}_byte_count_bytes`].push([labels, stats.byteCount]);
            families[`mediasoup_${kind}_score`].push([labels, stats.score]);
          }
        }
      }
    }
  }
  const text = Object.entries(families).map(([name, rows]) => write(name, rows)).join('');
  const milliseconds = Number(process.hrtime.bigint() - begin) / 1e6;
  return { milliseconds, bytes: text.length };
}

function write(name, rows) {
  const escape = (value) => String(value).replace(/[\\"\n]/g, (it) => (it === '\n' ? '\\n' : `\\${it}`));
  return rows.map(([labels, value]) => {
    const pairs = Object.entries(labels).map(([label, it]) => `${label}="${escape(it)}"`);
    return `${name}{${pairs.join(',')}} ${value}\n`;
  }).join('');
}

main().catch((error) => {
  answer({ error: String(error.stack || error) });
  process.exit(1);
});
