// A server around objects in the shape of mediasoup 3.6, of which there is no worker to be had:
// private Maps lead from worker to router to transport to stream, and nobody answers dump().
'use strict';

const { EventEmitter } = require('events');
const readline = require('readline');
const { listen } = require('./console.js');

const emitter = (fields) => Object.assign(new EventEmitter(), { observer: new EventEmitter(),
  closed: false }, fields);

class PlainTransport extends EventEmitter {}

function transport() {
  return Object.assign(new PlainTransport(), { id: 'T', closed: false, observer: new EventEmitter(),
    _internal: { routerId: 'R', transportId: 'T' }, appData: {},
    tuple: { localIp: '192.0.2.1', localPort: 40000, protocol: 'udp' } });
}

const parameters = (ssrc) => ({ codecs: [{ mimeType: 'audio/opus' }], encodings: [{ ssrc }] });
const t = transport();
const producer = emitter({ id: 'P', kind: 'audio', type: 'simple', paused: false, score: [],
  rtpParameters: parameters(1), appData: { peerId: 'p' }, _internal: { transportId: 'T' },
  getStats: async () => [{ type: 'inbound-rtp', ssrc: 1, byteCount: 100, packetCount: 1 }] });
const consumer = emitter({ id: 'C', kind: 'audio', type: 'simple', producerId: 'P', paused: false,
  producerPaused: false, score: { score: 7, producerScore: 8 }, currentLayers: null,
  rtpParameters: parameters(2), appData: {}, getStats: async () => [] });
t._producers = new Map([['P', producer]]);
t._consumers = new Map([['C', consumer]]);
const router = emitter({ id: 'R', _transports: new Map([['T', t]]), appData: {} });
const worker = emitter({ pid: 4242, _routers: new Set([router]) });

Object.assign(global, { workers: new Map([[4242, worker]]), routers: new Map([['R', router]]),
  transports: new Map([['T', t]]), producers: new Map([['P', producer]]),
  consumers: new Map([['C', consumer]]) });

// connect() sets the far end without an event.
function connect() {
  t.tuple = Object.assign({ remoteIp: '203.0.113.9', remotePort: 9 }, t.tuple);
  return { done: true };
}

// The worker has closed the consumer: as in mediasoup, a request's error comes before the word of it.
function lose() {
  consumer.getStats = () => {
    setImmediate(() => {
      consumer.closed = true;
      consumer.observer.emit('close');
    });
    return Promise.reject(new Error('Consumer not found'));
  };
  return { done: true };
}

// What is thrown has not even a text.
function poison() {
  Object.defineProperty(consumer, 'score', { get() { throw Object.create(null); } });
  consumer.observer.emit('score');
  return { done: true };
}

const deeds = { connect, lose, poison };
listen('mediasoup-demo-js', process.argv[2]).then(({ server }) => {
  console.log(JSON.stringify({ ready: true }));
  const commands = readline.createInterface({ input: process.stdin });
  // Lets go of all that keeps the process alive.
  deeds.rest = () => {
    commands.removeAllListeners('close');
    process.stdin.destroy();
    server.close();
    return { done: true };
  };
  commands.on('line', (line) => console.log(JSON.stringify(deeds[JSON.parse(line).do]())))
    .on('close', () => process.exit());
});
