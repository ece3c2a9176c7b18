'use strict';
// An ICE connectivity check as a client sends it (RFC 8489, RFC 8445 §7.2.4): bytes that make a
// WebRtcTransport select the tuple they come from. Nothing here touches the network.

const crypto = require('crypto');

function attribute(type, value) {
  const padded = Buffer.alloc(4 + Math.ceil(value.length / 4) * 4);
  padded.writeUInt16BE(type, 0);
  padded.writeUInt16BE(value.length, 2);
  value.copy(padded, 4);
  return padded;
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

// The header says how long the message is with the attribute that is computed next.
function message(header, attributes, following) {
  const body = Buffer.concat(attributes);
  header.writeUInt16BE(body.length + following, 2);
  return Buffer.concat([header, body]);
}

function bindingRequest({ usernameFragment, password }) {
  const header = Buffer.alloc(20);
  header.writeUInt16BE(0x0001, 0);
  header.writeUInt32BE(0x2112a442, 4);
  crypto.randomFillSync(header, 8);
  const attributes = [
    attribute(0x0006, Buffer.from(`${usernameFragment}:peer`)), // USERNAME
    attribute(0x0024, Buffer.from([110, 0, 1, 255])), // PRIORITY
    attribute(0x802a, crypto.randomBytes(8)), // ICE-CONTROLLING
    attribute(0x0025, Buffer.alloc(0)), // USE-CANDIDATE
  ];
  const signed = message(header, attributes, 24);
  const integrity = crypto.createHmac('sha1', password).update(signed).digest();
  attributes.push(attribute(0x0008, integrity));
  const fingerprint = Buffer.alloc(4);
  fingerprint.writeUInt32BE((crc32(message(header, attributes, 8)) ^ 0x5354554e) >>> 0);
  attributes.push(attribute(0x8028, fingerprint));
  return message(header, attributes, 0);
}

module.exports = { bindingRequest };
