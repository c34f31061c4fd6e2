"""The trap: what was stored during an outage is sent again only when somebody publishes.

Seen in NanoMQ (nanomq/nanomq#2423). Tidegate's forwarder is driven by the backlog itself, after an outage as after a restart. The
control: Mosquitto's bridge with `start_type lazy`, which waits for more to come.
"""

from lab.control import Control
from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

COUNT = 500


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    for number, restart in enumerate((None, gateway.kill, gateway.stop)):
        label = {None: "after an outage", gateway.kill: "after kill -9", gateway.stop: "after a restart"}[restart]
        upstream.down()
        sensors = Sensors(folder, gateway.port, f"sensors-{number}", first_sensor=number + 1, count=COUNT)
        sensors.result()
        if restart:
            restart()
            gateway.start()
        before = gateway.books()
        upstream.up()
        wait_for("everything is sent", lambda: gateway.books()["backlog"] == 0, 20)
        after = gateway.books()
        t.check(f"{label}: the backlog goes by itself, with nobody publishing", (before["backlog"], after["accepted"]) == (COUNT, before["accepted"]), after)
    journals = [folder / f"sensors-{number}.journal" for number in range(3)]
    check_delivery(t, upstream.verifier.expect(*journals), "all")
    check_books(t, gateway)
    control = Control(t, folder / "control", more=f"start_type lazy\nthreshold {2 * COUNT}\n")
    _, journal = control.publish(count=COUNT)
    got = control.delivered(journal)
    t.check("control: a lazy bridge waits for the next publish", got["lost"] == COUNT, f"{got['lost']} did not come")


with Theme("resend_waits_for_the_next_publish") as theme:
    main(theme)
