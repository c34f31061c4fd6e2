"""A booted Debian of `tests/package/boot`: commands in it, files in it, and a log of what was done that can be shown."""

import json
import os
import pathlib
import shutil
import subprocess
import time

from lab.process import wait_for

HERE = pathlib.Path(__file__).resolve().parent
# Nothing of the environment outside gets in.
_WORLD = ["env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class System:
    """Runs from here to the end of the theme; `log` gets every command with what it said."""

    def __init__(self, t, log):
        self.log = log.open("w", encoding="utf-8")
        self.began = time.monotonic()
        self.boot = subprocess.Popen([HERE / "boot", "--pid"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        t.later(self.close)
        self.pid = self.boot.stdout.readline().strip()
        if not self.pid:
            raise RuntimeError("the system did not boot; see above")
        self.root = pathlib.Path(f"/proc/{self.pid}/root")
        t.say(f"systemd runs after {time.monotonic() - self.began:.1f} s")

    def close(self):
        self.boot.stdin.close()
        self.boot.wait(30)
        self.log.close()

    def _enter(self, command):
        return ["nsenter", "-t", self.pid, "-m", "-u", "-i", "-n", "-p", "-C", "--", *_WORLD, *command]

    def start(self, *command, **more):
        """A process in the system that runs beside the theme."""
        return subprocess.Popen(self._enter(command), **more)

    def run(self, command, check=True, log=True, stdin=None):
        """One line for the shell in the system; what it gives back has `said`, both outputs together, and the `last` line of that."""
        began = time.monotonic()
        done = subprocess.run(self._enter(["sh", "-c", command]), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, text=True, timeout=120)
        done.said = done.stdout + done.stderr
        done.last = "".join(done.said.strip().splitlines()[-1:])
        done.seconds = time.monotonic() - began
        if log:
            self.log.write(f"# {command}\n{done.said}{f'(exit code {done.returncode})' + chr(10) if done.returncode else ''}\n")
            self.log.flush()
        if check and done.returncode != 0:
            raise RuntimeError(f"{command}: exit code {done.returncode}: {done.said.strip()}")
        return done

    def json(self, command):
        return json.loads(self.run(command, log=False).stdout)

    def put(self, source, path):
        """A file from outside."""
        shutil.copyfile(source, self.inside(path))

    def write(self, path, text, mode="w"):
        self.log.write(f"# cat >{'>' if mode == 'a' else ''} {path}\n{text}\n")
        target = self.inside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open(mode, encoding="utf-8") as file:
            file.write(text)

    def inside(self, path):
        return self.root / path.lstrip("/")

    def install(self, package, options="", check=True):
        """dpkg -i, with nobody there to ask."""
        self.put(package, f"/tmp/{package.name}")
        return self.run(f"dpkg -i {options} /tmp/{package.name}", check=check)

    def mosquitto(self, t, configuration):
        """A Mosquitto in the system as upstream, until the end of the theme; it answers when this is done."""
        self.write("/tmp/upstream.conf", configuration)
        port = configuration.split()[1]
        broker = self.start("mosquitto", "-c", "/tmp/upstream.conf", stderr=subprocess.DEVNULL)
        t.later(broker.kill)
        answers = f"mosquitto_pub -h 127.0.0.1 -p {port} -t probe -n"
        wait_for("the upstream answers", lambda: self.run(answers, check=False, log=False).returncode == 0, every=0.1)
        return broker

    def property(self, name, unit="tidegate.service"):
        return self.run(f"systemctl show -P {name} {unit}", log=False).stdout.strip()

    def wait_property(self, name, value, seconds=30.0, unit="tidegate.service"):
        wait_for(f"{name} of {unit} is {value}", lambda: self.property(name, unit) == value, seconds, every=0.1)

    def books(self, stream, options=""):
        """The counters of a stream, and whether they balance."""
        answer = self.json(f"tidegate streams --json {options}")
        books = next(one for one in answer["streams"] if one["name"] == stream)
        gone = sum(books[way] for way in ("forwarded", "expired", "dropped", "dead", "purged"))
        books["balance"] = books["accepted"] == gone + books["backlog"]["messages"]
        return books

    def stored(self, stream, options=""):
        """What waits in a stream: id, topic and payload of each message, oldest first."""
        messages = self.json(f"tidegate peek {stream} --json -n 1000 {options}")["messages"]
        return [(one["id"], one["topic"], one.get("payload", one.get("payload_base64"))) for one in messages]

    def publish(self, lines, topic="sensors/a", port=1883):
        """Publishes at QoS 1 and ends when all is acknowledged."""
        self.run(f"mosquitto_pub -h 127.0.0.1 -p {port} -V 5 -q 1 -i sensor -t {topic} -l", stdin="".join(f"{line}\n" for line in lines), log=False)
        self.log.write(f"# mosquitto_pub -q 1 -t {topic} -l    ({len(lines)} messages, acknowledged)\n\n")


def packages():
    """The package of this version, and the same program as a version before it."""
    return pathlib.Path(os.environ["PACKAGE"]), pathlib.Path(os.environ["PACKAGE_BEFORE"])


def log_file(name):
    return pathlib.Path(os.environ["PACKAGE_LOG"]) / f"{name}.log"
