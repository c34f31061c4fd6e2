"""The trap: a queue is full, the gateway acknowledges all the same, and drops. Nobody is told.

Seen in Mosquitto (eclipse/mosquitto#3687, #3394) and NanoMQ (#2432, #1873). Tidegate refuses (MQTT 5: 0x97) or stops reading
(3.1.1), and what a stream is told to drop is counted with its reason. The control: Mosquitto's bridge with a queue as long.
"""

from lab.control import Control
from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

ROOM, SENT = 100, 300


def reject(t, folder):
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, stream=f'max_messages = {ROOM}\nwhen_full = "reject"').start()
    t.later(gateway.stop)
    upstream.down()
    v5 = Sensors(folder, gateway.port, "v5", mqtt=5, count=SENT)
    sent = v5.result()
    t.check("MQTT 5: what there is room for is acknowledged, the rest refused to its face", (sent["acked"], sent["refused"]) == (ROOM, SENT - ROOM), sent)
    v4 = Sensors(folder, gateway.port, "v4", mqtt=4, count=SENT, first_sensor=2)
    wait_for("MQTT 3.1.1 is not read from any more", lambda: gateway.books()["accepted"] == ROOM and "listener" in gateway.http("/metrics")[1], 10)
    t.check("MQTT 3.1.1: nothing is acknowledged while there is no room", not v4.journal.exists())
    upstream.up()
    sent = v4.result()
    t.check("MQTT 3.1.1: and everything once there is", (sent["acked"], sent["refused"], sent["connects"]) == (SENT, 0, 1), sent["acked"])
    check_delivery(t, upstream.verifier.expect(v5.journal, v4.journal), "acknowledged is delivered")
    check_books(t, gateway)


def drop(t, folder):
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, stream=f'max_messages = {ROOM}\nwhen_full = "drop-oldest"').start()
    t.later(gateway.stop)
    upstream.down()
    Sensors(folder, gateway.port, count=SENT).result()
    books = gateway.books()
    reasons = [line for line in gateway.http("/metrics")[1].splitlines() if line.startswith("tidegate_stream_dropped_total{")]
    t.check("what a stream is told to drop is counted", books["dropped"] == SENT - ROOM and books["backlog"] == ROOM and books["balanced"], books)
    t.check("with the reason", any("reason=" in line and line.endswith(f" {SENT - ROOM}") for line in reasons), reasons)
    upstream.up()
    check_books(t, gateway, "drop-oldest: the books balance")


def main(t):
    folder = workspace(t)
    for name, part in (("reject", reject), ("drop", drop)):
        (folder / name).mkdir()
        part(t, folder / name)
    control = Control(t, folder / "control", queued=ROOM)
    sent, journal = control.publish(count=SENT)
    got = control.delivered(journal)
    t.check("control: Mosquitto's bridge acknowledges them all, and loses some", sent["acked"] == SENT and got["lost"] > 0, f"{got['lost']} lost")


with Theme("acknowledged_then_dropped_when_full") as theme:
    main(theme)
