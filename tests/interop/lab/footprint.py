"""What a process costs while it has nothing to do: resident memory, and how often it wakes up."""

import pathlib
import re
import socket
import time

CONNECT = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08resident"  # keep alive: 60 seconds


def memory_mib(pid):
    """Resident memory in MiB: all (`rss`), what is the process's own (`anonymous`), and its share of what is shared (`pss`)."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    figure = lambda name, text: int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1]) / 1024  # noqa: E731
    return {"rss": figure("VmRSS", status), "anonymous": figure("RssAnon", status), "pss": figure("Pss", rollup)}


def switches(pid):
    """Context switches of every thread so far, by thread: a thread that wakes up to find nothing goes to sleep again by one."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            status = (task / "status").read_text()
        except OSError:
            continue  # it has just ended
        name = (task / "comm").read_text().strip()
        found[f"{name} {task.name}"] = int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])
    return found


def wakeups_per_s(pid, seconds):
    """How often a second the process wakes up, counted over a while, by thread; those that never did are left out."""
    before, began = switches(pid), time.monotonic()
    time.sleep(seconds)  # the time over which it is counted
    after, took = switches(pid), time.monotonic() - began
    by_thread = {name: (count - before.get(name, 0)) / took for name, count in after.items()}
    return {name: rate for name, rate in by_thread.items() if rate > 0}


def client(port):
    """One connected client with a keep alive of 60 seconds, that has nothing to say; the connection is the caller's to keep."""
    stream = socket.create_connection(("127.0.0.1", port), 5)
    stream.settimeout(10)
    stream.sendall(CONNECT)
    assert stream.recv(4)[:1] == b"\x20", "no CONNACK"
    return stream


def idle(pid, port, settle=10, seconds=30):
    """Memory and wake-ups of a broker to which one client is connected, after it had time to settle."""
    stream = client(port)
    time.sleep(settle)  # "idle" is defined as nothing to do for so long
    memory = memory_mib(pid)
    wakeups = wakeups_per_s(pid, seconds)
    stream.close()
    return memory, wakeups
