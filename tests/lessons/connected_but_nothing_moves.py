"""The trap: "connected", and nothing moves.

Seen in HiveMQ Edge (hivemq/hivemq-edge#1290) and Mosquitto (eclipse/mosquitto#2362, #2176). In Tidegate messages in flight without any acknowledgement for
`progress_timeout` end the connection, also where pings are answered; it is counted and logged. The control: a
`progress_timeout` of an hour.
"""

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import TookTooLong, free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import Rogue, take_over

PATIENCE = 6


def gives_up(t, folder, progress_timeout):
    """An upstream that answers pings and acknowledges nothing; whether it is left in time. Gives its port, too."""
    port = free_port()
    rogue = Rogue(port, "never_acknowledges")
    gateway = Gateway(folder, port, progress_timeout=progress_timeout, uplink='keep_alive = "1s"').start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, count=300)
    sent = sensors.result()
    wait_for("something is sent", lambda: rogue.published > 0, 20)
    t.check(f"progress_timeout = {progress_timeout}: local sensors do not notice", sent["acked"] == 300, sent["ack"])
    try:
        wait_for("it is left", lambda: rogue.connections >= 3, PATIENCE)
        left = True
    except TookTooLong:
        left = False
    rogue.close()
    return left, gateway, sensors, port


def main(t):
    folder = workspace(t)
    left, gateway, sensors, port = gives_up(t, folder / "gateway", "1s")
    t.check("an upstream that answers only pings is left, again and again", left)
    t.check("it is counted", gateway.metric("tidegate_uplink_failures_total", reason="no-progress") >= 2)
    t.check("and logged", gateway.logged("nothing was acknowledged") is not None, gateway.logged("nothing was acknowledged"))
    t.check("and the books know that nothing was forwarded", gateway.books()["backlog"] == 300, gateway.books())
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port)
    t.later(take_over(port, upstream.port).close)
    check_delivery(t, verifier.expect(sensors.journal), "when a good one takes over")
    check_books(t, gateway)
    left, *_ = gives_up(t, folder / "control", "1h")
    t.check("control: without the timeout it is stuck", not left)


with Theme("connected_but_nothing_moves") as theme:
    main(theme)
