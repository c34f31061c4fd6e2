"""Reload under load: streams, uplinks, downlinks, listeners and limits change every moment, by SIGHUP and by POST, with broken configurations
in between, while sensors publish at QoS 1 and 2 and two ways lead upstream. Nothing acknowledged is lost, the order of first deliveries stays,
duplicates are recognisable, the books balance; also with `kill -9` in the midst of it. And it can be done for ever: memory, threads, files and metrics stay."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from lab.gateway import CONFIG, Gateway, total
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import accepts, free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

ROUNDS = int(os.environ.get("RELOAD_ROUNDS", "40"))
KILLS = int(os.environ.get("RELOAD_KILLS", "12"))
CYCLES = int(os.environ.get("RELOAD_CYCLES", "100"))

UPLINK = """[[uplink]]
name = "{name}"
url = "mqtt://127.0.0.1:{port}"
client_id = "lab-{name}"
qos = {qos}
max_inflight = {inflight}
backoff = {{ min = "20ms", max = "200ms" }}
progress_timeout = "{progress}s"
rate = {{ messages_per_s = {rate} }}
"""

STREAM = """[[stream]]
name = "{name}"
from = ["{take}"]
{more}
"""

# Threads that work on files come and go, one more or less at any moment; a leak of one at each reload is a hundred times that.
SPARE_THREADS = 4

# What the gateway refuses, and what it says of it.
BROKEN = (("[[stream]]\nname = \"x\"\nfrom = [\"a/#/b\"]\n", "stream"), ("[store]\ndurabilty = \"full\"\n", "durabilty"), ("][", "tidegate.toml"))


class Variants:
    """Configurations of one gateway, by dice. The streams `one` to `four` are always there, so nothing acknowledged goes nowhere."""

    def __init__(self, t, gateway, ports):
        self.t, self.gateway, self.ports = t, gateway, ports
        self.second, self.third, self.taken = free_port(), free_port(), None

    def text(self, plain=False):
        dice = self.t.random
        pick = (lambda *of: of[0]) if plain else (lambda *of: dice.choice(of))
        uplinks = "".join(
            UPLINK.format(name=name, port=port, qos=pick(1, 1, 2) if name == "cloud" else 1, inflight=pick(256, 20, 1000),
                          progress=pick(5, 7), rate=pick(0, 0, 20_000))
            for name, port in self.ports.items() if plain or name != "third" or dice.random() < 0.5)
        names = [name for name in self.ports if f'name = "{name}"' in uplinks]
        streams = []
        for group, name in enumerate(("one", "two", "three", "four"), 1):
            more = f'to = "{pick(*names)}"\npriority = {pick(0, 5, -5)}\nretain_sent = "{pick("0s", "1m")}"'
            more += pick("", '\nttl = "1h"') + pick("", '\nmax_messages = 1000000')
            streams.append(STREAM.format(name=name, take=f"sensors/{group}/#", more=more))
        if not plain:
            for extra in ("copies", "local"):
                if dice.random() < 0.5:
                    to = f'to = "{pick(*names)}"\ntopic = "copies/{{topic}}"' if extra == "copies" else ""
                    streams.append(STREAM.format(name=extra, take="sensors/#", more=f'{to}\nmax_messages = 5000\nwhen_full = "drop-oldest"'))
            dice.shuffle(streams)
            if dice.random() < 0.4:
                streams.append('[[downlink]]\nname = "commands"\nfrom = "cloud"\nfilter = ["cmd/#"]\n')
        listener = f'max_connections = {pick(1000, 500)}\nmax_inflight = {pick(1000, 400)}\n'
        for name, port in (("second", self.second), ("third", self.third)):
            if plain or dice.random() < 0.6:
                listener += f'\n[[listener]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\nmax_packet = "{pick(256, 128)}KiB"\n'
        store = f'commit_delay = "{pick(2, 0, 5)}ms"\nmin_free = "{pick(1, 2)}MiB"'
        it = self.gateway
        return CONFIG.format(data=it.data, store=store, port=it.port, listener=listener, admin=it.admin, uplinks=uplinks, streams="\n".join(streams))


def post(gateway):
    status, body = gateway.http("/api/v1/reload", "POST", 60)
    return status, json.loads(body) if status else body


def hup(gateway):
    """SIGHUP; waits until it is done, and gives what came of it."""
    results = ("applied", "refused")
    count = lambda: [gateway.metric("tidegate_reloads_total", result=result) for result in results]
    before = count()
    gateway.process.child.send_signal(signal.SIGHUP)
    after = wait_for("the reload is done", lambda: (now := count()) != before and now, 60)
    return next(result for result, old, new in zip(results, before, after) if old != new)


def books(gateway):
    """The streams whose books do not balance."""
    _, body = gateway.http("/api/v1/streams")
    wrong = []
    for stream in json.loads(body)["streams"]:
        out = sum(total(stream[name]) for name in ("forwarded", "expired", "dropped", "dead", "purged"))
        if stream["accepted"] != out + stream["backlog"]["messages"]:
            wrong.append(stream)
    return wrong


def backlog(gateway):
    status, body = gateway.http("/api/v1/streams")
    if status != 200:
        return None
    return sum(s["backlog"]["messages"] for s in json.loads(body)["streams"] if s["name"] in ("one", "two", "three", "four"))


def one_round(t, gateway, variants, number):
    """A good configuration, or a broken one; gives what was not as it should be."""
    broken = t.random.random() < 0.2
    text = variants.text()
    if broken:
        text += t.random.choice(BROKEN)[0]
    gateway.config.write_text(text)
    if number % 2:
        status, answer = post(gateway)
        good = status == (422 if broken else 200) and (not broken or answer["error"]["problems"])
        return None if good else (status, answer)
    result = hup(gateway)
    return None if result == ("refused" if broken else "applied") else result


def everything(t, folder):
    """The plant: one upstream behind three ways, one of which can be cut, and sensors of all kinds."""
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    verifier = Verifier(folder, upstream.port, filter="sensors/#", keep_session=True)
    proxy = Proxy(free_port(), upstream.port)
    t.later(proxy.close)
    gateway = Gateway(folder / "gateway", upstream.port)
    # Two ways to one broker, so that one subscriber sees the order across them.
    variants = Variants(t, gateway, {"cloud": proxy.port, "spare": upstream.port, "third": upstream.port})
    gateway.config.write_text(variants.text(plain=True))
    gateway.start()
    t.later(gateway.stop)
    return upstream, verifier, proxy, gateway, variants


def start_sensors(folder, gateway, variants, rate):
    make = lambda name, port, group, **more: Sensors(folder, port, name, rate=rate, topic=f"sensors/{group}/{{}}", client_prefix=f"{name}-", **more)
    return [
        make("v4", gateway.port, 1, sensors=3, window=200),
        make("v5", gateway.port, 2, sensors=3, first_sensor=101, mqtt=5, window=200, keep_session=True),
        make("exactly", gateway.port, 3, sensors=2, first_sensor=201, mqtt=5, qos=2, window=100),
        # Its listener comes and goes.
        make("moving", variants.second, 4, sensors=2, first_sensor=301, mqtt=5, qos=2, window=50),
    ]


def settle(t, label, gateway, variants, verifier, sensors, resent=True):
    """The last configuration has everything; all that was acknowledged must have come."""
    gateway.config.write_text(variants.text(plain=True))
    status, answer = post(gateway)
    t.check(f"{label}: the last reload is taken", status == 200, answer)
    results = [s.stop() for s in sensors]
    unacknowledged = sum(r["unacknowledged"] for r in results)
    t.check(f"{label}: every message is acknowledged in the end", unacknowledged == 0, unacknowledged)
    wait_for("the backlog is empty", lambda: backlog(gateway) == 0, 120, 0.1)
    result = verifier.expect(*[s.journal for s in sensors])
    # A sensor repeats what was not acknowledged to it; never at QoS 2.
    repeated = sum(r["resent"] for r, s in zip(results, sensors) if "qos" not in s.argv[0]) if resent else 0
    check_delivery(t, result, label, new_ids_allowed=repeated)
    wrong = books(gateway)
    t.check(f"{label}: the books of all streams balance", not wrong, wrong or "")
    t.say(f"{label}: {result['distinct']} messages, {result['duplicates']} duplicates, sensors repeated {repeated}")


def under_load(t, folder):
    folder.mkdir()
    upstream, verifier, proxy, gateway, variants = everything(t, folder)
    sensors = start_sensors(folder, gateway, variants, 1500)
    wrong = []
    for number in range(ROUNDS):
        # An outage of one of the ways now and then, and its end.
        if t.random.random() < 0.15:
            proxy.refusing = not proxy.refusing
            proxy.cut()
        wrong += [it for it in [one_round(t, gateway, variants, number)] if it]
        time.sleep(t.random.uniform(0.0, 0.6))
    proxy.refusing = False
    t.check(f"each of {ROUNDS} reloads was taken or refused as it should", not wrong, wrong[:3])
    t.check("it is the same process", gateway.up())
    settle(t, "under load", gateway, variants, verifier, sensors)
    line = gateway.logged(r"panicked|\"level\":\"ERROR\"(?!.*reload)")
    t.check("the log has no error but of what was refused", line is None, line or "")
    t.check("SIGTERM ends it with code 0", gateway.stop() == 0)


def killed(t, folder):
    folder.mkdir()
    upstream, verifier, proxy, gateway, variants = everything(t, folder)
    sensors = start_sensors(folder, gateway, variants, 1000)
    for _ in range(KILLS):
        for _ in range(t.random.randrange(1, 4)):
            gateway.config.write_text(variants.text())
            gateway.process.child.send_signal(signal.SIGHUP)
            time.sleep(t.random.uniform(0.0, 0.25))
        gateway.kill()
        gateway.start()
    settle(t, "killed in the midst of reloads", gateway, variants, verifier, sensors)
    t.check("killed: SIGTERM ends it with code 0", gateway.stop() == 0)


def figures(gateway):
    pid = gateway.process.pid
    _, metrics = gateway.http("/metrics")
    series = sorted(line.rsplit(" ", 1)[0] for line in metrics.splitlines() if line and line[0] != "#")
    return {"files": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task")), "series": len(series)}, series


def for_ever(t, folder):
    """Back and forth many times: everything is where it was."""
    folder.mkdir()
    upstream, verifier, proxy, gateway, variants = everything(t, folder)
    one, other = variants.text(plain=True), None
    while other is None or "third" in other.split("[[stream]]")[0] or "copies" not in other:
        other = variants.text()

    def back_and_forth(times):
        for _ in range(times):
            for text in (other, one):
                gateway.config.write_text(text)
                status, answer = post(gateway)
                assert status == 200, answer
        wait_for("all uplinks are connected", lambda: gateway.metric("tidegate_uplink_connected") == 3, 20)

    back_and_forth(max(5, CYCLES // 5))
    rest = lambda: wait_for("threads rest", lambda: figures(gateway)[0] == (time.sleep(0.5) or figures(gateway)[0]) and figures(gateway), 60)
    time.sleep(12)  # threads that block on files are given back after ten seconds
    (before, series), memory = rest(), gateway.process.rss_bytes()
    back_and_forth(CYCLES)
    time.sleep(12)
    (after, other_series), more = rest(), gateway.process.rss_bytes()
    t.check(f"{2 * CYCLES} reloads leave files, threads and metrics where they were",
            before["files"] == after["files"] and after["threads"] <= before["threads"] + SPARE_THREADS and series == other_series, (before, after, sorted(set(series) ^ set(other_series))[:5]))
    t.check("and the memory", more - memory < 4 << 20, f"{memory / 2**20:.1f} MiB before, {more / 2**20:.1f} after")
    t.check("for ever: SIGTERM ends it with code 0", gateway.stop() == 0)


def commands(t, folder, upstream, gateway, plain):
    """A downlink comes, asks for something else, and goes; a client that stays connected gets what is asked for."""
    arrived = folder / "arrived"
    client = subprocess.Popen(["mosquitto_sub", "-p", str(gateway.port), "-t", "cmd/#", "-q", "1", "-v"], stdout=arrived.open("w"))
    t.later(client.kill)
    say = lambda topic: subprocess.run(["mosquitto_pub", "-p", str(upstream.port), "-t", topic, "-q", "1", "-m", "x"], check=True, timeout=20)
    ask = lambda what: gateway.config.write_text(plain + f'[[downlink]]\nname = "commands"\nfrom = "cloud"\nfilter = ["cmd/{what}/#"]\n')
    refused = lambda: gateway.metric("tidegate_downlink_refused_total")
    for what, other in (("a", "b"), ("b", "a")):
        ask(what)
        status, answer = post(gateway)
        wait_for("the uplink is connected", lambda: gateway.metric("tidegate_uplink_connected", uplink="cloud") == 1)

        def comes():
            say(f"cmd/{other}/no")
            say(f"cmd/{what}/yes")
            return f"cmd/{what}/yes" in arrived.read_text()

        wait_for("a command arrives", comes, 20, 0.2)
        t.check(f"a downlink gets what it asks for now, and nothing else ({what})",
                f"cmd/{other}/no" not in arrived.read_text() and refused() == 0, (answer["downlinks"], refused()))
    gateway.config.write_text(plain)
    post(gateway)
    t.check("a downlink that is gone is not shown any more", 'downlink="commands"' not in gateway.http("/metrics")[1])


def details(t, folder):
    """What is told, what waits, what is refused; one thing at a time."""
    folder.mkdir()
    upstream, verifier, proxy, gateway, variants = everything(t, folder)
    plain = variants.text(plain=True)
    write = lambda text: gateway.config.write_text(text)

    taken = socket.create_server(("127.0.0.1", 0))
    t.later(taken.close)
    with_port = plain.replace("[admin]", f'[[listener]]\nname = "new"\nbind = "127.0.0.1:{taken.getsockname()[1]}"\n\n[[stream]]\nname = "never"\nfrom = ["never/#"]\n\n[admin]')
    write(with_port)
    status, answer = post(gateway)
    said = answer["error"]["problems"][0] if status == 422 else answer
    t.check("a port that is taken refuses the whole reload", status == 422 and "cannot listen" in said["expected"] and said["name"] == "new", said)
    streams = [s["name"] for s in json.loads(gateway.http("/api/v1/streams")[1])["streams"]]
    t.check("nothing of it was done", "never" not in streams, streams)

    write(plain.replace('id = "lab"', 'id = "other"').replace("[store]", '[store]\ndurability = "process"'))
    status, answer = post(gateway)
    waits = answer.get("restart_required")
    state = json.loads(gateway.http("/api/v1/status")[1])
    t.check("what only a restart can change is named, in the answer and in the status",
            status == 200 and waits == ["gateway.id", "store.durability"] == state["restart_required"] and state["gateway_id"] == "lab", waits)

    write(plain.replace('name = "four"', 'name = "fourth"'))
    status, answer = post(gateway)
    t.check("what was added and removed is told", status == 200 and answer["streams"] == {"added": ["fourth"], "removed": ["four"], "changed": []}, answer["streams"])
    t.check("and nothing waits any more", answer["restart_required"] == [], answer["restart_required"])

    # A stream goes with what it holds, and comes back.
    proxy.refusing = True
    proxy.cut()
    write(plain.replace('to = "spare"', 'to = "cloud"'))
    post(gateway)
    sensors = Sensors(folder, gateway.port, "held", count=500, topic="sensors/4/{}")
    sensors.result()
    write(plain.replace('name = "four"', 'name = "fourth"'))
    post(gateway)
    proxy.refusing = False
    four = next(s for s in json.loads(gateway.http("/api/v1/streams")[1])["streams"] if s["name"] == "four")
    t.check("a stream that goes keeps what it holds", four["configured"] is False and four["backlog"]["messages"] == 500, four["backlog"])
    write(plain)
    post(gateway)
    check_delivery(t, verifier.expect(sensors.journal), "a stream that comes back goes on")

    # Clients of a listener: those that stay, those that must go.
    verifier = Verifier(folder, upstream.port, "again", filter="sensors/#")
    stays = Sensors(folder, gateway.port, "stays", rate=100, topic="sensors/1/{}", first_sensor=11)
    goes = Sensors(folder, variants.second, "goes", rate=100, topic="sensors/2/{}", first_sensor=21, mqtt=5, keep_session=True)
    wait_for("both are connected", lambda: gateway.metric("tidegate_broker_connections") == 2)
    write(plain.replace('name = "second"', 'name = "renamed"').replace("max_connections = 1000", "max_connections = 10"))
    status, answer = post(gateway)
    t.check("a listener of another name has the same socket", answer["listeners"] == {"added": ["renamed"], "removed": ["second"], "changed": ["sensors"]}, answer["listeners"])
    wait_for("the client is back", lambda: gateway.metric("tidegate_broker_connections", listener="renamed") == 1)
    t.check("the metric of the old name is gone", "listener=\"second\"" not in gateway.http("/metrics")[1])
    sent = [stays.stop(), goes.stop()]
    t.check("whose listener only changed was left alone", sent[0]["connects"] == 1 and sent[1]["connects"] == 2, [s["connects"] for s in sent])
    t.check("all that they sent was acknowledged", all(s["unacknowledged"] == 0 for s in sent))
    check_delivery(t, verifier.expect(stays.journal, goes.journal), "of listeners that change")

    write(plain)
    code, out = gateway.cli("reload")
    t.check("`tidegate reload` asks for it, and tells", code == 0 and "renamed" in out, out)
    write(plain.replace("[admin]", '[[stream]]\nname = "x"\nfrom = []\n\n[admin]'))
    code, out = gateway.cli("reload", "--json")
    t.check("and what is wrong", code == 78 and "at least one topic filter" in out, out[:300])
    commands(t, folder, upstream, gateway, plain)
    t.check("SIGTERM ends the last with code 0", gateway.stop() == 0)


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    details(t, folder / "details")
    under_load(t, folder / "load")
    killed(t, folder / "killed")
    for_ever(t, folder / "ever")


with Theme("reload") as theme:
    main(theme)
