"""The trap: a row is deleted before or on sending, and lost when the link breaks.

Seen in NanoMQ (`sqlite_get_cache_msg`), bytebeam uplink (deletes on read) and Vector (vectordotdev/vector#203). Tidegate deletes only what the
upstream has acknowledged. The control: the same with `qos = 0` on the uplink, where "sent" has to be good enough.
"""

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import Rogue, take_over

COUNT = 200


def run(t, folder, qos):
    """An upstream that takes messages and says nothing, a broken link, a killed gateway; then a good upstream on the same port."""
    folder.mkdir()
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port, idle=3)
    port = free_port()
    rogue = Rogue(port, "never_acknowledges")
    gateway = Gateway(folder / "gateway", port, uplink=f"qos = {qos}", progress_timeout="60s").start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, count=COUNT)
    sensors.result()
    wait_for("they are all sent", lambda: rogue.published >= COUNT, 20)
    if qos == 0:
        wait_for("they count as forwarded", lambda: gateway.books()["forwarded"] == COUNT, 20)
    books = gateway.books()
    rogue.close()
    gateway.kill()
    gateway.start()
    t.later(take_over(port, upstream.port).close)
    return books, verifier.expect(sensors.journal), gateway


def main(t):
    folder = workspace(t)
    books, result, gateway = run(t, folder / "qos1", 1)
    t.check("sent is not forwarded: everything is still there", (books["forwarded"], books["backlog"]) == (0, COUNT), books)
    check_delivery(t, result, "the link broke after sending")
    check_books(t, gateway)
    books, result, _ = run(t, folder / "qos0", 0)
    t.check("control: at QoS 0 sent counts as forwarded, and is lost", result["lost"] > 0, f"{result['lost']} lost, {books['forwarded']} forwarded")


with Theme("row_deleted_before_it_was_delivered") as theme:
    main(theme)
