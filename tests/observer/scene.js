// What a server of each kind holds: rooms and peers in that server's own shapes, around objects of
// a real mediasoup. `truth()` says what an observer has to find, from this file's own references.
'use strict';

const dgram = require('dgram');
const { EventEmitter } = require('events');

const MEDIA_CODECS = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48000, channels: 2 },
  { kind: 'video', mimeType: 'video/VP8', clockRate: 90000 }
];
const FEEDBACK = [{ type: 'nack' }, { type: 'nack', parameter: 'pli' }];
const RID_EXTENSION = { uri: 'urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id', id: 10 };
const AUDIO = { codecs: [{ mimeType: 'audio/opus', payloadType: 100, clockRate: 48000, channels: 2 }] };
const VIDEO = { codecs: [
  { mimeType: 'video/VP8', payloadType: 101, clockRate: 90000, rtcpFeedback: FEEDBACK },
  { mimeType: 'video/rtx', payloadType: 102, clockRate: 90000, parameters: { apt: 101 } }] };

// The Maps that all servers but the room server keep, filled by mediasoup's own events.
function keepGlobals(mediasoup) {
  const maps = {};
  for (const name of ['workers', 'routers', 'transports', 'producers', 'consumers',
    'dataProducers', 'dataConsumers']) {
    maps[name] = global[name] = new Map();
  }
  const keep = (map, key, object) => {
    map.set(key, object);
    object.observer.on('close', () => { if (map.get(key) === object) map.delete(key); });
  };
  mediasoup.observer.on('newworker', (worker) => {
    keep(maps.workers, worker.pid, worker);
    worker.observer.on('newrouter', (router) => {
      keep(maps.routers, router.id, router);
      router.observer.on('newtransport', (transport) => {
        keep(maps.transports, transport.id, transport);
        transport.observer.on('newproducer', (producer) =>
          keep(maps.producers, producer.id, producer));
        transport.observer.on('newconsumer', (consumer) =>
          keep(maps.consumers, consumer.id, consumer));
      });
    });
  });
}

class Scene {
  constructor(kind, mediasoup) {
    this.kind = kind;
    this.mediasoup = mediasoup;
    this.rooms = new Map();
    this.ssrc = 100000;
  }

  async open(rooms, peers) {
    keepGlobals(this.mediasoup);
    this.shape();
    this.workers = [];
    for (let i = 0; i < 2; i++) {
      this.workers.push(await this.mediasoup.createWorker({ logLevel: 'none' }));
    }
    for (let i = 0; i < rooms; i++) await this.openRoom(`room-${i}`);
    for (let i = 0; i < peers; i++) {
      for (const room of this.rooms.values()) await this.openPeer(room, `${room.name}-peer-${i}`);
    }
  }

  // The globals besides mediasoup's Maps.
  shape() {
    if (this.kind === 'edumeet3') {
      global.rooms = new Map();
      global.peers = new Map();
    } else if (this.kind === 'mediasoup-demo-ts') {
      global.rooms = new Map();
    } else if (this.kind === 'edumeet4-media-node') {
      global.roomServers = new Map();
      global.roomServerConnections = new Map();
    }
  }

  async openRoom(name) {
    const session = `session-of-${name}`;
    const room = { name, session, routers: [], peers: new Map(), lobby: new Map() };
    for (const worker of this.workers) {
      const appData = {
        'edumeet4-media-node': { roomId: session, producers: new Map(), pipeProducers: new Map(),
          webRtcTransports: new Map(), pipeTransports: new Map(), consumers: new Map() },
        'agent': { roomId: name }
      }[this.kind] || {};
      const router = await worker.createRouter({ mediaCodecs: MEDIA_CODECS, appData });
      // Up to 3.8 a router has no appData option.
      room.routers.push({ router, pid: worker.pid });
    }
    this.rooms.set(name, room);
    if (this.kind === 'edumeet3') {
      global.rooms.set(name, { _roomId: name, _peers: {},
        _mediasoupRouters: new Map(room.routers.map(({ router }) => [router.id, router])) });
    } else if (this.kind === 'mediasoup-demo-ts') {
      global.rooms.set(name, { id: name, serialize: () => ({ roomId: name,
        peers: Array.from(room.peers.values()).map((peer) => ({ peerId: peer.id,
          displayName: peer.name, device: { flag: 'chrome', name: 'Chrome', version: '120' } })),
        broadcasterPeers: [] }) });
    }
    return room;
  }

  async openPeer(room, id) {
    const { router, pid } = room.routers[0];
    const peer = { id, name: `Peer "${id}" \u{1f600}\ud83d`, agent: `Browser/1.0 (${id})`,
      transports: [], producers: [], consumers: [] };
    const transport = await this.addTransport(room, peer, 'webrtc', router, pid);
    const sending = await this.addTransport(room, peer, 'webrtc', router, pid);
    const plain = await this.addTransport(room, peer, 'plain', router, pid);
    await this.produce(room, peer, transport, 'audio');
    await this.produce(room, peer, transport, 'ssrc-simulcast');
    await this.produce(room, peer, plain, 'rid-simulcast');
    for (const other of room.peers.values()) {
      for (const producer of other.producers) {
        await this.consume(room, peer, sending, producer);
      }
      for (const producer of peer.producers) {
        await this.consume(room, other, other.transports[1], producer);
      }
    }
    room.peers.set(id, peer);
    this.addShape(room, peer);
    await this.pipe(room, peer);
    return peer;
  }

  async addTransport(room, peer, kind, router, pid) {
    const listenIps = [{ ip: '127.0.0.1', announcedIp: '192.0.2.1' }];
    const transport = kind === 'webrtc'
      ? await router.createWebRtcTransport({ listenIps, appData: { peer: peer.id } })
      : await router.createPlainTransport({ listenIp: '127.0.0.1', comedia: true, rtcpMux: true });
    const entry = { id: transport.id, object: transport, kind, pid, peer };
    peer.transports.push(entry);
    return entry;
  }

  async produce(room, peer, transport, what) {
    const ssrcs = [0, 1, 2].map(() => (this.ssrc += 2));
    const cname = peer.id;
    const appData = this.appData(peer, what);
    const options = {
      'audio': { kind: 'audio', appData, rtpParameters: Object.assign({ rtcp: { cname },
        mid: `${this.ssrc}`, encodings: [{ ssrc: ssrcs[0] }] }, AUDIO) },
      'ssrc-simulcast': { kind: 'video', appData, rtpParameters: Object.assign({ rtcp: { cname },
        mid: `${this.ssrc}`,
        encodings: ssrcs.map((ssrc) => ({ ssrc, rtx: { ssrc: ssrc + 1 } })) }, VIDEO) },
      'rid-simulcast': { kind: 'video', appData, rtpParameters: Object.assign({ rtcp: { cname },
        headerExtensions: [RID_EXTENSION],
        encodings: ['lo', 'mid', 'hi'].map((rid) => ({ rid })) }, VIDEO) }
    }[what];
    const object = await transport.object.produce(options);
    const producer = { id: object.id, object, transport, peer, ssrcs,
      rids: what === 'rid-simulcast' ? ['lo', 'mid', 'hi'] : null,
      rtx: what !== 'audio' };
    peer.producers.push(producer);
    const app = room.routers[0].router.appData;
    if (app && app.producers) app.producers.set(object.id, object);
    if (producer.rids) producer.live = await this.speak(transport.object, producer);
    return producer;
  }

  // edumeet 4's room server keeps to itself whose a stream is.
  appData(peer, source) {
    return this.kind === 'edumeet4-media-node' ? {} : { peerId: peer.id, source };
  }

  // Simulcast by RID signals no SSRC: packets that carry the RID tell the worker. As with browsers,
  // retransmissions come later than the first scores.
  async speak(transport, producer) {
    const socket = dgram.createSocket('udp4');
    await new Promise((resolve) => socket.bind(0, '127.0.0.1', resolve));
    const heard = new Promise((resolve) => producer.object.observer.on('score', (score) => {
      if (score.length === 3) resolve();
    }));
    let sequence = 0;
    const send = (payloadType, offset) => producer.rids.forEach((rid, i) => {
      socket.send(ridPacket(payloadType, producer.ssrcs[i] + offset, sequence, rid),
        transport.tuple.localPort, '127.0.0.1');
    });
    const timer = setInterval(() => { sequence++; send(101, 0); }, 20);
    await heard;
    const again = setInterval(() => send(102, 1), 20);
    for (let known = 0; known < 3;) {
      const stats = await producer.object.getStats();
      known = stats.filter((stat) => stat.rtxSsrc).length;
    }
    clearInterval(timer);
    clearInterval(again);
    producer.remote = socket.address().port;
    return socket;
  }

  async consume(room, peer, transport, producer) {
    const { router } = room.routers[0];
    const object = await transport.object.consume({ producerId: producer.id,
      rtpCapabilities: router.rtpCapabilities, paused: true,
      appData: this.appData(producer.peer, 'any') });
    const consumer = { id: object.id, object, transport, peer, producer };
    peer.consumers.push(consumer);
    if (this.kind === 'edumeet3' && global.peers.has(peer.id)) {
      global.peers.get(peer.id)._consumers.set(object.id, object);
    }
    return consumer;
  }

  // Between routers the first producer of a room is piped, under the same id.
  async pipe(room, peer) {
    if (room.piped) return;
    const source = room.routers[0].router;
    const target = room.routers[1].router;
    const { pipeConsumer, pipeProducer } = await source.pipeToRouter(
      { producerId: peer.producers[0].id, router: target });
    const app = target.appData;
    if (app && app.pipeProducers) app.pipeProducers.set(pipeProducer.id, pipeProducer);
    room.piped = { consumer: pipeConsumer, producer: pipeProducer, original: peer.producers[0] };
  }

  addShape(room, peer) {
    if (this.kind !== 'edumeet3') return;
    global.rooms.get(room.name)._peers[peer.id] = true;
    const byId = (list) => new Map(list.map((entry) => [entry.id, entry.object]));
    global.peers.set(peer.id, Object.assign(new EventEmitter(), { _id: peer.id,
      _roomId: room.name, _displayName: peer.name,
      _socket: { client: { request: { headers: { 'user-agent': peer.agent } } } },
      _transports: byId(peer.transports), _producers: byId(peer.producers),
      _consumers: byId(peer.consumers) }));
  }

  // Somebody who waits to be let in: the server knows them and their room, the room does not.
  waitInLobby(room, id) {
    const peer = { id, name: `Guest ${id}`, agent: `Browser/1.0 (${id})`, transports: [],
      producers: [], consumers: [] };
    room.lobby.set(id, peer);
    if (this.kind !== 'edumeet3') return;
    this.addShape(room, peer);
    delete global.rooms.get(room.name)._peers[id];
  }

  closePeer(room, id) {
    const peer = room.peers.get(id);
    room.peers.delete(id);
    peer.transports.forEach((transport) => transport.object.close());
    peer.producers.forEach((producer) => producer.live && producer.live.close());
    if (room.piped && room.piped.original.peer === peer) room.piped = null;
    room.peers.forEach((other) => {
      other.consumers = other.consumers.filter((consumer) => consumer.producer.peer !== peer);
    });
    if (this.kind === 'edumeet3') {
      global.peers.delete(id);
      delete global.rooms.get(room.name)._peers[id];
    }
  }

  // What a room server knows of the same rooms, in its own shape.
  roomServerView() {
    const rooms = [];
    const view = (peers) => Array.from(peers.values()).map((peer) => ({ id: peer.id,
      name: wellFormed(peer.name), agent: peer.agent,
      transports: peer.transports.map((entry) => entry.id),
      producers: peer.producers.map((entry) => entry.id),
      consumers: peer.consumers.map((entry) => entry.id) }));
    this.rooms.forEach((room) => rooms.push({ id: `0/${room.name}`, session: room.session,
      peers: view(room.peers), lobby: view(room.lobby) }));
    return rooms;
  }

  truth() {
    const kind = this.kind;
    const knows = { 'edumeet3': 'all', 'edumeet4-media-node': 'nobody' }[kind] || 'senders';
    const truth = { workers: this.workers.map((worker) => worker.pid), rooms: [], peers: [],
      transports: [], producers: [], consumers: [] };
    this.rooms.forEach((room) => {
      const name = { 'edumeet4-media-node': room.session, 'mediasoup-demo-js': null }[kind];
      const roomName = name === undefined ? room.name : name;
      // A session stands in for a room's name. It is no room.
      if (roomName === room.name) truth.rooms.push(roomName);
      if (kind === 'edumeet3') {
        room.lobby.forEach((peer) => truth.peers.push({ id: peer.id, room: null, name: peer.name,
          agent: peer.agent }));
      }
      room.peers.forEach((peer) => {
        if (kind === 'edumeet3' || kind === 'mediasoup-demo-ts') {
          truth.peers.push({ id: peer.id, room: roomName, name: wellFormed(peer.name),
            agent: kind === 'edumeet3' ? peer.agent : 'Chrome 120' });
        }
        const sends = (entry) => peer.producers.some((producer) => producer.transport === entry);
        const owner = (entry) => (
          knows === 'all' || knows === 'senders' && sends(entry) ? peer.id : null);
        peer.transports.forEach((entry) => truth.transports.push({ id: entry.id,
          kind: entry.kind, pid: entry.pid, room: roomName, peer: owner(entry),
          tuples: tuplesOf(entry.object) }));
        peer.producers.forEach((entry) => truth.producers.push({ id: entry.id,
          transport: entry.transport.id, room: roomName, peer: owner(entry.transport),
          kind: entry.object.kind, codec: entry.object.kind === 'audio' ? 'opus' : 'VP8',
          paused: entry.object.paused,
          encodings: (entry.object.kind === 'audio' ? entry.ssrcs.slice(0, 1) : entry.ssrcs)
            .map((ssrc, i) => ({ ssrc, rid: entry.rids ? entry.rids[i] : null,
              rtx: entry.rtx ? ssrc + 1 : null })) }));
        peer.consumers.forEach((entry) => truth.consumers.push({ id: entry.id,
          producer: entry.producer.id, transport: entry.transport.id, room: roomName,
          peer: owner(entry.transport), kind: entry.object.kind, paused: entry.object.paused,
          producerPaused: entry.object.producerPaused, score: entry.object.score.score,
          encodings: entry.object.rtpParameters.encodings.map((encoding) => ({
            ssrc: encoding.ssrc, rid: null, rtx: encoding.rtx ? encoding.rtx.ssrc : null })) }));
      });
      this.pipeTruth(truth, room, roomName);
    });
    return truth;
  }

  pipeTruth(truth, room, roomName) {
    // Transports that we did not make. (In a bundle, classes' names are none.)
    const made = new Set(truth.transports.map((transport) => transport.id));
    room.routers.forEach(({ router, pid }) => {
      global.transports.forEach((transport) => {
        const internal = transport.internal || transport._internal;
        if (internal.routerId !== router.id || made.has(transport.id)) return;
        truth.transports.push({ id: transport.id, kind: 'pipe', pid, room: roomName, peer: null,
          tuples: tuplesOf(transport) });
        // The transports outlive what was piped.
        if (!room.piped) return;
        if (router === room.routers[0].router) {
          const consumer = room.piped.consumer;
          truth.consumers.push({ id: consumer.id, producer: consumer.producerId,
            transport: transport.id, room: roomName, peer: null, kind: consumer.kind,
            paused: consumer.paused, producerPaused: consumer.producerPaused,
            score: consumer.score.score,
            encodings: consumer.rtpParameters.encodings.map((encoding) => ({
              ssrc: encoding.ssrc, rid: null, rtx: encoding.rtx ? encoding.rtx.ssrc : null })) });
        } else {
          const producer = room.piped.producer;
          truth.producers.push({ id: producer.id, transport: transport.id, room: roomName,
            peer: this.kind === 'edumeet4-media-node' ? null : room.piped.original.peer.id,
            kind: producer.kind, codec: 'opus',
            paused: producer.paused,
            encodings: producer.rtpParameters.encodings.map((encoding) => ({
              ssrc: encoding.ssrc, rid: null, rtx: encoding.rtx ? encoding.rtx.ssrc : null })) });
        }
      });
    });
  }

  // Listeners and timers on mediasoup's objects: equal before and after an observer's visit.
  listeners() {
    let count = 0;
    const add = (emitter) => emitter.eventNames().forEach((event) => {
      count += emitter.listenerCount(event);
    });
    for (const name of ['workers', 'routers', 'transports', 'producers', 'consumers']) {
      global[name].forEach((object) => { add(object); add(object.observer); });
    }
    add(this.mediasoup.observer);
    return count;
  }
}

function tuplesOf(transport) {
  return [transport.iceSelectedTuple, transport.tuple].filter(Boolean).map((tuple) => ({
    proto: tuple.protocol, port: tuple.localPort,
    remote: tuple.remoteIp ? `${tuple.remoteIp}:${tuple.remotePort}` : null }));
}

function wellFormed(text) {
  return String(Buffer.from(text));
}

// An RTP packet with a one-byte header extension (RFC 8285) that holds the RID, and VP8 payload.
function ridPacket(payloadType, ssrc, sequence, rid) {
  const header = Buffer.alloc(12);
  header[0] = 0x90;
  header[1] = payloadType;
  header.writeUInt16BE(sequence & 0xffff, 2);
  header.writeUInt32BE(sequence * 3000, 4);
  header.writeUInt32BE(ssrc, 8);
  const element = Buffer.concat([Buffer.from([RID_EXTENSION.id << 4 | rid.length - 1]),
    Buffer.from(rid)]);
  const padded = Buffer.alloc(Math.ceil(element.length / 4) * 4);
  element.copy(padded);
  const extension = Buffer.alloc(4);
  extension.writeUInt16BE(0xbede, 0);
  extension.writeUInt16BE(padded.length / 4, 2);
  return Buffer.concat([header, extension, padded, Buffer.from([0x10, 0, 0, 0]), Buffer.alloc(80)]);
}

// A room server holds no mediasoup objects: rooms, peers, and the ids of what they use elsewhere.
// Who waits in the lobby has the room's session like everybody in it.
function roomServer(view) {
  const byId = (ids) => new Map(ids.map((id) => [id, { id }]));
  const rooms = new Map();
  const peers = new Map();
  view.forEach((room) => {
    const known = (list) => ({ items: list.map((peer) => {
      const [producing, consuming] = peer.transports.map((id) => ({ id }));
      peers.set(peer.id, { id: peer.id, displayName: peer.name, sessionId: room.session,
        connections: { items: [
          { socket: { handshake: { headers: { 'user-agent': peer.agent } } } }] },
        producingTransport: producing, consumingTransport: consuming,
        producers: byId(peer.producers), consumers: byId(peer.consumers) });
      return peers.get(peer.id);
    }) });
    rooms.set(room.id, { id: room.id, sessionId: room.session, breakoutRooms: new Map(),
      peers: known(room.peers), lobbyPeers: known(room.lobby), pendingPeers: { items: [] } });
  });
  global.serverManager = { rooms, peers };
}

module.exports = { Scene, roomServer };
