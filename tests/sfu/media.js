'use strict';
// Transports, producers and consumers of a peer, with the RTP parameters that a client without
// WebRTC would offer, or those that a browser brings. What comes in is one request's fields; what
// goes out is what the client needs.

const { rooms, peers, pids, find } = require('./rooms');
const { bindingRequest } = require('./stun');

const AUDIO = 111;
const VIDEO = 96;
const VIDEO_RTX = 97;
// The first WebRtcServer's port, the next ones follow; by default the SFU's range has room above it.
const SERVER_PORT = Number(process.env.SERVER_PORT || 44444);
const EXTENSIONS = [
  { uri: 'urn:ietf:params:rtp-hdrext:sdes:mid', id: 1 },
  { uri: 'urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id', id: 2 },
  { uri: 'urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id', id: 3 },
];

function transportOf(peerId, id) {
  return find(find(peers, peerId, 'peer').transports, id, 'transport');
}

function describe(transport) {
  const { id, tuple, rtcpTuple } = transport;
  return { id, ip: tuple.localIp || tuple.localAddress, port: tuple.localPort,
    rtcpPort: rtcpTuple ? rtcpTuple.localPort : null };
}

// `portRange` ({ min, max }) is of newer versions of mediasoup only.
async function plain({
  peer: peerId, ip, port, portRange, comedia = false, rtcpMux = true, router = 0 }) {
  const peer = find(peers, peerId, 'peer');
  const home = find(rooms, peer.roomId, 'room').router(router);
  const listen = portRange ? { listenInfo: { protocol: 'udp', ip, portRange } }
    : { listenIp: { ip }, port };
  const made = await home.createPlainTransport({
    ...listen, comedia, rtcpMux, enableSctp: false });
  peer.transports.set(made.id, made);
  made.observer.on('close', () => peer.transports.delete(made.id));
  return { ...describe(made), pid: pids.get(home) };
}

// How a WebRTC transport listens: on a port of its own for UDP or for TCP, or on its worker's port.
const listening = {
  udp: (home, ip) => ({ listenIps: [{ ip }], enableUdp: true }),
  tcp: (home, ip) => ({ listenIps: [{ ip }], enableUdp: false, enableTcp: true }),
  server: async (home, ip) => ({ webRtcServer: await webRtcServerOf(pids.get(home), ip) }),
};

async function webrtc({ peer: peerId, ip, listen = 'udp' }) {
  const peer = find(peers, peerId, 'peer');
  const home = find(rooms, peer.roomId, 'room').router();
  const made = await home.createWebRtcTransport(await listening[listen](home, ip));
  peer.transports.set(made.id, made);
  made.observer.on('close', () => peer.transports.delete(made.id));
  const { id, iceParameters, iceCandidates, dtlsParameters } = made;
  const [{ port }] = iceCandidates;
  const check = bindingRequest(iceParameters).toString('hex');
  return { id, ip, port, pid: pids.get(home), check, iceParameters, iceCandidates,
    dtlsParameters };
}

// Of each worker that has been asked for it.
const webRtcServers = new Map();

// One port for all peers of a worker.
async function webRtcServerOf(pid, ip) {
  if (!webRtcServers.has(pid)) {
    const port = SERVER_PORT + webRtcServers.size;
    webRtcServers.set(pid, find(global.workers, pid, 'worker').createWebRtcServer({
      listenInfos: [{ protocol: 'udp', ip, port }] }));
  }
  return webRtcServers.get(pid);
}

// The far end's certificate; ICE tells where that end is.
async function connectDtls({ peer, transport, dtlsParameters }) {
  await transportOf(peer, transport).connect({ dtlsParameters });
}

async function restartIce({ peer, transport }) {
  return { iceParameters: await transportOf(peer, transport).restartIce() };
}

function capabilities({ peer: peerId }) {
  const { roomId } = find(peers, peerId, 'peer');
  return find(rooms, roomId, 'room').router().rtpCapabilities;
}

async function connect({ peer, transport, ip, port, rtcpPort }) {
  const it = transportOf(peer, transport);
  await it.connect({ ip, port, rtcpPort: rtcpPort || undefined });
}

// A codec as a producer offers it. `nack` asks for lost packets and takes RTX for them.
function offered(kind, nack, rtx) {
  if (kind === 'audio') {
    return [{ mimeType: 'audio/opus', payloadType: AUDIO, clockRate: 48000, channels: 2,
      parameters: {}, rtcpFeedback: [] }];
  }
  const rtcpFeedback = [{ type: 'nack', parameter: 'pli' }];
  if (nack) rtcpFeedback.push({ type: 'nack' });
  const video = { mimeType: 'video/VP8', payloadType: VIDEO, clockRate: 90000, parameters: {},
    rtcpFeedback };
  if (!rtx) return [video];
  return [video, { mimeType: 'video/rtx', payloadType: VIDEO_RTX, clockRate: 90000,
    parameters: { apt: VIDEO }, rtcpFeedback: [] }];
}

// `encodings`: [{ ssrc, rtx }] or [{ rid }], with `mid` for the latter.
async function produce({ peer, transport, kind, encodings, mid, nack = true, rtx = true }) {
  const rtpParameters = {
    mid,
    codecs: offered(kind, nack, rtx),
    headerExtensions: mid ? EXTENSIONS : [],
    encodings: encodings.map(({ ssrc, rtx: repair, rid }) => ({
      ssrc, rid, rtx: repair ? { ssrc: repair } : undefined })),
    rtcp: { cname: peer },
  };
  return produceAs({ peer, transport, kind, rtpParameters });
}

// With the parameters that a client has made.
async function produceAs({ peer: peerId, transport, kind, rtpParameters }) {
  const peer = find(peers, peerId, 'peer');
  const made = await transportOf(peerId, transport).produce({
    kind, rtpParameters, appData: { peerId, source: kind === 'audio' ? 'mic' : 'webcam' } });
  peer.producers.set(made.id, made);
  made.observer.on('close', () => peer.producers.delete(made.id));
  return { id: made.id };
}

// What a consuming client supports: everything that the router has. Bandwidth estimation is left
// out unless asked for, so that what is sent depends on nobody's clock.
function supported(router, estimate) {
  const estimates = (it) => it.type === 'transport-cc' || it.type === 'goog-remb';
  const { codecs, headerExtensions } = router.rtpCapabilities;
  if (estimate) return { codecs, headerExtensions };
  return {
    codecs: codecs.map((codec) => ({
      ...codec, rtcpFeedback: codec.rtcpFeedback.filter((it) => !estimates(it)) })),
    headerExtensions: headerExtensions.filter((it) => !/transport-wide|abs-send/.test(it.uri)),
  };
}

async function consume({ peer: peerId, transport, producer, router = 0, estimate = false }) {
  const peer = find(peers, peerId, 'peer');
  const rtpCapabilities = supported(
    find(rooms, peer.roomId, 'room').router(router), estimate);
  const made = await consumeAs({ peer: peerId, transport, producer, rtpCapabilities });
  const [encoding] = made.rtpParameters.encodings;
  return { id: made.id, kind: made.kind, type: made.type, ssrc: encoding.ssrc,
    rtx: encoding.rtx ? encoding.rtx.ssrc : null };
}

// With the capabilities that a client has. A client that needs time begins paused.
async function consumeAs({ peer: peerId, transport, producer, rtpCapabilities, paused = false }) {
  const peer = find(peers, peerId, 'peer');
  const source = global.producers.get(producer);
  const made = await transportOf(peerId, transport).consume({ producerId: producer,
    rtpCapabilities, paused,
    appData: { peerId: source && source.appData.peerId } });
  peer.consumers.set(made.id, made);
  made.observer.on('close', () => peer.consumers.delete(made.id));
  const { id, kind, type, producerId, rtpParameters } = made;
  return { id, kind, type, producerId, rtpParameters };
}

async function resume({ peer, consumer }) {
  await pause({ peer, consumer, paused: false });
}

async function layers({ peer: peerId, consumer, spatial, temporal }) {
  const it = find(find(peers, peerId, 'peer').consumers, consumer, 'consumer');
  await it.setPreferredLayers({ spatialLayer: spatial, temporalLayer: temporal });
}

async function pause({ peer: peerId, producer, consumer, paused }) {
  const peer = find(peers, peerId, 'peer');
  const it = producer ? find(peer.producers, producer, 'producer')
    : find(peer.consumers, consumer, 'consumer');
  await (paused ? it.pause() : it.resume());
}

// Brings a producer to another router of its room, over pipe transports.
async function pipe({ room, producer, from = 0, to = 1 }) {
  const it = find(rooms, room, 'room');
  const { pipeConsumer, pipeProducer } = await it.router(from).pipeToRouter({
    producerId: producer, router: it.router(to), enableRtx: true });
  return { consumer: pipeConsumer.id, producer: pipeProducer.id };
}

module.exports = { plain, webrtc, connect, connectDtls, restartIce, capabilities, produce, produceAs,
  consume, consumeAs, resume, layers, pause, pipe };
