'use strict';
// The web server of the SFU: it hands out the page of the WebRTC tests (tests/webrtc/page.js), tells
// pages what to do, and answers what their mediasoup-client asks for. A page waits for its orders in
// a request that stays open; when that breaks off, the page is gone and its peer leaves, as servers
// do when a WebSocket closes. Its port lies outside of what mediasoup uses.

const fs = require('fs');
const http = require('http');

const { peers, find, leave } = require('./rooms');
const media = require('./media');

// By peer: orders that no page has fetched yet, the request that waits for one, and the promises of
// orders that no page has carried out yet.
const pages = new Map();
let orders = 0;

function pageOf(peer) {
  if (!pages.has(peer)) pages.set(peer, { orders: [], waiting: null, unanswered: new Map() });
  return pages.get(peer);
}

// Serves the bundle at `bundle` on `ip` and a free port.
async function site({ ip, bundle }) {
  const script = fs.readFileSync(bundle);
  const server = http.createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://sfu');
    const peer = searchParams.get('peer');
    if (pathname === '/') return html(response);
    if (pathname === '/page.js') return response.end(script);
    if (pathname === '/next') return next(peer, response);
    return read(request)
      .then((body) => (pathname === '/ask' ? ask(peer, body) : answer(peer, body)))
      .then((ok) => response.end(JSON.stringify({ ok })))
      .catch((error) => response.end(JSON.stringify({ error: String(error) })));
  });
  server.keepAliveTimeout = 0;
  server.requestTimeout = 0;
  await new Promise((resolve) => server.listen(0, ip, resolve));
  server.unref();
  return { port: server.address().port };
}

function html(response) {
  response.setHeader('content-type', 'text/html');
  response.end('<!doctype html><title>peer</title><script src="/page.js"></script>');
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks));
}

function next(peer, response) {
  const page = pageOf(peer);
  page.waiting = response;
  response.on('close', () => {
    if (page.waiting !== response) return;
    page.waiting = null;
    pages.delete(peer);
    for (const { reject } of page.unanswered.values()) reject(new Error('the page is gone'));
    if (peers.has(peer)) leave({ peer });
  });
  hand(page);
}

function hand(page) {
  if (!page.waiting || !page.orders.length) return;
  const { waiting } = page;
  page.waiting = null;
  waiting.end(JSON.stringify(page.orders.shift()));
}

// Has the page of `peer` carry out an order; it may be given before the page is there.
async function page({ peer, order, ...fields }) {
  const it = pageOf(peer);
  orders += 1;
  const id = orders;
  const done = new Promise((resolve, reject) => it.unanswered.set(id, { resolve, reject }));
  it.orders.push({ ...fields, id, do: order });
  hand(it);
  return done;
}

function answer(peer, { id, ok, error }) {
  const { unanswered } = pageOf(peer);
  const { resolve, reject } = find(unanswered, id, 'order');
  unanswered.delete(id);
  if (error) reject(new Error(error));
  else resolve(ok);
}

// What a page's mediasoup-client asks for, on behalf of its own peer only.
const questions = {
  capabilities: media.capabilities,
  transport: media.webrtc,
  connect: media.connectDtls,
  produce: media.produceAs,
  consume: media.consumeAs,
  resume: media.resume,
  restart_ice: media.restartIce,
};

async function ask(peer, question) {
  if (!Object.hasOwn(questions, question.do)) throw new Error(`no question ${question.do}`);
  return (await questions[question.do]({ ...question, peer })) || {};
}

module.exports = { site, page };
