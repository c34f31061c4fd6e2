"""Clients that nobody here wrote publish and subscribe through the gateway, and what they publish arrives upstream."""

import os
import pathlib
import subprocess

from lab.gateway import Gateway, check_books, warnings
from lab.mosquitto import Mosquitto
from lab.process import Process, wait_for, workspace
from lab.report import Theme

HERE = pathlib.Path(__file__).parent


def run(argv, env=None, seconds=90):
    """Exit code and everything a program said."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    return done.returncode, (done.stdout + done.stderr).strip()


class Subscriber:
    """mosquitto_sub, subscribed."""

    def __init__(self, folder, name, port, version, topic, *more):
        self.process = Process(
            ["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", port, "-V", version, "-i", name, "-t", topic,
             "-F", "GOT %t %q %r %p %P", *more], folder / f"{name}.log")
        wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in self.process.log(), 10)

    def wait(self, text, seconds=10):
        wait_for(f"mosquitto_sub got {text!r}", lambda: f"GOT {text}" in self.process.log(), seconds)
        return True

    def lines(self):
        return [line[4:] for line in self.process.log().splitlines() if line.startswith("GOT ")]


def mosquitto_clients(t, folder, gateway):
    pub = ["mosquitto_pub", "-h", "127.0.0.1", "-p", gateway.port]
    for version in ("mqttv311", "mqttv5"):
        for qos in (0, 1, 2):
            sub = Subscriber(folder, f"{version}-{qos}", gateway.port, version, f"sensors/m{version}/{qos}", "-q", qos)
            code, said = run([*pub, "-V", version, "-q", qos, "-t", f"sensors/m{version}/{qos}", "-m", "hello"])
            t.check(f"mosquitto_pub to mosquitto_sub, {version}, QoS {qos}",
                    code == 0 and sub.wait(f"sensors/m{version}/{qos} {qos} 0 hello"), said)
            sub.process.terminate()
        topic = f"sensors/kept/{version}"
        run([*pub, "-V", version, "-q", 1, "-r", "-t", topic, "-m", "kept"])
        sub = Subscriber(folder, f"{version}-kept", gateway.port, version, topic, "-q", 1)
        t.check(f"mosquitto_sub gets a retained message, {version}", sub.wait(f"{topic} 1 1 kept"))
        sub.process.terminate()
        run([*pub, "-V", version, "-q", 1, "-r", "-n", "-t", topic])
        watcher = Subscriber(folder, f"{version}-watcher", gateway.port, version, f"wills/{version}", "-q", 1)
        doomed = Subscriber(folder, f"{version}-doomed", gateway.port, version, "nothing", "--will-topic", f"wills/{version}",
                            "--will-payload", "gone", "--will-qos", 1)
        children = pathlib.Path(f"/proc/{doomed.process.pid}/comm").read_text().strip()
        doomed.process.kill()
        t.check(f"a will of a killed mosquitto_sub, {version}", children == "mosquitto_sub" and watcher.wait(f"wills/{version} 1 0 gone"))
        watcher.process.terminate()
        big = folder / "big"
        big.write_bytes(b"0123456789abcdef" * 12000)
        sub = Subscriber(folder, f"{version}-big", gateway.port, version, "local/big", "-q", 1)
        code, said = run([*pub, "-V", version, "-q", 1, "-t", "local/big", "-f", big])
        t.check(f"a message of 192 kB, {version}", code == 0 and sub.wait("local/big 1 0 0123456789abcdef"), said)
        sub.process.terminate()
        before = gateway.metric("tidegate_broker_refused_total")
        huge = folder / "huge"
        huge.write_bytes(b"x" * 400_000)
        code, said = run([*pub, "-V", version, "-q", 1, "-t", "local/huge", "-f", huge])
        refused = gateway.metric("tidegate_broker_refused_total")
        if version == "mqttv5":  # it was told the Maximum Packet Size, and does not even send it
            t.check(f"a message above max_packet is not sent, {version}", refused == before, f"code {code} {said}")
        else:
            t.check(f"a message above max_packet is refused, {version}", code != 0 and refused == before + 1, said)


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    above = Subscriber(folder, "above", upstream.port, "mqttv5", "sensors/#", "-q", 1)
    t.later(above.process.kill)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)

    mosquitto_clients(t, folder, gateway)
    for version in (4, 5):
        for name, argv, env in (
            ("paho-mqtt", [os.environ["INTEROP_PYTHON"], HERE / "clients/paho_client.py"], None),
            ("MQTT.js", ["node", HERE / "clients/mqttjs_client.js"], {"NODE_PATH": os.environ["INTEROP_NODE_MODULES"]}),
        ):
            prefix = f"sensors/{name}{version}"
            code, said = run([*argv, "127.0.0.1", gateway.port, version, prefix], env)
            t.check(f"{name}, MQTT {'5' if version == 5 else '3.1.1'}", code == 0, said.replace("\n", "; ")[-600:])
            got = wait_for("its messages upstream", lambda: [line for line in above.lines() if line.startswith(prefix)], 10)
            wait_for("all of them", lambda: len([x for x in above.lines() if x.startswith(prefix)]) >= 1200, 15)
            got = [line for line in above.lines() if line.startswith(prefix)]
            t.check(f"what {name} publishes arrives upstream with an id", all("tg-id:lab/telemetry/" in x for x in got), len(got))
        code, said = run([os.environ["RUMQTTC_CLIENT"], "127.0.0.1", gateway.port, version, f"sensors/rumqttc{version}/data", 3000])
        t.check(f"rumqttc, MQTT {'5' if version == 5 else '3.1.1'}", code == 0, said[-300:])
    check_books(t, gateway)
    t.check("nothing to warn about but what was provoked", all("packet" in w.lower() or "large" in w.lower() for w in warnings(gateway.log())),
            warnings(gateway.log())[:3])
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("clients") as theme:
    main(theme)
