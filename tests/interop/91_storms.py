"""Storms at a running gateway: thousands of clients that fail alike, an upstream that flaps, garbage, a full disk, all at once. The log stays
small, each kind of trouble is in it, and it ends with how things are. A log that nobody reads, or that is closed, stops nothing. In the
real journal (systemd-journald, in a mount namespace of its own) every field is a field."""

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time

from lab.gateway import Gateway
from lab.namespace import fill, own, small_disk
from lab.process import Process, free_port, wait_for, workspace
from lab.report import Theme

SECONDS = 20
BYTES_PER_MINUTE = 64 << 10
CLIENTS = 2000
JOURNAL = pathlib.Path("/run/systemd/journal/socket")


def text(value):
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def connect(client, user=None):
    """A CONNECT of MQTT 5, as bytes."""
    body = text("MQTT") + bytes([5, 0xC2 if user else 2]) + struct.pack(">H", 60) + b"\0" + text(client)
    body += text(user) + text("guess") if user else b""
    return bytes([0x10, len(body)]) + body


def publish(topic, size, packet_id):
    """A PUBLISH of QoS 1, as bytes."""
    body = text(topic) + struct.pack(">H", packet_id) + b"\0" + b"x" * size
    length = len(body)
    assert 128 <= length < 16384
    return bytes([0x32, length & 0x7F | 0x80, length >> 7]) + body


class Client:
    """A client of MQTT 5 that waits for each answer."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.sendall(connect(name))
        assert self.answer()[:1] == b"\x20"
        self.packet_id = 0

    def answer(self):
        head = self.socket.recv(2)
        return head + self.socket.recv(head[1], socket.MSG_WAITALL) if head else b""

    def publish(self, size=1000):
        """Whether it was taken."""
        self.packet_id = self.packet_id % 60000 + 1
        self.socket.sendall(publish("sensors/x", size, self.packet_id))
        puback = self.answer()
        return len(puback) < 5 or puback[4] < 0x80


class Flapping:
    """An upstream that says yes and goes away, for as long as it is `wild`."""

    def __init__(self, t):
        self.wild, self.greeted, self.held = True, 0, []
        self.listener = socket.create_server(("127.0.0.1", free_port()))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()
        t.later(self.listener.close)

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                peer.recv(4096)
                peer.sendall(b"\x20\x03\0\0\0")
                self.greeted += 1
                if self.wild:
                    peer.close()
                else:
                    self.held.append(peer)


def bother(port, what, until):
    """Sends these bytes over new connections again and again; `what` makes them from a number."""
    number = 0
    while time.monotonic() < until:
        number += 1
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as peer:
            peer.settimeout(2)
            peer.sendall(what(number))
            peer.recv(64)


def entries(log):
    return [json.loads(line) for line in log.splitlines()]


def lines_of(log, **fields):
    """How many lines were said with these fields, those that one line stands for included."""
    found = [e for e in entries(log) if all(e.get(k) == v for k, v in fields.items())]
    return sum(e.get("repeated", 1) for e in found), found


def storms(t, folder):
    disk = small_disk(t, folder / "disk", 24)
    upstream = Flapping(t)
    passwords = folder / "passwd"
    passwords.write_text("")
    gateway = Gateway(folder / "gateway", upstream.port, data=disk / "data", store='min_free = "1MiB"', backoff_max="100ms")
    gateway.config.write_text(gateway.config.read_text() + f'\n[[listener]]\nname = "guarded"\nbind = "127.0.0.1:{free_port()}"\nanonymous = false\n'
                              f'\n[auth]\npassword_file = "{passwords}"\n')
    guarded = int(re.findall(r'bind = "127.0.0.1:(\d+)"', gateway.config.read_text())[-1])
    gateway.start()
    t.later(gateway.kill)
    began, mark = time.monotonic(), len(gateway.log())
    until = began + SECONDS
    noise = random.Random(t.seed)
    work = [(guarded, lambda n, k=k: connect(f"guess-{k}-{n % CLIENTS}", f"user{n}")) for k in range(3)]
    work += [(gateway.port, lambda n: noise.randbytes(64)), (gateway.port, lambda n: b"GET / HTTP/1.1\r\n\r\n")]
    threads = [threading.Thread(target=bother, args=(port, what, until)) for port, what in work]
    for thread in threads:
        thread.start()
    client = Client(gateway.port, "honest")
    wait_for("messages are stored", client.publish, 10)
    fill(disk / "ballast")
    wait_for("the full disk is noticed", lambda: not client.publish(8000), 20)
    for thread in threads:
        thread.join()
    upstream.wild = False
    seen = upstream.greeted
    wait_for("the uplink stays", lambda: upstream.held and gateway.metric("tidegate_uplink_connected") == 1, 20)
    (disk / "ballast").unlink()
    wait_for("there is room again", client.publish, 30)
    wait_for("the log knows of it", lambda: lines_of(gateway.log(), state="accepting")[1], 20)
    last = lambda: [e for e in entries(gateway.log()) if e.get("uplink") == "cloud" and "state" in e][-1]["state"]
    wait_for("the log ends with the uplink connected", lambda: last() == "connected", 10)
    refused = {word: gateway.metric("tidegate_broker_refused_total", reason=word) for word in ("bad-credentials", "guessing", "malformed", "protocol-name")}
    connects = gateway.metric("tidegate_uplink_connects_total")
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)
    log = gateway.log()
    minutes = max(1.0, (time.monotonic() - began) / 60)
    size = len(log) - mark
    t.check("the log stays small", size / minutes < BYTES_PER_MINUTE, f"{size} bytes in {minutes * 60:.0f} s; {refused}, {seen} connections of the uplink")
    t.check("the storms were storms", sum(refused.values()) > CLIENTS and connects > 50, f"{refused}, {connects:.0f} connections")
    for word, count in refused.items():
        if count:
            said, found = lines_of(log, message="client refused", reason=word)
            t.check(f"{word}: seen, and all of them counted", said == count, f"{count:.0f} in {len(found)} lines, {said} said")
    said, found = lines_of(log, message="uplink connected")
    lost, _ = lines_of(log, message="uplink disconnected")
    t.check("a flapping uplink: all that came and went is counted, one way or the other", said + lost >= 2 * connects - 1,
            f"{connects:.0f} connections; {said} and {lost} in {len(found)} lines and others")
    t.check("it says how long it was away, and how many messages wait", all(e["away_s"] >= 0 and e["waiting"] >= 0 for e in found[1:]), found[-1])
    t.check("the full disk is seen beside it", any("full" in json.dumps(e) and e["level"] in ("WARN", "ERROR") for e in entries(log)))
    kinds = collections.Counter(e["message"] for e in entries(log))
    t.check("no kind of line is often there", max(kinds.values()) <= 60, kinds.most_common(3))
    t.check("every line is an object with time, level, target and message", all({"time", "level", "target", "message"} <= e.keys() for e in entries(log)))
    t.check("it began and ended in order", kinds["gateway ready"] == 1 and kinds["stopping"] == 1 and entries(log)[-1]["message"] == "stopped")


def unread(t, folder):
    """Nobody reads its stderr; then somebody does; then it is closed."""
    gateway = Gateway(folder / "unread", free_port(), backoff_max="100ms")
    gateway.reconfigure('level = "info"', 'level = "trace"')
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
    child = subprocess.Popen([os.environ["TIDEGATE"], "run", "-c", gateway.config], stdin=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    t.later(child.kill)
    wait_for("the gateway is ready", lambda: gateway.http("/health/ready")[0] == 200, 20)
    client = Client(gateway.port, "honest")
    lost = lambda: gateway.metric("tidegate_log_lost_lines_total")

    def come_and_go():
        bother(gateway.port, lambda n: connect(f"c{n}"), time.monotonic() + 0.5)
        return lost() > 100

    wait_for("lines are lost, and counted", come_and_go, 60)
    began = time.monotonic()
    t.check("a stderr that nobody reads stops nobody", all(client.publish() for _ in range(200)) and gateway.http("/health/live")[0] == 200,
            f"200 messages in {time.monotonic() - began:.1f} s, {lost():.0f} lines lost")
    with open(reader, encoding="utf-8", closefd=False) as lines:
        told = next(json.loads(line) for line in lines if "log lines were dropped" in line)
    t.check("when somebody reads again, the log says what is missing", told["lines"] > 100 and told["level"] == "WARN", told)
    os.close(reader)
    t.check("a stderr that is closed stops nobody", all(client.publish() for _ in range(200)) and gateway.http("/health/live")[0] == 200)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    t.check("and it stops in order", child.wait(20) == 0, f"after {time.monotonic() - began:.1f} s")


def blocked_end(t, folder):
    """It ends although its last lines cannot be written."""
    gateway = Gateway(folder / "blocked", free_port(), backoff_max="100ms")
    gateway.reconfigure('level = "info"', 'level = "trace"')
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 4096)
    child = subprocess.Popen([os.environ["TIDEGATE"], "run", "-c", gateway.config], stdin=subprocess.DEVNULL, stderr=writer)
    t.later(child.kill)
    wait_for("the gateway is ready", lambda: gateway.http("/health/ready")[0] == 200, 20)
    bother(gateway.port, lambda n: connect(f"c{n}"), time.monotonic() + 2)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    t.check("with a full pipe behind stderr it stops in order too", child.wait(20) == 0, f"after {time.monotonic() - began:.1f} s")
    os.close(writer)
    os.close(reader)


def journal(t, folder):
    """A systemd-journald of our own."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    t.later(lambda: subprocess.run(["umount", "-l", "/run"], check=True))
    machine = pathlib.Path("/etc/machine-id").read_text().strip()
    for needed in (JOURNAL.parent, pathlib.Path("/run/log/journal") / machine, pathlib.Path("/run/systemd/journald.conf.d")):
        needed.mkdir(parents=True)
    pathlib.Path("/run/systemd/journald.conf.d/lab.conf").write_text("[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\n")
    start = lambda: Process(["/usr/lib/systemd/systemd-journald"], folder / "journald.log")
    journald = start()
    t.later(lambda: journald.kill())
    wait_for("journald listens", JOURNAL.exists, 10)
    gateway = Gateway(folder / "journal", free_port(), backoff_max="100ms")
    gateway.reconfigure('format = "json"', 'format = "journal"')
    gateway.start()
    t.later(gateway.kill)

    def found(*matches):
        done = subprocess.run(["journalctl", "-D", "/run/log/journal", "-o", "json", "--no-pager", "-q", *matches], capture_output=True, text=True, check=True)
        return entries(done.stdout)

    entry = wait_for("the journal has it", lambda: found("TIDEGATE_UPLINK=cloud"), 10)[0]
    expected = {"PRIORITY": "4", "SYSLOG_IDENTIFIER": "tidegate", "TIDEGATE_REASON": "tcp", "TIDEGATE_TARGET": "tidegate::forward::status",
                "TIDEGATE_EVENT": "uplink cannot connect, trying again", "CODE_FILE": "src/forward/status.rs", "_TRANSPORT": "journal"}
    t.check("every field is a field", expected.items() <= entry.items() and "uplink=cloud" in entry["MESSAGE"], entry["MESSAGE"])
    t.check("nothing goes to stderr then", gateway.log() == "", gateway.log()[:200])
    t.check("levels are priorities", found("PRIORITY=6", "TIDEGATE_EVENT=gateway ready") and not found("PRIORITY=5"))
    evil = "x\nPRIORITY=0\x1b[2J"
    bother(gateway.port, lambda n: connect(evil) + b"\xf0\0", time.monotonic() + 0.3)
    entry = wait_for("a client is refused", lambda: found("TIDEGATE_EVENT=client refused"), 10)[0]
    t.check("strangers add no fields and rule no terminal", entry["PRIORITY"] == "4" and isinstance(entry["MESSAGE"], str)
            and "\x1b" not in entry["MESSAGE"] + str(entry.get("TIDEGATE_CLIENT")), entry["MESSAGE"])
    stopped(t, gateway, journald)
    journald.kill()
    bother(gateway.port, lambda n: connect(f"gone{n}") + b"\xf0\0", time.monotonic() + 0.3)
    t.check("without journald the gateway goes on", gateway.http("/health/live")[0] == 200)
    journald = start()
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)
    wait_for("the journal has its end, or stderr has", lambda: found("TIDEGATE_EVENT=stopped") or "stopped" in gateway.log(), 10)
    t.check("what journald did not take has a priority on stderr", all(re.match(r"<\d>tidegate", line) for line in gateway.log().splitlines()), gateway.log()[:200])


def stopped(t, gateway, journald):
    """A journald that stands still: more is said than its socket holds."""
    journald.child.send_signal(signal.SIGSTOP)
    for name in range(40):
        bother(gateway.port, lambda n: connect(f"slow{name}-{n}") + b"\xf0\0", time.monotonic() + 0.02)
    client = Client(gateway.port, "honest")
    t.check("a journald that stands still stops nobody", all(client.publish() for _ in range(200)) and gateway.http("/health/live")[0] == 200)
    journald.child.send_signal(signal.SIGCONT)


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    storms(t, folder)
    unread(t, folder)
    blocked_end(t, folder)
    journal(t, folder)


own(network=True)
with Theme("storms") as theme:
    main(theme)
