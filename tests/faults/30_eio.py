"""Writes and syncs that fail. What a failed sync was to write is lost to the disk though the next sync works and the file can be read:
so the power is cut right after the recovery."""

from lab.report import Theme
from rig.trouble import SUSPENDED, WORKS, Trouble, run


def story(label, *rules, seconds=5, lasts=True):
    async def tell(theme):
        async with Trouble(theme, label) as trouble:
            if lasts:
                await trouble.suffers(*rules, seconds=seconds)
            else:
                trouble.fault(*rules)
                await trouble.says(SUSPENDED)
            await trouble.recovers()
            await trouble.power_cut()
            await trouble.finish()

    return tell


async def again_and_again(theme):
    """Each time another number of calls after the last, and a power cut right after the recovery."""
    async with Trouble(theme, "one sync fails, ten times") as trouble:
        for _ in range(10):
            trouble.fault(f"sync eio count 1 after {theme.random.randrange(20)}")
            await trouble.says(WORKS)
            await trouble.flows("messages flow again", 20, messages=trouble.dice.choice([1, 50, 200]))
            await trouble.power_cut()
        await trouble.finish()


with Theme("eio") as t:
    run(
        t,
        story("every write fails", "write eio"),
        story("every sync fails", "sync eio"),
        story("one sync fails", "sync eio count 1", lasts=False),
        story("one write in ten fails", "write eio chance 10 count 40", lasts=False),
        story("the log cannot be written, all else can", "write eio file data/tidegate.db-wal"),
        story("the database cannot be written, the log can", "write,sync eio file data/tidegate.db", lasts=False),
        again_and_again,
    )
