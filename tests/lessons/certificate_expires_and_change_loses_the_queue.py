"""The trap: a certificate expires and its renewal needs a restart; a changed configuration loses the queue.

Seen in Mosquitto (eclipse/mosquitto#1877, #2038), thin-edge.io (#3157) and EdgeX (a changed pipeline). Tidegate takes renewed files up by itself or on SIGHUP, with
connections left alone; the dates are metrics and a warning; what is stored survives a changed configuration. The control: without the
renewal the same handshake fails, and a stream of another name does not have the queue.
"""

import re
import signal
import subprocess
import time

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.papers import authority, certificate
from lab.process import free_port, wait_for, workspace
from lab.report import Theme

COUNT = 300


def shown(folder, port):
    """The certificate that a listener shows."""
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-showcerts"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = re.search(r"BEGIN CERTIFICATE.*?END", done.stdout, re.S)
    return found and found[0]


def publishes(folder, port, authority):
    argv = ["mosquitto_pub", "-h", "localhost", "-p", port, "--cafile", folder / f"{authority}.pem", "-q", 1, "-t", "local/x", "-m", "x"]
    return subprocess.run(list(map(str, argv)), capture_output=True, timeout=20).returncode == 0


def listener(t, folder):
    """The gateway's own certificate: about to end, renewed, with a connection that stays."""
    authority(folder, "ca")
    certificate(folder, "ca", "gw", 2)
    tls = free_port()
    more = f'\n[[listener]]\nname = "tls"\nbind = "127.0.0.1:{tls}"\ntls = {{ cert = "{folder}/gw.pem", key = "{folder}/gw.key" }}\n'
    gateway = Gateway(folder / "gateway", free_port(), listener=more).start()
    t.later(gateway.stop)
    days = lambda: (gateway.metric("tidegate_tls_not_after_seconds", file=str(folder / "gw.pem")) - time.time()) / 86400
    t.check("its end is a metric", 1 < days() <= 2, f"{days():.2f} days")
    t.check("and a warning", gateway.logged(r"gw\.pem.*expires") is not None, gateway.logged("expires"))
    sensors = Sensors(folder, gateway.port, "stays", rate=200, topic="local/{}")
    old = shown(folder, tls)
    certificate(folder, "ca", "gw", 20)
    gateway.process.child.send_signal(signal.SIGHUP)
    wait_for("the renewed certificate is shown", lambda: shown(folder, tls) not in (None, old), 20, 0.1)
    t.check("a renewed certificate is shown without a restart", publishes(folder, tls, "ca") and days() > 19, f"{days():.2f} days")
    sent = sensors.stop()
    t.check("connections were left alone", sent["connects"] == 1 and sent["unacknowledged"] == 0, sent["acked"])
    return gateway


def uplink(t, folder):
    """The upstream moves to a new authority; the file with the authorities is replaced, and nothing else is done."""
    authority(folder, "old")
    authority(folder, "new-authority")
    certificate(folder, "new-authority", "upstream", 10)
    (folder / "roots.pem").write_text((folder / "old.pem").read_text())
    port, plain = free_port(), free_port()
    folder.chmod(0o755)
    upstream = Mosquitto(folder / "upstream", port=plain, extra=f"listener {port} 127.0.0.1\ncertfile {folder}/upstream.pem\nkeyfile {folder}/upstream.key\n"
                         f"listener {plain} 127.0.0.1\n").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, plain)
    gateway = Gateway(folder / "gateway", port, scheme="mqtts", uplink=f'ca = "{folder}/roots.pem"').start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, count=COUNT)
    sensors.result()
    line = wait_for("the certificate is refused", lambda: gateway.logged("(?i)certificate|UnknownIssuer"), 20)
    t.check("control: before that the handshake fails, and says why", gateway.books()["forwarded"] == 0, line)
    (folder / "renewed").write_text((folder / "old.pem").read_text() + (folder / "new-authority.pem").read_text())
    (folder / "renewed").rename(folder / "roots.pem")
    check_delivery(t, verifier.expect(sensors.journal), "with the new authorities, without a restart")
    check_books(t, gateway)


def configuration(t, folder):
    """Another upstream address, another template, another listener, a stream more; a stream that is gone, and comes back."""
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port)
    nobody = free_port()
    gateway = Gateway(folder / "gateway", nobody).start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, count=COUNT)
    sensors.result()
    gateway.stop()
    original = gateway.config.read_text()
    gateway.reconfigure('name = "telemetry"', 'name = "renamed"')
    gateway.start()
    backlog = int(gateway.metric("tidegate_stream_backlog_messages", stream="renamed"))
    t.check("control: a stream of another name does not have the queue", backlog == 0, backlog)
    gateway.stop()
    gateway.config.write_text(original)
    gateway.reconfigure(f"127.0.0.1:{nobody}", f"127.0.0.1:{upstream.port}")
    gateway.reconfigure('to = "cloud"', 'to = "cloud"\ntopic = "moved/{topic}"\n\n[[stream]]\nname = "more"\nfrom = ["more/#"]')
    gateway.reconfigure('name = "sensors"', 'name = "field"')
    gateway.start()
    check_delivery(t, verifier.expect(sensors.journal), "the queue outlives a changed configuration, and a stream that was gone")
    check_books(t, gateway)


def main(t):
    folder = workspace(t)
    for name, part in (("listener", listener), ("uplink", uplink), ("configuration", configuration)):
        (folder / name).mkdir()
        folder.chmod(0o755)
        part(t, folder / name)


with Theme("certificate_expires_and_change_loses_the_queue") as theme:
    main(theme)
