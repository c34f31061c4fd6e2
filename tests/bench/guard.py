"""Small it stays: memory and wake-ups of an idle gateway, with one stream and with a hundred. Counts with room to spare, no timings.

`tests/bench/guard BINARY` runs it, and looks at the size of the binary first.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "interop"))
from footprint import is_connected, tidegate  # noqa: E402
from lab.footprint import idle  # noqa: E402
from lab.mosquitto import start_tls_upstream  # noqa: E402
from lab.process import wait_for, workspace  # noqa: E402
from lab.report import Theme  # noqa: E402

# The aim is 10 MiB; with some 13 it stands here, and it must not grow.
RSS_MIB, WAKEUPS_PER_S = 15, 5


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    port, _ = start_tls_upstream(t, folder / "upstream")
    for streams, rss_mib in ((1, RSS_MIB), (100, RSS_MIB + 3)):
        gateway = tidegate(folder, port, streams).start()
        t.later(gateway.kill)
        wait_for("the uplink is connected", lambda: is_connected(gateway), 30, 0.1)
        memory, wakeups = idle(gateway.process.pid, gateway.port, seconds=int(os.environ.get("GUARD_SECONDS", "20")))
        rate = sum(wakeups.values())
        t.say(f"{streams} streams: {', '.join(f'{kind} {mib:.2f} MiB' for kind, mib in memory.items())}, {rate:.2f} wake-ups a second")
        t.check(f"idle with {streams} streams: at most {rss_mib} MiB resident", memory["rss"] <= rss_mib, f"{memory['rss']:.2f}")
        by_thread = ", ".join(f"{name} {per_s:.2f}" for name, per_s in wakeups.items())
        t.check(f"idle with {streams} streams: at most {WAKEUPS_PER_S} wake-ups a second", rate <= WAKEUPS_PER_S, by_thread)
        t.check(f"idle with {streams} streams: it still stops in order", gateway.stop() == 0)


with Theme("footprint") as theme:
    main(theme)
