// Tells mediasoup-exporter what a mediasoup server knows: rooms, peers, transports, producers and
// consumers, as JSON lines on a Unix socket (docs/observer-protocol.md).
//
// One script, two ways in. Evaluated in a server's console it is an expression whose value is
// `install`, which speaks on the console's socket, that the loader has taken over. Loaded with
// `node --require` or `--import` it waits for mediasoup's first worker, then listens on a Unix
// socket of its own and speaks to whoever connects.
//
// It reads getters and listens to `.observer` events. It asks a worker for something only to find
// the parents of objects older than itself, and for statistics, at a bounded rate. It changes
// nothing in the server, never throws into it, and leaves nothing behind when its socket closes.
// (As an agent it stays, and stands before two functions of Node.js', which it calls: see `agent`.)
// Node.js 12 and later; no dependency.
(function () {
'use strict';

const PROTOCOL = 1;
// The event loop is given back after this long, however much is left to tell.
const SLICE_MS = 4;
// Changes of one object within this time are told once.
const FLUSH_MS = 200;
const DIRECTORY_MS = 2000;
const BEAT_MS = 5000;
const TICK_MS = 50;
// Characters of a stranger's string, of an identifier; entries of an array; objects; waiting bytes.
const TEXT = 256;
const IDENTIFIER = 128;
const ENTRIES = 64;
const OBJECTS = 400000;
const PENDING = 8 << 20;
// Requests to workers under way at a time, and when one is given up.
const OUTSTANDING = 4;
const REQUEST_MS = 30000;
// When a producer is asked again whose answer does not name the retransmissions' SSRCs yet.
const AGAIN_MS = [0, 1000, 2000, 4000];
// How long after its start a process is said to have no mediasoup, a worker no objects.
const FOUND_MS = 10000;
// Exporters that may listen to one server at a time.
const INSTANCES = 4;
const REGISTRY = Symbol.for('mediasoup-exporter');
// What a server calls that has to say itself where its mediasoup is.
const ATTACH = Symbol.for('mediasoup-exporter.attach');

// Speaks on `socket` until it closes. `need` is the server's `require`. `roots` holds Maps of
// what exists; without it the server's globals are the roots.
function install(socket, need, roots) {
  const registry = global[REGISTRY] && global[REGISTRY].instances >= 0
    ? global[REGISTRY] : (global[REGISTRY] = { instances: 0 });
  const records = new Map();
  const hooks = new Set();
  const timers = new Set();
  const unsettled = new Set();
  const kind = detect();
  let dirty = [];
  let flushTimer = null;
  let out = '';
  let outScheduled = false;
  let sliceStart = 0;
  let sliceOpen = false;
  let longestSlice = 0;
  let dropped = 0;
  let failures = 0;
  let requests = 0;
  let lastError = 0;
  let started = false;
  let stopped = false;
  let options = { stats: 0, rate: 200 };

  registry.instances++;
  socket.setEncoding('utf8');
  socket.on('error', stop);
  socket.on('end', stop);
  socket.on('close', stop);
  socket.on('data', guard(commands()));
  if (socket.unref) socket.unref();
  if (registry.instances > INSTANCES) {
    say({ t: 'error', op: 'install', message: 'too many exporters listen to this server' });
    push();
    socket.end();
    return stop();
  }
  say({ t: 'hello', v: PROTOCOL, kind: kind, mediasoup: mediasoupVersion(),
    node: text(process.version), pid: process.pid });
  push();

  // ---- Life -------------------------------------------------------------------------------------

  function stop() {
    if (stopped) return;
    stopped = true;
    hooks.forEach((hook) => {
      try { hook[0].removeListener(hook[1], hook[2]); } catch (error) { /* the others go */ }
    });
    hooks.clear();
    timers.forEach((timer) => { clearInterval(timer); clearTimeout(timer); });
    timers.clear();
    records.clear();
    unsettled.clear();
    dirty = [];
    out = '';
    // The listener for errors stays: a late write error must never end the server.
    socket.removeListener('end', stop);
    socket.removeListener('close', stop);
    socket.removeAllListeners('data');
    socket.destroy();
    registry.instances--;
    if (registry.instances <= 0 && global[REGISTRY] === registry) delete global[REGISTRY];
  }

  // The exporter's lines: `{"stats":15,"rate":200}` sets how often statistics are asked for.
  function commands() {
    let buffer = '';
    return (data) => {
      buffer += data;
      if (buffer.length > 4096) return stop();
      for (let end = buffer.indexOf('\n'); end >= 0; end = buffer.indexOf('\n')) {
        const line = buffer.slice(0, end);
        buffer = buffer.slice(end + 1);
        if (line) options = Object.assign({}, options, JSON.parse(line));
        if (!started) start();
      }
    };
  }

  function start() {
    started = true;
    every(BEAT_MS, beat);
    const observers = mediasoupObservers();
    const anchor = { hooks: [] };
    observers.forEach((observer) => listen(anchor, observer, 'newworker', addWorker));
    walk().then(() => {
      if (stopped) return;
      every(DIRECTORY_MS, () => {
        directory().catch(failed('directory'));
        settleTuples();
        if (!observers.length) rescan().catch(failed('rescan'));
      });
      every(TICK_MS, stats);
    }).catch(failed('walk'));
  }

  function beat() {
    say({ t: 'beat', objects: records.size, requests: requests, dropped: dropped,
      failures: failures, slice: longestSlice });
    longestSlice = 0;
  }

  function guard(f) {
    return function () {
      if (stopped) return undefined;
      try { return f.apply(this, arguments); } catch (error) { return failed('listener')(error); }
    };
  }

  // At most one error line in ten seconds; all are counted. Throws nothing itself, whatever was
  // thrown: nobody would catch it before the server ends.
  function failed(op) {
    return (error) => {
      failures++;
      if (stopped || now() - lastError < 10000) return;
      lastError = now();
      let message = 'an error without text';
      try { message = text(String(error && error.message || error)); } catch (none) { /* that */ }
      say({ t: 'error', op: op, message: message });
    };
  }

  function every(ms, f) {
    const timer = setInterval(guard(f), ms);
    if (timer.unref) timer.unref();
    timers.add(timer);
  }

  function later(ms, f) {
    const timer = setTimeout(() => { timers.delete(timer); guard(f)(); }, ms);
    if (timer.unref) timer.unref();
    timers.add(timer);
    return timer;
  }

  // ---- Lines ------------------------------------------------------------------------------------

  function say(line) {
    if (stopped) return;
    out += JSON.stringify(line) + '\n';
    if (out.length > 32768) return push();
    if (outScheduled) return;
    outScheduled = true;
    setImmediate(guard(push));
  }

  function push() {
    outScheduled = false;
    if (stopped || !out) return;
    const bytes = out;
    out = '';
    socket.write(bytes);
    // An exporter that does not read must not fill the server's memory.
    if (socket.writableLength > PENDING) stop();
  }

  // Whether this turn of the event loop has been long enough, whichever of several functions used
  // it up. Date.now() because it is asked for each object.
  function due() {
    if (sliceOpen) return Date.now() - sliceStart >= SLICE_MS;
    sliceOpen = true;
    sliceStart = Date.now();
    setImmediate(() => { sliceOpen = false; });
    return false;
  }

  // Gives the event loop back, and waits for a slow reader.
  async function breathe() {
    longestSlice = Math.max(longestSlice, Date.now() - sliceStart);
    push();
    do {
      await new Promise((resolve) => setImmediate(resolve));
    } while (!stopped && socket.writableLength > PENDING / 2);
  }

  // ---- Objects ----------------------------------------------------------------------------------

  function record(what, id, object, parent, put, state) {
    const key = what === 'producer' ? 'producer ' + parent + ' ' + id : what + ' ' + id;
    if (stopped || records.has(key) || object.closed) return null;
    if (records.size >= OBJECTS) { dropped++; return null; }
    const rec = { key, what, id, object, parent, put, state, hooks: [], children: new Set(),
      dirty: false };
    rec.touch = guard(() => touch(rec));
    records.set(key, rec);
    if (object.observer) listen(rec, object.observer, 'close', () => drop(rec));
    return rec;
  }

  function announce(rec) {
    say(Object.assign({ t: rec.what, id: rec.id }, rec.put(rec), rec.state(rec)));
  }

  function touch(rec) {
    if (rec.dirty || rec.gone) return;
    rec.dirty = true;
    dirty.push(rec);
    if (!flushTimer) flushTimer = later(FLUSH_MS, () => flush().catch(failed('flush')));
  }

  async function flush() {
    const batch = dirty;
    dirty = [];
    flushTimer = null;
    for (const rec of batch) {
      if (stopped) return;
      rec.dirty = false;
      if (!rec.gone) tell(rec);
      if (due()) await breathe();
    }
  }

  function tell(rec) {
    const where = rec.what === 'producer' ? { transport: rec.parent } : {};
    try {
      say(Object.assign({ t: rec.what + '-state', id: rec.id }, where, rec.state(rec)));
    } catch (error) { failed('state')(error); }
  }

  function drop(rec) {
    if (rec.gone) return;
    // What it sent is its own, also if it closes before anybody was told where it sent from.
    if (rec.what === 'transport' && (rec.dirty || unsettled.has(rec))) tell(rec);
    rec.gone = true;
    rec.hooks.forEach((hook) => {
      hook[0].removeListener(hook[1], hook[2]);
      hooks.delete(hook);
    });
    records.delete(rec.key);
    hurried.delete(rec);
    const line = { t: 'gone', what: rec.what, id: rec.id };
    if (rec.what === 'producer') line.transport = rec.parent;
    say(line);
    if (rec.twin) drop(rec.twin);
  }

  function listen(rec, emitter, event, f) {
    const hook = [emitter, event, guard(f)];
    emitter.on(event, hook[2]);
    rec.hooks.push(hook);
    hooks.add(hook);
  }

  function addWorker(worker) {
    const rec = record('worker', worker.pid, worker, null, () => ({}), () => ({}));
    if (!rec) return;
    listen(rec, worker.observer, 'newrouter', (router) => {
      addRouter(router, worker.pid);
      soonDirectory();
    });
    announce(rec);
  }

  function addRouter(router, pid) {
    const rec = record('router', router.id, router, pid,
      () => ({ pid: pid, session: appText(router, 'roomId') }), () => ({}));
    if (!rec) return;
    listen(rec, router.observer, 'newtransport', (transport) => {
      addTransport(transport, router.id);
      soonDirectory();
    });
    announce(rec);
  }

  function addTransport(transport, router) {
    const rec = record('transport', transport.id, transport, router,
      () => ({ router: router, kind: transportKind(transport) }), transportState);
    if (!rec) return;
    listen(rec, transport.observer, 'newproducer', (producer) => {
      if (unsettled.has(rec)) touch(rec);
      addProducer(producer, transport.id);
      soonDirectory();
    });
    listen(rec, transport.observer, 'newconsumer', (consumer) => {
      if (unsettled.has(rec)) touch(rec);
      addConsumer(consumer, transport.id);
      soonDirectory();
    });
    ['icestatechange', 'iceselectedtuplechange', 'dtlsstatechange', 'tuple', 'rtcptuple']
      .forEach((event) => listen(rec, transport.observer, event, rec.touch));
    // connect() of plain and pipe transports sets the tuple without an event.
    if (/plain|pipe/.test(transportKind(transport))) unsettled.add(rec);
    announce(rec);
  }

  function addProducer(producer, transport) {
    const rec = record('producer', producer.id, producer, transport,
      () => producerFacts(producer, transport), producerState);
    if (!rec) return null;
    ['score', 'pause', 'resume'].forEach((event) =>
      listen(rec, producer.observer, event, rec.touch));
    if (retransmitsUnnamed(producer)) {
      listen(rec, producer.observer, 'score', () => hurry(rec));
      hurry(rec);
    }
    announce(rec);
    return rec;
  }

  function addConsumer(consumer, transport) {
    const rec = record('consumer', consumer.id, consumer, transport,
      () => consumerFacts(consumer, transport), consumerState);
    if (!rec) return;
    ['score', 'pause', 'resume', 'layerschange'].forEach((event) =>
      listen(rec, consumer.observer, event, rec.touch));
    // While the consumer itself is paused its observer does not tell these.
    ['producerpause', 'producerresume'].forEach((event) =>
      listen(rec, consumer, event, rec.touch));
    announce(rec);
  }

  function settleTuples() {
    unsettled.forEach((rec) => {
      const settled = rec.gone || transportState(rec).tuples.some((tuple) => tuple.remote);
      if (!settled) return;
      unsettled.delete(rec);
      touch(rec);
    });
  }

  // ---- What a line holds ------------------------------------------------------------------------

  function transportKind(transport) {
    const name = transport.type || transport.constructor && transport.constructor.name || '';
    const named = /^(webrtc|plain|pipe|direct)/i.exec(name);
    if (named) return named[1].toLowerCase();
    // A bundler may have shortened the class's name.
    return 'iceState' in transport ? 'webrtc' : 'rtcpTuple' in transport ? 'plain'
      : 'tuple' in transport ? 'pipe' : 'direct';
  }

  function transportState(rec) {
    const transport = rec.object;
    const tuples = [transport.iceSelectedTuple, transport.tuple, transport.rtcpTuple]
      .filter((tuple) => tuple && typeof tuple === 'object')
      .map((tuple) => ({
        proto: tuple.protocol === 'tcp' ? 'tcp' : 'udp',
        local: text(tuple.localIp || tuple.localAddress),
        port: tuple.localPort,
        remote: tuple.remoteIp ? text(tuple.remoteIp) : undefined,
        rport: tuple.remotePort
      }));
    return { tuples: tuples, ice: text(transport.iceState), dtls: text(transport.dtlsState) };
  }

  function producerFacts(producer, transport) {
    return { transport: transport, kind: producer.kind, codec: codec(producer),
      peer: appText(producer, 'peerId'), enc: encodings(producer) };
  }

  function producerState(rec) {
    return { score: list(rec.object.score).map((score) =>
      ({ ssrc: score.ssrc, rid: text(score.rid), score: score.score })),
    paused: !!rec.object.paused };
  }

  function consumerFacts(consumer, transport) {
    return { transport: transport, producer: consumer.producerId, kind: consumer.kind,
      codec: codec(consumer), enc: encodings(consumer) };
  }

  function consumerState(rec) {
    const consumer = rec.object;
    const score = consumer.score || {};
    const layers = consumer.currentLayers;
    return { score: score.score, pscore: score.producerScore,
      layers: layers ? [layers.spatialLayer || 0, layers.temporalLayer || 0] : undefined,
      paused: !!consumer.paused, ppaused: !!consumer.producerPaused };
  }

  function encodings(stream) {
    return list(stream.rtpParameters && stream.rtpParameters.encodings).map((encoding) => ({
      ssrc: encoding.ssrc, rid: text(encoding.rid), rtx: encoding.rtx && encoding.rtx.ssrc
    }));
  }

  function codec(stream) {
    const codecs = list(stream.rtpParameters && stream.rtpParameters.codecs);
    return text(codecs.length ? String(codecs[0].mimeType).split('/')[1] : '') || '';
  }

  function appText(object, name) {
    const value = object.appData && object.appData[name];
    return typeof value === 'string' ? text(value) : undefined;
  }

  // ---- The first walk ---------------------------------------------------------------------------

  async function walk() {
    const routerPids = new Map();
    for (const worker of values(root('workers'))) {
      addWorker(worker);
      const routers = worker._routers || worker.routersForTesting;
      if (routers) {
        for (const router of routers) routerPids.set(router.id, worker.pid);
      } else if (!roots) {
        const dump = await ask(worker, () => worker.dump(), 'worker.dump');
        list(dump && dump.routerIds).forEach((id) => routerPids.set(id, worker.pid));
      }
      if (due()) await breathe();
    }
    for (const router of values(root('routers'))) {
      addRouter(router, routerPids.get(router.id) || (roots && roots.parents.get(router)) || 0);
      if (due()) await breathe();
    }
    for (const transport of values(root('transports'))) {
      addTransport(transport, parentOf(transport, 'routerId') || '');
      if (due()) await breathe();
    }
    await walkStreams();
    await directory();
    say({ t: 'synced' });
  }

  // A bundled server hides mediasoup's own observer: then its Maps tell of new workers.
  async function rescan() {
    for (const worker of values(root('workers'))) addWorker(worker);
    for (const router of values(root('routers'))) {
      if (!records.has('router ' + router.id)) addRouter(router, routerPid(router));
    }
    for (const transport of values(root('transports'))) {
      if (records.has('transport ' + transport.id)) continue;
      addTransport(transport, parentOf(transport, 'routerId') || '');
      const rec = records.get('transport ' + transport.id);
      if (rec) await adoptStreams(rec);
      if (due()) await breathe();
    }
  }

  function routerPid(router) {
    for (const worker of values(root('workers'))) {
      const routers = worker._routers || worker.routersForTesting;
      if (routers && routers.has && routers.has(router)) return worker.pid;
    }
    return 0;
  }

  async function walkStreams() {
    const transports = Array.from(records.values()).filter((rec) => rec.what === 'transport');
    let asking = false;
    for (const rec of transports) {
      // Private Maps up to 3.8; agent mode has kept the parents itself.
      if (roots || rec.object._producers) {
        for (const producer of values(rec.object._producers)) addProducer(producer, rec.id);
        for (const consumer of values(rec.object._consumers)) addConsumer(consumer, rec.id);
      } else {
        asking = true;
      }
      if (due()) await breathe();
    }
    if (roots) {
      for (const producer of values(roots.producers)) {
        addProducer(producer, roots.parents.get(producer));
        if (due()) await breathe();
      }
      for (const consumer of values(roots.consumers)) {
        addConsumer(consumer, roots.parents.get(consumer));
        if (due()) await breathe();
      }
    }
    if (!asking) return;
    const adopt = async () => {
      for (let rec = transports.shift(); rec && !stopped; rec = transports.shift()) {
        await adoptStreams(rec);
      }
    };
    await Promise.all(Array.from({ length: OUTSTANDING }, adopt));
  }

  // From 3.9 on neither side of transport and stream tells the other: the worker does.
  async function adoptStreams(rec) {
    if (rec.gone) return;
    const dump = await ask(rec.object, () => rec.object.dump(), 'transport.dump');
    if (!dump || rec.gone || stopped) return;
    const pipe = transportKind(rec.object) === 'pipe';
    for (const id of dump.producerIds || []) {
      const producer = findProducer(id, ssrcsOf(dump, id), pipe);
      if (producer) addProducer(producer, rec.id); else addShadow(id, rec, dump);
      if (due()) await breathe();
    }
    for (const id of dump.consumerIds || []) {
      const consumer = root('consumers').get(id);
      if (consumer) addConsumer(consumer, rec.id);
      if (due()) await breathe();
    }
  }

  // pipeToRouter gives the copy the same id, so a Map by id holds only one of the two: the one
  // whose SSRCs the transport listens to is meant. A copy always has SSRCs.
  function findProducer(id, heard, pipe) {
    const fits = (producer) => {
      if (!producer) return false;
      const ssrcs = encodings(producer).map((encoding) => encoding.ssrc).filter(Boolean);
      return ssrcs.length ? ssrcs.every((ssrc) => heard.indexOf(ssrc) >= 0) : !pipe;
    };
    const known = root('producers').get(id);
    if (fits(known)) return known;
    for (const peer of values(root('peers'))) {
      const own = peer._producers && peer._producers.get && peer._producers.get(id);
      if (fits(own)) return own;
    }
    for (const router of values(root('routers'))) {
      const app = router.appData || {};
      for (const map of [app.producers, app.pipeProducers]) {
        const own = map && map.get && map.get(id);
        if (fits(own)) return own;
      }
    }
    return null;
  }

  // A producer that no Map leads to: told from its piped copy and the SSRCs that the worker lists.
  function addShadow(id, transport, dump) {
    const copy = root('producers').get(id);
    if (!copy) return;
    // pipeToRouter pauses the copy with its original.
    const stand = { id: id, kind: copy.kind, appData: copy.appData, score: [],
      get paused() { return copy.paused; },
      rtpParameters: { codecs: copy.rtpParameters && copy.rtpParameters.codecs,
        encodings: ssrcsOf(dump, id).map((ssrc) => ({ ssrc: ssrc })) } };
    const rec = record('producer', id, stand, transport.id,
      () => producerFacts(stand, transport.id), producerState);
    if (!rec) return;
    ['pause', 'resume'].forEach((event) => listen(rec, copy.observer, event, rec.touch));
    listen(rec, copy.observer, 'close', () => drop(rec));
    listen(rec, transport.object.observer, 'close', () => drop(rec));
    announce(rec);
  }

  // Keyed by SSRC up to 3.12, a list of pairs from 3.13 on.
  function ssrcsOf(dump, id) {
    const table = dump.rtpListener && dump.rtpListener.ssrcTable || {};
    const pairs = Array.isArray(table)
      ? table.map((pair) => [pair.key, pair.value]) : Object.keys(table).map((k) => [k, table[k]]);
    return pairs.filter((pair) => pair[1] === id).map((pair) => Number(pair[0]));
  }

  function parentOf(object, name) {
    const internal = object.internal || object._internal;
    return internal && internal[name] || roots && roots.parents.get(object) || undefined;
  }

  // ---- Rooms and peers --------------------------------------------------------------------------

  // Their changes have no event that all servers share: they are compared with what was told.
  let toldRooms = new Map();
  let toldPeers = new Map();
  let owners = new Map();
  let round = 0;
  let directoryRuns = false;
  let directorySoon = false;
  const reader = { 'edumeet3': readEdumeet3, 'edumeet4-room-server': readRoomServer,
    'mediasoup-demo-ts': readDemo, 'mediasoup': readRouters }[kind];

  function soonDirectory() {
    if (directorySoon || !reader) return;
    directorySoon = true;
    later(100, () => { directorySoon = false; return directory().catch(failed('directory')); });
  }

  async function directory() {
    if (directoryRuns || stopped) return;
    directoryRuns = true;
    try {
      round++;
      const rooms = new Map();
      const peers = new Map();
      if (reader) await reader(rooms, peers);
      if (stopped) return;
      tellChanges('room', rooms, toldRooms);
      tellChanges('peer', peers, toldPeers);
      toldRooms = rooms;
      toldPeers = peers;
      await disown();
    } finally {
      directoryRuns = false;
    }
  }

  function tellChanges(what, current, told) {
    current.forEach((line, id) => {
      const json = JSON.stringify(line);
      if (told.get(id) !== json) say(Object.assign({ t: what, id: id }, line));
      current.set(id, json);
    });
    told.forEach((_, id) => { if (!current.has(id)) say({ t: 'gone', what: what, id: id }); });
  }

  function own(peer, what, ids) {
    let lot = [];
    for (const id of ids) {
      const key = what + ' ' + id;
      const known = owners.get(key);
      if (known && known.peer === peer) { known.round = round; continue; }
      if (owners.size >= OBJECTS) { dropped++; continue; }
      owners.set(key, { peer: peer, round: round, what: what, id: id });
      lot.push(id);
      if (lot.length === 256) { say({ t: 'own', peer: peer, what: what, ids: lot }); lot = []; }
    }
    if (lot.length) say({ t: 'own', peer: peer, what: what, ids: lot });
  }

  async function disown() {
    const lots = {};
    for (const entry of owners) {
      const owner = entry[1];
      if (owner.round !== round) {
        owners.delete(entry[0]);
        const lot = lots[owner.what] = lots[owner.what] || [];
        lot.push(owner.id);
        if (lot.length === 256) say({ t: 'disown', what: owner.what, ids: lot.splice(0) });
      }
      if (due()) await breathe();
    }
    Object.keys(lots).forEach((what) => {
      if (lots[what].length) say({ t: 'disown', what: what, ids: lots[what] });
    });
  }

  async function readEdumeet3(rooms, peers) {
    const roomOf = new Map();
    for (const entry of entries(root('rooms'))) {
      const room = entry[1];
      const routers = room._mediasoupRouters && room._mediasoupRouters.keys
        ? Array.from(room._mediasoupRouters.keys())
        : room._mediasoupRouter ? [room._mediasoupRouter.id] : [];
      rooms.set(name(entry[0]), { routers: list(routers) });
      Object.keys(room._peers || {}).forEach((id) => roomOf.set(id, name(entry[0])));
      if (due()) await breathe();
    }
    for (const entry of entries(root('peers'))) {
      const peer = entry[1];
      const id = name(entry[0]);
      const socket = peer._socket || {};
      const request = socket.client && socket.client.request || socket.handshake || {};
      // Its own `_roomId` is set while it waits in the lobby, too.
      peers.set(id, { room: roomOf.get(entry[0]), name: text(peer._displayName),
        agent: text((request.headers || {})['user-agent']) });
      own(id, 'transport', keys(peer._transports));
      own(id, 'producer', keys(peer._producers));
      own(id, 'consumer', keys(peer._consumers));
      if (due()) await breathe();
    }
  }

  async function readRoomServer(rooms, peers) {
    const manager = global.serverManager;
    const roomOf = new Map();
    for (const entry of entries(manager.rooms)) {
      const room = entry[1];
      const parts = [room].concat(Array.from(values(room.breakoutRooms)),
        list(room.rooms && room.rooms.items));
      // Who has joined. Who is in the lobby, or on the way in, has the room's session already.
      parts.forEach((part) => list(part.peers && part.peers.items, OBJECTS)
        .forEach((peer) => roomOf.set(peer, name(entry[0]))));
      rooms.set(name(entry[0]), { sessions: list(parts.map((part) => part.sessionId)) });
      if (due()) await breathe();
    }
    for (const entry of entries(manager.peers)) {
      const peer = entry[1];
      const id = name(entry[0]);
      const connection = peer.connections && list(peer.connections.items)[0];
      const handshake = connection && connection.socket && connection.socket.handshake || {};
      peers.set(id, { room: roomOf.get(peer), name: text(peer.displayName),
        agent: text((handshake.headers || {})['user-agent']) });
      own(id, 'transport', [peer.producingTransport, peer.consumingTransport]
        .filter(Boolean).map((transport) => transport.id));
      own(id, 'producer', keys(peer.producers));
      own(id, 'consumer', keys(peer.consumers));
      if (due()) await breathe();
    }
  }

  // A server of no known kind names the rooms of its routers, if it does, in their `appData`.
  async function readRouters(rooms) {
    for (const router of values(root('routers'))) {
      const id = appText(router, 'roomId');
      if (id) {
        if (!rooms.has(id)) rooms.set(id, { routers: [] });
        const routers = rooms.get(id).routers;
        if (routers.length < ENTRIES) routers.push(router.id);
      }
      if (due()) await breathe();
    }
  }

  const demoRouters = new Map();

  // The room of a router is that of any peer that produces in it.
  async function readDemo(rooms, peers) {
    for (const room of values(root('rooms'))) {
      const id = name(room.id);
      rooms.set(id, { routers: [] });
      let dump = {};
      // serialize() throws while a peer has not joined.
      try { dump = room.serialize(); } catch (error) { continue; }
      list(dump.peers, 4096).concat(list(dump.broadcasterPeers, 4096)).forEach((peer) => {
        const device = peer.device || {};
        peers.set(name(peer.peerId || peer.id), { room: id, name: text(peer.displayName),
          agent: text([device.name, device.version].filter(Boolean).join(' ')) });
      });
      if (due()) await breathe();
    }
    for (const rec of records.values()) {
      const peer = rec.what === 'producer' && peers.get(appText(rec.object, 'peerId'));
      const transport = peer && records.get('transport ' + rec.parent);
      if (transport) demoRouters.set(transport.parent, peer.room);
      if (due()) await breathe();
    }
    // Once known it stays, also when that peer has left.
    demoRouters.forEach((id, router) => {
      const room = rooms.get(id);
      if (!room || !records.has('router ' + router)) demoRouters.delete(router);
      else room.routers.push(router);
    });
  }

  // ---- Statistics -------------------------------------------------------------------------------

  // Requests are spread evenly over the interval; when there are more streams than the rate
  // allows, the interval becomes longer.
  const waiting = new Set();
  let order = [];
  let cursor = 0;
  // Requests that may be made now: by the interval, and by the rate.
  let credit = 0;
  let allowance = 0;

  function stats() {
    const seconds = Number(options.stats);
    if (!(seconds > 0)) return;
    waiting.forEach((request) => {
      if (now() - request.at > REQUEST_MS) waiting.delete(request);
    });
    allowance = Math.min(allowance + options.rate * TICK_MS / 1000, Math.max(1, options.rate));
    askHurried();
    if (cursor >= order.length) {
      order = Array.from(records.values()).filter((rec) => rec.object.getStats
        && (rec.what === 'producer' || rec.what === 'consumer'));
      cursor = 0;
    }
    const rate = Math.min(order.length / seconds, options.rate);
    credit = Math.min(credit + rate * TICK_MS / 1000, Math.max(1, rate));
    while (credit >= 1 && cursor < order.length && mayAsk()) {
      const rec = order[cursor++];
      credit--;
      if (!rec.gone) statsOf(rec);
    }
  }

  function mayAsk() {
    return allowance >= 1 && waiting.size < OUTSTANDING;
  }

  // Simulcast by RID signals no SSRC. Scores tell those of the media, only statistics those of the
  // retransmissions: who owns them must be known before the interval is over.
  const hurried = new Map();

  function retransmitsUnnamed(producer) {
    const parameters = producer.rtpParameters || {};
    return list(parameters.encodings).some((encoding) => encoding.rid && !encoding.ssrc)
      && list(parameters.codecs).some((codec) => /\/rtx$/i.test(codec.mimeType));
  }

  // Asks soon, if there is an SSRC that was not asked for, and again while answers do not help.
  function hurry(rec) {
    const ssrcs = list(rec.object.score).map((score) => score.ssrc).join();
    if (!ssrcs || rec.hurriedFor === ssrcs) return;
    rec.hurriedFor = ssrcs;
    hurried.set(rec, { turn: 0, at: now() });
  }

  function askHurried() {
    for (const entry of hurried) {
      const rec = entry[0];
      const next = entry[1];
      if (next.at > now()) continue;
      if (!mayAsk()) return;
      statsOf(rec);
      next.turn++;
      next.at = now() + AGAIN_MS[next.turn];
      if (next.turn === AGAIN_MS.length) hurried.delete(rec);
    }
  }

  function statsOf(rec) {
    const request = { at: now() };
    waiting.add(request);
    allowance--;
    requests++;
    rec.object.getStats().then((stats) => {
      waiting.delete(request);
      if (stopped || rec.gone) return;
      const type = rec.what === 'producer' ? 'inbound-rtp' : 'outbound-rtp';
      const streams = list(stats).filter((stat) => stat.type === type);
      if (streams.length && streams.every((stat) => stat.rtxSsrc)) hurried.delete(rec);
      say({ t: 'stats', what: rec.what, id: rec.id, transport: rec.parent,
        of: streams.map((stat) => ({
          ssrc: stat.ssrc, rtx: stat.rtxSsrc, rid: text(stat.rid), bytes: stat.byteCount,
          lost: stat.packetsLost, fraction: stat.fractionLost, rtt: stat.roundTripTime,
          discarded: stat.packetsDiscarded, resent: stat.packetsRetransmitted,
          repaired: stat.packetsRepaired, nacked: stat.nackPacketCount,
          keyframes: sum(stat.pliCount, stat.firCount) })) });
    }).catch((error) => {
      waiting.delete(request);
      refused(rec.object, rec.what + '.getStats')(error);
    });
  }

  // Of what is told; of nothing, nothing.
  function sum(one, other) {
    return one === undefined && other === undefined ? undefined : (one || 0) + (other || 0);
  }

  // A request that reaches the worker after its object was closed there is no failure. mediasoup
  // tells of the closing later than of the answer: it puts off what is no answer by one turn.
  function refused(object, op) {
    return (error) => { setImmediate(guard(() => { if (!object.closed) failed(op)(error); })); };
  }

  // One request of the first walk, no faster than the rate.
  let nextAsk = 0;
  async function ask(object, request, op) {
    const at = Math.max(now(), nextAsk);
    nextAsk = at + 1000 / Math.max(1, options.rate);
    if (at > now()) await new Promise((resolve) => later(at - now(), resolve));
    if (stopped) return null;
    requests++;
    try {
      return await request();
    } catch (error) {
      refused(object, op)(error);
      return null;
    }
  }

  // ---- Small things -----------------------------------------------------------------------------

  function root(name) {
    const map = roots && roots[name] || global[name];
    return map && typeof map.forEach === 'function' ? map : new Map();
  }

  function detect() {
    const isMap = (name) => global[name] instanceof Map;
    if (global.serverManager && global.serverManager.rooms) return 'edumeet4-room-server';
    if (isMap('roomServers') && isMap('roomServerConnections')) return 'edumeet4-media-node';
    if (isMap('workers') && isMap('rooms') && isMap('peers')) return 'edumeet3';
    if (isMap('workers') && isMap('rooms')) return 'mediasoup-demo-ts';
    if (isMap('workers')) return 'mediasoup-demo-js';
    return roots ? 'mediasoup' : 'unknown';
  }

  // What the server has loaded already: asking for it by name could load another copy.
  function loadedMediasoups() {
    const cache = need && need.cache || {};
    return Object.keys(cache)
      .filter((path) => /mediasoup[\\/](node[\\/])?lib[\\/]index\.js$/.test(path))
      .map((path) => cache[path] && cache[path].exports)
      .filter((exports) => exports && exports.observer && exports.createWorker);
  }

  function mediasoupObservers() {
    return roots ? Array.from(roots.observers) : loadedMediasoups().map((one) => one.observer);
  }

  function mediasoupVersion() {
    return loadedMediasoups().map((one) => text(one.version))[0] || roots && text(roots.version);
  }
}

function now() {
  const time = process.hrtime();
  return time[0] * 1e3 + time[1] / 1e6;
}

// A stranger's string: bounded, and without lone surrogates, which are not JSON to everyone.
function text(value) {
  if (typeof value !== 'string') return undefined;
  const short = value.slice(0, TEXT);
  return /[^\x20-\x7e]/.test(short) ? String(Buffer.from(short)) : short;
}

function name(value) {
  return text(String(value));
}

function list(value, limit) {
  return Array.isArray(value) ? value.slice(0, limit || ENTRIES) : [];
}

function values(map) {
  return map && map.values ? map.values() : [];
}

function entries(map) {
  return map && map.entries ? map.entries() : [];
}

function* keys(map) {
  if (!map || !map.keys) return;
  for (const key of map.keys()) yield String(key).slice(0, IDENTIFIER);
}

// ---- Agent mode ---------------------------------------------------------------------------------

// Keeps what exists from the first worker on, and listens where the exporter connects.
//
// How mediasoup was loaded (as CommonJS, from an ECMAScript module, by a loader, or as a part of a
// bundle, where no module system knows of it) does not matter: it starts its worker as a process
// with MEDIASOUP_VERSION in the environment, and then its observer emits `newworker`. So starts of
// processes are looked at, and for the moment between these two, all events.
function agent(need) {
  const { EventEmitter } = need('events');
  const roots = { observers: new Set(), workers: new Map(), routers: new Map(),
    transports: new Map(), producers: new Map(), consumers: new Map(), parents: new WeakMap(),
    version: undefined };
  // Workers that have started and not been told, by pid.
  const started = new Map();
  const complaints = new Set();
  const path = process.env.MEDIASOUP_EXPORTER_SOCKET
    || '/tmp/mediasoup-exporter-agent-' + process.pid + '.sock';
  let listening = false;
  let unwatch = null;

  watchProcesses();
  global[ATTACH] = (mediasoup) => {
    const observer = mediasoup && (mediasoup.observer
      || mediasoup.default && mediasoup.default.observer);
    if (!observer) return complain('what it was given to attach to is no mediasoup');
    return found(observer);
  };
  after(FOUND_MS, () => {
    const threads = need('worker_threads');
    // Threads have an agent each, at one path.
    if (roots.observers.size || started.size || !threads.isMainThread || isSocket(path)) return;
    complain('no mediasoup worker has started in process ' + process.pid + ' (' + (process.argv[1] || process.execPath)
      + ') within 10 s. One that starts later is found. If another process has the workers, load '
      + 'the agent there: NODE_OPTIONS="--require /path/to/agent.cjs"');
  });

  function watchProcesses() {
    const { prototype } = need('child_process').ChildProcess;
    const spawn = prototype.spawn;
    prototype.spawn = function (options) {
      const result = spawn.apply(this, arguments);
      try { processStarted(this, options || {}); } catch (error) { warn(error); }
      return result;
    };
  }

  function processStarted(child, options) {
    const mark = list(options.envPairs, OBJECTS).find((pair) => /^MEDIASOUP_VERSION=/.test(pair));
    // Whoever starts other programs with mediasoup's environment does not give them its arguments.
    const isWorker = mark && list(options.args).some((word) => /^--(log|rtc|dtls)/.test(word));
    if (!isWorker || !child.pid) return;
    roots.version = mark.slice(mark.indexOf('=') + 1);
    const pid = child.pid;
    started.set(pid, child);
    watchEvents();
    after(FOUND_MS, () => {
      if (!started.delete(pid)) return;
      if (!started.size) unwatch();
      if (child.exitCode !== null || child.signalCode !== null) return;
      complain('mediasoup has started a worker here, but is not to be found. Let the server say '
        + 'before that: const attach = globalThis[Symbol.for("mediasoup-exporter.attach")]; '
        + 'if (attach) attach(mediasoup);');
    });
  }

  function watchEvents() {
    if (unwatch) return;
    const { prototype } = EventEmitter;
    const emit = prototype.emit;
    let active = true;
    const watching = function (event, worker) {
      if (active && event === 'newworker') safe(() => appeared(this, worker))();
      return emit.apply(this, arguments);
    };
    prototype.emit = watching;
    unwatch = () => {
      // Somebody else may have taken the place since, and calls this one.
      if (prototype.emit === watching) prototype.emit = emit;
      active = false;
      unwatch = null;
    };
  }

  function appeared(observer, worker) {
    if (!worker || !started.delete(worker.pid)) return;
    if (!started.size) unwatch();
    // Its listener hears of this worker in the same call.
    found(observer);
  }

  function found(observer) {
    if (roots.observers.has(observer)) return;
    roots.observers.add(observer);
    observer.on('newworker', safe(worker));
    if (!listening) { listening = true; listenForExporters(); }
  }

  function worker(object) {
    started.delete(object.pid);
    if (!started.size && unwatch) unwatch();
    keep(roots.workers, object.pid, object, null);
    object.observer.on('newrouter', safe((router) => {
      keep(roots.routers, router.id, router, object.pid);
      router.observer.on('newtransport', safe((transport) => {
        keep(roots.transports, transport.id, transport, router.id);
        transport.observer.on('newproducer', safe((producer) =>
          keep(roots.producers, transport.id + ' ' + producer.id, producer, transport.id)));
        transport.observer.on('newconsumer', safe((consumer) =>
          keep(roots.consumers, consumer.id, consumer, transport.id)));
      }));
    }));
  }

  function keep(map, key, object, parent) {
    map.set(key, object);
    if (parent !== null) roots.parents.set(object, parent);
    object.observer.once('close', () => map.delete(key));
  }

  function listenForExporters() {
    const fs = need('fs');
    const server = need('net').createServer((socket) => {
      socket.on('error', () => {});
      try { install(socket, need, roots); } catch (error) { warn(error); socket.destroy(); }
    });
    server.on('error', warn);
    try { if (isSocket(path)) fs.unlinkSync(path); } catch (error) { warn(error); }
    // Only this user's processes and root may connect: bind() happens within listen().
    let mask = null;
    try { mask = process.umask(0o177); } catch (error) { /* a worker thread */ }
    try { server.listen(path); } finally { if (mask !== null) process.umask(mask); }
    server.unref();
    process.on('exit', () => { try { fs.unlinkSync(path); } catch (error) { /* gone */ } });
  }

  function isSocket(file) {
    try { return need('fs').lstatSync(file).isSocket(); } catch (error) { return false; }
  }

  function after(ms, f) {
    setTimeout(safe(f), ms).unref();
  }

  function safe(f) {
    return (object) => { try { f(object); } catch (error) { warn(error); } };
  }

  // Each once: the log of a server is its own.
  function complain(what) {
    if (!complaints.has(what)) warn(what);
    complaints.add(what);
  }

  function warn(error) {
    process.emitWarning('mediasoup-exporter: ' + (error && error.message || error));
  }
}

// `--require` wraps this file as a CommonJS module. As an ECMAScript module it has no `require` and
// no `this`. A console wraps nothing.
if (typeof __filename === 'string') {
  agent(require);
} else if (this === undefined) {
  const builtin = process.getBuiltinModule;
  if (builtin) agent(builtin('module').createRequire(process.execPath));
  else process.emitWarning('mediasoup-exporter: this Node.js takes the agent as a CommonJS module '
    + 'only: name the file agent.cjs and load it with --require');
}
return install;
}).call(this)
