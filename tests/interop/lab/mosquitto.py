"""Mosquitto: as the upstream, and (with its bridge) in the gateway's place."""

import pathlib

from .papers import authority, certificate
from .process import Process, accepts, free_port, wait_for

COMMON = """per_listener_settings false
allow_anonymous true
max_queued_messages {queued}
max_inflight_messages {inflight}
persistence true
persistence_location {folder}/
sys_interval 1
log_type error
log_type warning
log_type notice
"""


class Mosquitto:
    """A broker with persistence (on `disk`); `stop` is orderly (it writes what it holds), `kill` is not."""

    def __init__(self, folder, port=None, extra="", inflight=0, queued=0, disk=None):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o777)  # started as root, it becomes the user mosquitto
        self.port = port or free_port()
        self.config = self.folder / "mosquitto.conf"
        extra = extra or f"listener {self.port} 127.0.0.1\n"
        self.config.write_text(COMMON.format(folder=disk or self.folder, inflight=inflight, queued=queued) + "user root\n" + extra)
        self.process = None

    def start(self, wait=True):
        self.process = Process(["/usr/sbin/mosquitto", "-c", self.config], self.folder / "mosquitto.log")
        if wait:
            wait_for("mosquitto listens", lambda: self.process.alive() and accepts(self.port), 60)
        return self

    def up(self):
        return self.process is not None and self.process.alive()

    def stop(self, seconds=60):
        if self.process is not None:
            self.process.terminate(seconds)

    def kill(self):
        if self.process is not None:
            self.process.kill()


def start_tls_upstream(t, folder):
    """An upstream with a certificate of the authority `ca.pem`, both in the new folder; gives the ports of TLS and without."""
    folder.mkdir()
    folder.chmod(0o755)
    authority(folder, "ca")
    certificate(folder, "ca", "upstream", 10)
    port, plain = free_port(), free_port()
    upstream = Mosquitto(folder / "upstream", port=plain, extra=f"listener {port} 127.0.0.1\ncertfile {folder}/upstream.pem\n"
                         f"keyfile {folder}/upstream.key\nlistener {plain} 127.0.0.1\n").start()
    t.later(upstream.stop)
    return port, plain


class MosquittoGateway(Mosquitto):
    """Mosquitto with a bridge to `upstream_port`: what Tidegate is compared with.

    The bridge speaks MQTT 3.1.1, its default. (In 2.0.11 a 5 bridge with `max_inflight_messages 0` says Receive Maximum 0,
    a protocol error, and never connects.)
    """

    def __init__(self, folder, upstream_port, inflight=256, topic="#", queued=0, more="", host="127.0.0.1", disk=None):
        port = free_port()
        extra = (
            f"listener {port} 127.0.0.1\n"
            f"connection lab\naddress {host}:{upstream_port}\nbridge_protocol_version mqttv311\n"
            f"topic {topic} out 1\ncleansession false\nremote_clientid lab\nlocal_clientid local-lab\n"
            f"restart_timeout 1 2\nnotifications false\ntry_private true\n{more}"
        )
        super().__init__(folder, port, extra, inflight, queued, disk)
