"""What mosquitto_sub sees below $SYS, beside what it sees of a real Mosquitto."""

import re
import subprocess
import time

from lab.gateway import Gateway, warnings
from lab.mosquitto import Mosquitto
from lab.process import wait_for, workspace
from lab.report import Theme

# Names of Mosquitto's that the gateway does not have, and why.
LACKING = {
    "$SYS/broker/heap/current": "the allocator does not say; $SYS/tidegate/process/resident_bytes is what the system says",
    "$SYS/broker/heap/maximum": "likewise",
}


def watch(port, seconds, *more):
    """Topic, payload and retain flag of everything that mosquitto_sub gets below $SYS in some seconds, in order."""
    done = subprocess.run(
        ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", "$SYS/#", "-F", "%t\t%p\t%r", "-W", str(seconds), *more],
        capture_output=True, text=True, timeout=seconds + 20, stdin=subprocess.DEVNULL)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines() if line.count("\t") == 2]


def latest(seen):
    return {topic: payload for topic, payload, _ in seen}


def shape(value):
    """What kind of value it is."""
    for name, pattern in (("count", r"\d+"), ("load", r"\d+\.\d\d"), ("uptime", r"\d+ seconds")):
        if re.fullmatch(pattern, value):
            return name
    return "text"


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    wait_for("the uplink is connected", lambda: gateway.metric("tidegate_uplink_connected") == 1, 20)
    publish = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-q", "1", "-t", "sensors/a", "-m", "12345"]
    for _ in range(3):
        subprocess.run(publish, check=True, timeout=20, stdin=subprocess.DEVNULL)

    theirs = latest(watch(upstream.port, 3))
    t.check("a real Mosquitto says something", len(theirs) > 40, len(theirs))
    for version in ("mqttv311", "mqttv5"):
        seen = watch(gateway.port, 2, "-V", version)
        ours = latest(seen)
        t.check(f"every value comes at once, retained, {version}", len(ours) == len(seen) > 60 and all(r == "1" for *_, r in seen), len(seen))
        missing = sorted(set(theirs) - set(ours) - set(LACKING))
        t.check(f"every name of Mosquitto's is there, {version}", not missing, missing)
        t.check(f"what is said to be lacking is lacking, {version}", not set(LACKING) & set(ours))
        differ = [f"{name}: {theirs[name]} / {ours[name]}" for name in theirs if name in ours and shape(theirs[name]) != shape(ours[name])]
        t.check(f"and every value is of its kind, {version}", not differ, differ)
    more = sorted(name for name in ours if name.startswith("$SYS/broker/") and name not in theirs)
    t.check("what is beyond Mosquitto's names is its own for a bridge", more == ["$SYS/broker/connection/cloud/state"], more)
    t.check("three messages were received", ours["$SYS/broker/publish/messages/received"] == "3", ours["$SYS/broker/publish/messages/received"])
    t.check("of five bytes each", ours["$SYS/broker/publish/bytes/received"] == "15")
    t.check("the stream has its books there", ours["$SYS/tidegate/streams/telemetry/accepted"] == "3")
    t.check("the uplink is connected", (ours["$SYS/broker/connection/cloud/state"], ours["$SYS/tidegate/uplinks/cloud/state"]) == ("1", "connected"))

    started = time.monotonic()
    again = [entry for entry in watch(gateway.port, 13) if entry[2] == "0"]
    changed = [topic for topic, *_ in again]
    t.check("values that changed come again within 13 s", "$SYS/broker/uptime" in changed, changed)
    still = [topic for topic in changed if "/refused/" in topic or "/dropped/" in topic or topic == "$SYS/broker/version"]
    t.check("those that did not do not", not still and len(set(changed)) < 50, still)
    t.check("and the watch took its time", time.monotonic() - started >= 12)
    wildcard = subprocess.run(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(gateway.port), "-t", "#", "-t", "+/broker/#", "-v", "-W", "2"],
                              capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    t.check("wildcards at the first level do not match it", "$SYS" not in wildcard.stdout, wildcard.stdout[:200])
    mine = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-q", "1", "-t", "$SYS/broker/version", "-m", "mine", "-r"]
    refused = subprocess.run([*mine, "-V", "mqttv5", "-d"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    t.check("an MQTT 5 client that publishes there is told that it may not", "RC:135" in refused.stdout, refused.stdout + refused.stderr)
    subprocess.run([*mine, "-V", "mqttv311"], check=True, timeout=20, stdin=subprocess.DEVNULL)
    t.check("and nothing changes", latest(watch(gateway.port, 2))["$SYS/broker/version"].startswith("tidegate version "))
    t.check("nothing to warn about but that", all("$SYS" in line for line in warnings(gateway.log())), warnings(gateway.log())[:3])


with Theme("sys") as theme:
    main(theme)
