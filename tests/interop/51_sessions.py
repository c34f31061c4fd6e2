"""mosquitto_sub, mosquitto_pub and mosquitto_rr as their users use them: sessions over kill -9, shared subscriptions, requests, properties."""

import subprocess

from lab.gateway import Gateway, warnings
from lab.mosquitto import Mosquitto
from lab.process import Process, wait_for, workspace
from lab.report import Theme

VERSIONS = ("mqttv311", "mqttv5")


class Client:
    """A mosquitto client that goes on; its lines are `GOT topic qos retain payload`."""

    def __init__(self, folder, name, port, *argv, tool="mosquitto_sub", ready="Subscribed"):
        form = [] if "-F" in argv else ["-F", "GOT %t %q %r %p"]
        argv = ["stdbuf", "-oL", tool, "-d", "-h", "127.0.0.1", "-p", port, "-i", name, *form, *argv]
        self.process = Process(argv, folder / f"{name}.log")
        wait_for(f"{name} is ready", lambda: ready in self.process.log(), 20)

    def got(self):
        return [line[4:] for line in self.process.log().splitlines() if line.startswith("GOT ")]

    def wait(self, count, seconds=20):
        wait_for(f"{count} messages", lambda: len(self.got()) >= count, seconds)
        return self.got()


def run(*argv, seconds=30):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    return done.returncode, (done.stdout + done.stderr).strip()


def pub(port, version, *argv):
    code, said = run("mosquitto_pub", "-h", "127.0.0.1", "-p", port, "-V", version, *argv)
    if code != 0:
        raise RuntimeError(f"mosquitto_pub: {said}")


def stays(version):
    """Options of a session that outlives its connection."""
    return ["-V", version, "-c"] + (["-x", "3600"] if version == "mqttv5" else [])


def persistent_sessions(t, folder, gateway):
    """`-c -i`: subscribed once, gone, and back after the gateway was killed."""
    for version in VERSIONS:
        name, topic = f"keeper-{version}", f"log/{version}"
        first = Client(folder, name, gateway.port, *stays(version), "-q", 2, "-t", topic)
        first.process.terminate()
        for number in range(20):
            pub(gateway.port, version, "-q", number % 2 + 1, "-t", topic, "-m", number)
        gateway.kill()
        gateway.start()
        pub(gateway.port, version, "-q", 1, "-t", topic, "-m", 20)
        argv = ["mosquitto_sub", "-h", "127.0.0.1", "-p", gateway.port, "-i", name, *stays(version), "-q", 2, "-t", topic,
                "-F", "%q %p", "-C", 21, "-W", 20]
        code, said = run(*argv)
        # In order within each QoS: mosquitto_sub prints a message of QoS 2 when its PUBREL comes.
        want = [f"1 {n}" for n in range(0, 21, 2)] + [f"2 {n}" for n in range(1, 21, 2)]
        got = sorted(said.splitlines(), key=lambda line: line.split()[0])
        t.check(f"what came for mosquitto_sub -c while it was away, over kill -9, {version}", code == 0 and got == want, f"code {code} {got}")
        code, said = run(*argv[:-4], "-C", 1, "-W", 1)
        t.check(f"... comes once, {version}", code == 27, f"code {code} {said}")


def retained_and_wills(t, folder, gateway):
    for version in VERSIONS:
        pub(gateway.port, version, "-q", 1, "-r", "-t", f"state/{version}", "-m", "on")
        watcher = Client(folder, f"watcher-{version}", gateway.port, *stays(version), "-q", 1, "-t", f"gone/{version}")
        watcher.process.terminate()
        doomed = Client(folder, f"doomed-{version}", gateway.port, "-V", version, "-t", "nothing", "--will-topic", f"gone/{version}",
                        "--will-payload", "bye", "--will-qos", 1, "--will-retain")
        doomed.process.kill()
    reader = Client(folder, "reader", gateway.port, "-t", "gone/+", "-t", "state/+", "-q", 1)
    reader.wait(4)
    gateway.kill()
    gateway.start()
    for version in VERSIONS:
        code, said = run("mosquitto_sub", "-h", "127.0.0.1", "-p", gateway.port, "-t", f"state/{version}", "-F", "%q %r %p",
                         "-q", 1, "-C", 1, "-W", 10)
        t.check(f"a retained message over kill -9, {version}", code == 0 and said == "1 1 on", said)
        code, said = run("mosquitto_sub", "-h", "127.0.0.1", "-p", gateway.port, "-i", f"watcher-{version}", *stays(version),
                         "-t", f"gone/{version}", "-F", "%q %p", "-q", 1, "-C", 1, "-W", 10)
        t.check(f"a will for who was away over kill -9, {version}", code == 0 and said == "1 bye", said)
    reader.process.kill()


def shared(t, folder, gateway):
    for version in VERSIONS:
        topic = f"jobs/{version}"
        members = [Client(folder, f"member-{version}-{n}", gateway.port, "-V", version, "-q", 1, "-t", f"$share/team/{topic}") for n in range(3)]
        lines = subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-V", version, "-q", "1", "-t", topic, "-l"],
                               input="".join(f"{n}\n" for n in range(90)), text=True, capture_output=True, timeout=60, check=False)
        wait_for("all of them", lambda: sum(len(m.got()) for m in members) >= 90, 20)
        each = [len(m.got()) for m in members]
        numbers = sorted(int(line.split()[3]) for m in members for line in m.got())
        t.check(f"$share: every message to one of three, and to all of them, {version}",
                lines.returncode == 0 and numbers == list(range(90)) and min(each) > 0, each)
        for member in members:
            member.process.terminate()


def requests(t, folder, gateway):
    """mosquitto_rr asks, a subscriber answers on the response topic."""
    answering = Client(folder, "server", gateway.port, "-V", "mqttv5", "-q", 1, "-t", "ask/+", "-F", "GOT %R %D %p")
    asking = Process(["mosquitto_rr", "-h", "127.0.0.1", "-p", gateway.port, "-V", "mqttv5", "-q", 1, "-t", "ask/time", "-e", "answer/1",
                      "-m", "now?", "-D", "publish", "correlation-data", "c-7", "-W", 20], folder / "rr.log")
    line = answering.wait(1)[0]
    t.check("a request has its response topic and correlation data", line.startswith("answer/1") and "c-7" in line and line.endswith("now?"), line)
    pub(gateway.port, "mqttv5", "-q", 1, "-t", "answer/1", "-m", "noon", "-D", "publish", "correlation-data", "c-7")
    code = asking.child.wait(20)
    t.check("mosquitto_rr gets the answer", code == 0 and "noon" in asking.log(), f"code {code} {asking.log()}")
    answering.process.terminate()


def properties(t, folder, gateway):
    form = "GOT %p|%C|%R|%D|%P|%E|%F|%S"
    sub = Client(folder, "properties", gateway.port, "-V", "mqttv5", "-q", 1, "-t", "p/#", "-F", form,
                 "-D", "subscribe", "subscription-identifier", "42")
    argv = []
    for name, *value in (("content-type", "text/plain"), ("response-topic", "r"), ("correlation-data", "c"), ("user-property", "k", "v"),
                         ("message-expiry-interval", "100"), ("payload-format-indicator", "1")):
        argv += ["-D", "publish", name, *value]
    pub(gateway.port, "mqttv5", "-q", 1, "-t", "p/1", "-m", "x", *argv)
    line = sub.wait(1)[0]
    t.check("properties of -D arrive", line in [f"x|text/plain|r|c|k:v|{left}|1|42" for left in (100, 99, 98)], line)
    pub(gateway.port, "mqttv5", "-q", 1, "-t", "p/2", "-m", "short", "-D", "publish", "topic-alias", "3")
    t.check("a topic alias of the publisher is resolved", sub.wait(2)[1].startswith("short|"), sub.got())
    sub.process.terminate()


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    gateway = Gateway(folder / "gateway", upstream.port).start()
    t.later(gateway.stop)
    persistent_sessions(t, folder, gateway)
    retained_and_wills(t, folder, gateway)
    shared(t, folder, gateway)
    requests(t, folder, gateway)
    properties(t, folder, gateway)
    t.check("nothing to warn about", not warnings(gateway.log()), warnings(gateway.log())[:3])
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("sessions") as theme:
    main(theme)
