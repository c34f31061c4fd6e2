"""A backup of a gateway that works, restored after the loss of its card: upstream no id stands for two messages, and nothing of the
backup is missing. And the other way round: what happens with a plain copy is seen, so that the check can fail."""

import shutil
import sqlite3

from lab.gateway import Gateway, check_books
from lab.load import Sensors
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

STORED = 100_000


def plain_copy(gateway, file):
    """What `sqlite3 tidegate.db ".backup FILE"` makes."""
    source, target = sqlite3.connect(f"file:{gateway.data / 'tidegate.db'}?mode=ro", uri=True), sqlite3.connect(file)
    source.backup(target)
    source.close(), target.close()


def lose_the_card(gateway, count):
    """What comes after the copy goes upstream, and then the data directory is gone."""
    later = Sensors(gateway.folder, gateway.port, "later", sensors=2, first_sensor=11, count=count, size=100)
    later.result()
    gateway.wait_drained()
    gateway.kill()
    shutil.rmtree(gateway.data)
    return later.journal


def life(t, folder, copy, put_back):
    """Ten messages wait in the copy; 200 come and go after it; the card is lost, the copy put back, and 200 more come."""
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    first = Sensors(folder, gateway.port, "first", sensors=2, count=50, size=100)
    first.result()
    gateway.wait_drained()
    upstream.down()
    waiting = Sensors(folder, gateway.port, "waiting", sensors=2, first_sensor=6, count=5, size=100)
    waiting.result()
    file = folder / "copy.db"
    copy(gateway, file)
    upstream.up()
    later = lose_the_card(gateway, 100)
    put_back(gateway, file)
    gateway.start()
    last = Sensors(folder, gateway.port, "last", sensors=2, first_sensor=21, count=100, size=100)
    last.result()
    result = upstream.verifier.expect(first.journal, waiting.journal, later, last.journal)
    check_books(t, gateway)
    return gateway, result


def with_backup(t, folder):
    def copy(gateway, file):
        code, said = gateway.cli("backup", file)
        t.check("backup while the gateway runs", code == 0 and said.startswith("10 messages waiting in 1 stream ("), said.strip())
        t.check("for its owner alone", file.stat().st_mode & 0o777 == 0o600, oct(file.stat().st_mode))
        code, said = gateway.cli("backup", file)
        t.check("it never replaces a file", code == 1 and "is there already" in said, said.strip())
        code, said = gateway.cli("restore", file)
        t.check("nothing is restored under a running gateway", code == 1 and "is in use by another gateway" in said, said.strip())

    def put_back(gateway, file):
        code, said = gateway.cli("restore", file)
        t.check("restore", code == 0 and said.startswith("10 messages waiting in 1 stream"), said.strip())
        code, said = gateway.cli("peek", "telemetry")
        t.check("it can be looked at before the start", code == 0, said)

    gateway, result = life(t, folder, copy, put_back)
    t.check("nothing is lost", result["lost"] == 0, result["lost_ranges"])
    t.check("no id stands for two messages", result["id_conflicts"] == 0, result["id_conflicts"])
    t.check("what was sent again came with its id", result["duplicates_without_id"] == 0 and result["duplicates"] == 10, result["duplicates"])
    t.check("the start says what it is", gateway.logged("first start from a backup"))


def with_plain_copy(t, folder):
    def put_back(gateway, file):
        gateway.data.mkdir(mode=0o700)
        shutil.copy(file, gateway.data / "tidegate.db")

    _, result = life(t, folder, plain_copy, put_back)
    t.check("a plain copy gives ids a second time: the trap is there", result["id_conflicts"] > 0, result["id_conflicts"])


def under_load(t, folder):
    """A large store is copied while messages come at full speed: nobody waits for it."""
    gateway = Gateway(folder / "gateway", 1).start()
    t.later(gateway.stop)
    Sensors(folder, gateway.port, "stored", sensors=10, count=STORED // 10, size=1000).result()
    before = gateway.books()["accepted"]
    sensors = Sensors(folder, gateway.port, "more", sensors=10, first_sensor=21, rate=2000, size=200)
    wait_for("they publish", lambda: gateway.books()["accepted"] > before)
    began = gateway.books()["accepted"]
    code, said = gateway.cli("backup", folder / "large.db")
    meanwhile = gateway.books()["accepted"] - began
    got = sensors.stop()
    t.check("a large store under load", code == 0, said.strip())
    t.check("messages were taken meanwhile", meanwhile > 0, meanwhile)
    t.check("no acknowledgement took 4 s", got["ack"]["max_us"] < 4_000_000, got["ack"])
    gateway.stop()
    shutil.rmtree(gateway.data)
    code, said = gateway.cli("restore", folder / "large.db", "--json")
    t.check("and is restored", code == 0, said[:200])
    gateway.start()
    books = gateway.books()
    t.check("with balanced books", books["balanced"] and books["backlog"] >= STORED, books)


def main(t):
    folder = workspace(t)
    for name, part in (("backup", with_backup), ("plain", with_plain_copy), ("load", under_load)):
        (folder / name).mkdir()
        part(t, folder / name)


with Theme("backup") as theme:
    main(theme)
