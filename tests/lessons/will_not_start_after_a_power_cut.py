"""The trap: after a power cut the gateway will not start, starts over and over, or deletes its store.

Seen in Mosquitto (eclipse/mosquitto#2639, #3160), iotedge (#961), Kura (#2169), Vector (#17644), the Greengrass spooler (deletes). Tidegate starts by itself:
the damaged files are set aside as they are, what can be read is salvaged, numbers go on above all that were used, and it says
so. The control: Mosquitto with its database cut short.
"""

import os

from lab.gateway import Gateway
from lab.load import Sensors, Verifier
from lab.mosquitto import Mosquitto
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

COUNT = 3000


def overwrite(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def cut_short(data, random):
    os.truncate(data / "tidegate.db", (data / "tidegate.db").stat().st_size * 2 // 3)


def garbage_in_the_middle(data, random):
    size = (data / "tidegate.db").stat().st_size
    for part in (3, 5, 7):
        overwrite(data / "tidegate.db", size * part // 10 // 4096 * 4096, random.randbytes(4096))


def garbage_header(data, random):
    overwrite(data / "tidegate.db", 0, random.randbytes(100))


def empty(data, random):
    os.truncate(data / "tidegate.db", 0)


def all_garbage(data, random):
    overwrite(data / "tidegate.db", 0, random.randbytes((data / "tidegate.db").stat().st_size))


def torn_log(data, random):
    """Not damage but every power cut: the end of the log is garbage."""
    with open(data / "tidegate.db-wal", "ab") as file:
        file.write(random.randbytes(10000))


# What is done to the files, and the least and the most that must survive it.
DAMAGES = ((cut_short, 1, COUNT), (garbage_in_the_middle, 1, COUNT), (garbage_header, COUNT, COUNT), (empty, 0, 0), (all_garbage, 0, 0),
           (torn_log, COUNT, COUNT))


def one(t, folder, damage, least, most):
    name = damage.__name__.replace("_", " ")
    folder.mkdir()
    upstream = Upstream(t, folder, idle=2)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    upstream.down()
    sensors = Sensors(folder, gateway.port, count=COUNT, size=200)
    sensors.result()
    # All of it from the log into the database, for that is what is damaged.
    if damage is torn_log:
        gateway.kill()
    else:
        gateway.stop()
    before = {p.name: p.stat().st_size for p in gateway.data.iterdir() if p.is_file()}
    damage(gateway.data, t.random)
    size = (gateway.data / "tidegate.db").stat().st_size
    mark = len(gateway.log())
    gateway.start()
    t.check(f"{name}: it starts by itself", gateway.up(), before)
    more = Sensors(folder, gateway.port, "more", first_sensor=2, count=100, grace=30)
    upstream.up()
    wait_for("all that can be read is delivered", lambda: drained(gateway), 60, 0.1)
    more.result()
    gateway.wait_drained()
    aside = list(gateway.data.glob("quarantine/*/tidegate.db"))
    if damage is torn_log:
        t.check(f"{name}: is no damage", not aside and not gateway.logged("damaged", mark))
    elif damage is not empty:
        t.check(f"{name}: the damaged file is set aside, not deleted", len(aside) == 1 and aside[0].stat().st_size >= size, aside)
        t.check(f"{name}: the log says so", gateway.logged("damaged", mark) is not None)
    books = gateway.books()
    got = upstream.verifier.expect(more.journal)
    t.check(f"{name}: what can be read is kept, and the books balance", least <= got["distinct"] - 100 <= most and books["balanced"], books)
    if damage in (cut_short, garbage_in_the_middle, garbage_header):
        t.check(f"{name}: what is lost is stated in numbers", books["accepted"] == COUNT + 100 and books["dropped"] == COUNT + 100 - got["distinct"], books)
        lost, salvages = (int(gateway.metric(f"tidegate_store_{metric}_total")) for metric in ("lost_messages", "salvages"))
        t.check(f"{name}: and as an alarm", lost == books["dropped"] and salvages == 1, f"lost {lost}, salvages {salvages}")
    t.check(f"{name}: it goes on, in order, and no number is used twice",
            got["lost"] == got["out_of_order"] == got["ids_out_of_order"] == got["id_conflicts"] == 0, f"{got['distinct']} arrived")


def drained(gateway):
    """Whether the backlog is empty; what systemd does (Restart=on-failure) is done here."""
    if not gateway.up():
        gateway.start()
    try:
        return gateway.books()["backlog"] == 0
    except (RuntimeError, OSError):
        return False


def control(t, folder):
    broker = Mosquitto(folder).start()
    t.later(broker.kill)
    Verifier(folder, broker.port, "keeper", keep_session=True).kill()
    Sensors(folder, broker.port, count=COUNT, size=200).result()
    broker.stop()
    database = folder / "mosquitto.db"
    os.truncate(database, database.stat().st_size * 2 // 3)
    broker.start(wait=False)
    wait_for("it ends", lambda: not broker.up(), 20)
    t.check("control: Mosquitto does not start with its database cut short", not broker.up(), broker.process.log().splitlines()[-1:])


def main(t):
    folder = workspace(t)
    for damage, least, most in DAMAGES:
        one(t, folder / damage.__name__, damage, least, most)
    control(t, folder / "control")


with Theme("will_not_start_after_a_power_cut") as theme:
    main(theme)
