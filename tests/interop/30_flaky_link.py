"""A link that cuts, stalls and half-closes at random: lost 0, out of order 0, duplicates recognisable, and a stall ends by
`progress_timeout`."""

import os
import time

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

SECONDS = float(os.environ.get("FLAKY_SECONDS", "30"))


def misbehave(t, proxy):
    """One trouble, and a little time to recover (sometimes too little)."""
    trouble = t.random.choice(["cut", "cut", "stall", "half-close up", "half-close down", "refuse"])
    if trouble == "cut":
        proxy.cut()
    elif trouble == "stall":
        proxy.stall()
        time.sleep(t.random.uniform(0.05, 2.0))
        proxy.flow()
    elif trouble == "refuse":
        proxy.refusing = True
        proxy.cut()
        time.sleep(t.random.uniform(0.05, 0.5))
        proxy.refusing = False
    else:
        proxy.half_close(towards_client=trouble.endswith("down"))
    time.sleep(t.random.uniform(0.02, 1.0))
    return trouble


def no_progress(gateway):
    return gateway.metric("tidegate_uplink_failures_total", reason="no-progress")


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    proxy = Proxy(free_port(), upstream.port)
    t.later(proxy.close)
    for label, uplink in (("MQTT 5", 'version = "5"'), ("MQTT 3.1.1", 'version = "3.1.1"'), ("QoS 2", "qos = 2")):
        one(t, folder / label.replace(" ", "-"), label, uplink, proxy, upstream)


def one(t, folder, label, uplink, proxy, upstream):
    folder.mkdir()
    verifier = Verifier(folder, upstream.port, f"verifier-{folder.name}", keep_session=True)
    gateway = Gateway(folder / "gateway", proxy.port, uplink=uplink, progress_timeout="1s", connect_timeout="1s").start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, sensors=5, rate=3000, mqtt=5)
    troubles = {}
    end = time.monotonic() + SECONDS / 3
    while time.monotonic() < end:
        trouble = misbehave(t, proxy)
        troubles[trouble] = troubles.get(trouble, 0) + 1

    wait_for("the uplink is up again", lambda: gateway.metric("tidegate_uplink_connected") == 1, 30)
    wait_for("messages flow", lambda: gateway.books()["backlog"] < 1000, 30)
    counted, accepted = no_progress(gateway), proxy.accepted
    proxy.stall()
    began = time.monotonic()
    wait_for("the gateway gives up a stalled connection and makes another", lambda: proxy.accepted > accepted, 10)
    waited = time.monotonic() - began
    t.check(f"{label}: progress_timeout (1 s) ends a stall", 0.8 <= waited <= 4, f"after {waited:.1f} s")
    line = gateway.logged("nothing was acknowledged")
    t.check(f"{label}: the log says so, and it is counted", line and no_progress(gateway) > counted, line)
    proxy.flow()

    sent = sensors.stop()
    t.check(f"{label}: sensors never noticed", sent["unacknowledged"] == 0 and sent["connects"] == 5, sent["connects"])
    result = verifier.expect(sensors.journal)
    tagged = "3.1.1" not in label  # MQTT 3.1.1 has no properties, so nothing to recognise a duplicate by
    if tagged:
        check_delivery(t, result, label)
    else:
        t.check(f"{label}: lost 0 of {result['expected']}", result["lost"] == 0, result["lost_ranges"])
        t.check(f"{label}: out of order 0", result["out_of_order"] == 0, result["out_of_order"])
    t.say(f"{result['distinct']} messages, {result['duplicates']} duplicates, {troubles}")
    check_books(t, gateway, f"{label}: the books balance and the backlog is empty")
    t.check(f"{label}: SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("flaky_link") as theme:
    main(theme)
