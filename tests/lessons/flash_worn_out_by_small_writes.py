"""The trap: an SD card is dead in months, from a transaction for each message and VACUUM every 15 minutes.

Seen in Mycodo (kizniche/Mycodo#709) and Kura. Tidegate gathers messages into one commit, deletes in ranges, never runs VACUUM, and writes nothing while
nothing happens. Measured is what the kernel says the process wrote to storage. The control: messages one by one, where each
commit writes its pages for one message alone.
"""

import time

from lab.gateway import Gateway, check_books
from lab.load import Sensors
from lab.process import wait_for, workspace
from lab.report import Theme
from lab.upstream import Upstream

COUNT, SIZE, ALONE = 20_000, 200, 300
IDLE_S = 5


def written(gateway, work):
    before = gateway.process.written_bytes()
    work()
    return gateway.process.written_bytes() - before


def main(t):
    folder = workspace(t)
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    Sensors(folder, gateway.port, "warm", count=1000, first_sensor=90).result()
    gateway.wait_drained()
    upstream.down()

    def many():
        sensors = Sensors(folder, gateway.port, "many", sensors=20, count=COUNT // 20, size=SIZE)
        sensors.result()

    stored = written(gateway, many) / COUNT
    t.check("twenty busy sensors: less than 4 times the payload is written for each message", stored < 4 * SIZE, f"{stored:.0f} bytes for {SIZE}")

    def drain():
        upstream.up()
        gateway.wait_drained()
        smallest = lambda: (gateway.data / "tidegate.db").stat().st_size
        sizes = [0]

        def rests():
            sizes.append(gateway.process.written_bytes())
            return len(sizes) > 5 and sizes[-1] == sizes[-5]

        wait_for("it has tidied up", rests, 60, 0.5)
        t.say(f"the database has {smallest() >> 10} KiB now")

    sent = written(gateway, drain) / COUNT
    t.check("and no more than that again until it is sent, deleted and tidied up", sent < 4 * SIZE, f"{sent:.0f} bytes for {SIZE}")
    idle = written(gateway, lambda: time.sleep(IDLE_S))
    t.check(f"while nothing happens nothing is written ({IDLE_S} s)", idle == 0, f"{idle} bytes")
    alone = written(gateway, lambda: Sensors(folder, gateway.port, "alone", count=ALONE, size=SIZE, window=1, first_sensor=50).result()) / ALONE
    t.check("control: messages one by one cost far more each, and the measurement says so", alone > 4 * (stored + sent), f"{alone:.0f} bytes for {SIZE}")
    figures = lambda: (int(gateway.metric("tidegate_store_written_bytes_total")), gateway.process.written_bytes())
    wait_for("the metric has caught up", lambda: abs(figures()[0] - figures()[1]) < figures()[1] / 100, 10, 0.1)
    t.check("the metric says what the kernel says", True, figures())
    check_books(t, gateway)


with Theme("flash_worn_out_by_small_writes") as theme:
    main(theme)
