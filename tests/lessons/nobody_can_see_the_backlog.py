"""The trap: an outage, and nobody can see how much is waiting, since when, and how long it will take.

Seen in Mosquitto (eclipse/mosquitto#3217), thingsboard-gateway (#959), VerneMQ (#769). Tidegate shows depth, bytes, age, rates and time to drain over
HTTP, as metrics and on the command line. Everything shown is compared with what was done. The control: what Mosquitto says of its bridge's queue.
"""

import json
import re
import subprocess
import time

from lab.control import Control
from lab.gateway import Gateway, check_books
from lab.load import Sensors
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

COUNT, SIZE = 4000, 200


def stream(gateway):
    return json.loads(gateway.http("/api/v1/streams/telemetry")[1])


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, uplink="rate = { messages_per_s = 400 }").start()
    t.later(gateway.stop)
    quiet = stream(gateway)["backlog"]
    t.check("nothing waits at first", quiet["messages"] == quiet["bytes"] == 0, quiet)
    upstream.down()
    began = time.time()
    Sensors(folder, gateway.port, count=COUNT, size=SIZE).result()
    seen, asked = stream(gateway), time.time()
    backlog = seen["backlog"]
    t.check("depth", backlog["messages"] == COUNT, backlog)
    t.check("bytes", COUNT * SIZE <= backlog["bytes"] <= COUNT * (SIZE + 100), backlog["bytes"])
    t.check("age of the oldest", 0 < backlog["oldest_age_seconds"] <= asked - began, backlog["oldest_age_seconds"])
    wait_for("the rate in is seen", lambda: stream(gateway)["rate_in_per_s"] > 0, 5, 0.1)
    t.check("no time to drain while nothing moves", stream(gateway)["seconds_to_drain"] is None)
    for name, value in (("messages", COUNT), ("bytes", backlog["bytes"])):
        metric = gateway.metric(f"tidegate_stream_backlog_{name}", stream="telemetry")
        t.check(f"the metric says the same: {name}", metric == value, metric)
    t.check("the metric of the age grows", gateway.metric("tidegate_stream_oldest_age_seconds") >= backlog["oldest_age_seconds"])
    code, said = gateway.cli("streams", "--json")
    shown = json.loads(said)["streams"][0]["backlog"] if code == 0 else said
    t.check("the command `streams` says the same", code == 0 and (shown["messages"], shown["bytes"]) == (COUNT, backlog["bytes"]), shown)
    code, said = gateway.cli("streams")
    t.check("also in words", code == 0 and re.search(rf"telemetry > cloud +{COUNT} ", said), said.splitlines()[1:2])
    code, said = gateway.cli("status")
    t.check("the command `status` says that the uplink is away, and why", code == 0 and re.search("cloud +(waiting|connecting)", said) and "last error of cloud: mqtt://" in said, said.splitlines()[-4:])
    uplink = json.loads(gateway.http("/api/v1/status")[1])["uplinks"][0]
    t.check("the status says that the uplink is away, and why", uplink["state"] != "connected" and uplink["last_error"], uplink)

    upstream.up()

    def estimate():
        now = stream(gateway)
        return now if now["rate_out_per_s"] > 150 and now["seconds_to_drain"] else None

    seen, at = wait_for("the rate out is seen", estimate, 10, 0.1), time.monotonic()
    gateway.wait_drained()
    took = time.monotonic() - at
    t.check("the time to drain is what it takes", 0.4 * took <= seen["seconds_to_drain"] <= 2.5 * took + 1, f"said {seen['seconds_to_drain']:.1f} s, took {took:.1f} s")
    check_books(t, gateway)

    control = Control(t, folder / "control")
    control.publish(count=COUNT, size=SIZE)
    sys = subprocess.run(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(control.bridge.port), "-v", "-t", "$SYS/broker/#", "-W", "3"],
                         capture_output=True, text=True).stdout
    t.check("control: Mosquitto has no figure for its bridge's queue", sys and not re.search(r"\$SYS/broker/(bridge|connection)[^ ]* \d{2,}", sys),
            re.findall(r"\S+(?:stored|store)\S* \d+", sys)[:3])


with Theme("nobody_can_see_the_backlog") as theme:
    main(theme)
