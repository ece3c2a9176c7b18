// The page of the WebRTC tests, in a real browser: it joins a room as a peer, sends a fake camera
// and microphone with mediasoup-client, receives others', and tells what the browser counted. It is
// told what to do by the SFU's web server (tests/sfu/pages.js), in a request that stays open.

import { Device } from 'mediasoup-client';

const peer = new URL(location.href).searchParams.get('peer');
const device = new Device();
const transports = new Map();
const producers = [];
const consumers = [];

async function post(path, body) {
  const response = await fetch(`${path}?peer=${peer}`, {
    method: 'POST', body: JSON.stringify(body) });
  const { ok, error } = await response.json();
  if (error) throw new Error(error);
  return ok;
}

const ask = (question, fields) => post('/ask', { do: question, ...fields });

async function transport(direction, listen, ip) {
  const { id, iceParameters, iceCandidates, dtlsParameters } =
    await ask('transport', { listen, ip });
  const made = device[direction === 'send' ? 'createSendTransport' : 'createRecvTransport']({
    id, iceParameters, iceCandidates, dtlsParameters });
  made.on('connect', (it, done, failed) => {
    ask('connect', { transport: id, dtlsParameters: it.dtlsParameters }).then(done, failed);
  });
  made.on('produce', ({ kind, rtpParameters }, done, failed) => {
    ask('produce', { transport: id, kind, rtpParameters }).then(done, failed);
  });
  transports.set(id, made);
  return made;
}

async function load() {
  if (!device.loaded) await device.load({ routerRtpCapabilities: await ask('capabilities') });
}

// The smallest picture of which a browser sends three layers, as few of them and as coarse as a slow
// machine can encode and as the first estimate of bandwidth allows at once. `active` as an encoding
// has it: one that is not sends nothing.
const PICTURE = { width: 960, height: 540, frameRate: 10 };

function layers(active) {
  return [4, 2, 1].map((scale, layer) => ({ active, scaleResolutionDownBy: scale,
    maxBitrate: 40000 * (layer + 1), maxFramerate: 10, scalabilityMode: 'L1T1' }));
}

// Sends audio and three layers of video. With `held` nothing is sent before `release`, when the
// producers are known to exist; otherwise media comes as soon as the connection stands.
async function send({ listen, ip, held }) {
  await load();
  const made = await transport('send', listen, ip);
  const camera = await navigator.mediaDevices.getUserMedia({
    audio: true, video: PICTURE });
  const active = !held;
  const [audio] = camera.getAudioTracks();
  const [video] = camera.getVideoTracks();
  producers.push(await made.produce({ track: audio, encodings: [{ active }] }));
  producers.push(await made.produce({ track: video, encodings: layers(active) }));
  return { transport: made.id, producers: producers.map(({ id, kind }) => ({ id, kind })) };
}

const release = () => activate(true);

// No RTP leaves any more, padding neither; the connection stays.
const rest = () => activate(false);

async function activate(active) {
  for (const { rtpSender } of producers) {
    const parameters = rtpSender.getParameters();
    for (const encoding of parameters.encodings) encoding.active = active;
    await rtpSender.setParameters(parameters);
  }
}

async function receive({ listen, ip, producers: wanted }) {
  await load();
  const made = await transport('receive', listen, ip);
  for (const producer of wanted) {
    const it = await ask('consume', { transport: made.id, producer,
      rtpCapabilities: device.rtpCapabilities, paused: true });
    const consumer = await made.consume(it);
    consumers.push(consumer);
    await ask('resume', { consumer: consumer.id });
  }
  const told = consumers.map(({ id, kind, producerId }) => ({ id, kind, producerId }));
  return { transport: made.id, consumers: told };
}

async function restartIce() {
  for (const [id, it] of transports) {
    const { iceParameters } = await ask('restart_ice', { transport: id });
    await it.restartIce({ iceParameters });
  }
}

// What the browser counts, by transport: its streams, and the connection that it has selected.
async function stats() {
  const told = {};
  for (const [id, it] of transports) {
    const report = [...(await it.getStats()).values()];
    const byId = new Map(report.map((entry) => [entry.id, entry]));
    const streams = report.filter(({ type }) => /bound-rtp$/.test(type) && !/^remote/.test(type));
    const { selectedCandidatePairId, srtpCipher, dtlsState } =
      report.find(({ type }) => type === 'transport') || {};
    const pair = byId.get(selectedCandidatePairId) || {};
    const local = byId.get(pair.localCandidateId) || {};
    told[id] = { streams, srtpCipher, dtlsState,
      protocol: local.protocol, address: local.address, port: local.port };
  }
  return told;
}

const orders = { send, release, receive, rest, restartIce, stats };

async function obey() {
  for (;;) {
    const { id, ...order } = await (await fetch(`/next?peer=${peer}`)).json();
    let done;
    try {
      done = { ok: (await orders[order.do](order)) || {} };
    } catch (error) {
      done = { error: String(error && error.stack || error) };
    }
    await post('/answer', { id, ...done });
  }
}

obey();
