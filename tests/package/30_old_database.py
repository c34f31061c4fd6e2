"""Upgraded with a data folder that older versions wrote: databases of version 1, 2 and 3 are migrated, and what waits in them goes upstream."""

import pathlib
import sqlite3
import tempfile

from lab.process import wait_for
from lab.report import Theme
from system import System, log_file, packages

STORE = pathlib.Path(__file__).resolve().parents[2] / "src/store/tests"
DUMPS = {1: STORE / "queues/version-1.sql", 2: STORE / "version-2.sql", 3: STORE / "version-3.sql"}
CONFIGURATION = """
[gateway]
id = "plant-7"
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:1884"
backoff = { min = "100ms", max = "1s" }
[[stream]]
name = "a"
from = ["t/#"]
to = "cloud"
"""
# What is in each of them in stream `a`: 20 accepted, 4 forwarded, the first that waits; what is between is dead.
FIRST = {1: 6, 2: 7, 3: 7}

with Theme("old-database") as t:
    package, before = packages()
    system = System(t, log_file("30-old-database"))
    for version, dump in DUMPS.items():
        # The version before, stopped, with the folder as a program of that time left it.
        system.install(before, "--force-downgrade --force-confold")
        system.write("/etc/tidegate/tidegate.toml", CONFIGURATION)
        system.run("systemctl stop tidegate && rm -f /var/lib/tidegate/tidegate.db*")
        with tempfile.TemporaryDirectory() as folder:
            made = pathlib.Path(folder) / "old.db"
            database = sqlite3.connect(made)
            database.executescript(dump.read_text())
            database.close()
            system.put(made, "/var/lib/tidegate/tidegate.db")
        system.run("chown tidegate: /var/lib/tidegate/tidegate.db && chmod 600 /var/lib/tidegate/tidegate.db")

        done = system.install(package, "--force-confold")
        t.check(f"version {version}: the upgrade ends well", done.returncode == 0 and "tidegate:" not in done.stderr)
        t.check(f"version {version}: the service runs", system.property("ActiveState") == "active")
        waiting = [(f"plant-7/a/{number}", f"t/{number % 7}") for number in range(FIRST[version], 21)]
        stored = [one[:2] for one in system.stored("a")]
        t.check(f"version {version}: the {len(waiting)} messages are there, ids and order kept", stored == waiting, stored[:2])
        books = system.books("a")
        t.check(f"version {version}: the books were kept, and balance", books["balance"] and (books["accepted"], books["forwarded"], books["dead"]) == (20, 4, FIRST[version] - 5))
        t.check(f"version {version}: nothing was set aside", not system.inside("/var/lib/tidegate/quarantine").exists() or not list(system.inside("/var/lib/tidegate/quarantine").iterdir()))

        broker = system.mosquitto(t, "listener 1884 127.0.0.1\nallow_anonymous true\n")
        if books["paused"]:
            system.run("tidegate resume a")
        wait_for("the backlog is empty", lambda: system.books("a")["backlog"]["messages"] == 0, 30, every=0.2)
        books = system.books("a")
        t.check(f"version {version}: all of it goes upstream", books["balance"] and books["forwarded"] == 4 + len(waiting), books["forwarded"])
        system.run("tidegate streams")
        system.run("systemctl stop tidegate")
        broker.kill()
        broker.wait(10)
