"""Flash wear: what a message costs in bytes written, by rate and by how long a commit may wait for company.

Bytes are those that the kernel counts for the process (`write_bytes` of /proc/PID/io): what it gave to the storage below,
before the file system's own journal and whatever the card makes of it.
"""

import time

from lab.load import Sensors, Sink
from lab.process import wait_for

RATES = (1, 10, 100, 1000)  # messages a second of all sensors together
DELAYS = ("0s", "2ms", "50ms", "500ms")  # 2ms is the default
SENSORS = 20
SECONDS = 20


def wear(table, share, tidegate, bridge, run_of):
    """The steady state: everything is forwarded at once, so each message is stored, settled and deleted."""
    seconds, rates, delays = (SECONDS, RATES, DELAYS) if share >= 1 else (10, (10, 1000), ("0s", "2ms"))
    for rate in rates:
        for delay in delays:
            system = type("Delayed", (tidegate,), {"store": f'durability = "full"\ncommit_delay = "{delay}"'})
            measure(table, run_of(system), rate, seconds, f", commit_delay {delay}")
        measure(table, run_of(bridge), rate, seconds, "")


def measure(table, run, rate, seconds, how):
    """One rate on one system; written bytes are read after it has saved what it has."""
    count = max(rate * seconds // SENSORS, 1) if rate >= SENSORS else rate * seconds
    sensors = SENSORS if rate >= SENSORS else 1
    work = f"{rate}/s{how}"
    with run:
        sink = Sink(run.folder, run.upstream.port, 1 << 40)
        metric = getattr(run.gateway, "metric", None)
        if metric:
            wait_for("the uplink is connected", lambda: metric("tidegate_uplink_connected") == 1)
        else:
            time.sleep(1)  # Mosquitto's bridge does not say
        process = run.gateway.process
        written, commits = process.written_bytes(), commits_of(run.gateway)
        got = Sensors(run.folder, run.gateway.port, "wear", sensors=sensors, rate=rate, count=count, size=128).result(seconds * 3)
        assert got["acked"] == count * sensors, got
        if commits is not None:
            run.gateway.wait_drained(30)
            time.sleep(1.5)  # what was put off is written within a second
        run.gateway.save()
        name = run.gateway.name
        table.add(f"{work}: bytes written per message", name, (process.written_bytes() - written) / got["acked"], False)
        if commits is not None:
            table.add(f"{work}: synced commits per message", name, (commits_of(run.gateway) - commits) / got["acked"], False)
        table.add(f"{work}: PUBACK p50, ms", name, got["ack"]["p50_us"] / 1000, False)
        table.add(f"{work}: PUBACK p99, ms", name, got["ack"]["p99_us"] / 1000, False)
        sink.kill()


def commits_of(gateway):
    """Commits so far; `None` where the system does not say."""
    metric = getattr(gateway, "metric", None)
    return metric("tidegate_store_commit_seconds_count") if metric else None
