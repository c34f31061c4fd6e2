"""The laboratory itself: a check that cannot fail is worthless, so loss, disorder and repetition are made and must be found."""

from lab.control import Control
from lab.load import Sensors, Verifier
from lab.mosquitto import Mosquitto
from lab.proxy import Proxy
from lab.process import free_port, wait_for, workspace
from lab.report import Theme


def publish(folder, port, name, **options):
    result = Sensors(folder, port, name, **options).result()
    return result, folder / f"{name}.journal"


def main(t):
    folder = workspace(t)
    broker = Mosquitto(folder / "broker").start()
    t.later(broker.stop)

    verifier = Verifier(folder, broker.port, "clean", filter="clean/#")
    result, journal = publish(folder, broker.port, "clean-sensors", topic="clean/{}", sensors=4, count=5000)
    got = verifier.expect(journal)
    t.check("a clean run is clean", (got["lost"], got["out_of_order"], got["duplicates"]) == (0, 0, 0), got["distinct"])
    t.check("everything sent is acknowledged", result["acked"] == 20000 and result["unacknowledged"] == 0)

    verifier = Verifier(folder, broker.port, "lossy", filter="lossy/#", idle=1)
    publish(folder, broker.port, "lossy-1", topic="lossy/{}", count=100)
    _, elsewhere = publish(folder, broker.port, "lossy-2", topic="elsewhere/{}", first_seq=101, count=7)
    got = verifier.expect(folder / "lossy-1.journal", elsewhere)
    t.check("a loss of 7 is found and named", got["lost"] == 7 and got["lost_ranges"] == [[1, 101, 107]], got["lost_ranges"])

    verifier = Verifier(folder, broker.port, "mixed", filter="mixed/#")
    journals = []
    for name, first in (("late", 51), ("early", 1), ("again", 51)):
        journals.append(publish(folder, broker.port, f"mixed-{name}", topic="mixed/{}", first_seq=first, count=50)[1])
    got = verifier.expect(*journals[:2])
    t.check("disorder of 50 is found", got["out_of_order"] == 50, got["out_of_order"])
    t.check("50 duplicates are found, and that nothing tells them apart",
            got["duplicates"] == got["duplicates_without_id"] == 50, got["duplicates"])

    for qos in (0, 1, 2):
        verifier = Verifier(folder, broker.port, f"qos{qos}", filter=f"qos{qos}/#", idle=2)
        result, journal = publish(folder, broker.port, f"qos{qos}-sensors", topic=f"qos{qos}/{{}}", qos=qos, mqtt=5, count=500)
        got = verifier.expect(journal)
        t.check(f"the sensors speak QoS {qos}", got["lost"] == 0 and got["duplicates"] == 0 and result["acked"] == 500)

    port = free_port()
    proxy = Proxy(port, broker.port)
    t.later(proxy.close)
    verifier = Verifier(folder, broker.port, "cut", filter="cut/#")
    sensors = Sensors(folder, port, "cut-sensors", topic="cut/{}", sensors=3, rate=6000, qos=2)
    for _ in range(8):
        before = verifier.status()["distinct"]
        wait_for("messages flow", lambda: verifier.status()["distinct"] > before + 300)
        proxy.cut()
    result = sensors.stop()
    got = verifier.expect(sensors.journal)
    t.check("sensors come back after a cut and repeat what was not acknowledged, exactly once at QoS 2",
            got["lost"] == 0 and got["out_of_order"] == 0 and result["connects"] > 10 and got["duplicates"] == 0,
            {"connects": result["connects"], "resent": result["resent"], "duplicates": got["duplicates"]})

    # The whole experiment of the other themes, with a gateway that loses acknowledged messages when it is killed, but not otherwise.
    for killed in (False, True):
        control = Control(t, folder / f"bridge-{killed}")
        _, journal = control.publish(count=3000, topic="sensors/{}/bridge")
        control.bridge.kill() if killed else control.bridge.stop()
        control.bridge.start()
        got = control.delivered(journal, idle=5)
        if killed:
            t.check("a gateway that keeps acknowledged messages in memory is found out", got["lost"] > 0, f"{got['lost']} lost")
        else:
            t.check("the same gateway delivers all when it is stopped in order", got["lost"] == 0, f"{got['lost']} lost")


with Theme("selftest") as theme:
    main(theme)
