"""An outage of 200 000 messages: published while the upstream is away, all there when it is back, in order, within little memory."""

import os

from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.process import workspace
from lab.report import Theme
from lab.upstream import Upstream

MESSAGES = int(os.environ.get("OUTAGE_MESSAGES", "200000"))
SENSORS = 20


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder).down()
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    empty = gateway.process.rss_bytes()

    sensors = Sensors(folder, gateway.port, sensors=SENSORS, count=MESSAGES // SENSORS, size=200)
    sent = sensors.result(300)
    t.check(f"{MESSAGES} messages are acknowledged while the upstream is away", sent["acked"] == MESSAGES,
            f"{sent['acked_per_s']:.0f}/s")
    books = gateway.books()
    t.check("the backlog can be seen", books["backlog"] == MESSAGES and books["balanced"], books)
    grown = (gateway.process.rss_bytes() - empty) / 2**20
    t.check("memory does not grow with the backlog (16 MiB at most)", grown <= 16, f"{grown:.1f} MiB more than empty")

    upstream.up()
    result = upstream.verifier.expect(sensors.journal)
    check_delivery(t, result, "after the outage")
    t.check("every message has its id", result["with_id"] == result["received"])
    t.say(f"drained at {result['per_s']:.0f}/s")
    check_books(t, gateway)
    t.check("exactly what was sent was accepted and forwarded",
            gateway.books()["accepted"] == gateway.books()["forwarded"] == MESSAGES, gateway.books())
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("outage") as theme:
    main(theme)
