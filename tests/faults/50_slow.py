"""A disk that takes seconds for a sync: acknowledgements come late, everything else as ever."""

import asyncio

from lab.report import Theme
from rig.trouble import Trouble, run


def story(seconds, watched, ready):
    async def tell(theme):
        async with Trouble(theme, f"each sync takes {seconds} s") as trouble:
            before = trouble.acknowledged()
            await trouble.suffers(f"sync delay {seconds}s", seconds=watched, withheld=False)
            if not ready:
                trouble.check("it says that it is not ready, and why", 503 in trouble.statuses, f"{trouble.statuses} {trouble.reasons}")
            late = trouble.acknowledged() - before
            trouble.check("acknowledgements come all the same", late > 0, late)
            trouble.disk.rules()
            await trouble.flows("messages flow again", 4 * seconds)
            await asyncio.sleep(1)
            await trouble.power_cut()
            await trouble.finish()

    return tell


with Theme("slow") as t:
    run(t, story(3, 9, ready=True), story(15, 25, ready=False))
