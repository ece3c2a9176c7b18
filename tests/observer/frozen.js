// With `node --require`: a server whose REPL lets nobody take its place.
'use strict';

Object.freeze(require('repl').REPLServer.prototype);
