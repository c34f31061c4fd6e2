"""Random bytes of the database overwritten: it starts, goes on, keeps what can be read, and says in numbers what is lost."""

import asyncio
import signal

from lab.report import Theme
from rig.trouble import Trouble, run


def overwrite(trouble, name, times):
    """Random bytes at random places, behind the back of the shim."""
    path = trouble.plant.data / name
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for _ in range(times):
            length = trouble.dice.choice([1, 64, 512, 4096, 20000])
            file.seek(trouble.dice.randrange(4096, max(size, 8192)))
            file.write(trouble.dice.randbytes(length))


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


def stated(trouble):
    """What it says was lost, by the books."""
    return trouble.plant.log_path.read_text().count("set aside")


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
    for name in ("tidegate.db", "tidegate.db", "tidegate.db-wal"):
        async with Trouble(theme, f"{name} damaged while stopped", journal=False) as trouble:
            trouble.plant.upstream.turn("none")
            await trouble.flows("a backlog", messages=5000, seconds=60)
            trouble.plant.process.kill()
            trouble.audit.damaged = True
            overwrite(trouble, name, 5)
            trouble.plant.upstream.turn("all")
            trouble.plant.start()
            await end(trouble, await keep_up(trouble, 3))


async def while_running(theme):
    for _ in range(2):
        async with Trouble(theme, "tidegate.db damaged while running", journal=False) as trouble:
            trouble.plant.upstream.turn("none")
            await trouble.flows("a backlog", messages=5000, seconds=60)
            trouble.audit.damaged = True
            overwrite(trouble, "tidegate.db", 5)
            trouble.plant.upstream.turn("all")
            await end(trouble, await keep_up(trouble, 5))


with Theme("damage") as t:
    run(t, while_stopped, while_running)
