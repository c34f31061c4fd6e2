"""Upstreams that misbehave: raw sockets that speak just enough MQTT 5 to be a nuisance."""

import os
import socket
import ssl
import struct
import threading

from .process import wait_for
from .proxy import Proxy


def packets(stream):
    """The packets that come, as (first byte, body); ends with the connection."""
    buffer = b""
    while True:
        at, length, shift, whole = 1, 0, 0, False
        while at < len(buffer) and at < 5 and not whole:
            length |= (buffer[at] & 0x7F) << shift
            whole = not buffer[at] & 0x80
            at, shift = at + 1, shift + 7
        if whole and len(buffer) >= at + length:
            yield buffer[0], buffer[at:at + length]
            buffer = buffer[at + length:]
            continue
        data = stream.recv(65536)
        if not data:
            return
        buffer += data


def stamp(first, body):
    """(sensor, seq) and packet id of a QoS 1 PUBLISH from `loadgen`."""
    topic = struct.unpack(">H", body[:2])[0]
    packet_id = struct.unpack(">H", body[2 + topic:4 + topic])[0]
    at = body.find(b"TGLG", 4 + topic)
    return struct.unpack(">IQ", body[at + 4:at + 16]), packet_id


def take_over(port, target):
    """A good upstream in the place of a rogue, once that has gone: a proxy on its port."""
    def proxy():
        try:
            return Proxy(port, target)
        except OSError:
            return None

    return wait_for("the port is free", proxy, 10)


def without(journals, taken, path):
    """Journals less what a rogue acknowledged: it took those messages for good."""
    lines = []
    for journal in journals:
        for line in journal.read_text().splitlines():
            sensor, first, last = map(int, line.split())
            lines += [f"{sensor} {seq} {seq}\n" for seq in range(first, last + 1) if (sensor, seq) not in taken]
    path.write_text("".join(lines))
    return path


CONNACK_OK = b"\x20\x03\x00\x00\x00"


class Rogue:
    """A server with one bad habit, a method of this class or of one derived from it; `taken` is what it acknowledged."""

    def __init__(self, port, habit, tls=None):
        self.habit = habit
        self.tls = tls
        self.taken = set()
        self.connections = 0
        self.published = 0
        self.open = []
        # A rogue before may still be closing.
        self.listener = wait_for("the port is free", lambda: self._listen(port), 10)
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _listen(port):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            return None

    def _accept(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        try:
            if self.tls:
                stream = self.tls.wrap_socket(stream, server_side=True)
            getattr(self, self.habit)(stream)
        except (OSError, ssl.SSLError, struct.error):
            pass
        stream.close()

    def close(self):
        # `close` alone would leave the port taken while `accept` waits in another thread.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for stream in self.open:
            try:
                stream.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    # The habits.

    def good(self, stream):
        self._acknowledge(stream, 1, twice=False)

    def refuses_login(self, stream):
        next(packets(stream))
        stream.sendall(b"\x20\x03\x00\x86\x00")  # Bad User Name or Password
        stream.recv(1)

    def says_nothing(self, stream):
        for _ in packets(stream):
            pass

    def never_acknowledges(self, stream):
        for first, _ in packets(stream):
            if first >> 4 == 1:
                stream.sendall(CONNACK_OK)
            elif first >> 4 == 12:
                stream.sendall(b"\xd0\x00")
            self.published += first >> 4 == 3

    def acknowledges_twice(self, stream):
        self._acknowledge(stream, 1, twice=True)

    def acknowledges_backwards(self, stream):
        self._acknowledge(stream, 5, twice=False)

    def _acknowledge(self, stream, batch, twice):
        waiting = []
        for first, body in packets(stream):
            if first >> 4 == 1:
                stream.sendall(CONNACK_OK)
            if first >> 4 != 3:
                continue
            waiting.append(stamp(first, body))
            self.published += 1
            if len(waiting) < batch:
                continue
            for what, packet_id in reversed(waiting):
                self.taken.add(what)
                stream.sendall((b"\x40\x02" + struct.pack(">H", packet_id)) * (2 if twice else 1))
            waiting = []

    def sends_garbage_first(self, stream):
        next(packets(stream))
        stream.sendall(b"\xff\xff\xff\xff\xff" + os.urandom(100))
        stream.recv(1)

    def sends_garbage_later(self, stream):
        for first, _ in packets(stream):
            if first >> 4 == 1:
                stream.sendall(CONNACK_OK)
            if first >> 4 == 3:
                self.published += 1
                stream.sendall(b"\xf7\xff\xff\xff\xff" + b"\x00" * 100)

    def acknowledges_what_was_never_sent(self, stream):
        for first, _ in packets(stream):
            if first >> 4 == 1:
                stream.sendall(CONNACK_OK)
            if first >> 4 == 3:
                self.published += 1
                stream.sendall(b"\x40\x02\xff\xf0")

    def hangs_up(self, stream):
        next(packets(stream))
