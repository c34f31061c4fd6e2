"""A data directory on a small file system that fills up: publishers are refused (MQTT 5) or held (3.1.1), the broker stays up,
work resumes by itself when there is space, and nothing acknowledged is lost."""

import time

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.namespace import fill, free_bytes, own, small_disk
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

SMALL_MIB = 48


def refused(gateway):
    return gateway.metric("tidegate_broker_refused_total")


def local_clients_are_served(t, gateway, folder, label):
    """Messages that no stream takes still go from client to client."""
    local = Verifier(folder, gateway.port, f"local-{label}", filter="local/#", idle=5)
    sent = Sensors(folder, gateway.port, f"local-sensors-{label}", topic="local/{}", count=200, qos=0, client_prefix="l")
    sent.result(20)
    got = local.expect(sent.journal)
    t.check(f"{label}: local clients still hear each other", got["lost"] == 0, got["distinct"])


def one(t, folder, label, min_free, ballast):
    """`min_free` reached, or (with `ballast`, which leaves nothing) the file system itself full."""
    folder.mkdir()
    disk = small_disk(t, folder / "disk", SMALL_MIB)
    upstream = Upstream(t, folder).down()
    gateway = Gateway(folder / "gateway", upstream.port, data=disk / "data", store=f'min_free = "{min_free}"').start()
    t.later(gateway.stop)
    v5 = Sensors(folder, gateway.port, "v5", sensors=2, mqtt=5, rate=4000, size=1024, window=100)
    v4 = Sensors(folder, gateway.port, "v4", sensors=2, first_sensor=11, mqtt=4, rate=4000, size=1024, window=100)
    ballast_file = disk / "ballast"
    if ballast:
        wait_for("messages are stored", lambda: gateway.books()["accepted"] > 2000, 20)
        fill(ballast_file)
    wait_for("the disk is full for the gateway", lambda: refused(gateway) > 0, 60)
    began = time.monotonic()
    accepted = wait_for("nothing more is accepted", lambda: settled(gateway), 30)
    t.check(f"{label}: the gateway stays up", gateway.up(), f"{accepted} accepted, {free_bytes(disk)} bytes free")
    t.check(f"{label}: it says that it is alive", gateway.http("/health/live")[0] == 200)
    t.check(f"{label}: the log says that the disk is full", gateway.logged(r"(?i)disk|space|full") is not None,
            gateway.logged(r"(?i)disk is full|no space|disk full|space"))
    local_clients_are_served(t, gateway, folder, label)

    gateway.kill()
    gateway.start()
    t.check(f"{label}: it starts after kill -9 on the full disk", gateway.up())
    books = gateway.books()
    t.check(f"{label}: the books balance on the full disk", books["balanced"] and books["accepted"] >= accepted, books)

    full_us = (time.monotonic() - began) * 1e6
    if ballast:
        ballast_file.unlink()
    upstream.up()
    before = books["accepted"]
    wait_for("it accepts again by itself", lambda: gateway.books()["accepted"] > before + 1000, 60)
    t.check(f"{label}: work resumes by itself", True)
    sent5, sent4 = v5.stop(), v4.stop()
    t.check(f"{label}: MQTT 5 publishers were told (0x97)", sent5["refused"] > 0, sent5["refused"])
    t.check(f"{label}: MQTT 3.1.1 publishers were held, not refused and not lied to",
            sent4["refused"] == 0 and sent4["unacknowledged"] == 0 and sent4["ack"]["max_us"] >= 0.8 * full_us, sent4["ack"])
    result = upstream.verifier.expect(v5.journal, v4.journal)
    check_delivery(t, result, label, new_ids_allowed=sent5["resent"] + sent4["resent"])
    check_books(t, gateway, f"{label}: the books balance and the backlog is empty")
    t.check(f"{label}: SIGTERM ends it with code 0", gateway.stop() == 0)


def settled(gateway):
    """The number of accepted messages, once it no longer grows."""
    before, refusals = gateway.books()["accepted"], refused(gateway)
    wait_for("more is refused", lambda: refused(gateway) > refusals, 20)
    return before if gateway.books()["accepted"] == before else None


def main(t):
    folder = workspace(t)
    one(t, folder / "reserve", "min_free reached", f"{SMALL_MIB // 3}MiB", ballast=False)
    one(t, folder / "nospace", "no space left", "0B", ballast=True)


own()
with Theme("disk_full") as theme:
    main(theme)
