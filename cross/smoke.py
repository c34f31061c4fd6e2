"""The main job, by a binary for another processor: an outage in the middle of 10 000 messages, a kill -9, and everything in order afterwards."""

import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "interop"))
from lab.gateway import Gateway, check_books  # noqa: E402
from lab.load import Sensors, check_delivery  # noqa: E402
from lab.process import wait_for, workspace  # noqa: E402
from lab.report import Theme  # noqa: E402
from lab.upstream import Upstream  # noqa: E402

SENSORS, EACH = 2, 2500  # of each protocol version: 10 000 messages
RATE = 700  # messages a second of each: slow enough that the outage comes in the middle also on a fast machine
# More than 32 bits can say: a size that is cut to a machine word is too small for the messages below.
STORE = 'max_bytes = "8GiB"'


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, store=STORE)
    checked = subprocess.run([os.environ["TIDEGATE"], "check", "-c", gateway.config], capture_output=True, text=True, timeout=30)
    t.check("`check` takes the configuration, 8 GiB of store in it", checked.returncode == 0 and "8GiB" in checked.stdout,
            "" if checked.returncode == 0 else (checked.stdout + checked.stderr)[-300:])
    began = time.monotonic()
    gateway.start()
    t.later(gateway.stop)
    t.say(f"listens after {time.monotonic() - began:.2f} s")

    total = 2 * SENSORS * EACH
    old = Sensors(folder, gateway.port, "v4", sensors=SENSORS, count=EACH, rate=RATE, mqtt=4)
    new = Sensors(folder, gateway.port, "v5", sensors=SENSORS, first_sensor=11, count=EACH, rate=RATE, mqtt=5, qos=2)
    wait_for("a quarter has arrived upstream", lambda: upstream.verifier.status()["received"] >= total // 4, 30, 0.05)
    upstream.down()
    t.check(f"all {total} messages are acknowledged, upstream or not", old.result()["acked"] + new.result()["acked"] == total)
    before = gateway.books()
    t.check("the upstream went away in the middle", 1000 < before["backlog"] < total, before)
    gateway.kill()
    gateway.start()
    after = gateway.books()
    t.check("all that was unsent is there after kill -9", after["balanced"] and after["backlog"] >= before["backlog"], after)
    upstream.up()
    check_delivery(t, upstream.verifier.expect(old.journal, new.journal), "delivered")
    check_books(t, gateway)
    t.check("accepted is what was acknowledged", gateway.books()["accepted"] == total, gateway.books())
    failed = [line for line in gateway.log().splitlines() if '"level":"ERROR"' in line]
    t.check("no error in the log", not failed, failed[:3])
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("cross") as theme:
    main(theme)
