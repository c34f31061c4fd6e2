"""A normal day: sensors of both versions, subscribers, an upstream, an orderly end. Its log has no WARN and no ERROR, every message
arrives once, and the metrics add up."""

import subprocess

from lab.gateway import Gateway, check_books, warnings
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import workspace
from lab.report import Theme


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    above = Verifier(folder, upstream.port, "above")
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    beside = Verifier(folder, gateway.port, "beside")
    journals = []
    for number, (version, qos) in enumerate([(4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2)]):
        sensors = Sensors(folder, gateway.port, f"v{version}q{qos}", mqtt=version, qos=qos, sensors=3, first_sensor=10 * number,
                          count=1000, client_prefix=f"s{version}{qos}-")
        result = sensors.result(60)
        t.check(f"MQTT {version}, QoS {qos}: all acknowledged over one connection each",
                result["acked"] == 3000 and result["connects"] == 3)
        journals.append(sensors.journal)
    for name, verifier in (("upstream", above), ("beside", beside)):
        check_delivery(t, verifier.expect(*journals), f"a subscriber {name}", duplicates_allowed=False)
    subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-t", "sensors/x", "-m", "1", "-q", "2"], check=True)
    check_books(t, gateway)
    books = gateway.books()
    for way in ("accepted", "forwarded"):
        value = gateway.metric(f"tidegate_stream_{way}_total", stream="telemetry")
        t.check(f"the metric says the same as the books: {way}", value == books[way] == 18001, value)
    t.check("it is ready", gateway.http("/health/ready")[0] == 200)
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)
    bad = warnings(gateway.log())
    t.check("no WARN and no ERROR in normal operation", not bad and len(gateway.log()) > 0, bad[:3])


with Theme("quiet_log") as theme:
    main(theme)
