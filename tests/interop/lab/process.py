"""Processes, ports and waiting: everything is waited for with a deadline, nothing is slept for."""

import atexit
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))  # inherited: ten thousand connections need as many files


class TookTooLong(Exception):
    """A condition did not come true before its deadline."""


def wait_for(what, condition, seconds=20.0, every=0.01):
    """Waits until `condition()` gives something true, and gives that back."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TookTooLong(f"not within {seconds:g} s: {what}")
        time.sleep(every)


_given = set()
_children = []


@atexit.register
def _leave_nobody_behind():
    for child in _children:
        if child.poll() is None:
            child.kill()
            child.wait()


def free_port():
    """A port that nobody listens on, below the range from which outgoing connections take theirs: while a server is away
    its port must stay free, and a connection to it must not meet itself. LAB_PORTS=FIRST-LAST keeps those apart who run side by side."""
    first, last = map(int, os.environ.get("LAB_PORTS", "20000-31999").split("-"))
    while True:
        port = random.SystemRandom().randrange(first, last + 1)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def accepts(port, host="127.0.0.1"):
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), 0.5).close()
        return True
    except OSError:
        return False


def workspace(theme):
    """A new folder for one theme; kept when it fails, and named."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-lab-", dir=os.environ.get("LAB_DIR")))

    def clean():
        if theme.failed:
            theme.say(f"files kept in {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)

    theme.later(clean)
    return path


class Process:
    """A process we started: its log goes to a file."""

    def __init__(self, argv, log, env=None, **more):
        self.argv = [str(a) for a in argv]
        self.log_path = pathlib.Path(log)
        environment = {**os.environ, **(env or {})}
        environment.pop("RUST_LOG", None)
        with open(self.log_path, "ab") as out:
            self.child = subprocess.Popen(
                self.argv, stdin=more.pop("stdin", subprocess.DEVNULL), stdout=more.pop("stdout", out), stderr=out,
                env=environment, **more,
            )
        _children.append(self.child)

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child.poll() is None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def terminate(self, seconds=30):
        """SIGTERM; gives back the exit code, or None if it had to be killed."""
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self):
        """SIGKILL, and waits for the end."""
        if self.alive():
            self.child.kill()
        self.child.wait()

    def rss_bytes(self):
        """Resident memory."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def written_bytes(self):
        """Bytes that it caused to be written to storage."""
        for line in pathlib.Path(f"/proc/{self.pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
        return 0

    def cpu_seconds(self):
        """Processor time used so far, in user and kernel mode."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
