"""Many clients at once: what a connection costs, how soon a thousand publishers are answered, and whether all are alike."""

import time

from lab.load import Idle, Sensors
from lab.process import wait_for

IDLE = 5000
PUBLISHERS = 1000
# Unacknowledged messages of one publisher at full speed: a thousand have as many in flight as a window of 20 000.
WINDOW = 20


def settled_rss(process, seconds):
    """Resident memory once it has stopped changing, after at least so long: servers give buffers back late."""
    since, last = time.monotonic(), -1
    settled = time.monotonic() + seconds

    def stable():
        nonlocal last, since
        now = process.rss_bytes()
        if abs(now - last) > 64 << 10:
            last, since = now, time.monotonic()
        return time.monotonic() > max(settled, since + 2)

    wait_for("the memory stays as it is", stable, 90, 0.25)
    return last


def scale(table, share, systems, run_of):
    """Idle clients first; then publishers beside them, paced and as fast as they are answered."""
    idle, publishers = int(IDLE * max(share, 0.2)), int(PUBLISHERS * max(share, 0.2))
    seconds = 15 * max(share, 0.3)
    for system in systems:
        with run_of(system) as run:
            process = run.gateway.process
            empty = settled_rss(process, 1)
            clients = Idle(run.folder, run.gateway.port, idle, filter="idle/{}/cmd")
            at_once = process.rss_bytes()
            rested = settled_rss(process, 14)
            kept = f"memory per connection, {idle} idle with a subscription each, KiB"
            table.add(kept, system.name, (rested - empty) / idle / 1024, False)
            table.add("... while they come", system.name, (at_once - empty) / idle / 1024, False)
            before = process.cpu_seconds()
            time.sleep(5)
            table.add(f"CPU of {idle} idle connections, % of a core", system.name, (process.cpu_seconds() - before) * 20, False)

            for topic, kind in (("local/{}", ""), ("sensors/{}/data", ", stored")):
                among = f"{publishers} publishers beside {idle} idle clients{kind}"
                rate = publishers * 10
                got = Sensors(run.folder, run.gateway.port, f"paced-{kind[2:]}", sensors=publishers, rate=rate, topic=topic,
                              count=int(10 * seconds)).result(300)
                check(got, publishers)
                table.add(f"{among}, {rate}/s, PUBACK p50, µs", system.name, got["ack"]["p50_us"], False)
                table.add(f"... p99{kind}, µs", system.name, got["ack"]["p99_us"], False)
                sensors = Sensors(run.folder, run.gateway.port, f"fast-{kind[2:]}", sensors=publishers, window=WINDOW,
                                  topic=topic)
                time.sleep(seconds)
                got = sensors.stop()
                check(got, publishers)
                table.add(f"{among}, as fast as answered, messages/s", system.name, got["acked_per_s"])
                table.add(f"... PUBACK p99{kind}, ms", system.name, got["ack"]["p99_us"] / 1000, False)
                table.add(f"... messages of the slowest publisher{kind}, % of the mean", system.name, got["slowest_share"] * 100)
            table.add("memory per connection with all that behind it, KiB", system.name,
                      (settled_rss(process, 14) - empty) / idle / 1024, False)
            gone = clients.stop()
            assert gone["closed"] == 0, gone


def check(got, publishers):
    """Nobody was refused, thrown out or left without an answer."""
    assert got["unacknowledged"] == 0 and got["refused"] == 0 and got["connects"] == publishers, got
