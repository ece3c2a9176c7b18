'use strict';
// Rooms and peers, with the private names that an edumeet 3 server has and that an observer reads:
// `peer._roomId`, `peer._displayName`, `peer._transports` … Every room has routers on one or more
// workers. Knows nothing of the control protocol.

const codecs = [
  { kind: 'audio', mimeType: 'audio/opus', clockRate: 48000, channels: 2 },
  { kind: 'video', mimeType: 'video/VP8', clockRate: 90000 },
];

const rooms = new Map();
// Of each router's worker.
const pids = new WeakMap();
const peers = new Map();

class Room {
  constructor(id, routers) {
    this._roomId = id;
    this._mediasoupRouters = new Map(routers.map((router) => [router.id, router]));
    this._peers = {};
  }

  get id() {
    return this._roomId;
  }

  router(index = 0) {
    const routers = [...this._mediasoupRouters.values()];
    if (!routers[index]) throw new Error(`room ${this._roomId} has no router ${index}`);
    return routers[index];
  }
}

class Peer {
  constructor({ peer, room, displayName, userAgent }) {
    this._id = peer;
    this._roomId = room;
    this._displayName = displayName;
    this._socket = { client: { request: { headers: { 'user-agent': userAgent } } } };
    this._transports = new Map();
    this._producers = new Map();
    this._consumers = new Map();
    this._closed = false;
  }

  get id() {
    return this._id;
  }

  get roomId() {
    return this._roomId;
  }

  get displayName() {
    return this._displayName;
  }

  get transports() {
    return this._transports;
  }

  get producers() {
    return this._producers;
  }

  get consumers() {
    return this._consumers;
  }

  close() {
    this._closed = true;
    for (const transport of this._transports.values()) transport.close();
  }
}

function find(map, id, what) {
  const found = map.get(id);
  if (!found) throw new Error(`no ${what} ${id}`);
  return found;
}

async function openRoom({ room, routers = 1 }, workers) {
  if (rooms.has(room)) throw new Error(`room ${room} is open already`);
  const made = [];
  for (let i = 0; i < routers; i += 1) {
    const worker = workers[(rooms.size + i) % workers.length];
    const router = await worker.createRouter({ mediaCodecs: codecs });
    pids.set(router, worker.pid);
    made.push(router);
  }
  rooms.set(room, new Room(room, made));
  return { routers: made.map((router) => router.id) };
}

function closeRoom({ room }) {
  const it = find(rooms, room, 'room');
  for (const id of Object.keys(it._peers)) leave({ peer: id });
  for (const router of it._mediasoupRouters.values()) router.close();
  rooms.delete(room);
}

function join(options) {
  const room = find(rooms, options.room, 'room');
  const peer = new Peer(options);
  room._peers[peer.id] = peer;
  peers.set(peer.id, peer);
}

function leave({ peer: id }) {
  const peer = find(peers, id, 'peer');
  peer.close();
  const room = rooms.get(peer.roomId);
  if (room) delete room._peers[id];
  peers.delete(id);
}

module.exports = { rooms, peers, pids, find, openRoom, closeRoom, join, leave };
