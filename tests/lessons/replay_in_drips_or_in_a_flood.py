"""The trap: after an outage the backlog comes at one message in 5 s, or as a flood that gets the account throttled.

Seen in NanoMQ (nanomq/nanomq#1980) and Mosquitto (eclipse/mosquitto#1359, #1612). Tidegate sends thousands a second, or what `rate` says and no
more in any window of time. The control: the check of the pace, with no `rate`.
"""

import time

from lab.gateway import Gateway, check_books
from lab.load import Sensors
from lab.process import free_port, workspace
from lab.report import Theme
from lab.rogue import CONNACK_OK, Rogue, packets, stamp

# What a quiet time saves up (100 ms), and what the two processes' clocks and schedulers do to each other.
BURST_S, SLACK = 0.1, 1.15


class Watch(Rogue):
    """A good upstream that writes down when what came."""

    def watches(self, stream):
        for first, body in packets(stream):
            if first >> 4 == 1:
                stream.sendall(CONNACK_OK)
            if first >> 4 == 3:
                self.arrivals.append((time.monotonic(), len(body)))
                stream.sendall(b"\x40\x02" + stamp(first, body)[1].to_bytes(2, "big"))


def most_in_a_second(arrivals, what):
    """The most that came in any window of a second: messages, or bytes."""
    most, start, inside = 0, 0, 0
    for at, size in arrivals:
        inside += what(size)
        while at - arrivals[start][0] > 1:
            inside -= what(arrivals[start][1])
            start += 1
        most = max(most, inside)
    return most


def drain(t, folder, count, uplink, size=100):
    """A backlog of `count` messages meets its upstream: when what came, and in how much time all of it."""
    port = free_port()
    gateway = Gateway(folder, port, uplink=uplink, backoff_max="100ms").start()
    t.later(gateway.stop)
    Sensors(folder, gateway.port, sensors=4, count=count // 4, size=size).result()
    Watch.arrivals = arrivals = []
    rogue = Watch(port, "watches")
    gateway.wait_drained(120)
    rogue.close()
    check_books(t, gateway)
    return arrivals, arrivals[-1][0] - arrivals[0][0]


def main(t):
    folder = workspace(t)
    arrivals, took = drain(t, folder / "free", 20_000, "")
    t.check("no drips: a backlog of 20 000 goes at more than a thousand a second", 20_000 / took > 1000, f"{20_000 / took:.0f}/s")
    flood = most_in_a_second(arrivals, lambda size: 1)
    t.check("control: and without `rate` it is a flood", flood > 500 * (1 + BURST_S) * SLACK, f"{flood} in a second")

    arrivals, took = drain(t, folder / "messages", 2000, "rate = { messages_per_s = 500 }")
    most = most_in_a_second(arrivals, lambda size: 1)
    t.check("no flood: never more than 500 messages and the burst in any second", most <= 500 * (1 + BURST_S) * SLACK, f"{most} in a second")
    t.check("and not much less", 2000 / took > 400, f"{2000 / took:.0f}/s")
    arrivals, took = drain(t, folder / "bytes", 400, 'rate = { bytes_per_s = "200KiB" }', 2000)
    most = most_in_a_second(arrivals, lambda size: size)
    t.check("never more than 200 KiB and the burst in any second", most <= 204800 * (1 + BURST_S) * SLACK, f"{most} bytes in a second")


with Theme("replay_in_drips_or_in_a_flood") as theme:
    main(theme)
