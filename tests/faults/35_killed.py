"""A `kill -9` while a commit is on its way to the disk: the next process finds it in the page cache. Nobody may be told of it before it is on the
disk, for then the power goes away."""

import asyncio

from lab.report import Theme
from rig.trouble import Trouble, run

TIMES = 12


async def story(theme):
    async with Trouble(theme, "killed in the middle of a commit, power cut after the next start") as trouble:
        plant = trouble.plant
        # Only what is exactly-once is told again what became of it without being written again.
        for publisher in plant.publishers:
            publisher.running.set() if publisher.name == "b" else publisher.running.clear()
        plant.upstream.turn("none")
        for subscriber in plant.subscribers:
            subscriber.away()
        await plant.until("the others are done", lambda: all(p.idle() for p in plant.publishers if p.name != "b"))
        for _ in range(TIMES):
            # Nothing reaches the disk any more, so everything that comes is only in the page cache when it dies.
            trouble.disk.rules("sync delay 30s")
            await asyncio.sleep(0.4)
            plant.process.kill()
            await asyncio.sleep(0.02)
            plant.by_name["b"].running.clear()  # only what has to be repeated
            trouble.disk.rules()
            plant.start()
            await plant.up()
            await asyncio.sleep(trouble.dice.choice([0, 0.02, 0.1, 0.3]))
            plant.process.kill()
            trouble.disk.power_cut(compare=False)
            if not trouble.look("after a power cut"):
                return
            trouble.disk.rules()
            plant.by_name["b"].running.set()
            plant.start()
            await plant.up()
            await trouble.flows("messages flow again")
        await trouble.finish()


with Theme("killed") as t:
    run(t, story)
