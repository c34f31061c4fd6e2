"""The trap: one message that the upstream never takes (too large, bad topic, refused) blocks the queue for ever.

Seen in the Greengrass nucleus (aws-greengrass/aws-greengrass-nucleus#852) and paho.python (#760). Tidegate looks at the upstream's limits first, tries what is refused
a bounded number of times, and puts it with the dead letters, with the reason; the stream flows on. What a *sick* upstream
refuses is not dead but waits. The control: Mosquitto's bridge and a message that is too large.
"""

import subprocess

from lab.control import Control
from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import CONNACK_OK, Rogue, packets, stamp, take_over

COUNT = 50


def publish(gateway, topic, payload, retain=False):
    argv = ["mosquitto_pub", "-h", "127.0.0.1", "-p", gateway.port, "-q", 1, "-t", topic, "-m", payload, *(["-r"] if retain else [])]
    subprocess.run(list(map(str, argv)), check=True, timeout=20)


def before_and_behind(folder, gateway, name, first, poison):
    """Good messages, the poison, more good messages; the journals."""
    journals = []
    for number in range(2):
        sensors = Sensors(folder, gateway.port, f"{name}-{number}", first_sensor=first + number, count=COUNT)
        sensors.result()
        journals.append(sensors.journal)
        if number == 0:
            poison()
    return journals


def dead_reasons(gateway):
    return [line for line in gateway.http("/metrics")[1].splitlines() if line.startswith("tidegate_stream_dead_total{") and not line.endswith(" 0")]


def mosquitto(t, folder):
    """Too large, and refused by the upstream's access rules."""
    rules = folder / "acl"
    rules.write_text("topic readwrite sensors/+/data\ntopic read #\n")
    upstream = Mosquitto(folder / "upstream").start()
    upstream.stop()
    upstream.config.write_text(upstream.config.read_text() + f"max_packet_size 4000\nacl_file {rules}\n")
    upstream.start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port, idle=10)
    gateway = Gateway(folder / "gateway", upstream.port, backoff_max="100ms").start()
    t.later(gateway.stop)
    journals = before_and_behind(folder, gateway, "large", 1, lambda: publish(gateway, "sensors/large", "x" * 10_000))
    journals += before_and_behind(folder, gateway, "forbidden", 11, lambda: publish(gateway, "sensors/forbidden", "x"))
    check_delivery(t, verifier.expect(*journals), "what is before and behind the poison")
    check_books(t, gateway)
    t.check("too large and not authorized are dead, each with its reason", gateway.books()["dead"] == 2 and len(dead_reasons(gateway)) == 2, dead_reasons(gateway))


class Choosy(Rogue):
    """An MQTT 3.1.1 upstream, which can refuse only by closing the connection."""

    sick = False

    def closes_on_poison(self, stream):
        for first, body in packets(stream):
            if first >> 4 == 1:
                stream.sendall(b"\x20\x02\x00\x00")
            if first >> 4 == 3:
                if b"POISON" in body or self.sick:
                    return
                what, packet_id = stamp(first, body)
                self.taken.add(what)
                stream.sendall(b"\x40\x02" + packet_id.to_bytes(2, "big"))

    def refuses_all(self, stream):
        """Quota exceeded, whatever comes."""
        for first, body in packets(stream):
            if first >> 4 == 1:
                stream.sendall(CONNACK_OK)
            if first >> 4 == 3:
                self.published += 1
                stream.sendall(b"\x40\x03" + stamp(first, body)[1].to_bytes(2, "big") + b"\x97")


def closer(t, folder):
    port = free_port()
    rogue = Choosy(port, "closes_on_poison")
    gateway = Gateway(folder, port, uplink='version = "3.1.1"', backoff_max="60ms").start()
    t.later(gateway.stop)
    before_and_behind(folder, gateway, "closer", 21, lambda: publish(gateway, "sensors/poison", "POISON"))
    wait_for("what is behind the poison is taken", lambda: len(rogue.taken) == 2 * COUNT, 60)
    check_books(t, gateway, "an upstream that closes on one message: it is dead, all others are taken")
    t.check("one message is dead", gateway.books()["dead"] == 1, dead_reasons(gateway))
    rogue.close()


def sick(t, folder, habit, uplink):
    """An upstream that takes nothing at all for a while is sick, and no message is poison."""
    port = free_port()
    rogue = Choosy(port, habit)
    rogue.sick = True
    gateway = Gateway(folder, port, uplink=uplink, backoff_max="60ms").start()
    t.later(gateway.stop)
    sensors = Sensors(folder, gateway.port, habit, count=COUNT)
    sensors.result()
    wait_for("it was tried often", lambda: rogue.connections > 40, 60)
    name = habit.replace("_", " ")
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port, f"well-{habit}", idle=5)
    rogue.close()
    t.later(take_over(port, upstream.port).close)
    got = verifier.expect(sensors.journal)
    check_books(t, gateway)
    dead = gateway.books()["dead"]
    t.check(f"a sick upstream that {'closes on everything' if 'closes' in habit else name}: none of {COUNT} is dead after 40 tries", dead == 0, f"{dead} dead")
    t.check("when it is well again, all arrive in order", got["lost"] == 0 and got["out_of_order"] == 0, f"{got['distinct']} of {COUNT}")


def control(t, folder):
    control = Control(t, folder, upstream="max_packet_size 4000\n")
    journals = before_and_behind(folder, control.bridge, "control", 1, lambda: publish(control.bridge, "sensors/large", "x" * 10_000))
    got = control.delivered(*journals, idle=5)
    t.check("control: Mosquitto's bridge gets stuck on the poison", got["lost"] >= COUNT, f"{got['lost']} of {2 * COUNT} did not come")


def main(t):
    folder = workspace(t)
    for name in ("mosquitto", "closer"):
        (folder / name).mkdir()
    mosquitto(t, folder / "mosquitto")
    closer(t, folder / "closer")
    sick(t, folder / "sick-close", "closes_on_poison", 'version = "3.1.1"')
    sick(t, folder / "sick-quota", "refuses_all", "")
    control(t, folder / "control")


with Theme("poison_message_blocks_the_queue") as theme:
    main(theme)
