// Typed into a server's REPL (console.rs): takes the console's connection over for the script.
//
// The REPL shows its prompt in the same turn of the event loop in which it has evaluated this, by
// calling `displayPrompt`. That call leads to the REPL and to its socket; nothing else does. From then
// on the console is no more: nothing on this connection is echoed, evaluated or printed. What comes on
// it, up to a zero byte, is the script.
//
// Lines are typed without their indentation, several at a time where they are short, and comments not
// at all. Node.js 12 and later; an `await`, even within a word, would make the REPL evaluate it later.
(() => {
  var need = require, proto = need('repl').REPLServer.prototype, name = 'displayPrompt',
    show = proto[name], domain = process.domain;
  function take() {
    var repl = this, socket = repl.input, script = '';
    // Up to Node.js 24 each REPL evaluates in a domain of its own: another one's prompt is not meant.
    if (repl._domain && repl._domain !== domain || !socket || !socket.unref)
      return show.apply(repl, arguments);
    proto[name] = show;
    // First of all: without a listener an error on the connection would end the server.
    socket.on('error', () => {});
    try {
      // The server's listener would open its console again.
      repl.removeAllListeners('exit');
      // The REPL's own close() waits; this one takes its listeners off the socket at once.
      need('readline').Interface.prototype.close.call(repl);
      repl.output = { write: () => true };
      ['data', 'keypress', 'newListener'].forEach((event) => socket.removeAllListeners(event));
      socket.on('end', () => socket.destroy());
      socket.unref();
      socket.setEncoding('utf8');
      socket.on('data', function read(text) {
        script += text;
        var end = script.indexOf('\0');
        if (end < 0) return;
        socket.removeListener('data', read);
        try {
          need('vm').runInThisContext(script.slice(0, end), 'mediasoup-exporter.js')(socket, need);
          socket.emit('data', script.slice(end + 1));
        } catch (error) {
          socket.end(JSON.stringify({ t: 'error', op: 'script', message: String(error) }) + '\n');
        }
      });
      socket.resume();
      socket.write('MARK' + '\n');
    } catch (error) { socket.end('mediasoup-exporter ' + 'cannot: ' + error + '\n'); }
  }
  proto[name] = take;
  process.nextTick(() => { if (proto[name] === take) proto[name] = show; });
  return 'mediasoup-exporter ' + 'loads';
})()
