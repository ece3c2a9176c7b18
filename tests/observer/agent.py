"""Tells mediasoup-exporter what a server in Python knows (docs/observer-protocol.md).

The server hands in an object with `kind`, `version`, `objects()` and `stats(what, id)`, and calls
`Agent.changed()` whenever `objects()` would answer otherwise. Standard library only.
"""

import asyncio
import json
import os
import time

PROTOCOL = 1
EXPORTERS = 4
BEAT_S = 5
# Bytes that may wait for an exporter that does not read, and that a line of its may have.
PENDING = 8 << 20
WISHES = 4096
# Ids in a line of owners.
LOT = 256


class Agent:
    """Listens on a Unix socket and speaks to each exporter that connects."""

    def __init__(self, server, path):
        self.server = server
        self.path = path
        self.listeners = set()

    async def listen(self):
        """Only this user and root may connect: the socket is made with mode 0600."""
        if os.path.exists(self.path):
            os.unlink(self.path)
        mask = os.umask(0o177)
        try:
            await asyncio.start_unix_server(self.meet, self.path, limit=WISHES)
        finally:
            os.umask(mask)

    def changed(self):
        """The server's objects are others than they were."""
        for listener in self.listeners:
            listener.news.set()

    async def meet(self, reader, writer):
        listener = Listener(self.server, writer)
        if len(self.listeners) >= EXPORTERS:
            listener.say(t="error", op="install", message="too many exporters listen")
            writer.close()
            return
        self.listeners.add(listener)
        tasks = []
        try:
            listener.hello()
            listener.wish(await reader.readline())
            tasks = [asyncio.create_task(duty) for duty in listener.duties()]
            while line := await reader.readline():
                listener.wish(line)
        except (OSError, ValueError):
            pass  # It went away, or speaks something else.
        finally:
            for task in tasks:
                task.cancel()
            self.listeners.discard(listener)
            writer.close()


class Listener:
    """One exporter: what it wishes, and what it was told."""

    def __init__(self, server, writer):
        self.server = server
        self.writer = writer
        self.news = asyncio.Event()
        self.told = {}
        self.owners = {}
        self.interval = 0
        self.rate = 1
        self.requests = 0
        self.longest = 0

    def say(self, **line):
        if self.writer.transport.get_write_buffer_size() > PENDING:
            self.writer.transport.abort()
        self.writer.write(json.dumps(line).encode() + b"\n")

    def hello(self):
        self.say(t="hello", v=PROTOCOL, kind=self.server.kind, mediasoup=self.server.version,
                 node="", pid=os.getpid())

    def wish(self, line):
        wishes = json.loads(line or "{}")
        self.interval = float(wishes.get("stats", self.interval))
        self.rate = max(1.0, float(wishes.get("rate", self.rate)))

    def duties(self):
        return self.follow(), self.beat(), self.tell_stats()

    async def follow(self):
        self.tell()
        self.say(t="synced")
        while True:
            await self.news.wait()
            self.news.clear()
            self.tell()
            await self.writer.drain()
            # Changes that come together are told together.
            await asyncio.sleep(0.2)

    def tell(self):
        """Says how what is differs from what was told. An object's line replaces the one before."""
        begin = time.monotonic()
        objects, owners = self.server.objects()
        for key in self.told:
            if key not in objects:
                what, id, *on = key
                self.say(t="gone", what=what, id=id, **({"transport": on[0]} if on else {}))
        for key, line in objects.items():
            if self.told.get(key) != line:
                self.say(t=key[0], id=key[1], **line)
        self.tell_owners(owners)
        self.told, self.owners = objects, owners
        self.longest = max(self.longest, (time.monotonic() - begin) * 1000)

    def tell_owners(self, owners):
        lots = {}
        for (what, id), peer in owners.items():
            if self.owners.get((what, id)) != peer:
                lots.setdefault((peer, what), []).append(id)
        for what, id in self.owners:
            if (what, id) not in owners:
                lots.setdefault((None, what), []).append(id)
        for (peer, what), ids in lots.items():
            for start in range(0, len(ids), LOT):
                lot = ids[start:start + LOT]
                if peer is None:
                    self.say(t="disown", what=what, ids=lot)
                else:
                    self.say(t="own", peer=peer, what=what, ids=lot)

    async def beat(self):
        while True:
            await asyncio.sleep(BEAT_S)
            kinds = ("worker", "router", "transport", "producer", "consumer")
            self.say(t="beat", objects=sum(key[0] in kinds for key in self.told),
                     requests=self.requests, dropped=0, failures=0, slice=self.longest)
            self.longest = 0

    async def tell_stats(self):
        """Spread over the interval, and never more than the rate."""
        while True:
            streams = [key for key in self.told if key[0] in ("producer", "consumer")]
            if not self.interval or not streams:
                await asyncio.sleep(0.05)
            for key in streams if self.interval else []:
                await asyncio.sleep(max(1 / self.rate, self.interval / len(streams)))
                if key in self.told:
                    self.requests += 1
                    line = {"what": key[0], "id": key[1], "of": self.server.stats(key[0], key[1])}
                    self.say(t="stats", transport=self.told[key]["transport"], **line)
