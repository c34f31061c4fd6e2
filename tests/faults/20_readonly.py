"""The file system becomes read-only, as ext4 does after an error, and is mounted anew later."""

from lab.report import Theme
from rig.trouble import Trouble, run


async def readonly(theme):
    async with Trouble(theme, "read-only") as trouble:
        await trouble.suffers("readonly erofs")
        await trouble.recovers()
        await trouble.power_cut()
        await trouble.finish()


with Theme("readonly") as t:
    run(t, readonly)
