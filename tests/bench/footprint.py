"""What each system costs a small board: size on disk, resident memory, wake-ups while idle, time to start.

Tidegate and Mosquitto with their uplink or bridge connected over TLS, trusting all the roots of the system; rumqttd without one, for it has
none. Tidegate is the binary that is shipped (profile `dist`), all are stripped.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import time

from lab.footprint import client, idle, memory_mib
from lab.gateway import Gateway
from lab.load import Idle, Sensors
from lab.mosquitto import MosquittoGateway, start_tls_upstream
from lab.process import Process, free_port, wait_for

ROOTS = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
STARTS = 5
# After a busy time a broker gets so long to give memory back; Tidegate looks every 2 s in a busy time.
AFTER_BURST_S = 15


class Closing:
    """Collects what is to be closed, as a theme does."""

    def __init__(self):
        self.closing = []

    def later(self, close):
        self.closing.append(close)
        return close

    def close(self):
        for close in reversed(self.closing):
            close()


def roots(folder):
    """The system's roots and the test's own authority."""
    file = folder / "roots.pem"
    file.write_text(ROOTS.read_text() + (folder / "upstream" / "ca.pem").read_text())
    return file


def tidegate(folder, upstream_port, streams=1):
    """A gateway as small ones are, with so many streams; not started."""
    gateway = Gateway(folder / "tidegate", upstream_port, scheme="mqtts", progress_timeout="30s", backoff_max="60s",
                      env={"SSL_CERT_FILE": str(roots(folder))})
    more = "".join(f'[[stream]]\nname = "s{n}"\nfrom = ["more/{n}/#"]\nto = "cloud"\n\n' for n in range(1, streams))
    gateway.reconfigure("[admin]", f"{more}[admin]")
    return gateway


def is_connected(gateway):
    return gateway.metric("tidegate_uplink_connected") == 1


class Rumqttd:
    """Its broker with the settings of its sample configuration."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()

    def start(self, wait=False):
        self.process = Process([os.environ["RUMQTTD_PLAIN"], self.port], self.folder / "rumqttd.log")

    def stop(self, _seconds=0):
        self.process.kill()


def connack(port):
    try:
        client(port).close()
        return True
    except (OSError, AssertionError):
        return False


def start_ms(broker):
    """From the start of the process to a CONNACK; leaves it running."""
    began = time.monotonic()
    broker.start(wait=False)
    wait_for("CONNACK", lambda: connack(broker.port), 60, 0.001)
    return (time.monotonic() - began) * 1000


def stripped_mib(binary, folder):
    out = folder / "stripped"
    subprocess.run(["strip", "-o", out, binary], check=True)
    return out.stat().st_size / 2**20


def measured(table, name, broker, binary, folder, share):
    """All the rows of one system."""
    table.add("binary, stripped, MiB", name, stripped_mib(binary, folder), False)
    times = []
    for start in range(STARTS):
        times.append(start_ms(broker))
        if start < STARTS - 1:
            broker.stop(60)
    table.add(f"start to CONNACK, empty, median of {STARTS}, ms", name, statistics.median(times), False, "≤ 100 ms")
    if isinstance(broker, Gateway):
        wait_for("the uplink is connected", lambda: is_connected(broker), 20, 0.1)
    memory, wakeups = idle(broker.process.pid, broker.port)
    table.add("idle, resident memory (VmRSS), MiB", name, memory["rss"], False, "≤ 10 MiB")
    table.add("... of it its own (anonymous), MiB", name, memory["anonymous"], False)
    table.add("... wake-ups a second, all threads, over 30 s", name, sum(wakeups.values()), False, "≤ 3")
    clients = Idle(folder, broker.port, 100)
    table.add("100 idle clients, resident memory, MiB", name, memory_mib(broker.process.pid)["rss"], False)
    clients.stop()
    count = int(500_000 * share) // 20
    got = Sensors(folder, broker.port, f"burst-{name}", sensors=20, count=count, window=100, size=128).result(600)
    assert got["acked"] == 20 * count, got
    time.sleep(AFTER_BURST_S)  # the time that everybody gets
    table.add(f"{AFTER_BURST_S} s after {20 * count} messages, resident memory, MiB", name, memory_mib(broker.process.pid)["rss"], False)


def footprint(table, share, here):
    """All systems, one after another."""
    folder = here / "run-footprint"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    end = Closing()
    usual, os.environ["TIDEGATE"] = os.environ["TIDEGATE"], os.environ["TIDEGATE_DIST"]
    try:
        port, _ = start_tls_upstream(end, folder / "upstream")
        mosquitto = MosquittoGateway(folder / "mosquitto", port, topic="sensors/#", host="localhost",
                                     more=f"bridge_cafile {roots(folder)}\nsys_interval 10\n")
        systems = (("Tidegate", tidegate(folder, port), os.environ["TIDEGATE"]), ("Mosquitto", mosquitto, "/usr/sbin/mosquitto"),
                   ("rumqttd", Rumqttd(folder), os.environ["RUMQTTD_PLAIN"]))
        for name, broker, binary in systems:
            try:
                measured(table, name, broker, binary, folder, share)
            finally:
                broker.stop(60)
    finally:
        os.environ["TIDEGATE"] = usual
        end.close()
        shutil.rmtree(folder, ignore_errors=True)
