"""A server that tells more than anybody has: `flood.py SOCKET HOW`. Standard library only.

HOW: `transports N` tells so many, then all of them again and again; `routers N` tells N transports and
then 3,000 lines of their router; `consumers N` tells N with 64 encodings each; `silence` stops in the
middle of a line. What was told once is said on stdout.
"""

import json
import os
import socket
import sys

path, how, *number = sys.argv[1:]
number = int(number[0]) if number else 0
mark = f"{os.getpid():x}"


def line(**fields):
    return (json.dumps(fields) + "\n").encode()


ROUTER = line(t="router", id=f"R{mark}", pid=os.getpid())


def hello():
    yield line(t="hello", v=1, kind="flood", mediasoup="3.0.0", node="v0", pid=os.getpid())
    yield line(t="worker", id=os.getpid())
    yield ROUTER


def transport(n):
    tuples = [{"proto": "udp", "local": "192.0.2.1", "port": 40000 + n % 1000,
               "remote": f"203.0.{n >> 8 & 255}.{n & 255}", "rport": 1024 + (n >> 16)}]
    return line(t="transport", id=f"T{mark}-{n}", router=f"R{mark}", kind="webrtc", tuples=tuples)


def consumer(n):
    encodings = [{"ssrc": n * 64 + e, "rid": f"r{e}", "rtx": 1 << 31 | n * 64 + e} for e in range(64)]
    return line(t="consumer", id=f"C{mark}-{n}", transport=f"T{mark}-{n}", producer="P", kind="video",
                codec="VP8", enc=encodings)


def synced():
    return line(t="synced")


def told():
    yield from hello()
    if how == "consumers":
        yield from map(consumer, range(number))
    else:
        yield from map(transport, range(number))
    yield synced()
    if how == "routers":
        for _ in range(3000):
            yield ROUTER


def in_blocks(lines, size=1 << 16):
    block = b""
    for one in lines:
        block += one
        if len(block) >= size:
            yield block
            block = b""
    yield block


def meet(one):
    if how == "silence":
        one.sendall(line(t="hello", v=1)[:-4])
        one.recv(1)
        return
    for block in in_blocks(told()):
        one.sendall(block)
    print("told", flush=True)
    while how == "transports":
        for block in in_blocks(map(transport, range(number))):
            one.sendall(block)
    one.recv(1)
    while one.recv(4096):
        pass


listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("ready", flush=True)
while True:
    visitor, _ = listener.accept()
    try:
        meet(visitor)
    except OSError:
        pass
    visitor.close()
