"""Memory with ten million stored messages (guarantee G5): while they come, at rest, after a restart, while they go."""

import time

from lab.load import Sensors, Sink
from lab.process import wait_for

BACKLOG = 10_000_000
SENSORS = 20


def memory(table, share, systems, run_of, connack):
    """The same for every system: empty, filling, full, restarted, draining."""
    backlog = int(BACKLOG * (share if share >= 1 else 0.02))
    label = f"{backlog:,}".replace(",", " ")
    for system in systems:
        # The defaults, 1 GiB a stream and 4 GiB in all, are less.
        roomy = type("Roomy", (system,), {"store": 'durability = "full"\nmax_bytes = "16GiB"', "stream": 'max_bytes = "8GiB"'})
        with run_of(roomy) as run:
            gateway, name = run.gateway, run.gateway.name
            mib = lambda: gateway.process.rss_bytes() / 2**20  # noqa: E731
            empty = mib()
            table.add("resident memory with nothing stored, MiB", name, empty, False)
            sensors = Sensors(run.folder, gateway.port, "fill", sensors=SENSORS, count=backlog // SENSORS, window=1000)
            got, highest = watched(sensors, mib, 1800)
            assert got["acked"] == backlog // SENSORS * SENSORS, got
            table.add(f"... the most while {label} came, MiB", name, highest, False)
            table.add(f"... with {label} stored, MiB", name, mib(), False, "≤ 16 MiB above empty")
            gateway.save()
            gateway.stop(600)
            began = time.monotonic()
            gateway.start(wait=False)
            wait_for("CONNACK", lambda: connack(gateway.port), 600, 0.001)
            table.add(f"start to CONNACK with {label} stored, ms", name, (time.monotonic() - began) * 1000, False)
            table.add("... resident memory then, MiB", name, mib(), False, "≤ 16 MiB above empty")
            _, highest = watched(Sink(run.folder, run.upstream.port, backlog // 4), mib, 600)
            table.add("... the most while a quarter of it went upstream, MiB", name, highest, False)


def watched(tool, figure, seconds):
    """What a tool says at its end, and the highest of a figure until then."""
    highest, deadline = figure(), time.monotonic() + seconds
    while tool.lines.empty():
        assert time.monotonic() < deadline, "not done in time"
        highest = max(highest, figure())
        time.sleep(0.05)
    return tool.result(), highest
