"""SIGTERM under load ends with code 0 and loses nothing; systemd is told when we are ready, alive and going."""

import os
import re
import signal
import socket
import time

from lab.gateway import Gateway, check_books, warnings
from lab.load import Sensors, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import accepts, free_port, wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream


def under_load(t, folder):
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    sensors = [
        Sensors(folder, gateway.port, "v4", sensors=4, rate=8000),
        Sensors(folder, gateway.port, "v5", sensors=4, first_sensor=11, rate=8000, mqtt=5, qos=2),
    ]
    codes, slowest = [], 0
    for i in range(6):
        books = gateway.books()["accepted"]
        wait_for("messages flow", lambda: gateway.books()["accepted"] > books + 3000, 30)
        if i == 3:
            upstream.down()
        if i == 5:
            upstream.up()
        time.sleep(t.random.uniform(0, 0.3))
        began = time.monotonic()
        codes.append(gateway.stop(40))
        slowest = max(slowest, time.monotonic() - began)
        gateway.start()
    t.check("SIGTERM under load ends with code 0, upstream there or not", codes == [0] * 6, codes)
    t.check("it does not take long", slowest < 20, f"slowest {slowest:.1f} s")
    results = [s.stop() for s in sensors]
    result = upstream.verifier.expect(*[s.journal for s in sensors])
    check_delivery(t, result, "across orderly restarts", new_ids_allowed=results[0]["resent"])
    t.check("orderly restarts do not send messages twice while the upstream is there", result["duplicates_same_id"] <= 256,
            result["duplicates_same_id"])
    check_books(t, gateway)
    gateway.process.child.send_signal(signal.SIGINT)
    t.check("SIGINT ends it with code 0 too", gateway.process.child.wait(30) == 0)


class NotifySocket:
    """The other end of sd_notify."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.heard = []

    def listen(self):
        while True:
            try:
                self.heard += [(time.monotonic(), line) for line in self.socket.recv(65536).decode().splitlines()]
            except BlockingIOError:
                return self.heard

    def times(self, word):
        return [at for at, line in self.listen() if line == word]


def notify(t, folder):
    path = folder / "notify"
    notified = NotifySocket(path)
    upstream = Mosquitto(folder / "notify-upstream").start()
    t.later(upstream.stop)
    gateway = Gateway(folder / "notify-gateway", upstream.port, env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "4000000"})
    gateway.start(wait=False)
    t.later(gateway.stop)
    wait_for("READY=1", lambda: notified.times("READY=1"), 20, 0.001)
    t.check("READY=1 comes once, and then clients can connect", accepts(gateway.port) and len(notified.times("READY=1")) == 1)
    wait_for("a few seconds of WATCHDOG=1", lambda: len(notified.times("WATCHDOG=1")) >= 4, 20, 0.001)
    beats = notified.times("WATCHDOG=1")
    gaps = [b - a for a, b in zip(beats, beats[1:])]
    t.check("WATCHDOG=1 comes at least twice in the watchdog's time", max(gaps) <= 2.5, f"longest gap {max(gaps):.2f} s of 4 s")
    t.check("and nothing is called stuck while all is well", not warnings(gateway.log()), warnings(gateway.log())[:2])
    t.check("STATUS= says what it does", any(line.startswith("STATUS=") for _, line in notified.listen()),
            [line for _, line in notified.heard if line.startswith("STATUS=")][:2])
    code = gateway.stop()
    words = [line for _, line in notified.listen()]
    t.check("STOPPING=1 comes on SIGTERM, and code 0", "STOPPING=1" in words and code == 0)

    gateway.env = {"NOTIFY_SOCKET": str(folder / "nobody"), "WATCHDOG_USEC": "rubbish"}
    gateway.start()
    t.check("it runs when nobody listens to its notifications", gateway.up())
    t.check("and ends with code 0", gateway.stop() == 0)


def refusals(t, folder):
    """What it says when it cannot start: contract, section 4."""
    upstream_port = free_port()
    gateway = Gateway(folder / "first", upstream_port).start()
    t.later(gateway.stop)
    second = Gateway(folder / "second", upstream_port, data=gateway.data)
    second.start(wait=False)
    code = second.process.child.wait(20)
    t.check("a second gateway on the same data directory is refused, with the reason",
            code == 1 and re.search(r"(?i)lock|in use|another", second.log()), f"code {code}: {second.log()[-300:]}")
    third = Gateway(folder / "third", upstream_port)
    text = third.config.read_text()
    third.config.write_text(text.replace("[store]", "[store]\ndurabilty = 1\n").replace("progress_timeout = ", "progres_timeout = "))
    third.start(wait=False)
    code = third.process.child.wait(20)
    log = third.log()
    t.check("a misspelt configuration is refused with 78, all problems and the nearest keys",
            code == 78 and "durability" in log and "progress_timeout" in log and not os.path.exists(third.data), f"code {code}: {log[-400:]}")
    t.check("the first one never noticed", gateway.up() and gateway.stop() == 0)


def main(t):
    folder = workspace(t)
    under_load(t, folder)
    notify(t, folder)
    refusals(t, folder)


with Theme("shutdown") as theme:
    main(theme)
