"""Starts that must not be cut short: making the database, migrating it, salvaging it, replaying a long log. Each is cut at each of its calls,
and the start after that too; then it must come up by itself and have what it would have had."""

import os
import pathlib
import random
import shutil
import signal
import sqlite3
import time

from lab.process import Process, accepts, free_port

from .audit import Image
from .disk import FaultyDisk
from .people import Broken

VERSION_1 = pathlib.Path(__file__).resolve().parents[3] / "src/store/tests/queues/version-1.sql"
DAMAGE_PAGES = 3

CONFIG = """[gateway]
id = "lab"
data_dir = "{root}/data"
[store]
durability = "{durability}"
min_free = "0B"
[[listener]]
name = "local"
bind = "127.0.0.1:{port}"
[[stream]]
name = "a"
from = ["t/#"]
[admin]
bind = "off"
"""


def nothing(root, dice):
    del root, dice


def version_1(root, dice):
    """A database of version 1, with a backlog, sessions and retained messages."""
    del dice
    (root / "data").mkdir()
    database = sqlite3.connect(root / "data/tidegate.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(VERSION_1.read_text())
    # It has a time to live, which may or may not have passed when we look.
    database.execute("DELETE FROM retained WHERE topic = 't/1'")
    database.close()


def filled(root, dice):
    """Version 1 with 1500 messages more, so that there is something to lose."""
    version_1(root, dice)
    database = sqlite3.connect(root / "data/tidegate.db", isolation_level=None)
    database.execute("BEGIN")
    end = 372
    for seq in range(21, 1521):
        payload = f"{seq}:".encode() + dice.randbytes(400)
        end += 3 + len(payload) + 6
        database.execute("INSERT INTO s_1 VALUES(?, ?, 1, 14313833, 1, 'client', 't/1', NULL, ?)", (seq, end, payload))
    database.execute("UPDATE stream SET next = 1521, accepted = 1520, end_offset = ? WHERE id = 1", (end,))
    database.execute("COMMIT")
    return database


def damaged(root, dice):
    """... and some pages overwritten with garbage, as was noticed while it ran."""
    filled(root, dice).close()
    path = root / "data/tidegate.db"
    pages = path.stat().st_size // 4096
    with open(path, "r+b") as file:
        for _ in range(DAMAGE_PAGES):
            file.seek(dice.randrange(30, pages) * 4096)
            file.write(dice.randbytes(4096))
    (root / "data/tidegate.db.damaged").write_text("for a test")


def long_log(root, dice):
    """... and all of it still in the log."""
    aside = root / "aside"
    aside.mkdir()
    database = filled(aside, dice)
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("UPDATE s_1 SET payload = payload || '+'")
    (root / "data").mkdir()
    for name in ("tidegate.db", "tidegate.db-wal"):
        shutil.copy(aside / "data" / name, root / "data" / name)
    database.close()
    shutil.rmtree(aside)


KINDS = {"making": nothing, "migration": version_1, "salvage": damaged, "long log": long_log}


class Start:
    """One disk, prepared, that a gateway is started on."""

    def __init__(self, folder, kind, seed, durability="full"):
        self.disk = FaultyDisk(folder, seed)
        KINDS[kind](self.disk.root, self.disk.dice)
        self.disk.power_up()
        self.port = free_port()
        self.config = folder / "tidegate.toml"
        self.config.write_text(CONFIG.format(root=self.disk.root, port=self.port, durability=durability))
        self.log = folder / "gateway.log"

    def up(self, rule=""):
        """Starts the gateway until it listens, or the power goes away; gives back whether it listened, and leaves it dead."""
        self.disk.rules(rule)
        process = Process([os.environ["TIDEGATE"], "run", "-c", self.config], self.log, self.disk.env)
        end = time.monotonic() + 20
        listened = False
        while process.alive() and not listened and time.monotonic() < end:
            listened = accepts(self.port)
            time.sleep(0.002)
        if not listened and process.alive():
            process.kill()
            raise Broken("it does not come up")
        if not listened and process.child.returncode != -signal.SIGKILL:
            raise Broken(f"it ended by itself with code {process.child.returncode}: {self.log.read_text()[-300:]}")
        process.kill()
        return listened

    def cut(self, after):
        """A start that is cut after so many calls; whether it came so far."""
        listened = self.up(f"any cut after {after}")
        self.disk.power_cut()
        return not listened

    def contents(self):
        """What a gateway would find: rows, losses, sessions, retained messages."""
        image = Image(self.disk.root / "data", self.disk.folder / "copy")
        try:
            image.check_integrity()
            streams = image.streams()
            for name, (books, rows) in streams.items():
                left = sum(books[key] for key in ("forwarded", "expired", "dropped", "dead", "purged"))
                if books["accepted"] != left + len(rows):
                    raise Broken(f"{name}: the books do not balance: {books}, {len(rows)} rows")
            return {
                "streams": {name: ([payload for _, payload in rows], books["dropped"]) for name, (books, rows) in streams.items()},
                "retained": sorted(image.rows("SELECT topic, payload FROM retained")),
                "sessions": sorted(image.rows("SELECT client_id FROM session")),
                "version": image.rows("PRAGMA user_version"),
            }
        finally:
            image.close()


def survives(folder, kind, seed, durability="full"):
    """Prepares a disk, cuts a start on it (and often the next one), starts again, and compares with what comes without a cut.

    Gives back the number of cuts that came to pass."""
    dice = random.Random(seed)
    want = Start(folder / "whole", kind, seed, durability)
    if not want.up():
        raise Broken("it did not come up without any cut")
    expected = want.contents()
    if kind == "salvage" and not (want.disk.root / "data/quarantine").exists():
        raise Broken("nothing was set aside")
    operations = want.disk.disk.play(want.disk.journal.read_bytes()).operations
    start = Start(folder / "cut", kind, seed, durability)
    points = [dice.randrange(operations) for _ in range(dice.choice([1, 2, 3]))]
    cuts = sum(start.cut(point) for point in points)
    if not start.up():
        raise Broken("it did not come up")
    found = start.contents()
    if found != expected:
        what = [key for key in expected if expected[key] != found[key]]
        raise Broken(f"{what} differ from what they are without a cut")
    return cuts
