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


with Theme("read") as t:
    run(t, passing, lasting)
