"""TLS, WebSocket and unix sockets, with clients and certificates that nobody here made: OpenSSL, mosquitto, paho-mqtt, MQTT.js."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

from lab.gateway import Gateway, check_books, warnings
from lab.mosquitto import Mosquitto
from lab.process import Process, free_port, wait_for, workspace
from lab.report import Theme

HERE = pathlib.Path(__file__).parent
CLIENTS = (
    ("paho-mqtt", [os.environ["INTEROP_PYTHON"], HERE / "clients/paho_client.py"], {}),
    ("MQTT.js", ["node", HERE / "clients/mqttjs_client.js"], {"NODE_PATH": os.environ["INTEROP_NODE_MODULES"]}),
)


def run(argv, env=None, seconds=90, stdin=subprocess.DEVNULL, cwd=None):
    """Exit code and everything a program said."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=seconds, stdin=stdin, cwd=cwd,
                          env={**os.environ, **(env or {})})
    return done.returncode, (done.stdout + done.stderr).strip()


def certificates(folder):
    """The commands of the README, as they stand there."""
    readme = (HERE.parent.parent / "README.md").read_text()
    block = re.search(r"## TLS and WebSocket.*?```sh\n(.*?)```", readme, re.S)[1]
    code, said = run(["bash", "-euc", block], cwd=folder)
    assert code == 0, said


def listeners(folder, ports, tls):
    """More listeners, behind the plain one of the lab."""
    mutual = f'{tls}, client_ca = "{folder}/ca.pem", require_client_cert = true'
    kinds = (("tls", "tcp", tls), ("mutual", "tcp", mutual), ("ws", "ws", ""), ("wss", "ws", tls))
    text = ""
    for name, transport, tls in kinds:
        text += f'\n[[listener]]\nname = "{name}"\nbind = "127.0.0.1:{ports[name]}"\ntransport = "{transport}"\n'
        text += f"tls = {{ {tls} }}\n" if tls else ""
    return text + f'\n[[listener]]\nname = "unix"\nbind = "unix:{folder}/mqtt.sock"\n'


class Sub:
    """mosquitto_sub, subscribed."""

    def __init__(self, t, folder, name, *argv):
        self.process = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-i", name, "-t", f"local/{name}", *argv], folder / f"{name}.log")
        t.later(self.process.kill)
        wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in self.process.log(), 10)

    def got(self, text):
        wait_for(f"mosquitto_sub got {text!r}", lambda: text in self.process.log().splitlines(), 10)
        return True


def mosquitto_clients(t, folder, ports):
    ca, own = ["--cafile", folder / "ca.pem"], ["--cert", folder / "pump-3.pem", "--key", folder / "pump-3.key"]
    at = {name: ["-h", "localhost", "-p", ports[name]] for name in ("tls", "mutual")}
    for name, argv in (
        ("tls12", [*at["tls"], *ca, "--tls-version", "tlsv1.2"]),
        ("tls13", [*at["tls"], *ca, "--tls-version", "tlsv1.3"]),
        ("alpn", [*at["tls"], *ca, "--tls-alpn", "mqtt"]),
        ("mutual12", [*at["mutual"], *ca, *own, "--tls-version", "tlsv1.2"]),
        ("mutual13", [*at["mutual"], *ca, *own, "--tls-version", "tlsv1.3"]),
        ("unix", ["--unix", folder / "mqtt.sock"]),
    ):
        sub = Sub(t, folder, name, *argv)
        code, said = run(["mosquitto_pub", *argv, "-q", 2, "-t", f"local/{name}", "-m", "hello"])
        t.check(f"mosquitto_pub and mosquitto_sub, {name}", code == 0 and sub.got("hello"), said)
    stranger = folder / "stranger"
    stranger.mkdir()
    certificates(stranger)
    for name, argv in (
        ("no certificate", [*at["mutual"], *ca]),
        ("a certificate of another authority", [*at["mutual"], *ca, "--cert", stranger / "pump-3.pem", "--key", stranger / "pump-3.key"]),
        ("a client that trusts another authority", [*at["tls"], "--cafile", stranger / "ca.pem"]),
        ("plain MQTT on a TLS listener", at["tls"]),
    ):
        code, said = run(["mosquitto_pub", *argv, "-q", 1, "-t", "local/x", "-m", "hello"])
        t.check(f"refused: {name}", code != 0, f"code {code} {said}")


def old_certificate(t, folder, gateway, ports):
    """Version 1, as `openssl x509 -req` makes it."""
    for argv in (
        "openssl req -new -newkey rsa:2048 -nodes -subj /CN=old -keyout old.key -out old.csr",
        "openssl x509 -req -in old.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out old.pem -days 10",
    ):
        run(argv.split(), cwd=folder)
    code, _ = run(["mosquitto_pub", "-h", "localhost", "-p", ports["mutual"], "--cafile", folder / "ca.pem", "--cert", folder / "old.pem",
                   "--key", folder / "old.key", "-q", 1, "-t", "local/x", "-m", "hello"])
    line = gateway.logged("X.509 version 1")
    t.check("a version 1 certificate is refused in words that say so", code != 0 and line, line or gateway.log()[-300:])


def s_client(ports, *more):
    return run(["openssl", "s_client", "-connect", f"127.0.0.1:{ports['tls']}", *more])


def reload(t, folder, gateway, ports, living):
    serial = lambda: re.search(r"BEGIN CERTIFICATE.*?END", s_client(ports, "-showcerts")[1], re.S)[0]
    before = serial()
    ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split()
    run(["openssl", "req", "-x509", *ec, "-days", 10, "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=localhost", "-addext",
         "basicConstraints=CA:FALSE", "-addext", "subjectAltName=DNS:localhost", "-keyout", "gw.key", "-out", "gw.pem"], cwd=folder)
    gateway.process.child.send_signal(signal.SIGHUP)
    wait_for("the new certificate is shown", lambda: serial() != before, 10)
    t.check("SIGHUP takes up a new certificate", True)
    code, said = run(["mosquitto_pub", "-h", "localhost", "-p", ports["tls"], "--cafile", folder / "ca.pem", "-q", 1, "-t", "local/living", "-m", "on"])
    t.check("a connection from before lives on", code == 0 and living.got("on"), said)
    t.check("a certificate that ends within 30 days is warned of", gateway.logged(r"gw\.pem: expires on .* in (9|10) days"))
    days = (gateway.metric("tidegate_tls_not_after_seconds", file=str(folder / "gw.pem")) - time.time()) / 86400
    t.check("its end is a metric", 9 < days <= 10, days)


def main(t):
    folder = workspace(t)
    certificates(folder)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    ports = {name: free_port() for name in ("tls", "mutual", "ws", "wss")}
    tls = f'cert = "{folder}/gw.pem", key = "{folder}/gw.key"'
    gateway = Gateway(folder / "gateway", upstream.port, listener=listeners(folder, ports, tls)).start()
    t.later(gateway.stop)
    code, said = run([os.environ["TIDEGATE"], "check", "-c", gateway.config])
    good = code == 0 and all(f"{scheme}://127" in said for scheme in ("mqtts", "ws", "wss"))
    t.check("check tells what each listener speaks", good, "" if good else said)

    mosquitto_clients(t, folder, ports)
    old_certificate(t, folder, gateway, ports)
    t.check("what was refused is counted", gateway.metric("tidegate_broker_refused_total", reason="tls") == 5,
            gateway.metric("tidegate_broker_refused_total", reason="tls"))
    code, said = s_client(ports, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    t.check("TLS 1.1 is not spoken", "Cipher is (NONE)" in said, said[-200:])

    schemes = (("mqtts", "mutual"), ("ws", "ws"), ("wss", "wss"))
    for name, argv, env in CLIENTS:
        for scheme, listener in schemes:
            files = {"MQTT_CA": "ca.pem", "MQTT_CERT": "pump-3.pem", "MQTT_KEY": "pump-3.key"} if scheme == "mqtts" else {"MQTT_CA": "ca.pem"}
            more = {key: str(folder / file) for key, file in files.items()}
            for version in (4, 5):
                prefix = f"sensors/{name}-{scheme}{version}"
                code, said = run([*argv, "localhost", ports[listener], version, prefix], {**env, **more, "MQTT_SCHEME": scheme})
                t.check(f"{name} over {scheme}, MQTT {'5' if version == 5 else '3.1.1'}", code == 0, said.replace("\n", "; ")[-500:])

    # A crowd that connects and says nothing.
    silent = [socket.create_connection(("127.0.0.1", ports["tls"])) for _ in range(300)]
    code, said = run(["mosquitto_pub", "-h", "localhost", "-p", ports["tls"], "--cafile", folder / "ca.pem", "-q", 1, "-t", "a", "-m", "b"], seconds=3)
    t.check("300 silent connections hold up nobody", code == 0, said)
    for one in silent:
        one.close()

    living = Sub(t, folder, "living", "-h", "localhost", "-p", ports["tls"], "--cafile", folder / "ca.pem")
    reload(t, folder, gateway, ports, living)
    check_books(t, gateway)
    provoked = ("reason\":\"tls\"", "expires on", "configuration: surely")
    unprovoked = [w for w in warnings(gateway.log()) if not any(word in w for word in provoked)]
    t.check("nothing to warn about but what was provoked", not unprovoked, unprovoked[:3])
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)
    t.check("the socket file is gone", not (folder / "mqtt.sock").exists())


with Theme("transports") as theme:
    main(theme)
