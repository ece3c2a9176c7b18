// A server's console as unmodified servers have it: a readline prompt on a Unix socket, whose
// command `t` opens a Node.js REPL on the same socket. How the servers differ is in STYLES.
'use strict';

const fs = require('fs');
const net = require('net');
const readline = require('readline');
const repl = require('repl');

const plain = (text) => text;
const green = (text) => `\x1b[32m${text}\x1b[39m`;
const red = (text) => `\x1b[31m${text}\x1b[39m`;

// `listens`: the server listens for errors of console sockets. Where it does not, a console that
// goes away at the wrong moment ends the server.
const STYLES = {
  'edumeet3': { log: green, error: red, banner: [], preview: undefined, listens: true },
  'edumeet4-media-node': { log: plain, error: plain, preview: false, listens: false,
    banner: ['\n[opening Readline Command Console...]', 'type help to print available commands'] },
  'mediasoup-demo-js': { log: green, error: red, preview: undefined, listens: true,
    banner: ['\n[opening Readline Command Console...]', 'type help to print available commands'] },
  'mediasoup-demo-ts': { log: green, error: red, preview: false, listens: true, destroys: true,
    banner: ['[TerminalServer] opening Readline Command Console...',
      '[TerminalServer] type help to print available commands'] }
};
STYLES['edumeet4-room-server'] = STYLES['edumeet4-media-node'];

const DUMPS = { dr: 'routers', dt: 'transports', dp: 'producers', dc: 'consumers' };
const STATS = { st: 'transports', sp: 'producers', sc: 'consumers' };

class Console {
  constructor(socket, style) {
    this.socket = socket;
    this.style = style;
    this.inRepl = false;
    if (style.listens) socket.on('error', () => {});
    this.openCommands();
  }

  openCommands() {
    this.style.banner.forEach((line) => this.log(line));
    const commands = readline.createInterface(
      { input: this.socket, output: this.socket, terminal: true });
    commands.on('close', () => {
      if (this.inRepl) return;
      this.log('\nexiting...');
      if (this.style.destroys) this.socket.destroy(); else this.socket.end();
    });
    const ask = () => commands.question('cmd> ', async (input) => {
      const [command, id] = input.split(/\s+/);
      if (command === 't' || command === 'terminal') {
        this.inRepl = true;
        commands.close();
        this.openRepl();
        return;
      }
      try { await this.run(command, id); } catch (error) { this.error(String(error)); }
      ask();
    });
    ask();
  }

  async run(command, id) {
    const pick = (map) => map.get(id || Array.from(map.keys()).pop());
    const print = (what, value) => this.log(`${what}:\n${JSON.stringify(value, null, '  ')}`);
    if (!command) return;
    if (command === 'dw') {
      for (const worker of global.workers.values()) print('worker.dump()', await worker.dump());
    } else if (DUMPS[command]) {
      print('dump()', await pick(global[DUMPS[command]]).dump());
    } else if (STATS[command]) {
      print('getStats()', await pick(global[STATS[command]]).getStats());
    } else {
      this.error(`unknown command '${command}'`);
      this.log('press \'h\' or \'help\' to get the list of available commands');
    }
  }

  openRepl() {
    this.log('\n[opening Node REPL Terminal...]');
    const terminal = repl.start({ input: this.socket, output: this.socket, terminal: true,
      prompt: 'terminal> ', useColors: true, useGlobal: true, ignoreUndefined: false,
      preview: this.style.preview });
    terminal.on('exit', () => {
      this.log('\n[exiting Node REPL Terminal...]');
      this.inRepl = false;
      this.openCommands();
    });
  }

  log(text) { this.socket.write(`${this.style.log(text)}\n`); }
  error(text) { this.socket.write(`${this.style.error(`ERROR: ${text}`)}\n`); }
}

// Listens at `path` in the style of `kind`; returns the server and its open consoles.
exports.listen = (kind, path) => new Promise((resolve) => {
  const open = new Set();
  const server = net.createServer((socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    new Console(socket, STYLES[kind]);
  });
  try { fs.unlinkSync(path); } catch (error) { /* nothing there */ }
  server.listen(path, () => resolve({ server, open }));
});
