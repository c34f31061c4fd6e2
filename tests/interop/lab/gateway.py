"""The gateway under test: its configuration, its process, its HTTP interface."""

import json
import os
import pathlib
import re
import subprocess
import urllib.error
import urllib.request

from .process import Process, accepts, free_port, wait_for

CONFIG = """[gateway]
id = "lab"
data_dir = "{data}"

[store]
{store}

[[listener]]
name = "sensors"
bind = "127.0.0.1:{port}"
{listener}

{uplinks}

{streams}

[admin]
bind = "127.0.0.1:{admin}"

[log]
level = "info"
format = "json"
"""

UPLINK = """[[uplink]]
name = "cloud"
url = "{url}"
client_id = "lab"
{more}
connect_timeout = "{connect_timeout}"
progress_timeout = "{progress_timeout}"
backoff = {{ min = "50ms", max = "{backoff_max}" }}
"""

STREAM = """[[stream]]
name = "telemetry"
from = ["sensors/#"]
to = "cloud"
{more}
"""


def total(figure):
    """A counter of the HTTP interface, whether it is a number or told apart by reason."""
    if isinstance(figure, dict):
        return sum(total(f) for f in figure.values())
    if isinstance(figure, list):
        return sum(total(f[1] if isinstance(f, list) else f.get("count", 0)) for f in figure)
    return int(figure or 0)


class Gateway:
    """One gateway with one stream `telemetry` (`sensors/#`) to one uplink `cloud`."""

    def __init__(self, folder, upstream_port, data=None, scheme="mqtt", store="", listener="", uplink="", stream="",
                 progress_timeout="5s", connect_timeout="3s", backoff_max="500ms", env=None, host=None, wrap=()):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = pathlib.Path(data or self.folder / "data")
        self.port, self.admin = free_port(), free_port()
        self.env, self.wrap = env, wrap
        self.process = None
        host = host or ("localhost" if scheme == "mqtts" else "127.0.0.1")
        self.config = self.folder / "tidegate.toml"
        self.config.write_text(CONFIG.format(
            data=self.data, store=store, port=self.port, listener=listener, admin=self.admin,
            uplinks=UPLINK.format(url=f"{scheme}://{host}:{upstream_port}", more=uplink, backoff_max=backoff_max,
                                  progress_timeout=progress_timeout, connect_timeout=connect_timeout),
            streams=STREAM.format(more=stream),
        ))

    @property
    def log_path(self):
        return self.folder / "gateway.log"

    def start(self, wait=True):
        self.process = Process([*self.wrap, os.environ["TIDEGATE"], "run", "-c", self.config], self.log_path, self.env)
        if wait:
            self.wait_until_listening()
        return self

    def wait_until_listening(self):
        def ready():
            if not self.process.alive():
                tail = "\n".join(self.log().splitlines()[-5:])
                raise RuntimeError(f"the gateway ended with code {self.process.child.returncode}:\n{tail}")
            return accepts(self.port) and accepts(self.admin)

        wait_for("the gateway listens", ready, 30)

    def reconfigure(self, before, after):
        """Another configuration for the next start: `after` where `before` stood."""
        text = self.config.read_text()
        assert before in text, before
        self.config.write_text(text.replace(before, after))

    def cli(self, *words):
        """Exit code and standard output of one of the program's commands."""
        done = subprocess.run([os.environ["TIDEGATE"], *map(str, words), "-c", self.config], capture_output=True, text=True, timeout=30)
        return done.returncode, done.stdout or done.stderr

    def up(self):
        return self.process is not None and self.process.alive()

    def stop(self, seconds=30):
        """SIGTERM; gives back the exit code."""
        return self.process.terminate(seconds) if self.process is not None else None

    def kill(self):
        if self.process is not None:
            self.process.kill()

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def logged(self, pattern, since=0):
        """The first line of the log, after byte `since`, that matches."""
        return next((line for line in self.log()[since:].splitlines() if re.search(pattern, line)), None)

    def http(self, path, method="GET", seconds=10):
        """Status and body of one request; (0, reason) when there is no answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)

    def books(self, name="telemetry"):
        """The books of a stream, flat: every way out as one number, and the backlog."""
        status, body = self.http("/api/v1/streams")
        if status != 200:
            raise RuntimeError(f"/api/v1/streams answered {status}: {body}")
        streams = json.loads(body)
        if isinstance(streams, dict):
            streams = streams["streams"]
        stream = next(s for s in streams if s["name"] == name)
        books = {name: total(stream[name]) for name in ("accepted", "forwarded", "expired", "dropped", "dead", "purged")}
        backlog = stream["backlog"]
        books["backlog"] = int(backlog["messages"] if isinstance(backlog, dict) else backlog)
        books["balanced"] = books["accepted"] == sum(v for k, v in books.items() if k != "accepted")
        return books

    def metric(self, name, **labels):
        """The sum of all samples of one metric that carry these labels."""
        _, body = self.http("/metrics")
        found = 0.0
        for line in body.splitlines():
            match = re.match(rf"{name}(?:\{{(.*)\}})? (\S+)$", line)
            if match and all(f'{k}="{v}"' in (match[1] or "") for k, v in labels.items()):
                found += float(match[2])
        return found

    def wait_drained(self, seconds=60):
        """Waits until nothing is left to forward."""
        return wait_for("the backlog is empty", lambda: self.books()["backlog"] == 0, seconds, 0.05)


def check_books(theme, gateway, label="the books balance and the backlog is empty"):
    """One check: G4, and everything gone."""
    try:
        gateway.wait_drained()
    except Exception as error:
        return theme.check(label, False, f"{error}; {gateway.books() if gateway.up() else 'not running'}")
    books = gateway.books()
    return theme.check(label, books["balanced"] and books["backlog"] == 0, books)


def warnings(log):
    """Lines of a log that normal operation must not have."""
    return [line for line in log.splitlines() if re.search(r"\b(WARN|ERROR)\b", line)]
