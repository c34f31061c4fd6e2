"""Boards without a clock start in 1970, and clocks are set while we run, forwards and back: times are right in the end, ages and limits count
the time that has really passed, and a new boot knows what the last one left."""

import json
import os
import re
import socket
import subprocess
import time
from datetime import datetime, timezone

from lab.clock import TRUE, UNSET, Clock, time_namespace
from lab.gateway import Gateway, check_books, warnings
from lab.load import Sensors
from lab.mosquitto import Mosquitto, start_tls_upstream
from lab.namespace import own
from lab.papers import authority, certificate
from lab.process import Process, free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

# The gateway looks at its clocks once a second.
TICK_S = 1.0
YEAR = "+365d"


class Site:
    """A gateway whose clock can be set, its upstream, and a subscriber there who sees the user properties."""

    def __init__(self, t, folder, at, **gateway):
        folder.mkdir()
        self.upstream = Mosquitto(folder / "upstream").start()
        t.later(self.upstream.stop)
        self.proxy = Proxy(free_port(), self.upstream.port)
        t.later(self.proxy.close)
        self.clock = Clock(folder, at)
        self.gateway = Gateway(folder / "gateway", self.proxy.port, env=self.clock.env, backoff_max="100ms", **gateway).start()
        t.later(self.gateway.stop)
        self.sub = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-V", "mqttv5", "-h", "127.0.0.1", "-p", self.upstream.port, "-q", 1, "-t", "#",
                            "-F", "GOT %t|%p|%E|%P"], folder / "sub.log")
        t.later(self.sub.kill)
        wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in self.sub.log(), 10)

    def offline(self):
        self.proxy.refusing = True
        self.proxy.cut()
        wait_for("the uplink is away", lambda: self.gateway.metric("tidegate_uplink_connected") == 0, 10)

    def online(self):
        self.proxy.refusing = False
        self.gateway.wait_drained()

    def publish(self, name, *more):
        """One message; the payload is the true time."""
        argv = ["mosquitto_pub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", self.gateway.port, "-q", 1, "-t", f"sensors/{name}", "-m", time.time(), *more]
        subprocess.run(list(map(str, argv)), check=True, timeout=20)

    def got(self, name):
        """What arrived of a name: how far its `tg-time` is from the truth in seconds, `tg-clock`, and the expiry."""
        def found():
            return [line[4:].split("|") for line in self.sub.log().splitlines() if line.startswith(f"GOT sensors/{name}|")]

        _, payload, expiry, properties = wait_for(f"{name} has arrived", found, 20)[-1]
        marks = dict(re.findall(r"(tg-\w+):(\S+)", properties))
        when = datetime.strptime(marks["tg-time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()
        return round(when - float(payload), 3), marks.get("tg-clock"), expiry

    def status(self):
        return json.loads(self.gateway.http("/api/v1/status")[1])["clock"]

    def set_clock(self, to):
        """Sets the clock, and waits until the gateway has seen it."""
        mark = len(self.gateway.log())
        self.clock.set(to)
        wait_for("it has seen the clock", lambda: self.gateway.logged("clock was set", mark), 10)


def starts_in_1970(t, folder):
    site = Site(t, folder, UNSET)
    t.check("1970: the status says that the clock was never set", site.status()["synced"] is False, site.status())
    site.publish("sent-in-1970")
    off, mark, _ = site.got("sent-in-1970")
    t.check("1970: what is sent before the clock is set says so", mark == "unsynced" and off < -50 * 365 * 86400, f"off by {off} s, tg-clock {mark}")
    site.offline()
    site.publish("kept")
    site.set_clock(TRUE)
    site.publish("after")
    site.online()
    for name in ("kept", "after"):
        off, mark, _ = site.got(name)
        t.check(f"1970, then set: tg-time is right of what came {'before' if name == 'kept' else 'after'}", abs(off) < 1.5 and mark is None, f"off by {off} s, tg-clock {mark}")
    age = site.gateway.metric("process_start_time_seconds")
    t.say(f"process_start_time_seconds {age:.0f}")
    t.check("1970, then set: the status says so", site.status()["synced"] is True, site.status())

    # The same boot, the process anew, and its clock in 1970 once more: what is known of this boot is not forgotten.
    site.offline()
    site.publish("before-restart")
    site.gateway.kill()
    site.clock.set(UNSET)
    site.gateway.start()
    site.publish("after-restart")
    site.online()
    for name in ("before-restart", "after-restart"):
        off, mark, _ = site.got(name)
        t.check(f"a restart with the clock back in 1970: tg-time is still right, {name}", abs(off) < 1.5 and mark is None, f"off by {off} s, tg-clock {mark}")
    t.check("1970: nothing to warn about", not unexpected(site.gateway), unexpected(site.gateway)[:2])
    check_books(t, site.gateway, "1970: the books balance")


def unexpected(gateway):
    return [line for line in warnings(gateway.log()) if '"uplink' not in line]


def jumps(t, folder, name, to):
    """A jump while messages wait: nothing expires before its time, and everything at its time."""
    ttl = 6
    site = Site(t, folder, TRUE, stream=f'ttl = "{ttl}s"')
    local = ["mosquitto_pub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", site.gateway.port, "-q", 1, "-r", "-m", "x"]
    site.offline()
    stored = time.monotonic()
    for number in range(5):
        site.publish(f"ttl-{number}")
    subprocess.run(list(map(str, [*local, "-t", "state/short", "-D", "publish", "message-expiry-interval", ttl])), check=True)
    subprocess.run(list(map(str, [*local, "-t", "state/long", "-D", "publish", "message-expiry-interval", 1000])), check=True)
    keep = session(site.gateway.port, "keeper", ttl + 1)
    site.set_clock(to)
    books, retained = site.gateway.books(), retained_topics(site.gateway.port)
    age = site.gateway.metric("tidegate_stream_oldest_age_seconds")
    passed = time.monotonic() - stored
    t.check(f"{name}: nothing expires before its time", passed > ttl - 1 or (books["backlog"] == 5 and retained == {"state/short", "state/long"}),
            f"after {passed:.1f} s: {books['backlog']} waiting, retained {sorted(retained)}")
    t.check(f"{name}: the session is still there", passed > ttl or resumes(site.gateway.port, keep))
    left = time.monotonic()
    t.check(f"{name}: the age is what has passed", abs(age - passed) < 1.5, f"{age} s, {passed:.1f} s passed")
    wait_for("the messages expire", lambda: site.gateway.books()["expired"] == 5, 20, 0.05)
    took = time.monotonic() - stored
    t.check(f"{name}: messages expire at their time", ttl <= took <= ttl + 3 * TICK_S, f"{took:.1f} s for {ttl} s")
    wait_for("the retained message expires", lambda: retained_topics(site.gateway.port) == {"state/long"}, 10, 0.05)
    wait_for("the session expires", lambda: time.monotonic() - left > ttl + 1 and site.gateway.metric("tidegate_broker_sessions_expired_total") == 1, 20, 0.05)
    t.check(f"{name}: and so do the retained message and the session", not resumes(site.gateway.port, keep), f"{time.monotonic() - stored:.1f} s")

    stamped = time.monotonic()
    site.publish("expiry", "-D", "publish", "message-expiry-interval", 1000)
    site.clock.set(TRUE)
    site.online()
    off, mark, expiry = site.got("expiry")
    passed = time.monotonic() - stamped
    t.check(f"{name}, and back: the expiry upstream is lowered by the time spent here", 1000 - passed - 1.5 <= int(expiry) <= 1000, f"{expiry} of 1000 s after {passed:.1f} s")
    t.say(f"tg-time is off by {off} s in the second after the clock was set back")
    site.publish("right-again")
    wait_for("the clock is right again", lambda: abs(rightness(site)) < 1.5, 20, 0.2)
    t.check(f"{name}, and back: nothing to warn about", not unexpected(site.gateway), unexpected(site.gateway)[:2])
    check_books(t, site.gateway, f"{name}: the books balance")


def rightness(site):
    site.publish("right-again")
    site.gateway.wait_drained()
    return site.got("right-again")[0]


def session(port, name, expiry_s):
    """A session of mosquitto_sub; its client has gone."""
    words = ["mosquitto_sub", "-d", "-V", "mqttv5", "-h", "127.0.0.1", "-p", str(port), "-i", name, "-c", "-x", str(expiry_s), "-q", "1", "-t", "for/me"]
    subprocess.run([*words, "-E"], check=True, capture_output=True, timeout=20)
    return name


def resumes(port, name):
    """Whether CONNACK says that the session is there. Said as bytes, for mosquitto_sub does not tell."""

    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"\x10" + bytes([18 + len(name)]) + b"\x00\x04MQTT\x05\x00\x00\x3c\x05\x11\x00\x00\x00\x07" + len(name).to_bytes(2, "big") + name.encode())
        answer = client.recv(64)
        client.sendall(b"\xe0\x00")
    return answer[:1] == b"\x20" and answer[2] == 1


def retained_topics(port):
    done = subprocess.run(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", "state/#", "-F", "%t", "-W", "1", "--retained-only"],
                          capture_output=True, text=True, timeout=20)
    return set(done.stdout.split())


def leap(t, folder):
    """A second twice, and a second less: too little to correct anything, and the order stays."""
    site = Site(t, folder, TRUE)
    for number, to in enumerate(("-1s", "+0", "+1s", "+0")):
        site.clock.set(to)
        site.publish(f"leap-{number}")
    offs = [site.got(f"leap-{number}")[0] for number in range(4)]
    t.check("a leap second moves no time by more than itself", all(abs(off) < 2 for off in offs), offs)
    check_books(t, site.gateway, "leap: the books balance")


def new_boot(t, folder):
    """The power fails, the board comes up with its clock in 1970, messages of the earlier boot are there; then the clock is set."""
    site = Site(t, folder, TRUE, stream='ttl = "1h"')
    site.offline()
    site.publish("old-boot")
    site.gateway.kill()
    site.clock.set(UNSET)
    site.gateway.wrap = site.clock.new_boot()
    site.gateway.start()
    t.check("a new boot: this is one", time_namespace(site.gateway.process) != os.readlink("/proc/self/ns/time"))
    site.publish("new-boot")
    books = site.gateway.books()
    t.check("a new boot in 1970: nothing expires for a clock that was not set", (books["backlog"], books["expired"]) == (2, 0), books)
    age = site.gateway.metric("tidegate_stream_oldest_age_seconds")
    t.check("a new boot in 1970: what is older is at least as old as the boot", 60 <= age < 120, f"{age} s")
    site.online()
    off, mark, _ = site.got("old-boot")
    t.check("a new boot in 1970: messages of the earlier boot keep their time", abs(off) < 1.5 and mark is None, f"off by {off} s, tg-clock {mark}")
    off, mark, _ = site.got("new-boot")
    t.check("a new boot in 1970: messages of this boot say that they do not know theirs", mark == "unsynced", f"off by {off} s, tg-clock {mark}")
    site.offline()
    site.publish("waits")
    site.set_clock(TRUE)
    site.online()
    off, mark, _ = site.got("waits")
    t.check("then the clock is set: theirs is right, too", abs(off) < 1.5 and mark is None, f"off by {off} s, tg-clock {mark}")

    # And once more, two hours later: the time to live of an hour has passed, which only the wall clock can say.
    site.offline()
    site.publish("too-old")
    site.gateway.kill()
    site.clock.set(UNSET)
    site.gateway.wrap = site.clock.new_boot()
    site.gateway.start()
    t.check("while the clock is not set nothing expires", site.gateway.books()["backlog"] == 1, site.gateway.books())
    site.set_clock("+2h")
    wait_for("it expires", lambda: site.gateway.books()["expired"] == 1, 10)
    t.check("once it is set, what was off for two hours expires", True)
    t.check("a new boot: nothing to warn about", not unexpected(site.gateway), unexpected(site.gateway)[:2])
    check_books(t, site.gateway, "a new boot: the books balance")
    t.check("SIGTERM ends it with code 0", site.gateway.stop() == 0)


def certificates(t, folder):
    """In 1970 no certificate is valid yet: the cause is said, and once the clock is set the uplink connects by itself."""
    port, _ = start_tls_upstream(t, folder)
    clock = Clock(folder, UNSET)
    gateway = Gateway(folder / "gateway", port, scheme="mqtts", uplink=f'ca = "{folder}/ca.pem"', env=clock.env).start()
    t.later(gateway.stop)
    Sensors(folder, gateway.port, count=100).result()
    line = wait_for("the cause is said", lambda: gateway.logged("(?i)not valid|NotValidYet|certificate"), 20)
    t.check("certificates in 1970: the log says that it is not valid yet", re.search("(?i)not.?valid.?(yet|before)", line), line)
    clock.set(TRUE)
    check_books(t, gateway, "certificates: once the clock is set it connects by itself")


def tls_listener(t, folder):
    """A TLS listener that asks for certificates starts in 1970, too: it says that the dates cannot be right, and once they are it lets clients in."""
    folder.mkdir()
    folder.chmod(0o755)
    authority(folder, "ca")
    certificate(folder, "ca", "gw", 60)
    certificate(folder, "ca", "pump", 60)
    port = free_port()
    tls = f'tls = {{ cert = "{folder}/gw.pem", key = "{folder}/gw.key", client_ca = "{folder}/ca.pem", require_client_cert = true }}'
    clock = Clock(folder, UNSET)
    gateway = Gateway(folder / "gateway", free_port(), listener=f'\n[[listener]]\nname = "tls"\nbind = "127.0.0.1:{port}"\n{tls}\n', env=clock.env)
    gateway.start()
    t.later(gateway.stop)
    argv = ["mosquitto_pub", "-h", "localhost", "-p", port, "--cafile", folder / "ca.pem", "--cert", folder / "pump.pem", "--key", folder / "pump.key",
            "-q", 1, "-t", "local/x", "-m", "x"]
    let_in = lambda: subprocess.run(list(map(str, argv)), capture_output=True, timeout=20).returncode == 0
    t.check("a TLS listener in 1970: it starts, and says that the clock may be wrong", gateway.logged("gw.pem.*is the clock of this machine right") is not None)
    refused = not let_in()
    line = gateway.logged("client's certificate is not accepted")
    t.check("a TLS listener in 1970: a client's certificate is not valid yet, and the log says so", refused and line, line)
    clock.set(TRUE)
    t.check("once the clock is set it lets clients in", let_in())
    clock.set("+100d")
    t.check("a jump beyond the end of a certificate: it is refused", not let_in())
    clock.set(TRUE)
    t.check("and back: it is let in again", let_in())
    t.check("a TLS listener: SIGTERM ends it with code 0", gateway.stop() == 0)


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    starts_in_1970(t, folder / "1970")
    jumps(t, folder / "year", "a year forwards", YEAR)
    jumps(t, folder / "hour", "an hour back", "-1h")
    leap(t, folder / "leap")
    new_boot(t, folder / "boot")
    certificates(t, folder / "tls")
    tls_listener(t, folder / "listener")


own()
with Theme("clock") as theme:
    main(theme)
