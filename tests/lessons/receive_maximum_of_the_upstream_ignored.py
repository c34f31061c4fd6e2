"""The trap: the upstream's Receive Maximum is ignored; it disconnects with 0x93, the gateway comes back, and so on for ever.

Seen in Mosquitto (eclipse/mosquitto#3002, #2301). Tidegate's window is the smaller of its own and the upstream's. The control: an upstream that
counts just so, but does not say its limit.
"""

import threading

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import CONNACK_OK, Rogue, packets, stamp

LIMIT = 3


class Strict(Rogue):
    """Takes `LIMIT` at a time, and answers a little later."""

    excesses = 0

    def says_its_limit(self, stream):
        self._count(stream, b"\x20\x06\x00\x00\x03\x21\x00" + bytes([LIMIT]))

    def keeps_its_limit_secret(self, stream):
        self._count(stream, CONNACK_OK)

    def _count(self, stream, connack):
        open_ids, lock = set(), threading.Lock()

        def answer(what, packet_id):
            with lock:
                open_ids.discard(packet_id)
                self.taken.add(what)
                try:
                    stream.sendall(b"\x40\x02" + packet_id.to_bytes(2, "big"))
                except OSError:
                    pass  # it was disconnected meanwhile

        for first, body in packets(stream):
            if first >> 4 == 1:
                stream.sendall(connack)
            if first >> 4 != 3:
                continue
            what, packet_id = stamp(first, body)
            with lock:
                open_ids.add(packet_id)
                excess = len(open_ids) > LIMIT
            if excess:
                self.excesses += 1
                stream.sendall(b"\xe0\x02\x93\x00")  # Receive Maximum exceeded
                return
            threading.Timer(0.005, answer, (what, packet_id)).start()


def run(t, folder, habit, count):
    port = free_port()
    rogue = Strict(port, habit)
    gateway = Gateway(folder, port, progress_timeout="5s").start()
    t.later(gateway.stop)
    Sensors(folder, gateway.port, count=count).result()
    return rogue, gateway


def main(t):
    folder = workspace(t)
    rogue, gateway = run(t, folder / "says", "says_its_limit", 300)
    check_books(t, gateway)
    t.check(f"never more than {LIMIT} unacknowledged, on one connection", (rogue.excesses, rogue.connections, len(rogue.taken)) == (0, 1, 300),
            f"{rogue.connections} connections, {rogue.excesses} excesses, {len(rogue.taken)} taken")
    rogue.close()

    upstream = Mosquitto(folder / "upstream", inflight=5).start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port)
    gateway = Gateway(folder / "mosquitto", upstream.port).start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, count=2000)
    sensors.result()
    check_delivery(t, verifier.expect(sensors.journal), "Mosquitto with max_inflight_messages 5", duplicates_allowed=False)
    connects = gateway.metric("tidegate_uplink_connects_total")
    t.check("over one connection", connects == 1, connects)

    rogue, gateway = run(t, folder / "control", "keeps_its_limit_secret", 300)
    wait_for("it is exceeded", lambda: rogue.excesses > 1, 20)
    t.check("control: where the limit is not said, the count finds an excess", rogue.excesses > 1, rogue.excesses)
    rogue.close()


with Theme("receive_maximum_of_the_upstream_ignored") as theme:
    main(theme)
