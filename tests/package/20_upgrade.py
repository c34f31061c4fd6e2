"""Upgraded with a backlog from the version before: configuration, messages, ids and order stay, then all of it goes upstream."""

import json
import threading
import time

from lab.process import wait_for
from lab.report import Theme
from system import System, log_file, packages

MINE = """
[gateway]
id = "plant-7"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:1884"
backoff = { min = "100ms", max = "1s" }
[[stream]]
name = "telemetry"
from = ["sensors/#"]
to = "cloud"
topic = "plants/{gateway}/{topic}"
"""
MOSQUITTO = "listener 1884 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"


JUDGE = ("mosquitto_sub", "-h", "127.0.0.1", "-p", "1884", "-V", "5", "-q", "1", "-i", "judge", "-c", "-x", "3600", "-t", "plants/#")


def upstream(system):
    """A Mosquitto inside, and what comes to it, line by line."""
    # Nothing goes upstream before somebody there listens.
    system.run("tidegate pause telemetry")
    system.mosquitto(t, MOSQUITTO)
    system.run(" ".join(f"'{word}'" for word in JUDGE) + " -E", log=False)
    out = system.inside("/tmp/received").open("w")
    subscriber = system.start(*JUDGE, "-F", '{"topic":"%t","payload":"%p","properties":"%P"}', stdout=out)
    t.later(subscriber.kill)
    system.run("tidegate resume telemetry")


def received(system):
    lines = system.inside("/tmp/received").read_text().splitlines()
    return [json.loads(line) for line in lines]


class Sensor(threading.Thread):
    """Publishes one message after the other, each until it is acknowledged, through whatever happens to the gateway."""

    def __init__(self, system):
        super().__init__(daemon=True)
        self.system, self.acknowledged, self.stop, self.longest = system, [], threading.Event(), 0.0

    def run(self):
        number, last = 0, time.monotonic()
        while not self.stop.is_set():
            done = self.system.run(f"mosquitto_pub -h 127.0.0.1 -V 5 -q 1 -i live -t sensors/live -m {number}", check=False, log=False)
            if done.returncode == 0:
                self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()
                self.acknowledged.append(str(number))
                number += 1


with Theme("upgrade") as t:
    package, before = packages()
    system = System(t, log_file("20-upgrade"))
    system.install(before)
    system.write("/etc/tidegate/tidegate.toml", MINE)
    system.write("/etc/tidegate/conf.d/50-site.toml", '[log]\nlevel = "debug"\n')
    system.run("systemctl restart tidegate")
    system.publish([f"reading {number}" for number in range(300)])
    stored = system.stored("telemetry")
    t.check("the version before has a backlog", len(stored) == 300 and stored[0][0] == "plant-7/telemetry/1", len(stored))

    # The upgrade, while a sensor publishes.
    sensor = Sensor(system)
    sensor.start()
    wait_for("the sensor is served", lambda: sensor.acknowledged)
    pid = system.property("MainPID")
    done = system.install(package, "--force-confold")
    t.check("the upgrade ends well", done.returncode == 0 and "tidegate:" not in done.stderr, done.last)
    t.check("the new version runs, as a new process", system.property("ActiveState") == "active" and system.property("MainPID") != pid)
    seen = len(sensor.acknowledged)
    wait_for("the sensor is served again", lambda: len(sensor.acknowledged) > seen)
    sensor.stop.set()
    sensor.join(30)
    t.check("a sensor waits seconds at most", sensor.longest < 30, f"{sensor.longest:.1f} s between two acknowledgements, of {len(sensor.acknowledged)}")
    t.check("one start, no crash", system.property("NRestarts") == "0")
    t.check("the configuration that was changed is kept", system.inside("/etc/tidegate/tidegate.toml").read_text() == MINE)
    t.check("that of the package lies beside it", system.inside("/etc/tidegate/tidegate.toml.dpkg-dist").exists())
    t.check("conf.d is kept", "debug" in system.inside("/etc/tidegate/conf.d/50-site.toml").read_text())
    after = system.stored("telemetry")
    t.check("every stored message is there, with its id, in order", after[:300] == stored)
    live = [one[2] for one in after[300:]]
    # Taken and not yet acknowledged when the old gateway stopped: sent again by the sensor, as MQTT has it.
    unique = list(dict.fromkeys(live))
    t.check("and every one that was acknowledged during the upgrade, in order", unique == sensor.acknowledged, f"{len(live)} stored, {len(sensor.acknowledged)} acknowledged")
    system.run("tidegate streams")

    upstream(system)
    wait_for("the backlog is empty", lambda: system.books("telemetry")["backlog"]["messages"] == 0, 30, every=0.2)
    wait_for("all of it was received", lambda: len(received(system)) >= len(after))
    messages = received(system)
    t.check("all of it goes upstream, in order", [(one["topic"], one["payload"]) for one in messages] == [(f"plants/plant-7/{topic}", payload) for _, topic, payload in after], len(messages))
    ids = [next((word.removeprefix("tg-id:") for word in one["properties"].split() if word.startswith("tg-id:")), None) for one in messages]
    t.check("under the ids that the messages had before", ids == [one[0] for one in after], ids[:2])
    books = system.books("telemetry")
    t.check("the books balance across versions", books["balance"] and books["accepted"] == books["forwarded"] == len(after), {key: books[key] for key in ("accepted", "forwarded")})
    system.run("tidegate streams")

    # A configuration that the version to come refuses: the gateway that runs goes on.
    system.write("/etc/tidegate/conf.d/60-wrong.toml", "[stoer]\n")
    pid = system.property("MainPID")
    done = system.install(package)
    t.check("an upgrade with a configuration that is refused does not fail", done.returncode == 0)
    t.check("it says so", "refuses its configuration" in done.stderr, done.last)
    t.check("and leaves the running gateway alone", system.property("ActiveState") == "active" and system.property("MainPID") == pid)
    system.run("rm /etc/tidegate/conf.d/60-wrong.toml")

    # What an administrator has switched off stays off.
    system.run("systemctl disable --now tidegate")
    system.install(package)
    t.check("a service that was disabled is neither enabled nor started by an upgrade",
            system.property("ActiveState") == "inactive" and system.run("systemctl is-enabled tidegate", check=False).stdout.strip() == "disabled")
