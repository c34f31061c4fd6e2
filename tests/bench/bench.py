"""The benchmark: the same work for Tidegate and for Mosquitto's bridge, by turns, and a table of medians."""

import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "interop"))
from lab.gateway import Gateway  # noqa: E402
from lab.load import Sensors, Sink, Verifier  # noqa: E402
from lab.mosquitto import Mosquitto, MosquittoGateway  # noqa: E402
from lab.process import free_port, wait_for  # noqa: E402
from footprint import footprint as small_board  # noqa: E402
from memory import memory as large_backlog  # noqa: E402
from scale import scale as many_clients  # noqa: E402
from wear import wear as flash_wear  # noqa: E402

WINDOW = 256  # unacknowledged messages upstream, for both
PUBLISHER_WINDOW = 1000  # unacknowledged messages per publisher, for both
CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05probe"
HERE = pathlib.Path(os.environ["BENCH_DIR"])


class Tidegate(Gateway):
    """Synced commits, default settings."""

    name = "Tidegate"

    version = "3.1.1"  # as Mosquitto's bridge
    store = 'durability = "full"'
    stream = ""

    def __init__(self, folder, upstream_port):
        super().__init__(folder, upstream_port, progress_timeout="30s",
                         uplink=f'max_inflight = {WINDOW}\nversion = "{self.version}"', store=self.store,
                         stream=self.stream, listener="max_connections = 10000")

    def save(self):
        """Nothing to do: everything acknowledged is on disk."""


class Tidegate5(Tidegate):
    """The same over MQTT 5, where every message carries its id and time."""

    version = "5"


class Bridge(MosquittoGateway):
    """Mosquitto as its users have it: persistence, no limit of queued messages, saved every 30 minutes and at the end."""

    name = "Mosquitto"

    def __init__(self, folder, upstream_port):
        super().__init__(folder, upstream_port, inflight=WINDOW, topic="sensors/#")

    def save(self):
        """Writes its database, as it would within half an hour."""
        self.process.child.send_signal(signal.SIGUSR1)
        wait_for("mosquitto has saved", lambda: (self.folder / "mosquitto.db").exists(), 60)
        last = -1
        while last != (last := self.process.written_bytes()):
            time.sleep(0.5)


SYSTEMS = (Tidegate, Bridge)


class Table:
    """Samples by work and system."""

    def __init__(self):
        self.samples = {}
        self.goals = {}
        self.better = {}

    def add(self, work, system, value, more_is_better=True, goal=""):
        self.samples.setdefault(work, {}).setdefault(system, []).append(value)
        self.better[work], self.goals[work] = more_is_better, goal
        print(f"  {system:9} {work}: {number(value)}", flush=True)

    def lines(self):
        # A third one takes part in some works only.
        others = sorted({name for by in self.samples.values() for name in by} - {s.name for s in SYSTEMS} - {"Mosquitto"})
        yield f"| work | Tidegate | Mosquitto |{''.join(f' {name} |' for name in others)} better by | aim |"
        yield f"| --- | ---: | ---: |{' ---: |' * len(others)} ---: | --- |"
        for work, by in self.samples.items():
            ours, theirs = (statistics.median(by[s.name]) if s.name in by else None for s in SYSTEMS)
            ratio = "" if not ours or not theirs else f"{(ours / theirs if self.better[work] else theirs / ours):.2f}×"
            more = "".join(f" {number(statistics.median(by[name]) if name in by else None)} |" for name in others)
            yield f"| {work} | {number(ours)} | {number(theirs)} |{more} {ratio} | {self.goals[work]} |"


def number(value):
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


class Run:
    """One start of one system in a folder of its own, on a real disk."""

    def __init__(self, system, upstream=False):
        self.folder = HERE / f"run-{system.name}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        # Without it Nagle's algorithm between the upstream and the verifier is what the latency shows.
        port = free_port()
        self.upstream = Mosquitto(self.folder / "upstream", port, f"set_tcp_nodelay true\nlistener {port} 127.0.0.1\n")
        if upstream:
            self.upstream.start()
        self.gateway = system(self.folder / "gateway", self.upstream.port)

    def __enter__(self):
        self.gateway.start()
        return self

    def __exit__(self, *_):
        self.gateway.stop(120)
        self.upstream.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self, name, **options):
        options.setdefault("window", PUBLISHER_WINDOW)
        return Sensors(self.folder, self.gateway.port, name, **options).result(600)


def ingest(table, scale):
    """Acknowledged messages a second while the upstream is away."""
    for sensors in (1, 20):
        for size in (128, 1024):
            for system in SYSTEMS:
                count = int((400_000 if size == 128 else 200_000) * scale) // sensors
                with Run(system) as run:
                    got = run.publish("ingest", sensors=sensors, size=size, count=count)
                assert got["acked"] == count * sensors, got
                publishers = f"{sensors} publisher{'s' if sensors > 1 else ''}"
                table.add(f"ingest, {publishers}, {size} B, messages/s", system.name, got["acked_per_s"], goal="≥ 1.5×, at least 1×")


def local(table, scale):
    """QoS 1 from local publisher to local subscriber, on a topic that no stream and no bridge takes."""
    for sensors in (1, 20):
        for system in SYSTEMS:
            count = int(400_000 * scale) // sensors
            with Run(system) as run:
                verifier = Verifier(run.folder, run.gateway.port, filter="local/#", mqtt=4, idle=5)
                run.publish("local", sensors=sensors, count=count, topic="local/{}")
                got = verifier.count(count * sensors)
            work = f"local QoS 1, {sensors} publisher{'s' if sensors > 1 else ''} to 1 subscriber"
            table.add(f"{work}, messages/s", system.name, got["per_s"], goal="≥ 2×")
            # Neither promises more to a local subscriber than a bounded queue; what overflows must be seen here.
            table.add(f"{work}, not delivered", system.name, got["lost"], False, "0")


def latency(table, scale):
    """From sensor to a subscriber on the upstream, at 1000 messages a second."""
    count = max(int(10_000 * scale), 2000)
    direct = through(None, count)["p99_us"]
    for system in SYSTEMS:
        got = through(system, count)
        table.add("latency sensor to upstream at 1000/s, p50, ms", system.name, got["p50_us"] / 1000, False)
        table.add("latency sensor to upstream at 1000/s, p99, ms", system.name, got["p99_us"] / 1000, False)
        table.add("... p99 above that of publishing straight to the upstream, ms", system.name, (got["p99_us"] - direct) / 1000,
                  False, "≤ 10 ms")


def through(system, count):
    """Latencies through one system, or without any."""
    if system is None:
        with Run(Bridge, upstream=True) as run:
            return paced(run, run.upstream.port, count)
    with Run(system, upstream=True) as run:
        return paced(run, run.gateway.port, count)


def paced(run, port, count):
    verifier = Verifier(run.folder, run.upstream.port, filter="sensors/#", qos=0, idle=20)
    Sensors(run.folder, port, "warm", count=200, rate=1000, topic="sensors/{}/warm", first_sensor=1000).result()
    Sensors(run.folder, port, "paced", sensors=20, count=count // 20, rate=1000).result()
    got = verifier.count(count + 200)
    assert got["lost"] == 0, got
    return got["latency"]


def connack(port):
    """Whether CONNECT is answered with CONNACK."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as stream:
            stream.settimeout(5)
            stream.sendall(CONNECT)
            return stream.recv(4)[:1] == b"\x20"
    except OSError:
        return False


def drain(table, scale):
    """A backlog of a million: what it costs in memory and writing, how soon the system is there with it, how fast it goes."""
    backlog = int(1_000_000 * scale)
    with_it = f"with {number(backlog)} stored"
    for system in SYSTEMS:
        with Run(system) as run:
            gateway = run.gateway
            mib = lambda: gateway.process.rss_bytes() / 2**20  # noqa: E731
            empty = mib()
            table.add("memory empty, MiB", system.name, empty, False)
            fill(run, backlog)
            full = mib()
            table.add(f"memory {with_it}, MiB", system.name, full, False, "≤ 16 MiB above empty, ≤ 32 MiB in all")
            gateway.save()
            table.add("bytes written per message (128 B), stored", system.name, gateway.process.written_bytes() / backlog, False)

            gateway.stop(300)
            began = time.monotonic()
            gateway.start(wait=False)
            wait_for("CONNACK", lambda: connack(gateway.port), 120, 0.001)
            table.add(f"start to CONNACK {with_it}, ms", system.name, (time.monotonic() - began) * 1000, False, "≤ 200 ms")
            table.add(f"memory after a restart {with_it}, MiB", system.name, mib(), False, "≤ 32 MiB")

            written = gateway.process.written_bytes()
            seconds, cpu = timed_drain(run)
            work = f"drain of {number(backlog)} messages"
            table.add(f"{work}, messages/s", system.name, backlog / seconds, goal="≥ 3×, at least 2×")
            table.add("... CPU seconds of the gateway", system.name, cpu[0], False)
            table.add("... CPU seconds of the upstream", system.name, cpu[1], False)
            gateway.save()
            table.add("bytes written per message, drained", system.name, (gateway.process.written_bytes() - written) / backlog, False)
            table.add("memory after the drain, MiB", system.name, mib(), False)

    with Run(Bridge, upstream=True) as run:
        straight = Sensors(run.folder, run.upstream.port, "straight", count=backlog, window=WINDOW).result(600)
        table.add("... for comparison: what the upstream takes from one publisher at all", "Mosquitto", straight["acked_per_s"])


def fill(run, backlog):
    """A backlog, with a message of its own before and after it."""
    run.publish("start", topic="sensors/marker/{}", count=1)
    assert run.publish("backlog", sensors=20, count=backlog // 20)["acked"] == backlog
    run.publish("end", topic="sensors/marker/{}", count=1, first_sensor=2)


def timed_drain(run):
    """Seconds between the first and the last message of the backlog on the upstream, and the CPU seconds of both.

    Only those two reach the verifier, so that the upstream does no work but the gateway's.
    """
    process = run.gateway.process
    process.child.send_signal(signal.SIGSTOP)  # until the verifier is there
    run.upstream.start()
    verifier = Verifier(run.folder, run.upstream.port, filter="sensors/marker/#", idle=300)
    before = process.cpu_seconds(), run.upstream.process.cpu_seconds()
    process.child.send_signal(signal.SIGCONT)
    got = verifier.count(2)
    assert got["lost"] == 0, got
    return got["elapsed_s"], (process.cpu_seconds() - before[0], run.upstream.process.cpu_seconds() - before[1])


def sink(table, scale):
    """A backlog into an upstream that is never the limit, so that the gateways are what is measured."""
    backlog = int(1_000_000 * scale)
    for system, label in ((Tidegate, ""), (Bridge, ""), (Tidegate5, ", MQTT 5 with ids")):
        with Run(system) as run:
            assert run.publish("backlog", sensors=20, count=backlog // 20)["acked"] == backlog
            took = Sink(run.folder, run.upstream.port, backlog).result()
        table.add(f"drain of {number(backlog)} messages into a sink{label}, messages/s", system.name, took["per_s"],
                  goal="" if label else "≥ 3×, at least 2×")


def scale(table, share):
    """Thousands of connections at once."""
    many_clients(table, share, SYSTEMS, Run)


def memory(table, scale):
    """Ten million messages."""
    large_backlog(table, scale, SYSTEMS, Run, connack)


def wear(table, scale):
    """Bytes written and synced commits per message, by rate and `commit_delay`."""
    flash_wear(table, scale, Tidegate, Bridge, Run)


def footprint(table, share):
    """Size, idle memory, wake-ups, start."""
    small_board(table, share, HERE)


WORKS = {"ingest": ingest, "local": local, "latency": latency, "drain": drain, "sink": sink, "scale": scale, "memory": memory,
         "wear": wear, "footprint": footprint}


def output(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    device = output("findmnt", "-no", "SOURCE,FSTYPE", "-T", str(HERE)).replace("\n", " ")
    mosquitto = output("dpkg-query", "-W", "-f", "${Version}", "mosquitto")
    release = next((line.split("=")[1].strip().strip('"') for line in open("/etc/os-release") if line.startswith("PRETTY_NAME")), "")
    return (f"{os.cpu_count()} × {model}, {memory:.0f} GiB, {release}, Linux {platform.release()}, {device or 'unknown disk'}; "
            f"{output(os.environ['TIDEGATE'], '--version')} (synced commits) against mosquitto {mosquitto} (bridge, unsynced, saves "
            f"at the end)")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true", help="a tenth of the messages, one run each")
    arguments.add_argument("--only", default=",".join(WORKS), help="some of: " + " ".join(WORKS))
    arguments.add_argument("--runs", type=int, default=0, help="runs of each, by turns (3; quick: 1)")
    arguments = arguments.parse_args()
    runs, scale = arguments.runs or (1 if arguments.quick else 3), 0.1 if arguments.quick else 1
    table, began = Table(), time.monotonic()
    for name in arguments.only.split(","):
        for turn in range(runs):
            print(f"{name}, run {turn + 1} of {runs}", flush=True)
            WORKS[name](table, scale)
    how = f"median of {runs} runs, by turns" if runs > 1 else "one run"
    print(f"\n{machine()}; {how}; MQTT 3.1.1, QoS 1, {PUBLISHER_WINDOW} in flight per publisher, {WINDOW} upstream; "
          f"{time.monotonic() - began:.0f} s\n")
    print("\n".join(table.lines()))
    (HERE / "results.json").write_text(json.dumps({"machine": machine(), "samples": table.samples}, indent=1))


main()
