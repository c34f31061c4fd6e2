"""The trap: the database is written up to 5 s (or 30 min) after the PUBACK, and not synced.

Seen in Mosquitto (persist-sqlite `flush_period`, `autosave_interval`) and iotedge (RocksDB without sync). Tidegate sends PUBACK after the
synced commit: `kill -9` the moment the acknowledgement is there loses nothing, and every acknowledgement on its own has had
its sync. (A power cut, where what was not synced is gone, is played in tests/faults.) The control: Mosquitto with its persistence.
"""

import sqlite3
import subprocess

from lab.control import Control
from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.process import free_port, workspace
from lab.report import Theme
from lab.upstream import Upstream

SINGLES = 8


def killed(t, folder):
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    upstream.down()
    journals = []
    for life in range(2):
        sensors = Sensors(folder, gateway.port, f"life-{life}", sensors=3, first_sensor=10 * life, count=500)
        sensors.result()
        gateway.kill()
        journals.append(sensors.journal)
        gateway.start()
    publish = ["mosquitto_pub", "-h", "127.0.0.1", "-p", gateway.port, "-q", 1, "-t", "sensors/single", "-m", "x"]
    for _ in range(SINGLES):
        subprocess.run(list(map(str, publish)), check=True, timeout=20)
        gateway.kill()
        gateway.start()
    books = gateway.books()
    t.check(f"{SINGLES} times killed with the PUBACK in the client's hand: all are there", books["backlog"] == 3000 + SINGLES, books)
    upstream.up()
    check_delivery(t, upstream.verifier.expect(*journals), "killed with the last PUBACK")
    check_books(t, gateway)


def synced(t, folder):
    """How often the kernel was asked to sync, counted by strace, and what the database says."""
    trace = folder / "trace"
    gateway = Gateway(folder / "traced", free_port(), wrap=["strace", "-D", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace)]).start()
    t.later(gateway.stop)
    count = lambda: trace.read_text().count("sync(")
    before = count()
    sensors = Sensors(folder, gateway.port, "one-by-one", count=SINGLES, window=1)
    sensors.result()
    t.check("each acknowledgement that was waited for has had its sync", count() - before >= SINGLES, f"{count() - before} syncs for {SINGLES} messages")
    with sqlite3.connect(f"file:{gateway.data}/tidegate.db?mode=ro", uri=True) as database:
        name = database.execute("SELECT 's_' || id FROM stream").fetchone()[0]
        found = database.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    t.check("and is in the database for anyone to read", found == SINGLES, found)


def main(t):
    folder = workspace(t)
    killed(t, folder)
    synced(t, folder)
    control = Control(t, folder / "control")
    _, journal = control.publish(count=500)
    control.bridge.kill()
    control.bridge.start()
    got = control.delivered(journal)
    t.check("control: Mosquitto with its persistence, killed with the last PUBACK, loses", got["lost"] > 0, f"{got['lost']} of 500 lost")


with Theme("database_written_later_than_the_puback") as theme:
    main(theme)
