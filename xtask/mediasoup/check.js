// Proves that a built worker works: forwards one RTP packet from a PlainTransport to another.
// Started with NODE_PATH set to the node_modules folder under test; prints one line and exits 0.
'use strict';
const dgram = require('dgram');
const mediasoup = require('mediasoup');

const ssrc = 0x01020304;
const codec = {
	kind: 'audio', mimeType: 'audio/opus', preferredPayloadType: 100, payloadType: 100,
	clockRate: 48000, channels: 2, parameters: {}, rtcpFeedback: []
};

function rtpPacket(sequenceNumber) {
	const packet = Buffer.alloc(12 + 20, 7);
	packet.writeUInt16BE(0x8064, 0);
	packet.writeUInt16BE(sequenceNumber, 2);
	packet.writeUInt32BE(960 * sequenceNumber, 4);
	packet.writeUInt32BE(ssrc, 8);
	return packet;
}

async function main() {
	const worker = await mediasoup.createWorker({ logLevel: 'warn' });
	worker.on('died', () => { throw new Error('mediasoup-worker died'); });
	const router = await worker.createRouter({ mediaCodecs: [ codec ] });
	const inbound = await router.createPlainTransport({ listenIp: '127.0.0.1', comedia: true, rtcpMux: true });
	const outbound = await router.createPlainTransport({ listenIp: '127.0.0.1', rtcpMux: true });
	const producer = await inbound.produce({
		kind: 'audio', rtpParameters: { codecs: [ codec ], encodings: [ { ssrc } ], rtcp: { cname: 'check' } }
	});

	const receiver = dgram.createSocket('udp4');
	await new Promise((resolve) => receiver.bind(0, '127.0.0.1', resolve));
	await outbound.connect({ ip: '127.0.0.1', port: receiver.address().port });
	const received = new Promise((resolve) => receiver.on('message', (packet) => {
		const isRtp = packet[0] >> 6 === 2 && (packet[1] < 192 || packet[1] > 223);
		if (isRtp) resolve(packet.length);
	}));
	await outbound.consume({ producerId: producer.id, rtpCapabilities: router.rtpCapabilities });

	const sender = dgram.createSocket('udp4');
	const { localPort } = inbound.tuple;
	let sequenceNumber = 0;
	const timer = setInterval(() => sender.send(rtpPacket(++sequenceNumber), localPort, '127.0.0.1'), 20);
	const bytes = await received;
	clearInterval(timer);
	const [ stats ] = await producer.getStats();
	console.log(`mediasoup ${mediasoup.version}: forwarded ${bytes} bytes, producer byteCount ${stats.byteCount}`);
	worker.close();
	process.exit(0);
}

setTimeout(() => { console.error('no packet was forwarded within 20 s'); process.exit(1); }, 20000).unref();
main().catch((error) => { console.error(error); process.exit(1); });
