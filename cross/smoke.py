"""The main job under qemu-user: messages while the upstream is away, a kill -9, and everything in order afterwards."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "interop"))
from lab.gateway import Gateway, check_books  # noqa: E402
from lab.load import Sensors, check_delivery  # noqa: E402
from lab.process import workspace  # noqa: E402
from lab.report import Theme  # noqa: E402
from lab.upstream import Upstream  # noqa: E402


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder).down()
    gateway = Gateway(folder / "gateway", upstream.port)
    checked = subprocess.run([os.environ["TIDEGATE"], "check", "-c", gateway.config], capture_output=True, text=True)
    t.check("`check` takes the configuration", checked.returncode == 0, (checked.stdout + checked.stderr)[-300:])
    gateway.start()
    t.later(gateway.stop)
    old = Sensors(folder, gateway.port, "v4", sensors=2, count=1500, mqtt=4)
    new = Sensors(folder, gateway.port, "v5", sensors=2, first_sensor=11, count=1500, mqtt=5, qos=2)
    t.check("6000 messages are acknowledged", old.result()["acked"] + new.result()["acked"] == 6000)
    gateway.kill()
    gateway.start()
    t.check("all are there after kill -9", gateway.books()["backlog"] == 6000, gateway.books())
    upstream.up()
    check_delivery(t, upstream.verifier.expect(old.journal, new.journal), "delivered")
    check_books(t, gateway)
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("cross") as theme:
    main(theme)
