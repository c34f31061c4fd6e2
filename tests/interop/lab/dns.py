"""A name server that answers, denies, fails or says nothing. It needs a network of its own: see `namespace.own`."""

import socket
import struct
import threading

from .namespace import bind

# Answers to a query: RCODE, or silence.
NXDOMAIN, SERVFAIL, SILENCE = 3, 2, None


class NameServer:
    """On 127.0.0.1:53, and in our /etc/resolv.conf; `names` is what it knows, `unknown` what it does with the rest."""

    def __init__(self, t, folder):
        self.names = {}
        self.unknown = NXDOMAIN
        self.asked = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        conf = folder / "resolv.conf"
        # Longer than any `connect_timeout` here: with the same 2 s it is chance whether the resolver or the gateway gives up first.
        conf.write_text("nameserver 127.0.0.1\noptions timeout:6 attempts:1\n")
        bind(t, conf, "/etc/resolv.conf")
        threading.Thread(target=self._serve, daemon=True).start()
        t.later(self.socket.close)

    def _serve(self):
        while True:
            try:
                query, who = self.socket.recvfrom(512)
            except OSError:
                return
            self.asked += 1
            answer = self._answer(query)
            if answer is not None:
                self.socket.sendto(answer, who)

    def _answer(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind, question = struct.unpack(">H", query[at + 1:at + 3])[0], query[12:at + 5]
        address = self.names.get(".".join(labels).lower())
        if address is None:
            if self.unknown is SILENCE:
                return None
            return query[:2] + struct.pack(">HHHHH", 0x8180 | self.unknown, 1, 0, 0, 0) + question
        record = b"" if kind != 1 else b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
        return query[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if record else 0, 0, 0) + question + record
