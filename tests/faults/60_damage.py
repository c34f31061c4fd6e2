"""Random bytes of the database overwritten: it starts, goes on, keeps what can be read, and says in numbers what is lost."""

import asyncio
import signal

from lab.report import Theme
from rig.trouble import Trouble, run


def overwrite(trouble, name, times, pages=True):
    """Garbage at random places, behind the back of the shim: whole pages, or any number of bytes."""
    path = trouble.plant.data / name
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for _ in range(times):
            place = trouble.dice.randrange(4096, max(size, 8193))
            file.seek(place // 4096 * 4096 if pages else place)
            file.write(trouble.dice.randbytes(4096 if pages else trouble.dice.choice([1, 16, 512, 20000])))


async def keep_up(trouble, seconds):
    """As systemd does it: a gateway that ends with a failure is started again. Gives back how often."""
    restarts = 0
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        if not trouble.plant.process.alive():
            if trouble.plant.process.child.returncode == -signal.SIGSEGV or restarts > 10:
                raise RuntimeError(f"it ended with code {trouble.plant.process.child.returncode}, {restarts} restarts")
            restarts += 1
            trouble.plant.start()
        await asyncio.sleep(0.05)
    return restarts


async def end(trouble, restarts):
    await trouble.plant.up()
    await trouble.flows("messages flow again", 30)
    restarts += await keep_up(trouble, 1)
    await trouble.finish()
    lost = {name: len(gone) for name, gone in trouble.audit.gone.items() if not trouble.plant.streams[name].drops}
    quarantine = trouble.plant.data / "quarantine"
    aside = len(list(quarantine.iterdir())) if quarantine.exists() else 0
    trouble.check("what was lost was set aside, too", not sum(lost.values()) or aside > 0, f"lost {lost}, set aside {aside} times, {restarts} restarts")


async def while_stopped(theme):
    for _ in range(2):
        async with Trouble(theme, "pages damaged while stopped", journal=False) as trouble:
            trouble.plant.upstream.turn("none")
            await trouble.flows("a backlog", messages=5000, seconds=60)
            trouble.plant.process.kill()
            trouble.audit.damaged = True
            overwrite(trouble, "tidegate.db", 5)
            trouble.plant.upstream.turn("all")
            trouble.plant.start()
            await end(trouble, await keep_up(trouble, 3))


async def while_running(theme):
    for _ in range(2):
        async with Trouble(theme, "pages damaged while running", journal=False) as trouble:
            trouble.plant.upstream.turn("none")
            await trouble.flows("a backlog", messages=5000, seconds=60)
            trouble.audit.damaged = True
            overwrite(trouble, "tidegate.db", 5)
            trouble.plant.upstream.turn("all")
            await end(trouble, await keep_up(trouble, 5))


async def bytes_anywhere(theme):
    """A few bytes, in the log too. SQLite has no checksums of pages: a payload may be changed and nobody can tell; and of a log that is damaged
    in many places only what comes before may be left. So all that can be asked for: it starts, goes on, and the books balance."""
    for name in ("tidegate.db", "tidegate.db-wal", "tidegate.db-wal"):
        async with Trouble(theme, f"bytes of {name} damaged", journal=False) as trouble:
            plant = trouble.plant
            plant.upstream.turn("none")
            await trouble.flows("a backlog", messages=2000, seconds=60)
            plant.process.kill()
            overwrite(trouble, name, 5, pages=False)
            plant.start()
            restarts = await keep_up(trouble, 3)
            await plant.up()
            await trouble.flows("messages flow again", 30)
            trouble.check("it goes on, and the books balance", await plant.until("the books balance", plant.books), f"{restarts} restarts")
            code = await plant.stop()
            trouble.check("SIGTERM ends it", code in (0, 1), code)  # 1: the damage was found only then


def frames_of(log):
    """Where the pages of the log begin that this run of it has written."""
    salts, size = log[16:24], 24 + 4096
    places = range(32, len(log) - size + 1, size)
    return [place + 24 for place in places if log[place + 8:place + 16] == salts]


async def log_in_its_middle(theme):
    """300 bytes of one page in the middle of the log: SQLite takes it for the end of the log. It must be found out, and the rest is had again."""
    async with Trouble(theme, "300 bytes in the middle of the log damaged", journal=False, pace_s=0.01) as trouble:
        plant = trouble.plant
        plant.upstream.turn("none")
        path = plant.data / "tidegate.db-wal"
        await plant.until("the log has begun anew, and has frames", lambda: 40 < len(frames_of(path.read_bytes())) < 600)
        plant.process.kill()
        log = bytearray(path.read_bytes())
        places = frames_of(log)
        place = places[len(places) // 2] + 1000
        log[place:place + 300] = trouble.dice.randbytes(300)
        path.write_bytes(log)
        trouble.audit.damaged = True
        plant.upstream.turn("all")
        plant.start()
        await plant.up()
        aside = list((plant.data / "quarantine").glob("*/tidegate.db-wal"))
        trouble.check("it is set aside as it was found", [one.read_bytes() for one in aside] == [bytes(log)], aside)
        await end(trouble, 0)


with Theme("damage") as t:
    run(t, while_stopped, while_running, bytes_anywhere, log_in_its_middle)
