"""An outage of 200 000 messages: published while the upstream is away, all there when it is back, in order, within little memory."""

import os

from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.process import workspace
from lab.report import Theme
from lab.upstream import Upstream

MESSAGES = int(os.environ.get("OUTAGE_MESSAGES", "200000"))
SENSORS = 20
WARM = 40000


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    # The same work with nothing left over: what is measured later is the backlog, not twenty busy connections.
    warm = Sensors(folder, gateway.port, "warm", sensors=SENSORS, first_sensor=1001, count=WARM // SENSORS, size=200)
    warm.result()
    gateway.wait_drained()
    without = gateway.process.rss_bytes()
    upstream.down()

    sensors = Sensors(folder, gateway.port, sensors=SENSORS, count=MESSAGES // SENSORS, size=200)
    sent = sensors.result(300)
    t.check(f"{MESSAGES} messages are acknowledged while the upstream is away", sent["acked"] == MESSAGES,
            f"{sent['acked_per_s']:.0f}/s")
    books = gateway.books()
    t.check("the backlog can be seen", books["backlog"] == MESSAGES and books["balanced"], books)
    stored = gateway.process.rss_bytes()
    t.check("memory does not grow with the backlog (16 MiB at most)", stored - without <= 16 * 2**20,
            f"{without / 2**20:.1f} MiB after the same with nothing left, {stored / 2**20:.1f} MiB now")

    upstream.up()
    result = upstream.verifier.expect(warm.journal, sensors.journal)
    check_delivery(t, result, "after the outage")
    t.check("every message has its id", result["with_id"] == result["received"])
    check_books(t, gateway)
    t.check("exactly what was sent was accepted and forwarded",
            gateway.books()["accepted"] == gateway.books()["forwarded"] == MESSAGES + WARM, gateway.books())
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("outage") as theme:
    main(theme)
