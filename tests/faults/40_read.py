"""Places of the disk that cannot be read: for a while, and for ever."""

import asyncio

from lab.report import Theme
from rig.trouble import Trouble, run


async def passing(theme):
    """Nothing can be read for some seconds: the backlog waits, and nothing is given up for lost."""
    async with Trouble(theme, "nothing can be read for 4 s") as trouble:
        trouble.plant.upstream.turn("none")
        await trouble.flows("a backlog", messages=3000)
        trouble.plant.upstream.turn("away")
        trouble.fault("read eio file data/tidegate.db*")
        trouble.plant.upstream.turn("all")
        await asyncio.sleep(4)
        trouble.disk.rules()
        if not trouble.plant.process.alive():
            trouble.check("the process stays up", False, trouble.plant.process.child.returncode)
            trouble.plant.start()
        await trouble.flows("messages flow again", 30)
        trouble.audit.damaged = True
        await trouble.finish()
        dropped = sum(len(gone) for name, gone in trouble.audit.gone.items() if not trouble.plant.streams[name].drops)
        trouble.check("nothing is given up for what passes", dropped == 0, f"{dropped} counted as lost")


async def lasting(theme):
    """A few blocks can never be read again: what was in them is lost, and counted; everything else goes on."""
    async with Trouble(theme, "12 KB can never be read again") as trouble:
        trouble.plant.upstream.turn("none")
        await trouble.flows("a backlog", messages=6000, seconds=60)
        trouble.audit.damaged = True
        # Of this file: what is salvaged goes to other places of the disk.
        trouble.fault(f"read eio range 400000-412288 inode {(trouble.plant.data / 'tidegate.db').stat().st_ino}")
        trouble.plant.upstream.turn("all")
        end = asyncio.get_running_loop().time() + 15
        restarts = 0
        while asyncio.get_running_loop().time() < end:
            if not trouble.plant.process.alive():
                restarts += 1
                trouble.plant.start()
            await asyncio.sleep(0.1)
        await trouble.plant.up()
        await trouble.flows("messages flow again", 30)
        await trouble.finish()
        trouble.theme.say(f"{restarts} restarts; lost and counted: { {k: len(v) for k, v in trouble.audit.gone.items()} }")


async def at_start(theme):
    """Nothing can be read when it starts, for longer than it tries: it gives up, and gives nothing up for lost."""
    async with Trouble(theme, "nothing can be read at the start") as trouble:
        trouble.plant.upstream.turn("none")
        await trouble.flows("a backlog", messages=1000)
        # In order, so that the database is all that there is.
        await trouble.plant.stop()
        before = sorted(path.name for path in trouble.plant.data.iterdir())
        # What is written now can be read: it never leaves the memory of the kernel.
        trouble.fault("read eio file data/tidegate.db")
        process = trouble.plant.start()
        await trouble.plant.until("it gives up", lambda: not process.alive(), 40)
        trouble.check("it fails, for systemd to start it again", process.child.returncode == 1, process.child.returncode)
        after = sorted(path.name for path in trouble.plant.data.iterdir())
        trouble.check("nothing is set aside", after == before, after)
        trouble.disk.rules()
        trouble.plant.upstream.turn("all")
        trouble.plant.start()
        await trouble.flows("messages flow again", 30)
        await trouble.finish()


async def of_the_log(theme):
    """A block of the log can never be read again: it starts all the same, and goes on."""
    async with Trouble(theme, "4 KB of the log can never be read again", journal=False, pace_s=0.01) as trouble:
        plant = trouble.plant
        plant.upstream.turn("none")
        log = plant.data / "tidegate.db-wal"
        await plant.until("the log has something", lambda: log.stat().st_size > 600_000)
        before = (await plant.books())["telemetry"]["accepted"]
        plant.process.kill()
        place = log.stat().st_size // 8192 * 4096
        trouble.fault(f"read eio range {place}-{place + 4096} inode {log.stat().st_ino}")
        plant.upstream.turn("all")
        plant.start()
        await plant.up()
        trouble.check("the log is set aside", len(list((plant.data / "quarantine").glob("*/tidegate.db-wal"))) == 1)
        kept = (await plant.until("the books balance", plant.books))["telemetry"]["accepted"]
        trouble.check("what comes before the block is kept", kept > before // 4, f"{kept} of {before}")
        await trouble.flows("messages flow again", 30)
        code = await plant.stop()
        trouble.check("SIGTERM ends it with code 0", code == 0, code)


with Theme("read") as t:
    run(t, passing, lasting, at_start, of_the_log)
