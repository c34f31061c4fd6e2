"""The trap: the disk makes trouble, and the gateway silently goes on in memory.

Seen in iotedge (Azure/iotedge#5095) and bytebeam uplink (its serializer). Tidegate never does: while nothing can be written nothing is
acknowledged, it says so, and what was acknowledged is there whatever comes next. The control: Mosquitto on the same disk.
"""

import resource

from lab.control import Control
from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.namespace import fill, own, small_disk
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream


def settled(gateway):
    """What is accepted, once it no longer grows while publishers go on trying."""
    before = gateway.books()["accepted"]
    wait_for("publishers try", lambda: gateway.metric("tidegate_broker_refused_total") > 0, 20)
    return before if before == gateway.books()["accepted"] else None


def no_space(t, folder):
    disk = small_disk(t, folder / "disk", 24)
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, data=disk / "data", store='min_free = "0B"').start()
    t.later(gateway.stop)
    upstream.down()
    sensors = Sensors(folder, gateway.port, "no-space", sensors=2, rate=4000, size=500, mqtt=5)
    wait_for("messages are stored", lambda: gateway.books()["accepted"] > 1000, 20)
    ballast = fill(disk / "ballast")
    accepted = wait_for("nothing more is accepted", lambda: settled(gateway), 30)
    t.check("no space: it says so", gateway.logged("(?i)space|full") is not None and gateway.up(), gateway.logged("(?i)space|full"))
    gateway.kill()
    gateway.start()
    t.check("no space: killed then, everything acknowledged is there", gateway.books()["backlog"] >= accepted, gateway.books())
    ballast.unlink()
    upstream.up()
    sent = sensors.stop()
    t.check("no space: and goes on by itself", sent["unacknowledged"] == 0, sent["acked"])
    check_delivery(t, upstream.verifier.expect(sensors.journal), "no space", new_ids_allowed=sent["resent"])
    check_books(t, gateway, "no space: the books balance")


def write_errors(t, folder):
    """Writes fail with an error that is not "no space": a limit on the size of files, whose signal is ignored."""
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, wrap=["env", "--ignore-signal=XFSZ"]).start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, "errors", sensors=2, first_sensor=11, rate=2000, mqtt=5)
    wait_for("messages flow", lambda: upstream.verifier.status()["distinct"] > 500, 20)
    upstream.down()
    mark = len(gateway.log())
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    named = wait_for("the log names the trouble", lambda: gateway.logged("(?i)error.*(write|disk|i/o|store)", mark), 20)
    t.check("write errors: the log says so", named, named)
    status, reasons = gateway.http("/health/ready")
    t.check("write errors: it is not ready, and says why", status == 503 and "disk" in reasons, reasons)
    before = gateway.books()["accepted"]
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for("it accepts again", lambda: gateway.up() and gateway.books()["accepted"] > before, 30)
    t.check("write errors: it works again by itself, in the same process", gateway.up() and gateway.http("/health/ready")[0] == 200)
    upstream.up()
    sent = sensors.stop()
    t.check("write errors: everything is acknowledged in the end", sent["unacknowledged"] == 0, sent["acked"])
    check_delivery(t, upstream.verifier.expect(sensors.journal), "write errors", new_ids_allowed=sent["resent"])
    check_books(t, gateway, "write errors: the books balance")


def control(t, folder):
    control = Control(t, folder, disk=small_disk(t, folder.with_name("control-disk"), 2))
    fill(folder.with_name("control-disk") / "ballast")
    sent, journal = control.publish(count=500)
    control.bridge.stop()
    control.bridge.start()
    got = control.delivered(journal)
    t.check("control: Mosquitto on a full disk acknowledges from memory; stopped in order, all is lost", sent["acked"] == 500 and got["lost"] > 0, f"{got['lost']} lost")


def main(t):
    folder = workspace(t)
    for name, part in (("space", no_space), ("errors", write_errors)):
        (folder / name).mkdir()
        part(t, folder / name)
    control(t, folder / "control")


own()
with Theme("falls_back_to_memory_on_disk_trouble") as theme:
    main(theme)
