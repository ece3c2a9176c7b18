"""An SFU that nobody has: `sfu.py SOCKET ROOMS PEERS`. It forwards nothing; its agent tells of it.

Commands come as JSON lines on stdin, answers go to stdout, as with server.js.
"""

import asyncio
import itertools
import json
import os
import sys
import uuid

from agent import Agent


class Sfu:
    kind = "an-sfu-in-python"
    version = "0.1"

    def __init__(self):
        self.rooms = {}
        self.numbers = itertools.count(1000)

    def open_room(self, name):
        self.rooms[name] = {"router": str(uuid.uuid4()), "peers": {}}

    def open_peer(self, room, id):
        peers = self.rooms[room]["peers"]
        peer = {"name": f'Peer "{id}" \U0001f600', "transport": str(uuid.uuid4()),
                "port": next(self.numbers), "producers": [], "consumers": []}
        peer["producers"] = [self.producer("audio", "opus", [None]),
                             self.producer("video", "VP8", ["lo", "hi"])]
        for one, other in [(p, peer) for p in peers.values()] + [(peer, p) for p in peers.values()]:
            one["consumers"] += [self.consumer(producer) for producer in other["producers"]]
        peers[id] = peer

    def producer(self, kind, codec, rids):
        streams = [{"rid": rid, "ssrc": next(self.numbers),
                    "rtx": next(self.numbers) if rid else None} for rid in rids]
        return {"id": str(uuid.uuid4()), "kind": kind, "codec": codec, "streams": streams,
                "paused": False}

    def consumer(self, producer):
        return {"id": str(uuid.uuid4()), "producer": producer, "ssrc": next(self.numbers)}

    def close_peer(self, room, id):
        gone = self.rooms[room]["peers"].pop(id)["producers"]
        for peer in self.rooms[room]["peers"].values():
            peer["consumers"] = [c for c in peer["consumers"] if c["producer"] not in gone]

    def pause(self, paused):
        room = next(iter(self.rooms.values()))
        next(iter(room["peers"].values()))["producers"][0]["paused"] = paused

    def people(self):
        for name, room in self.rooms.items():
            for id, peer in room["peers"].items():
                yield name, id, peer

    # ---- What the agent tells -----------------------------------------------------------------

    def objects(self):
        """Lines by (kind, id, and a producer's transport); owners by (kind, id)."""
        # It has no workers: its ports are its own.
        pid = os.getpid()
        objects = {("worker", pid): {}}
        owners = {}
        for name, room in self.rooms.items():
            objects["router", room["router"]] = {"pid": pid}
            objects["room", name] = {"routers": [room["router"]]}
        for name, id, peer in self.people():
            on = peer["transport"]
            objects["peer", id] = {"room": name, "name": peer["name"], "agent": "none"}
            objects["transport", on] = {
                "router": self.rooms[name]["router"], "kind": "webrtc", "ice": "completed",
                "tuples": [{"proto": "udp", "local": "192.0.2.1", "port": peer["port"],
                            "remote": "203.0.113.9", "rport": peer["port"]}]}
            owners["transport", on] = id
            for it in peer["producers"]:
                # With RIDs only scores tell SSRCs.
                encodings = [{"rid": s["rid"]} if s["rid"] else {"ssrc": s["ssrc"]}
                             for s in it["streams"]]
                scores = [{"ssrc": s["ssrc"], "rid": s["rid"], "score": 10} for s in it["streams"]]
                objects["producer", it["id"], on] = {
                    "transport": on, "kind": it["kind"], "codec": it["codec"], "enc": encodings,
                    "score": scores, "paused": it["paused"]}
            for it in peer["consumers"]:
                producer = it["producer"]
                objects["consumer", it["id"]] = {
                    "transport": on, "producer": producer["id"], "kind": producer["kind"],
                    "codec": producer["codec"], "enc": [{"ssrc": it["ssrc"]}], "score": 9,
                    "ppaused": producer["paused"]}
        return objects, owners

    def stats(self, what, id):
        for _, _, peer in self.people():
            for it in peer["producers"] if what == "producer" else []:
                if it["id"] == id:
                    return [{"ssrc": s["ssrc"], "rtx": s["rtx"], "rid": s["rid"], "bytes": 1200}
                            for s in it["streams"]]
            for it in peer["consumers"] if what == "consumer" else []:
                if it["id"] == id:
                    return [{"ssrc": it["ssrc"], "bytes": 800, "rtt": 12.5}]
        return []

    # ---- What an observer has to find ---------------------------------------------------------

    def truth(self):
        truth = {"workers": [os.getpid()], "rooms": list(self.rooms), "peers": [], "transports": [],
                 "producers": [], "consumers": []}
        for name, id, peer in self.people():
            where = {"room": name, "peer": id}
            on = peer["transport"]
            truth["peers"].append({"id": id, "room": name, "name": peer["name"], "agent": "none"})
            truth["transports"].append({
                **where, "id": on, "kind": "webrtc", "pid": os.getpid(),
                "tuples": [{"proto": "udp", "port": peer["port"],
                            "remote": f"203.0.113.9:{peer['port']}"}]})
            for it in peer["producers"]:
                truth["producers"].append({
                    **where, "id": it["id"], "transport": on, "kind": it["kind"],
                    "codec": it["codec"], "paused": it["paused"], "encodings": it["streams"]})
            for it in peer["consumers"]:
                producer = it["producer"]
                truth["consumers"].append({
                    **where, "id": it["id"], "producer": producer["id"], "transport": on,
                    "kind": producer["kind"], "paused": False,
                    "producerPaused": producer["paused"], "score": 9,
                    "encodings": [{"ssrc": it["ssrc"], "rid": None, "rtx": None}]})
        return truth


async def main(path, rooms, peers):
    sfu = Sfu()
    for room in range(int(rooms)):
        sfu.open_room(f"room-{room}")
        for peer in range(int(peers)):
            sfu.open_peer(f"room-{room}", f"room-{room}-peer-{peer}")
    agent = Agent(sfu, path)
    await agent.listen()
    deeds = {
        "truth": lambda command: sfu.truth(),
        "open-peer": lambda command: sfu.open_peer(command["room"], command["peer"]),
        "close-peer": lambda command: sfu.close_peer(command["room"], command["peer"]),
        "close-room": lambda command: sfu.rooms.pop(command["room"]) and None,
        "pause": lambda command: sfu.pause(command["producer"]),
        "census": lambda command: {"registry": int(bool(agent.listeners))},
    }
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        answer = deeds[command["do"]](command) or {"done": True}
        agent.changed()
        print(json.dumps(answer), flush=True)


asyncio.run(main(*sys.argv[1:]))
