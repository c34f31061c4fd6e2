"""The trap: connecting to an upstream or looking up its name blocks the local broker, and an unreachable host leaks memory.

Seen in Mosquitto (eclipse/mosquitto#1530, #2729, #3296). In Tidegate uplinks are tasks of their own; local clients never notice. Here the name server
is silent, then the host is a black hole, then it refuses, hundreds of times. The control: Mosquitto's bridge and the silent
name server.
"""

import time

from lab.dns import SILENCE, NameServer
from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.mosquitto import MosquittoGateway
from lab.namespace import own
from lab.process import accepts, free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme
from lab.upstream import Upstream

NAME = "upstream.example"
# Far above what a disk and two processors under load take, far below a lookup or a connection that times out.
BOUND_US = 1_500_000


def failures(gateway):
    return gateway.metric("tidegate_uplink_failures_total")


def through_it(folder, broker, name, wait, **options):
    """Sensors that publish while `wait` runs."""
    sensors = Sensors(folder, broker.port, name, rate=200, mqtt=5, **options)
    try:
        wait()
    finally:
        sent = sensors.stop()
    return sent, sensors.journal


def main(t):
    folder = workspace(t)
    names = NameServer(t, folder)
    names.unknown = SILENCE
    upstream = Upstream(t, folder)
    hole = Proxy(free_port(), upstream.port)
    t.later(hole.close)
    gateway = Gateway(folder / "gateway", hole.port, host=NAME, connect_timeout="2s", backoff_max="60ms").start()
    t.later(gateway.stop)

    def fails(times):
        return lambda: wait_for("it has failed so often", lambda now=failures(gateway): failures(gateway) >= now + times, 60)

    def black_hole():
        names.names[NAME] = "127.0.0.1"
        hole.vanish()
        fails(2)()

    def refused():
        hole.appear()
        hole.deny()
        fails(50)()

    journals = []
    for number, (what, wait) in enumerate((("a silent name server", fails(2)), ("a black hole", black_hole), ("a refused connection", refused))):
        sent, journal = through_it(folder, gateway, f"sensors-{number}", wait, first_sensor=number + 1)
        t.check(f"{what}: local clients do not notice", sent["unacknowledged"] == 0 and sent["connects"] == 1 and sent["ack"]["max_us"] < BOUND_US,
                f"{sent['acked']} acknowledged, slowest {sent['ack']['max_us']} us")
        journals.append(journal)
    for reason in ("timeout", "tcp"):
        t.check(f"it is counted: {reason}", gateway.metric("tidegate_uplink_failures_total", reason=reason) >= 2)
    before = gateway.process.rss_bytes()
    fails(300)()
    after = gateway.process.rss_bytes()
    t.check("300 refused connections leave no memory behind", after - before < 2 << 20, f"{before >> 10} KiB before, {after >> 10} KiB after")
    t.check("and little in the log", len(gateway.log().splitlines()) < 60, len(gateway.log().splitlines()))
    hole.admit()
    check_delivery(t, upstream.verifier.expect(*journals), "when it can be reached")
    check_books(t, gateway)

    names.names.clear()
    gateway.stop()
    took = seconds_until_served(t, gateway)
    t.check("a silent name server does not hold up the start", took < BOUND_US / 1e6, f"{took:.2f} s until clients are served")
    took = seconds_until_served(t, MosquittoGateway(folder / "control", hole.port, host=NAME))
    t.check("control: it holds up the start of Mosquitto with a bridge", took > BOUND_US / 1e6, f"{took:.2f} s until clients are served")


def seconds_until_served(t, broker):
    began = time.monotonic()
    broker.start(wait=False)
    t.later(broker.kill)
    wait_for("clients are served", lambda: accepts(broker.port), 60)
    return time.monotonic() - began


own(network=True)
with Theme("unreachable_upstream_hangs_local_clients") as theme:
    main(theme)
