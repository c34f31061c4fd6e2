"""`kill -9` of the gateway at random moments, the upstream up and down in between: nothing acknowledged is lost, the order of
first deliveries stays, duplicates are recognisable, the books balance. QoS 1 first, then QoS 2: exactly once."""

import os
import time

from lab.gateway import Gateway, check_books
from lab.load import Sensors, check_delivery
from lab.process import workspace
from lab.report import Theme
from lab.upstream import Upstream

CYCLES = int(os.environ.get("KILL_CYCLES", "50"))
CYCLES_QOS2 = int(os.environ.get("KILL_CYCLES_QOS2", "20"))


def cycle(t, gateway, upstream, sensors):
    """One life of the gateway: how long, and what the upstream does meanwhile, is up to the dice."""
    if t.random.random() < 0.25:
        upstream.down() if upstream.is_up else upstream.up()
    # Sometimes shorter than its own start, mostly long enough to accept and forward.
    time.sleep(t.random.choice([t.random.uniform(0.0, 0.1), t.random.uniform(0.1, 0.9), t.random.uniform(0.3, 0.9)]))
    died = not gateway.up()
    gateway.kill()
    gateway.start(wait=False)
    return died or not all(s.alive() for s in sensors)


def run(t, folder, label, cycles, qos, uplink):
    upstream = Upstream(t, folder)
    gateway = Gateway(folder / "gateway", upstream.port, uplink=uplink).start()
    t.later(gateway.stop)
    sensors = [
        Sensors(folder, gateway.port, "v4", sensors=4, rate=1500, mqtt=4, qos=qos, window=200),
        Sensors(folder, gateway.port, "v5", sensors=4, first_sensor=101, rate=1500, mqtt=5, qos=qos, window=200,
                keep_session=True),
    ]
    died = sum(cycle(t, gateway, upstream, sensors) for _ in range(cycles))
    t.check(f"{label}: it never ended by itself in {cycles} cycles", died == 0, died)
    upstream.is_up or upstream.up()
    gateway.wait_until_listening()
    results = [s.stop() for s in sensors]
    unacknowledged = sum(r["unacknowledged"] for r in results)
    connects = sum(r["connects"] for r in results)
    t.check(f"{label}: every message is acknowledged in the end", unacknowledged == 0, unacknowledged)
    t.check(f"{label}: the sensors were in the thick of it", connects > 4 * cycles, f"{connects} connections")
    result = upstream.verifier.expect(*[s.journal for s in sensors])
    # A QoS 1 sensor repeats what was not acknowledged to it, and the gateway may have stored it already: never at QoS 2.
    resent = sum(r["resent"] for r in results) if qos == 1 else 0
    check_delivery(t, result, label, new_ids_allowed=resent)
    t.say(f"{result['distinct']} messages, {result['duplicates']} duplicates, sensors repeated {resent}")
    check_books(t, gateway, f"{label}: the books balance and the backlog is empty")
    t.check(f"{label}: SIGTERM ends it with code 0", gateway.stop() == 0)


def main(t):
    folder = workspace(t)
    (folder / "1").mkdir()
    (folder / "2").mkdir()
    run(t, folder / "1", "QoS 1", CYCLES, 1, 'qos = 1')
    run(t, folder / "2", "QoS 2", CYCLES_QOS2, 2, 'qos = 2')


with Theme("kill9") as theme:
    main(theme)
