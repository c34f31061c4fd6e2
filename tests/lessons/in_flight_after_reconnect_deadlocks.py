"""The trap: messages in flight are emitted again after a reconnect, their packet ids collide with new ones, and the bridge stands still.

Seen in thin-edge.io (thin-edge/thin-edge.io#2960, #4334). Tidegate's ledger is reset on every disconnect: ids begin anew, what was not acknowledged goes
first. The upstream here acknowledges a few of each window and closes, over and over; at QoS 2 also between the two halves. The
control: an upstream that acknowledges nothing moves nothing, and the same check says so.
"""

import struct

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier
from lab.mosquitto import Mosquitto
from lab.process import TookTooLong, free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import CONNACK_OK, Rogue, packets, stamp, take_over, without

COUNT, WINDOW, TAKES, ROUNDS = 400, 10, 3, 15


class Quitter(Rogue):
    """Acknowledges `TAKES` messages of each connection and closes it while the rest of the window is open."""

    open_twice = 0

    def closes_halfway(self, stream):
        seen, halves, done = set(), {}, 0
        for first, body in packets(stream):
            kind, reply = first >> 4, None
            if kind == 1:
                stream.sendall(CONNACK_OK)
            elif kind == 3:
                what, packet_id = stamp(first, body)
                self.open_twice += packet_id in seen  # nothing before was completed: an id in use
                if len(seen) < TAKES:
                    seen.add(packet_id)
                    if first & 6 == 4:
                        halves[packet_id] = what
                        stream.sendall(b"\x50\x02" + struct.pack(">H", packet_id))
                    else:
                        self.taken.add(what)
                        stream.sendall(b"\x40\x02" + struct.pack(">H", packet_id))
                        seen.discard(packet_id)
                        done += 1
            elif kind == 6:
                packet_id = struct.unpack(">H", body[:2])[0]
                if done < TAKES - 1:  # the last one stays between its two halves
                    self.taken.add(halves[packet_id])
                    stream.sendall(b"\x70\x02" + struct.pack(">H", packet_id))
                    seen.discard(packet_id)
                done += 1
            if done >= TAKES:
                return


def moves(rogue, least, seconds):
    try:
        wait_for("messages are taken", lambda: len(rogue.taken) >= least, seconds)
        return True
    except TookTooLong:
        return False


def run(t, folder, qos):
    folder.mkdir()
    port = free_port()
    rogue = Quitter(port, "closes_halfway")
    gateway = Gateway(folder / "gateway", port, uplink=f"max_inflight = {WINDOW}\nqos = {qos}", backoff_max="60ms").start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, count=COUNT)
    sensors.result()
    least = ROUNDS * (TAKES if qos == 1 else TAKES - 1)
    t.check(f"QoS {qos}: it moves, reconnect after reconnect", moves(rogue, least, 60), f"{len(rogue.taken)} taken on {rogue.connections} connections")
    t.check(f"QoS {qos}: no id is used twice at a time", rogue.open_twice == 0, rogue.open_twice)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port, f"good-{qos}")
    rogue.close()
    t.later(take_over(port, upstream.port).close)
    got = verifier.expect(without([sensors.journal], rogue.taken, folder / "wanted.journal"))
    t.check(f"QoS {qos}: when a good upstream takes over, nothing is missing and the order is right",
            got["lost"] == got["out_of_order"] == got["ids_out_of_order"] == 0 and got["expected"] > 0, f"{got['expected']} expected, {got['distinct']} came")
    check_books(t, gateway)


def main(t):
    folder = workspace(t)
    run(t, folder / "qos1", 1)
    run(t, folder / "qos2", 2)
    port = free_port()
    rogue = Rogue(port, "never_acknowledges")
    gateway = Gateway(folder / "control", port).start()
    t.later(gateway.stop)
    Sensors(folder, gateway.port, "control", count=COUNT).result()
    wait_for("messages are sent", lambda: rogue.published > 0, 20)
    t.check("control: what stands still is found to stand still", not moves(rogue, 1, 3))
    rogue.close()


with Theme("in_flight_after_reconnect_deadlocks") as theme:
    main(theme)
