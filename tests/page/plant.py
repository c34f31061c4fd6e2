"""The plant behind the page: a gateway and its upstream, which take orders line by line and answer each with one line of JSON."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

from lab.gateway import Gateway  # noqa: E402
from lab.mosquitto import Mosquitto  # noqa: E402

STREAM = """retain_sent = "1h"
max_bytes = "64MiB"
[[stream]]
name = "local"
from = ["local/#"]
[[downlink]]
name = "commands"
from = "cloud"
filter = ["cmd/#"]
topic = "cmd/{rest}"
"""
SMALL = "max_packet_size 4000\n"
TOKEN = "an-open-sesame"


class Plant:
    """What can be ordered: each method is an order."""

    def __init__(self, folder):
        self.folder = folder
        self.upstream = Mosquitto(folder / "upstream")
        self.upstream.config.write_text(self.upstream.config.read_text() + SMALL)
        self.upstream.start()
        self.gateway = Gateway(folder / "gateway", self.upstream.port, stream=STREAM, backoff_max="300ms").start()

    def address(self):
        return f"http://127.0.0.1:{self.gateway.admin}"

    def upstream_down(self):
        self.upstream.stop()

    def upstream_up(self):
        self.upstream.start()

    def upstream_takes_more(self):
        """From now on it takes what was too large."""
        self.upstream.stop()
        self.upstream.config.write_text(self.upstream.config.read_text().replace(SMALL, ""))
        self.upstream.start()

    def publish(self, topic, payload, count=1, client="a sensor"):
        """So many messages, each acknowledged."""
        argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.gateway.port), "-q", "1", "-i", client, "-t", topic, "-l"]
        subprocess.run(argv, input=f"{payload}\n" * count, text=True, check=True, timeout=30)

    def linger(self, client):
        """A client that stays."""
        self.guest = subprocess.Popen(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.gateway.port), "-i", client, "-t", "cmd/#"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def gateway_kill(self):
        self.gateway.kill()

    def gateway_start(self):
        self.gateway.start()

    def gateway_with_token(self):
        """Stops, and starts with a token; gives it back."""
        self.gateway.stop()
        token = self.folder / "token"
        token.write_text(TOKEN + "\n")
        self.gateway.reconfigure("[admin]\n", f'[admin]\ntoken_file = "{token}"\n')
        self.gateway.start()
        return TOKEN

    def memory(self):
        """Resident bytes of the gateway."""
        return self.gateway.process.rss_bytes()

    def end(self):
        if hasattr(self, "guest"):
            self.guest.kill()
            self.guest.wait()
        code = self.gateway.stop()
        self.upstream.stop()
        return code


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-page-", dir=os.environ.get("LAB_DIR")))
    try:
        plant = Plant(folder)
        for line in sys.stdin:
            order, *words = json.loads(line)
            try:
                answer = {"ok": getattr(plant, order)(*words)}
            except Exception as error:
                answer = {"error": f"{order}: {error!r}"}
            print(json.dumps(answer), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
