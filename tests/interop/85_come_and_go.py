"""What comes and goes by the hundred thousand leaves no memory behind: filters, topics, retained messages, sessions with queues,
topic aliases. Each is done a little first, so that what the gateway needs anyway is there, and then a lot."""

import os
import socket
import struct
import time

from lab.gateway import Gateway
from lab.mosquitto import Mosquitto
from lab.process import wait_for, workspace
from lab.report import Theme

SCALE = float(os.environ.get("COME_AND_GO", "1"))
# A leak of 64 bytes for each of 200 000 is above it, what an allocator keeps in hand is below.
BOUND = 8 << 20


def text(words):
    data = words if isinstance(words, bytes) else words.encode()
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    out, left = bytes([first]), len(body)
    while True:
        left, low = divmod(left, 128)
        out += bytes([low | (0x80 if left else 0)])
        if not left:
            return out + body


class Client:
    """A client that speaks bytes, and waits for an answer to everything."""

    def __init__(self, port, name, version=4, clean=True):
        self.version = version
        self.stream = socket.create_connection(("127.0.0.1", port), 20)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.stream.makefile("rb")
        properties = b"" if version == 4 else b"\x00" if clean else b"\x05\x11\xff\xff\xff\xff"
        self.stream.sendall(packet(0x10, text("MQTT") + bytes([version, 2 if clean else 0, 0, 0]) + properties + text(name)))
        assert self.hear() == 0x20, "no CONNACK"

    def hear(self):
        """The first byte of the next packet, which is read whole."""
        first, length, shift = self.input.read(1)[0], 0, 0
        while True:
            byte = self.input.read(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                self.input.read(length)
                return first

    def ask(self, packets, answer):
        """Sends all at once; as many answers come back."""
        self.stream.sendall(b"".join(packets))
        for _ in packets:
            found = self.hear()
            assert found == answer, hex(found)

    def subscribe(self, filters, number=1):
        properties = b"\x00" if self.version == 5 else b""
        return packet(0x82, struct.pack(">H", number) + properties + b"".join(text(f) + b"\x01" for f in filters))

    def unsubscribe(self, filters, number=1):
        properties = b"\x00" if self.version == 5 else b""
        return packet(0xA2, struct.pack(">H", number) + properties + b"".join(text(f) for f in filters))

    def publish(self, topic, payload, flags=0x02, number=1, properties=b"\x00"):
        head = text(topic) + (struct.pack(">H", number) if flags & 6 else b"") + (properties if self.version == 5 else b"")
        return packet(0x30 | flags, head + payload)

    def close(self):
        self.stream.sendall(b"\xe0\x00")
        self.input.read()
        self.stream.close()


def filters(port, count):
    it = Client(port, "filters")
    for start in range(0, count, 500):
        some = [f"fleet/{n}/{'+' if n % 2 else 'x'}/state/{n % 7}/#" for n in range(start, start + 500)]
        it.ask([it.subscribe(some[i:i + 50], i + 1) for i in range(0, 500, 50)], 0x90)
        it.ask([it.unsubscribe(some[i:i + 50], i + 1) for i in range(0, 500, 50)], 0xB0)
    it.close()


def topics(port, count):
    it = Client(port, "topics")
    for start in range(0, count, 500):
        it.ask([it.publish(f"once/{n}/value", b"x" * 50, number=n % 500 + 1) for n in range(start, start + 500)], 0x40)
    it.close()


def retained(port, count, at_once=500):
    it = Client(port, "retained")
    for begin in range(0, count, at_once):
        for payload in (b"x" * 50, b""):
            for start in range(begin, begin + at_once, 500):
                it.ask([it.publish(f"kept/{n}/value", payload, 0x03, n % 500 + 1) for n in range(start, start + 500)], 0x40)
    it.close()


def retained_at_once(port, count):
    """All of them are there before the first one goes."""
    retained(port, count, count)


def sessions(port, count):
    publisher = Client(port, "publisher")
    for n in range(count):
        it = Client(port, f"comes-{n}", clean=False)
        it.ask([it.subscribe([f"for/{n}", "for/all"])], 0x90)
        it.close()
        publisher.ask([publisher.publish(f"for/{n}", b"x" * 200, number=i + 1) for i in range(5)], 0x40)
        Client(port, f"comes-{n}").close()
    publisher.close()


def aliases(port, count):
    for _ in range(count // 32):
        it = Client(port, "aliases", version=5)
        named = [it.publish(f"alias/{n}/" + "y" * 1000, b"x", 0x02, n, b"\x03\x23" + struct.pack(">H", n)) for n in range(1, 33)]
        it.ask(named, 0x40)
        it.ask([it.publish("", b"x", 0x02, n, b"\x03\x23" + struct.pack(">H", n)) for n in range(1, 33)], 0x40)
        it.close()


# What is done, how often, and how much of it before: what was there at once the allocator keeps in hand.
WORKS = ((filters, 200_000, 0.05), (topics, 200_000, 0.05), (retained, 200_000, 0.05), (retained_at_once, 90_000, 1),
         (sessions, 3000, 0.2), (aliases, 32_000, 0.05))


def rested(gateway):
    """Resident memory, once buffers are given back and what is deleted later is deleted."""
    seen = []

    def stable():
        seen.append(gateway.process.rss_bytes())
        return len(seen) > 6 and max(seen[-6:]) - min(seen[-6:]) < 128 << 10

    wait_for("the memory stays as it is", stable, 60, 0.5)
    return seen[-1]


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    for work, count, share in WORKS:
        count = max(1000, int(count * SCALE) // 500 * 500)
        for _ in range(2):
            work(gateway.port, max(500, int(count * share) // 500 * 500))
        before, began = rested(gateway), time.monotonic()
        work(gateway.port, count)
        took, after = time.monotonic() - began, rested(gateway)
        t.check(f"{count} {work.__name__.replace('_', ' ')} came and went", after - before < BOUND,
                f"{before / 2**20:.1f} MiB before, {after / 2**20:.1f} after, {took:.0f} s")
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("come_and_go") as theme:
    main(theme)
