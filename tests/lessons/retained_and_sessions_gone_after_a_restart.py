"""The trap: retained messages, and the sessions of local clients with what waits for them, are gone after a restart.

Seen in rumqttd (bytebeamio/rumqtt#920, #967). Tidegate has them on disk before it acknowledges: after SIGTERM and after `kill -9` they are there. The control:
Mosquitto with its persistence, killed.
"""

import subprocess

from lab.gateway import Gateway
from lab.mosquitto import Mosquitto
from lab.process import Process, free_port, wait_for, workspace
from lab.report import Theme

COUNT = 20
VERSIONS = {"mqttv311": [], "mqttv5": ["-x", "3600"]}


def pub(port, *words):
    subprocess.run(list(map(str, ["mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-q", 1, *words])), check=True, timeout=20)


def sub(port, *words, seconds=3):
    """What mosquitto_sub gets, until that many are there or the time is over."""
    argv = ["mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-q", 1, "-W", seconds, *words]
    return subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=30).stdout.split()


def prepare(folder, port, version):
    """A retained message, a session, and messages that wait for it."""
    name = f"keeper-{version}"
    keep = ["-V", version, "-i", name, "-c", *VERSIONS[version], "-t", f"orders/{version}"]
    log = folder / f"{name}.log"
    keeper = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", port, "-q", 1, *keep], log)
    wait_for("it is subscribed", lambda: "Subscribed" in keeper.log(), 10)
    keeper.terminate()
    pub(port, "-r", "-t", f"state/{version}", "-m", f"on-{version}")
    for number in range(COUNT):
        pub(port, "-t", f"orders/{version}", "-m", number)
    return keep


def found(port, version, keep):
    """Whether the retained message and the whole queue are there."""
    return (sub(port, "-V", version, "-t", f"state/{version}", "-C", 1) == [f"on-{version}"],
            sub(port, *keep, "-C", COUNT) == [str(number) for number in range(COUNT)])


def main(t):
    folder = workspace(t)
    gateway = Gateway(folder / "gateway", free_port()).start()
    t.later(gateway.stop)
    for end in (gateway.kill, gateway.stop):
        how = "kill -9" if end == gateway.kill else "SIGTERM"
        for version in VERSIONS:
            keep = prepare(folder, gateway.port, version)
            end()
            gateway.start()
            retained, queue = found(gateway.port, version, keep)
            t.check(f"{version}: the retained message is there after {how}", retained)
            t.check(f"{version}: the session and its {COUNT} messages are there after {how}", queue)
    broker = Mosquitto(folder / "control").start()
    t.later(broker.kill)
    keep = prepare(folder, broker.port, "mqttv311")
    broker.kill()
    broker.start()
    retained, queue = found(broker.port, "mqttv311", keep)
    t.check("control: Mosquitto with its persistence, killed, has neither", not retained and not queue)


with Theme("retained_and_sessions_gone_after_a_restart") as theme:
    main(theme)
