"""Commands from a real Mosquitto to real local clients, through a gateway that dies (kill -9) and is stopped in the middle.

Nothing lost, nothing twice (at QoS 2), the order of each topic kept, the books balanced: for devices with a lasting session, for those
that come late, and while the gateway, the upstream or the device is away."""

import json
import os
import subprocess
import time

from lab.gateway import Gateway, warnings
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import Process, wait_for, workspace
from lab.report import Theme

HERE = os.path.dirname(os.path.abspath(__file__))
CYCLES = int(os.environ.get("DOWNLINK_CYCLES", "14"))

# Behind the stream, whose table `more` ends; the stream takes everything, also what comes down, if it could.
DOWNLINK = """[[downlink]]
name = "commands"
from = "cloud"
filter = ["plants/lab/cmd/#"]
topic = "sensors/cmd/{{rest}}"
qos = 2
{more}
"""


class Downlink:
    """A gateway with a downlink, and its upstream."""

    def __init__(self, t, folder, name, more="", uplink="", store=""):
        self.folder = folder / name
        self.folder.mkdir()
        self.upstream = Mosquitto(self.folder / "upstream").start()
        t.later(self.upstream.stop)
        stream = DOWNLINK.format(more=more)
        self.gateway = Gateway(self.folder / "gateway", self.upstream.port, stream=stream, uplink=uplink, store=store).start()
        t.later(self.gateway.stop)
        self.wait_subscribed()

    def wait_subscribed(self):
        """The upstream knows what the gateway wants: a first command has come down."""
        def probed():
            self.send("probe", ["x"])
            return self.books()["received"] > 0

        wait_for("the subscription works", probed, 20, 0.1)

    def send(self, device, lines, qos=2, *more):
        """Publishes commands upstream, one for each line, and waits until the upstream has them."""
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", self.upstream.port, "-q", qos, "-t", f"plants/lab/cmd/{device}", "-l", *more]
        subprocess.run([str(c) for c in command], input="".join(f"{line}\n" for line in lines), text=True, check=True, timeout=60)

    def sender(self, device, count, seconds):
        """The same in the background, spread over some time."""
        pace = seconds / count
        script = f"for i in $(seq {count}); do echo $i; sleep {pace:.4f}; done | mosquitto_pub -h 127.0.0.1 -p {self.upstream.port} -q 2 -t plants/lab/cmd/{device} -l"
        return Process(["bash", "-c", script], self.folder / f"sender-{device}.log")

    def books(self):
        status, body = self.gateway.http("/api/v1/status")
        if status != 200:
            raise RuntimeError(f"/api/v1/status answered {status}: {body}")
        books = json.loads(body)["downlinks"][0]
        books["waiting"] = books["waiting"]["messages"]
        books["balanced"] = books["received"] == sum(books[k] for k in ("delivered", "expired", "dropped", "waiting"))
        return books

    def wait_waiting(self, count, seconds=30):
        wait_for(f"{count} commands wait", lambda: self.books()["waiting"] == count, seconds, 0.05)

    def take(self, topic, count, qos=1, seconds=20):
        """What a client that comes now, and has no session, gets."""
        command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", self.gateway.port, "-q", qos, "-t", topic, "-C", count, "-W", seconds, "-F", "%p"]
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=seconds + 10).stdout.split()


class Device:
    """A client that takes commands, and stays."""

    def __init__(self, t, downlink, name, filter, version=5, qos=2, keeps="keep"):
        self.argv = [os.environ["INTEROP_PYTHON"], f"{HERE}/clients/paho_device.py", "127.0.0.1", downlink.gateway.port, version, name, filter, qos, keeps]
        self.folder, self.name, self.lives = downlink.folder, name, 0
        t.later(self.stop)
        self.process = None

    def start(self):
        self.lives += 1
        self.out = self.folder / f"{self.name}-{self.lives}.out"
        with open(self.out, "wb") as out:
            self.process = Process(self.argv, self.folder / f"{self.name}.log", stdin=subprocess.PIPE, stdout=out)
        wait_for(f"{self.name} is subscribed", lambda: self.lines("READY"), 20, 0.02)
        return self

    def stop(self):
        """Says good-bye."""
        if self.process is not None and self.process.alive():
            self.process.child.stdin.close()
            self.process.child.wait(20)

    def kill(self):
        self.process.kill()

    def lines(self, word):
        """The words after this one, of all lives."""
        found = []
        for life in range(1, self.lives + 1):
            text = (self.folder / f"{self.name}-{life}.out").read_text(errors="replace")
            found += [line.split(" ")[1:] for line in text.split("\n")[:-1] if line.split(" ")[0] == word]
        return found

    def got(self):
        """The numbers that it got, by topic, in their order."""
        by = {}
        for topic, _, _, payload in self.lines("GOT"):
            by.setdefault(topic, []).append(payload)
        return by


def numbers(first, last):
    return [str(n) for n in range(first, last + 1)]


def late(t, folder):
    """Commands wait: for who is away, across restarts, for as long as `ttl` says."""
    d = Downlink(t, folder, "late", more='ttl = "1h"')
    d.take("sensors/cmd/probe", 1)
    d.send("a", numbers(1, 200))
    d.send("b", numbers(1, 100))
    d.wait_waiting(300)
    d.gateway.kill()
    d.gateway.start()
    d.wait_waiting(300)
    t.check("a late comer gets what waited, in order, also after kill -9", d.take("sensors/cmd/a", 200) == numbers(1, 200))
    wait_for("they are delivered", lambda: d.books()["waiting"] == 100, 10, 0.05)
    t.check("a device that is away keeps nobody else waiting, and its own commands are there", d.books()["balanced"], d.books())
    device = Device(t, d, "b-1", "sensors/cmd/b").start()
    wait_for("they have come", lambda: len(device.lines("GOT")) >= 100, 20, 0.05)
    device.stop()
    t.check("they come to its new session, once", device.got() == {"sensors/cmd/b": numbers(1, 100)}, {k: len(v) for k, v in device.got().items()})
    d.send("b", numbers(101, 150))
    wait_for("they are in its queue", lambda: d.books()["waiting"] == 0, 20, 0.05)
    d.gateway.stop()
    d.send("b", numbers(151, 200))
    d.gateway.start()
    device.start()
    wait_for("all have come", lambda: len(device.lines("GOT")) >= 200, 20, 0.05)
    t.check("and to its session while it, or the gateway, is away", device.got() == {"sensors/cmd/b": numbers(1, 200)}, len(device.lines("GOT")))
    device.stop()
    books = d.books()
    t.check("the books balance", books["balanced"] and books["waiting"] == 0 and books["expired"] == 0, books)
    t.check("no loop: no stream takes what came down", d.gateway.books()["accepted"] == 0, d.gateway.books())
    t.check("the log is quiet", not warnings(d.gateway.log()), warnings(d.gateway.log())[:3])


def expiry(t, folder):
    d = Downlink(t, folder, "expiry", more='ttl = "3s"')
    d.send("nobody", numbers(1, 20))
    # The probes too.
    wait_for("everything has expired", lambda: d.books()["waiting"] == 0, 20, 0.1)
    books = d.books()
    t.check("what nobody takes within `ttl` is expired, and counted", books["balanced"] and books["expired"] == books["received"] >= 21, books)
    metric = d.gateway.metric("tidegate_downlink_expired_total", downlink="commands")
    t.check("the metrics say the same", metric == books["expired"], metric)
    t.check("and it never comes", d.take("sensors/cmd/nobody", 1, seconds=2) == [])


def dying_device(t, folder):
    """A client without a session that dies before it has acknowledged: the command is still there for the next one."""
    d = Downlink(t, folder, "dying")
    d.take("sensors/cmd/probe", 1)
    d.send("a", numbers(1, 50))
    d.wait_waiting(50)
    stuck = Process(["mosquitto_sub", "-h", "127.0.0.1", "-p", d.gateway.port, "-q", 1, "-t", "sensors/cmd/none"], folder / "stuck.log")
    t.later(stuck.kill)
    device = Device(t, d, "first", "sensors/cmd/a", qos=1, keeps="clean")
    device.start()
    wait_for("it got them", lambda: len(device.lines("GOT")) >= 50, 20, 0.02)
    wait_for("they are delivered", lambda: d.books()["waiting"] == 0, 10, 0.05)
    # Stopped, it takes what comes off the wire no more.
    subprocess.run(["kill", "-STOP", str(device.process.pid)], check=True)
    d.send("a", numbers(51, 80))
    d.wait_waiting(30)
    device.kill()
    t.check("what a client did not acknowledge before it died goes to the next one, in order", d.take("sensors/cmd/a", 30) == numbers(51, 80))
    wait_for("they are delivered", lambda: d.books()["waiting"] == 0, 10, 0.05)
    t.check("the books balance", d.books()["balanced"], d.books())


def storm(t, folder, label, version, uplink, device_version):
    """The gateway dies again and again while commands come down and sensors publish up, over one connection; then the upstream
    restarts, from what it wrote."""
    d = Downlink(t, folder, label, uplink=f'version = "{version}"\n{uplink}')
    d.take("sensors/cmd/probe", 1)
    # What a client knows of QoS 2 is in its memory, so one that is killed itself can lose what it had half: that one has QoS 1.
    steady = Device(t, d, "steady", "sensors/cmd/+", version=device_version).start()
    mortal = Device(t, d, "mortal", "sensors/cmd/+", version=device_version, qos=1).start()
    count = 40 * CYCLES
    verifier = Verifier(d.folder, d.upstream.port, filter="sensors/#", keep_session=True)
    sensors = Sensors(d.folder, d.gateway.port, sensors=2, rate=400, mqtt=5, qos=2, window=50, keep_session=True)
    senders = [d.sender(name, count, 0.5 * CYCLES) for name in ("x", "y")]
    for cycle in range(CYCLES):
        time.sleep(t.random.choice([t.random.uniform(0.0, 0.2), t.random.uniform(0.2, 0.8)]))
        if cycle % 5 == 4:
            d.gateway.wait_until_listening()
            t.check(f"{label}: SIGTERM ends it with code 0", d.gateway.stop() == 0)
        else:
            d.gateway.kill()
        if cycle % 4 == 3:
            mortal.kill()
        time.sleep(t.random.choice([0, 0, 0.5]))
        d.gateway.start(wait=cycle % 4 == 3)
        if cycle % 4 == 3:
            mortal.start()
    for sender in senders:
        sender.child.wait(120)
    d.gateway.wait_until_listening()
    unacknowledged = sensors.stop()["unacknowledged"]
    t.check(f"{label}: every message of the sensors is acknowledged", unacknowledged == 0, unacknowledged)
    up = verifier.expect(sensors.journal)
    if version == "5":
        check_delivery(t, up, f"{label}: the other way")
    else:
        # Duplicates after a death have no id there.
        t.check(f"{label}: the other way: lost 0 of {up['expected']}", up["lost"] == 0 and up["expected"] > 0, up["lost_ranges"])
    d.gateway.kill()
    d.send("x", numbers(count + 1, count + 10))
    d.upstream.stop()
    d.upstream.start()
    d.gateway.start()
    d.send("y", numbers(count + 1, count + 10))
    whole = numbers(1, count + 10)

    def complete():
        return all(set(it.got().get(f"sensors/cmd/{name}", [])) >= set(whole) for name in ("x", "y") for it in (steady, mortal))

    try:
        wait_for("all commands", complete, 60, 0.2)
    except Exception:
        pass  # the checks below say what is missing
    for device in (steady, mortal):
        got, many = device.got(), f"{2 * len(whole)} commands"
        lost = {name: sorted(set(whole) - set(got.get(name, [])), key=int)[:5] for name in ("sensors/cmd/x", "sensors/cmd/y")}
        t.check(f"{label}: {device.name}: {many}, {CYCLES} deaths, one restart upstream: lost 0", not any(lost.values()), lost)
        first = {name: list(dict.fromkeys(got.get(name, []))) for name in lost}
        t.check(f"{label}: {device.name}: in order", all(it == sorted(it, key=int) for it in first.values()))
        if device is steady:
            t.check(f"{label}: {device.name}: at QoS 2 none twice", all(len(it) == len(first[name]) for name, it in got.items() if name in first))
    books = d.books()
    t.check(f"{label}: the books balance, each command was taken in once", books["balanced"] and books["waiting"] == 0, books)
    sent = 2 * (count + 10)
    t.check(f"{label}: and counted once", sent + 1 <= books["received"] <= sent + 60, (books["received"], sent))
    steady.stop()
    mortal.stop()


def main(t):
    folder = workspace(t)
    late(t, folder)
    expiry(t, folder)
    dying_device(t, folder)
    storm(t, folder, "MQTT 5", "5", "qos = 1", 5)
    storm(t, folder, "MQTT 3.1.1", "3.1.1", "qos = 2", 4)


with Theme("downlink") as theme:
    main(theme)
