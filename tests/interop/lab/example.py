"""The files of `edge-config/`: the gateway with one of them as it stands, and stand-ins for the upstreams that they name."""

import json
import os
import pathlib
import re
import shutil
import subprocess

from .gateway import Gateway
from .mosquitto import Mosquitto
from .process import Process, free_port, wait_for

FILES = pathlib.Path(__file__).resolve().parents[3] / "edge-config"
OBSERVER = ["-u", "observer", "-P", "observer"]


def make(folder, *words):
    """One command of edge-config/tls/make."""
    done = subprocess.run([FILES / "tls/make", *words], cwd=folder, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"tls/make {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def papers(folder, *clients):
    """A folder with an authority, a server `upstream` of the name localhost, and clients, all made by edge-config/tls/make."""
    folder.mkdir()
    folder.chmod(0o755)
    make(folder, "ca", "Plant 7 CA")
    make(folder, "server", "upstream", "localhost", "127.0.0.1")
    for name in clients:
        make(folder, "client", name)
    return folder


class Service(Mosquitto):
    """A stand-in for a service: `limits` are those of the service, as lines of mosquitto.conf; a door without them is for the observer.

    `users` may log in with their passwords; `rules` (lines of an ACL file) are what they may do."""

    def __init__(self, t, folder, tls, users=(), rules="pattern readwrite #", limits="", listener="", secure=True):
        self.secure = free_port()
        door = free_port()
        folder.mkdir()
        super().__init__(folder, door)
        certificate = f"certfile {tls}/upstream.pem\nkeyfile {tls}/upstream.key\n" if secure else ""
        (folder / "rules").write_text(f"user observer\ntopic readwrite #\n{rules}\n")
        self.passwords(("observer", "observer"), *users)
        self.config.write_text(
            self.config.read_text().replace("allow_anonymous true", "allow_anonymous false").replace(f"listener {door} 127.0.0.1\n", "")
            + f"connection_messages true\npassword_file {folder}/passwd\nacl_file {folder}/rules\n{limits}"
            + f"listener {self.secure} 127.0.0.1\n{certificate}{listener}listener {door} 127.0.0.1\n")
        self.t, self.observers = t, 0
        t.later(self.stop)

    def passwords(self, *users):
        (self.folder / "passwd").write_text("")
        for user, password in users:
            subprocess.run(["mosquitto_passwd", "-b", self.folder / "passwd", user, password], check=True, capture_output=True)
        (self.folder / "passwd").chmod(0o644)

    @property
    def url(self):
        return f"mqtts://localhost:{self.secure}"

    def logins(self, client):
        """The logins of a client: protocol (p2 is 3.1.1), keep alive, user name."""
        found = re.findall(rf" as {re.escape(client)} \((p\d), c\d, k(\d+)(?:, u'(.*)')?\)", self.process.log())
        return [(version, int(keep_alive), user) for version, keep_alive, user in found]

    def observe(self, topic="#"):
        """Somebody who sees all that comes."""
        self.observers += 1
        log = self.folder / f"observer-{self.observers}.log"
        return Listener(self.t, log, self.port, topic, *OBSERVER, "-i", f"observer-{self.observers}")

    def publish(self, topic, text, *more):
        publish(self.port, topic, text, *OBSERVER, *more)


def publish(port, topic, text, *more):
    argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-V", "mqttv5", "-q", 1, "-t", topic, "-m", text, *more]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=20)
    said = done.stdout + done.stderr
    if done.returncode or said:
        raise RuntimeError(f"{topic}: {done.returncode} {said}")


class Listener:
    """mosquitto_sub, subscribed."""

    def __init__(self, t, log, port, topic, *more):
        form = "GOT %t\t%q\t%r\t%P\t%p"
        self.process = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", port, "-V", "mqttv5", "-q", 2, "-t", topic,
                                "-F", form, *more], log)
        t.later(self.process.kill)
        wait_for("mosquitto_sub is subscribed", lambda: "Subscribed" in self.process.log(), 20)

    def all(self):
        """(topic, qos, retain, user properties, payload) of each message, in order."""
        lines = [line[4:].split("\t", 4) for line in self.process.log().splitlines() if line.startswith("GOT ")]
        return [(topic, int(qos), int(retain), user, text) for topic, qos, retain, user, text in lines]

    def wait(self, topic, seconds=20):
        """The first message of a topic."""
        return wait_for(f"a message of {topic}", lambda: next((got for got in self.all() if got[0] == topic), None), seconds, 0.02)


class Example(Gateway):
    """The gateway with a file of `edge-config/`, byte for byte; the environment replaces addresses and nothing else."""

    def __init__(self, t, folder, file, listener=None, secrets=(), env=None):
        self.folder = folder
        folder.mkdir()
        for name in (file, *([f"{file.rsplit('/', 1)[0]}/acl.toml"] if "/" in file else [])):
            shutil.copyfile(FILES / name, folder / ("tidegate.toml" if name == file else "acl.toml"))
        self.config, self.process, self.wrap = folder / "tidegate.toml", None, ()
        self.port, self.admin = free_port(), free_port()
        for name, content in dict(secrets).items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.read_bytes() if isinstance(content, pathlib.Path) else content.encode())
            path.chmod(0o600)
        place = f"TIDEGATE__LISTENER__{listener.upper() if listener else 0}__"
        self.env = {f"{place}BIND": f"127.0.0.1:{self.port}", "TIDEGATE__ADMIN__BIND": f"127.0.0.1:{self.admin}",
                    "TIDEGATE__GATEWAY__DATA_DIR": str(folder / "data"), "TIDEGATE__STORE__MIN_FREE": "0", **(env or {})}
        if not listener:
            self.env[f"{place}NAME"] = "local"
        self.file, self.t = file, t
        t.later(self.stop)

    def check(self):
        """`tidegate check` of the file with its own addresses and paths: exit code and what it says."""
        done = subprocess.run([os.environ["TIDEGATE"], "check", "--json", "-c", self.config], capture_output=True, text=True, timeout=30,
                              env={k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE__")})
        said = json.loads(done.stdout)
        return done.returncode, [problem["expected"] for problem in said["problems"]]

    def connected(self, uplink=None, seconds=30):
        def up():
            uplinks = json.loads(self.http("/api/v1/status")[1])["uplinks"]
            return all(it["state"] == "connected" for it in uplinks if uplink in (None, it["name"]))

        wait_for(f"{self.file}: its uplinks are connected", up, seconds, 0.02)
        return self

    def all_books(self):
        """The books of every stream, by name."""
        return {name: self.books(name) for name in re.findall(r'(?m)^\[\[stream\]\]\nname = "(.*)"', self.config.read_text())}

    def drained(self, seconds=60):
        def empty():
            books = self.all_books()
            return books if all(one["backlog"] == 0 for one in books.values()) else None

        return wait_for(f"{self.file}: nothing is left to forward", empty, seconds, 0.05)
