"""A sync fails once, all that follows works: what it was to write can be read, but is not on the disk, and no later sync brings it there.
What is acknowledged behind it is lost with the next power cut, unless all of it was written again before.

Each story fails where one of the things that src/store/mend.rs does is left out; the journal says whether the fault came where it should."""

import functools

from lab.report import Theme
from rig.trouble import SUSPENDED, WORKS, Trouble, run

DATABASE, LOG = "data/tidegate.db", "data/tidegate.db-wal"
TIMES = 3
TRIES = 8


def forgotten(calls, name):
    """How many failed syncs of this file had something to write."""
    count, pending = 0, False
    for kind, what in calls:
        if what == name and kind in "WSF":
            count += kind == "F" and pending
            pending = kind == "W"
    return count


def story(label, times=TIMES, **trouble):
    """Tells it until the fault has come where it should as often as that; the teller gives back whether it has, None to stop."""
    def wrap(tell):
        @functools.wraps(tell)
        async def told(theme):
            async with Trouble(theme, label, **{"unlucky": True, **trouble}) as it:
                met = 0
                for _ in range(TRIES):
                    came = await tell(it)
                    if came is None:
                        return
                    met += came
                    if met == times:
                        break
                it.check("the fault comes where it should", met == times, f"{met} times")
                await it.finish()

        return told

    return wrap


async def cut(trouble, came):
    """The end of a story."""
    return bool(came) if await trouble.power_cut() else None


@story("a sync of the log fails, and a few messages follow")
async def followed(trouble):
    trouble.fault(f"sync eio count 1 file {LOG}")
    await trouble.says(WORKS)
    came = forgotten(trouble.disk.calls(), LOG)
    await trouble.flows("messages flow again", messages=3)
    return await cut(trouble, came)


@story("... and the process is killed before the log was written anew")
async def killed(trouble):
    trouble.fault(f"sync eio count 1 file {LOG}")
    await trouble.says(SUSPENDED)
    trouble.plant.process.kill()
    came = forgotten(trouble.disk.calls(), LOG)
    trouble.disk.rules()
    trouble.plant.start()
    await trouble.plant.up()
    await trouble.flows("messages flow again", messages=3)
    return await cut(trouble, came)


@story("... and there is no room to write the log anew")
async def full(trouble):
    trouble.fault(f"sync eio count 1 file {LOG}")
    await trouble.says(SUSPENDED)
    came = forgotten(trouble.disk.calls(), LOG)
    trouble.disk.rules(f"write enospc count 1 file {LOG}")
    await trouble.says("the log could not be written anew")
    await trouble.says(WORKS)
    await trouble.flows("messages flow again", messages=3)
    return await cut(trouble, came)


@story("... and the power goes while the log is moved into the database")
async def moved(trouble):
    # The log is new, so that the old state of what the failed transaction changes is in the database only.
    plant = trouble.plant
    await plant.drain()
    await plant.stop()
    connects = {p: p.connects for p in plant.publishers}
    plant.start()
    await plant.until("all are there again", lambda: all(p.connects > connects[p] for p in plant.publishers))
    before = len(trouble.disk.calls())
    # While a small commit takes its time a large one gathers behind it.
    trouble.fault(f"sync delay 500ms count 1 file {LOG}", f"sync eio after 1 count 1 file {LOG}", f"sync cut file {DATABASE}")
    for publisher in (*plant.publishers, plant.commands):
        publisher.running.set()
    await plant.until("the power goes", lambda: not plant.process.alive(), 30)
    calls = trouble.disk.calls()[before:]
    came = forgotten(calls, LOG) and calls[-2:] == [("B", DATABASE), ("X", "")]
    if await cut(trouble, came) is None:
        return None
    await trouble.flows("messages flow again", messages=200)
    return bool(came)


@story("a sync of the database fails in a checkpoint, and another checkpoint follows", bulk=True)
async def checkpoint(trouble):
    trouble.fault(f"sync eio count 1 file {DATABASE}")
    await trouble.says(WORKS, 60)
    came = forgotten(trouble.disk.calls(), DATABASE)
    if trouble.dice.random() < 0.5:
        before = trouble.disk.calls().count(("S", DATABASE))
        await trouble.plant.until("a checkpoint", lambda: trouble.disk.calls().count(("S", DATABASE)) > before, 60, every=0.1)
    await trouble.flows("messages flow again", messages=3)
    return await cut(trouble, came)


def unfinished(calls):
    """Whether a checkpoint has moved a part of the log, for a reader was in the way: written to the database, not synced."""
    written = unfinished = False
    for kind, what in calls:
        if what == DATABASE:
            written = kind == "W" or written and kind != "S"
            unfinished &= written
        unfinished |= written and kind == "W" and what == LOG
    return unfinished


async def read_slowly(trouble):
    """Waits for a checkpoint that does not come to its end while the reader reads what is to be forwarded."""
    plant = trouble.plant
    plant.upstream.turn("away")
    await trouble.flows("there is something to forward", messages=2000)
    trouble.fault(f"read delay 30ms file {DATABASE}")
    plant.upstream.turn("all")
    await plant.until("a checkpoint is not finished", lambda: unfinished(trouble.disk.calls()), 30, every=0.1)


@story("the sync of a checkpoint fails that another began", bulk=True)
async def unfinished_checkpoint(trouble):
    await read_slowly(trouble)
    trouble.fault(f"sync eio count 1 file {DATABASE}")
    await trouble.says(WORKS, 60)
    came = forgotten(trouble.disk.calls(), DATABASE)
    await trouble.flows("messages flow again", messages=3)
    return await cut(trouble, came)


@story("... at the orderly end", times=2, bulk=True)
async def stopped(trouble):
    plant = trouble.plant
    await read_slowly(trouble)
    # The reader keeps its place until the store is about to close: nothing comes between that and the last checkpoint.
    trouble.fault(f"sync eio count 1 file {DATABASE}", f"read delay 12s count 1 file {DATABASE}")
    plant.upstream.turn("away")
    for publisher in (*plant.publishers, plant.commands):
        publisher.running.clear()
    await plant.until("nobody waits for anything", lambda: all(p.idle() for p in plant.publishers))
    began = unfinished(trouble.disk.calls())
    await plant.stop()
    calls = trouble.disk.calls()
    after = calls[calls.index(("F", DATABASE)):] if ("F", DATABASE) in calls else None
    came = began and after is not None and ("W", LOG) not in after
    if came:
        # What is forgotten may by chance be what nobody needs.
        trouble.check("the log stays", ("U", LOG) not in after)
    for publisher in (*plant.publishers, plant.commands):
        publisher.running.set()
    return await cut(trouble, came)


with Theme("doubt") as t:
    run(t, followed, killed, full, moved, checkpoint, unfinished_checkpoint, stopped)
