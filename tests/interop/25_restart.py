"""The gateway dies (kill -9) and is stopped (SIGTERM) in the middle of everything, among clients that nobody here wrote.

Every keeper has a persistent session, is subscribed to `ring/+` at QoS 2 (rumqttc at QoS 1) and publishes to `ring/NAME` at QoS 2, all the time.
So at the end everybody must have everything of everybody: once, and in order. Nobody may ever find its session gone. A
keeper says SUBSCRIBE when it finds no session, READY when it is subscribed, GOT QOS NAME NUMBER for each message, and after
`stop` SENT HANDED-OVER COMPLETED; FAILED for what the client itself gives up."""

import os
import pathlib
import subprocess
import time

from lab.gateway import Gateway, warnings
from lab.mosquitto import Mosquitto
from lab.process import Process, wait_for, workspace
from lab.report import Theme

CYCLES = int(os.environ.get("RESTART_CYCLES", "12"))
HERE = pathlib.Path(__file__).parent


class Keeper:
    """One client that stays."""

    def __init__(self, folder, name, argv, env=None):
        self.name, self.out = name, folder / f"{name}.out"
        with open(self.out, "wb") as out:
            self.process = Process(argv, folder / f"{name}.log", env, stdin=subprocess.PIPE, stdout=out)

    def lines(self, word):
        # The last line may be half written.
        lines = self.out.read_text(errors="replace").split("\n")[:-1]
        return [line[len(word) + 1:] for line in lines if line.split(" ")[0] == word]

    def stop(self):
        self.process.child.stdin.write(b"stop\n")
        self.process.child.stdin.flush()

    def sent(self):
        """How many it has sent, once the last one is complete."""
        return next((tuple(map(int, line.split())) for line in self.lines("SENT")), None)

    def got(self):
        """What it got, by publisher."""
        by = {}
        for line in self.lines("GOT"):
            qos, name, number = line.split(" ")
            by.setdefault(name, []).append((int(qos), int(number)))
        return by


def keepers(folder, port):
    """One of each kind."""
    node = {"NODE_PATH": os.environ["INTEROP_NODE_MODULES"]}
    kinds = (("paho", [os.environ["INTEROP_PYTHON"], HERE / "clients/paho_keeper.py"], None),
             ("mqttjs", ["node", HERE / "clients/mqttjs_keeper.js"], node),
             ("rumqttc", [os.environ["RUMQTTC_KEEPER"]], None))
    return [Keeper(folder, f"{kind}-{version}", [*argv, "127.0.0.1", port, version, f"{kind}-{version}"], env)
            for kind, argv, env in kinds for version in (4, 5)]


def listeners(folder, port):
    """mosquitto_sub with a session that stays.

    At QoS 1, for libmosquitto 2.0.11 loses a QoS 2 message whose PUBCOMP it cannot send. And not with MQTT 5, for it connects
    again without its properties, so without session expiry and Receive Maximum."""
    name = "sub-4"
    return [Keeper(folder, name, ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-V", "mqttv311", "-i", name,
                                  "-c", "-q", 1, "-t", "ring/+", "-F", "GOT %q %p"])]


def publish(gateway, *words):
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", gateway.port, "-q", 1, *words]
    return subprocess.run([str(c) for c in command], capture_output=True, timeout=20).returncode == 0


def one_message(gateway, topic, seconds=15, *more):
    """The next message to a topic, with its retain flag; None when there is none."""
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", gateway.port, "-q", 1, "-t", topic, "-C", 1, "-W", seconds, "-F", "%r %p", *more]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=seconds + 10).stdout.strip() or None


def die(gateway, violently):
    """Ends the gateway; gives back the exit code where it may have one."""
    if violently:
        gateway.kill()
        return 0
    return gateway.stop(30)


def ring(t, folder, gateway):
    everybody, silent = keepers(folder, gateway.port), listeners(folder, gateway.port)
    for keeper in everybody:
        wait_for(f"{keeper.name} is subscribed", lambda k=keeper: k.lines("READY"), 30)
        t.later(keeper.process.kill)
    for keeper in silent:
        t.later(keeper.process.kill)
        wait_for(f"{keeper.name} gets something", lambda k=keeper: k.lines("GOT"), 30)
    codes = []
    for cycle in range(CYCLES):
        time.sleep(t.random.choice([t.random.uniform(0.05, 0.4), t.random.uniform(0.5, 2.5)]))
        codes.append(die(gateway, violently=cycle % 2 == 0))
        time.sleep(t.random.choice([0, 0, 1.5]))
        gateway.start()
    t.check(f"SIGTERM ends it with code 0, {CYCLES // 2} times", not any(codes), codes)
    for keeper in everybody:
        keeper.stop()
    for keeper in everybody:
        try:
            wait_for(f"{keeper.name} has finished", keeper.sent, 60, 0.1)
        except Exception as error:
            t.check(f"{keeper.name}: everything that it sent is complete", False, error)
            continue
        handed, complete = keeper.sent()
        failed = len(keeper.lines("FAILED"))
        t.check(f"{keeper.name}: everything that it sent is complete", handed == complete + failed and complete > 10 * CYCLES,
                f"{complete} of {handed}, {failed} given up by the client itself")
        t.check(f"{keeper.name}: its session was always there", len(keeper.lines("SUBSCRIBE")) == 1, len(keeper.lines("SUBSCRIBE")))
    return everybody, silent


def check_ring(t, everybody, silent):
    sent = {keeper.name: keeper.sent()[0] for keeper in everybody if keeper.sent()}
    given_up = {keeper.name: {int(line.split(" ")[1]) for line in keeper.lines("FAILED")} for keeper in everybody}
    for keeper in [*everybody, *silent]:
        def complete(k=keeper):
            got = k.got()
            return all(len({n for _, n in got.get(name, [])}) + len(given_up[name]) >= count - first(got, name) for name, count in sent.items())

        def first(got, name):
            # mosquitto_sub and those that came earlier were not there for the first ones.
            return min((n for _, n in got.get(name, [])), default=0)

        try:
            wait_for("all messages", complete, 30, 0.2)
        except Exception:
            pass  # the checks below say what is missing
        got = keeper.got()
        lost = {name: sorted(set(range(first(got, name), count)) - {n for _, n in got.get(name, [])} - given_up[name])[:5]
                for name, count in sent.items()}
        lost = {name: numbers for name, numbers in lost.items() if numbers}
        twice = {name: len(pairs) - len(set(pairs)) for name, pairs in got.items() if len(pairs) != len(set(pairs))}
        order = [name for name, pairs in got.items() if [n for _, n in pairs] != sorted(n for _, n in pairs)]
        many = sum(map(len, got.values()))
        qos = 1 if keeper.name.startswith(("rumqttc", "sub")) else 2
        if keeper in silent:
            # It does not say which ones are repetitions.
            twice, order = {}, []
        t.check(f"{keeper.name}: lost 0 of {many}, {'in all' if keeper in silent else 'none twice, all in order'}, at QoS {qos}",
                many and not lost and not twice and not order and all(q == qos for pairs in got.values() for q, _ in pairs),
                {"lost": lost, "twice": twice, "order": order} if lost or twice or order else "")


def memory(t, folder, gateway):
    """Retained messages and wills."""
    for violently in (True, False):
        how = "kill -9" if violently else "SIGTERM"
        publish(gateway, "-r", "-t", "kept/1", "-m", "old")
        publish(gateway, "-r", "-t", "kept/2", "-m", "gone")
        good = publish(gateway, "-r", "-t", "kept/1", "-m", f"new {how}") and publish(gateway, "-r", "-t", "kept/2", "-n")
        die(gateway, violently)
        gateway.start()
        found = one_message(gateway, "kept/#")
        t.check(f"{how}: what was retained last is there, what was cleared is not", good and found == f"1 new {how}", found)
        t.check(f"{how}: ... and nothing else", one_message(gateway, "kept/2", 2) is None)

        # Somebody who is away waits for wills and messages that come while the gateway is down or away itself.
        stay = ["-c", "-i", f"waits-{violently}", "-V", "mqttv5", "-x", 3600]
        publish(gateway, "-t", "wills/x", "-m", "early")
        subprocess.run(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(gateway.port), "-q", "1", "-t", "wills/#", "-E", *map(str, stay)], timeout=20)
        name = f"doomed-{violently}"
        doomed = Process(["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", gateway.port, "-d", "-V", "mqttv5", "-i", name, "-c", "-x", 600, "-t", "nothing",
                          "--will-topic", "wills/late", "--will-payload", "late", "--will-qos", 1,
                          "-D", "will", "will-delay-interval", 3], folder / f"{name}.log")
        t.later(doomed.kill)
        wait_for("it is subscribed", lambda: "Subscribed" in doomed.log(), 10)
        doomed.kill()
        died = time.monotonic()
        publish(gateway, "-t", "wills/first", "-m", "first")
        die(gateway, violently)
        gateway.start()
        got = [one_message(gateway, "wills/#", 20, *stay) for _ in range(2)]
        t.check(f"{how}: a message for who was away, and a will whose delay went on, arrive in order", got == ["0 first", "0 late"], got)
        t.check(f"{how}: the will took its time", time.monotonic() - died >= 2.9, f"{time.monotonic() - died:.1f} s")


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    memory(t, folder, gateway)
    check_ring(t, *ring(t, folder, gateway))
    t.check("nothing to warn about", not warnings(gateway.log()), warnings(gateway.log())[:3])
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("restart") as theme:
    main(theme)
