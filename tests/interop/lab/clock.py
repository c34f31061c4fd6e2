"""A clock that can be set, for one process: libfaketime in front of its wall clock. What counts since boot is left alone.

The gateway asks the kernel itself for CLOCK_BOOTTIME, past libfaketime, and CLOCK_MONOTONIC is not faked: as on a board whose
clock is set while it runs. `new_boot` makes the next process one of another boot: another boot id, and little time since boot.
"""

import glob
import pathlib
import time

UNSET = "@1970-01-01 00:10:00"
TRUE = "+0"


class Clock:
    """`env` is for the process; `set` takes libfaketime's words: `+0`, `-1h`, `+365d`, `@1970-01-01 00:10:00` (and ticking from there)."""

    def __init__(self, folder, at=TRUE):
        self.folder = folder
        self.file = folder / "clock"
        self.set(at)
        libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        if not libraries:
            raise RuntimeError("libfaketime is not installed")
        self.env = {
            "LD_PRELOAD": libraries[0], "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1", "NO_FAKE_STAT": "1",
        }

    def set(self, to):
        new = self.file.with_suffix(".new")
        new.write_text(f"{to}\n")
        new.rename(self.file)  # it is read all the time

    def new_boot(self, up_s=60):
        """Words to put in front of a command: boot id and time since boot are those of a machine that is up for so long."""
        boot_id = self.folder / "boot_id"
        boot_id.write_text(f"{time.time_ns():032x}\n")
        since = {name: int(up_s - time.clock_gettime(clock)) for name, clock in
                 (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME))}
        enter = f'mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec "$@"'
        return ["unshare", "-m", "--time", f"--monotonic={since['monotonic']}", f"--boottime={since['boottime']}", "sh", "-c", enter, "sh"]


def time_namespace(process):
    """The kernel's name for the time namespace that a process is in."""
    return pathlib.Path(f"/proc/{process.pid}/ns/time").readlink()
