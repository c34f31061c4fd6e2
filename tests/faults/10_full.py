"""No space: acknowledgements are withheld or refused, the broker stays up, and work goes on when there is space."""

from lab.report import Theme
from rig.trouble import Trouble, run


async def full(theme, label, rule, seconds, withheld):
    async with Trouble(theme, label) as trouble:
        trouble.plant.upstream.turn("none")
        await trouble.flows("a backlog", messages=300)
        await trouble.suffers(rule, seconds=seconds, withheld=withheld)
        trouble.check("it says that it is not ready", 503 in trouble.statuses, trouble.statuses)
        refused = sum(len(p.refused) for p in trouble.plant.publishers if p.version == 5)
        held = sum(len(p.refused) for p in trouble.plant.publishers if p.version == 4)
        trouble.check("MQTT 5 is told (0x97), MQTT 3.1.1 is held", refused > 0 and held == 0, f"{refused} refused")
        trouble.plant.upstream.turn("all")
        await trouble.recovers()
        await trouble.power_cut()
        await trouble.finish()


async def at_once(theme):
    await full(theme, "every write fails", "write enospc", 5, True)


async def soon(theme):
    await full(theme, "100 KB are left", "write enospc budget 100000", 8, False)  # a small message may still find room


with Theme("full") as t:
    run(t, at_once, soon)
