"""Users, access rules and reload with clients that nobody here wrote; a fleet that comes back after an outage."""

import os
import pathlib
import signal
import socket
import subprocess
import time

from lab.gateway import Gateway
from lab.process import Process, free_port, wait_for, workspace
from lab.report import Theme

LISTENER = """anonymous = false

[auth]
password_file = "passwd"
acl_file = "acl.toml"
"""

RULES = """[[rule]]
user = "viewer"
allow = ["subscribe"]
topic = "#"

[[rule]]
user = "*"
allow = ["publish"]
topic = "sensors/%c/#"
"""

FLEET = 60


def run(argv, text=None, seconds=60):
    """Exit code and everything a program said."""
    done = subprocess.run([str(a) for a in argv], input=text, capture_output=True, text=True, timeout=seconds,
                          stdin=None if text is not None else subprocess.DEVNULL)
    return done.returncode, (done.stdout + done.stderr).strip().replace("\n", "; ")


def passwd(folder, user, password):
    return run([os.environ["TIDEGATE"], "passwd", folder / "passwd", user], f"{password}\n")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect_bytes(client, user, password):
    body = b"\0\x04MQTT\x04\xc2\0\0" + b"".join(len(p).to_bytes(2, "big") + p.encode() for p in (client, user, password))
    return bytes([0x10, len(body)]) + body


def fleet_connects(port):
    """All devices at once, each with its own password; how many were let in."""
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(FLEET)]
    for number, device in enumerate(sockets):
        device.sendall(connect_bytes(f"d{number}", f"device{number}", f"secret{number}"))
    let_in = sum(device.recv(4)[3:] == b"\0" for device in sockets)
    for device in sockets:
        device.close()
    return let_in


def main(t):
    folder = workspace(t)
    (folder / "acl.toml").write_text(RULES)
    made = [passwd(folder, user, password) for user, password in (("probe", "rain"), ("viewer", "clouds"))]
    t.check("tidegate passwd makes a file with mode 0600",
            all(code == 0 for code, _ in made) and (folder / "passwd").stat().st_mode & 0o777 == 0o600, made)
    run(["mosquitto_passwd", "-b", folder / "passwd", "old", "hat"])
    gateway = Gateway(folder, free_port(), listener=LISTENER).start()
    t.later(gateway.stop)

    pub = ["mosquitto_pub", "-h", "127.0.0.1", "-p", gateway.port, "-i", "probe1", "-m", "x", "-q", 1]
    for version in ("mqttv311", "mqttv5"):
        who = ["-V", version, "-u", "probe", "-P", "rain"]
        sub = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", gateway.port, "-V", version, "-i", "v",
                       "-u", "viewer", "-P", "clouds", "-t", "#", "-F", "GOT %t"], folder / f"sub-{version}.log")
        wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in sub.log(), 20)
        code, said = run([*pub, *who, "-t", "sensors/probe1/t"])
        t.check(f"a user comes in and publishes what it may, {version}", code == 0, said)
        wait_for("the message", lambda: "GOT sensors/probe1/t" in sub.log(), 10)
        code, said = run([*pub, *who, "-t", "sensors/other/t"])
        t.check(f"what it may not publish reaches nobody, {version}", "GOT sensors/other" not in sub.log(), said)
        if version == "mqttv5":
            t.check("and mosquitto_pub is told so", "not authorized" in said.lower(), said)
        code, said = run(["mosquitto_sub", "-h", "127.0.0.1", "-p", gateway.port, *who, "-t", "sensors/#", "-W", 3, "-E", "-d"])
        t.check(f"a subscription that could bring nothing is refused, {version}", "128" in said or "135" in said or "denied" in said.lower(), said)
        for wrong, what in ((["-u", "probe", "-P", "sun"], "a wrong password"), (["-u", "nobody", "-P", "x"], "an unknown user"),
                            ([], "nobody")):
            code, said = run([*pub, "-V", version, *wrong, "-t", "sensors/probe1/t"])
            t.check(f"{what} is refused, {version}", code != 0 and any(word in said.lower() for word in ("refused", "bad user name", "not authori")), said)
        code, said = run([*pub, "-V", version, "-u", "old", "-P", "hat", "-t", "sensors/probe1/t"])
        t.check(f"a hash of mosquitto_passwd is understood, {version}", code == 0, said)
        sub.terminate()

    sub = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", gateway.port, "-V", "mqttv5", "-i", "v",
                   "-u", "viewer", "-P", "clouds", "-t", "#"], folder / "sub-reload.log")
    t.later(sub.kill)
    wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in sub.log(), 20)
    passwd(folder, "viewer", "storm")
    os.kill(gateway.process.pid, signal.SIGHUP)
    wait_for("the gateway has reloaded", lambda: gateway.logged("access reloaded"), 10)
    wait_for("mosquitto_sub is sent away", lambda: sub.log().lower().count("not authorized") + sub.log().count("(135)"), 20)
    t.check("a new password and SIGHUP send a connected client away", gateway.metric("tidegate_broker_refused_total", reason="access-revoked") == 1)

    for number in range(FLEET):
        passwd(folder, f"device{number}", f"secret{number}")
    os.kill(gateway.process.pid, signal.SIGHUP)
    wait_for("the fleet is known", lambda: f'"users":{FLEET + 3}' in gateway.log().replace(" ", ""), 10)
    pid, costs = gateway.process.pid, []
    for _ in range(2):
        before, began = cpu_seconds(pid), time.monotonic()
        let_in = fleet_connects(gateway.port)
        costs.append((round(cpu_seconds(pid) - before, 2), round(time.monotonic() - began, 2)))
        t.check("the whole fleet comes in", let_in == FLEET, f"{let_in} of {FLEET}; seconds of CPU and of waiting: {costs[-1]}")
    t.check("a fleet that comes back costs no checks", costs[1][0] <= max(0.05, costs[0][0] / 5), costs)
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("access") as theme:
    main(theme)
