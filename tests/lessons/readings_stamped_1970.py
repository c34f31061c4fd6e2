"""The trap: a board without a clock starts in 1970, and its readings are stamped so for ever.

Seen in oem_gateway (openenergymonitor/oem_gateway#12). Tidegate keeps boot id and monotonic time: once the clock is set, everything of that boot has its right
time; what has to go before says `tg-clock = unsynced`. More of the clock is in tests/interop/33_clock.py. The control: the
clock is never set.
"""

import re
import subprocess
import time
from datetime import datetime, timezone

from lab.clock import TRUE, UNSET, Clock
from lab.gateway import Gateway, check_books
from lab.mosquitto import Mosquitto
from lab.process import Process, free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

COUNT = 5


def run(t, folder, is_set):
    """Readings are taken in 1970 while the upstream is away; the clock is set, or not; what arrives: `tg-time` in seconds off, and `tg-clock`."""
    folder.mkdir()
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    proxy = Proxy(free_port(), upstream.port)
    t.later(proxy.close)
    proxy.refusing = True
    clock = Clock(folder, UNSET)
    gateway = Gateway(folder / "gateway", proxy.port, env=clock.env, backoff_max="100ms").start()
    t.later(gateway.stop)
    sub = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-V", "mqttv5", "-h", "127.0.0.1", "-p", upstream.port, "-t", "#", "-F", "GOT %p|%P"], folder / "sub.log")
    t.later(sub.kill)
    wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in sub.log(), 10)
    for _ in range(COUNT):
        argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", gateway.port, "-q", 1, "-t", "sensors/x", "-m", time.time()]
        subprocess.run(list(map(str, argv)), check=True, timeout=20)
    if is_set:
        clock.set(TRUE)
        wait_for("the gateway has seen it", lambda: gateway.logged("the clock was set"), 10)
    proxy.refusing = False
    check_books(t, gateway)
    lines = lambda: [line[4:] for line in sub.log().splitlines() if line.startswith("GOT ")]
    wait_for("they arrive", lambda: len(lines()) == COUNT, 20)
    found = []
    for line in lines():
        payload, properties = line.split("|")
        marks = dict(re.findall(r"(tg-\w+):(\S+)", properties))
        when = datetime.strptime(marks["tg-time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()
        found.append((when - float(payload), marks.get("tg-clock")))
    return found


def main(t):
    folder = workspace(t)
    found = run(t, folder / "set", True)
    t.check("once the clock is set every reading has its right time", all(abs(off) < 1.5 and mark is None for off, mark in found), found)
    found = run(t, folder / "control", False)
    t.check("control: while it is not they are of 1970, and say that this is not so", all(off < -1e9 and mark == "unsynced" for off, mark in found), found)


with Theme("readings_stamped_1970") as theme:
    main(theme)
