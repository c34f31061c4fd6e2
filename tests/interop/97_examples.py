"""The files of `edge-config/` as they stand, each against a Mosquitto with the limits of the service that it is for: messages go up
under the topics that it names, commands come down, what the service forbids is not done. And the two scripts there."""

import json
import os
import signal
import ssl
import subprocess
import time

from lab.example import FILES, Example, Listener, Service, make, papers, publish
from lab.gateway import warnings
from lab.load import Sensors, Verifier, check_delivery
from lab.process import free_port, wait_for, workspace
from lab.proxy import Proxy
from lab.report import Theme

IOT_HUB_USER = "contoso.azure-devices.net/plant-7/?api-version=2021-04-12"
IOT_HUB_RULES = "pattern write devices/%c/messages/events/#\npattern read devices/%c/messages/devicebound/#"
CLOUD_LIMITS = "max_keepalive 1200\nretain_available {retain}\nmax_packet_size {packet}\nmax_inflight_messages 100\n"
MUTUAL = "cafile {tls}/ca.pem\nrequire_certificate true\n"


class Bench:
    """What all examples share: papers, and a place."""

    def __init__(self, t):
        self.t, self.folder = t, workspace(t)
        self.folder.chmod(0o755)
        self.password = self.folder / "observer-password"
        self.password.write_text("observer\n")
        self.password.chmod(0o600)
        self.tls = papers(self.folder / "tls", "plant-7", "plant-7-press", "intruder")

    def service(self, name, **more):
        return Service(self.t, self.folder / f"service-{name}", self.tls, **more).start()

    def client(self, name="plant-7"):
        return {f"tls/{name}.pem": self.tls / f"{name}.pem", f"tls/{name}.key": self.tls / f"{name}.key", "tls/ca.pem": self.tls / "ca.pem"}

    def example(self, file, uplink, url, listener=None, secrets=(), **env):
        """The example, checked and then running, with its uplink at another address."""
        env = {f"TIDEGATE__UPLINK__{uplink.upper().replace('-', '_')}__URL": url, "SSL_CERT_FILE": str(self.tls / "ca.pem"), **env}
        return self.begin(Example(self.t, self.folder / file.replace("/", "-"), file, listener, secrets, env))

    def begin(self, example):
        code, said = example.check()
        self.t.check(f"{example.file}: accepted as it is", code == 0 and [s for s in said if not s.startswith("an address is `mqtt://`")] == [], said)
        return example.start()

    def ends_well(self, example):
        """Nothing left, the books balanced, nothing dead or dropped, and no word of warning."""
        books = example.drained()
        odd = {name: one for name, one in books.items() if not one["balanced"] or one["dead"] or one["dropped"]}
        self.t.check(f"{example.file}: the books balance, nothing is dead or dropped", not odd, books)
        loud = [line for line in warnings(example.log()) if "an address is `mqtt://`" not in line]
        self.t.check(f"{example.file}: nothing to warn of", not loud, loud[:3])


def telemetry_up(bench, example, service, up, retain_kept=True):
    """Three kinds of messages; `up(topic)` is the topic there."""
    t, seen = bench.t, service.observe()
    publish(example.port, "sensors/t1", "21.5")
    publish(example.port, "sensors/t2", '{"v": 2}', "-q", 2, "-D", "publish", "user-property", "unit", "K")
    publish(example.port, "sensors/state", "on", "-r")
    first, second, third = (seen.wait(up(f"sensors/{name}")) for name in ("t1", "t2", "state"))
    t.check(f"{example.file}: goes up under the topic that it names, at QoS 1",
            [first[1], second[1], third[1]] == [1, 1, 1] and first[4] == "21.5", first)
    ids = [f"tg-id:plant-7/telemetry/{n} " in f"{got[3]} " for n, got in enumerate((first, second, third), 1)]
    t.check(f"{example.file}: ids and properties go along", all(ids) and "unit:K" in second[3], second[3])
    late = service.observe(up("sensors/state"))
    service.publish(up("sensors/state"), "off")
    wait_for("what was retained and what is new", lambda: late.all() and late.all()[-1][4] == "off", 20)
    kept = [got for got in late.all() if got[2]]
    t.check(f"{example.file}: what is retained is {'retained' if retain_kept else 'sent, and not retained'} there", bool(kept) == retain_kept, kept)


def in_order(bench, example, service, count=150):
    """More messages; lost 0, out of order 0. Gives back the seconds it took."""
    verifier = Verifier(example.folder, service.port, f"verifier-{service.port}", user="observer", password="observer")
    bench.t.later(verifier.kill)
    began = time.monotonic()
    sensors = Sensors(example.folder, example.port, sensors=3, count=count // 3, topic="sensors/{}/load")
    sensors.result()
    result = verifier.expect(sensors.journal, seconds=60)
    check_delivery(bench.t, result, example.file)
    return time.monotonic() - began


def refusal(port, topic, *more):
    """What a publisher is told; nothing, if its message is taken."""
    try:
        publish(port, topic, "1", *more)
        return ""
    except RuntimeError as refused:
        return str(refused).splitlines()[0]


def command_down(bench, example, service, there, here):
    local = Listener(bench.t, example.folder / "device.log", example.port, "cmd/#", "-i", "device")
    service.publish(there, "open")
    got = local.wait(here)
    bench.t.check(f"{example.file}: a command comes down as {here}", got[4] == "open", got)


def mosquitto(bench):
    service = bench.service("mosquitto", users=[("plant-7", "secret")], rules="pattern readwrite plants/%u/#")
    example = bench.example("mosquitto.toml", "cloud", service.url, secrets={"cloud-password": "secret\n", **bench.client()}).connected()
    telemetry_up(bench, example, service, lambda topic: f"plants/plant-7/{topic}")
    in_order(bench, example, service)
    command_down(bench, example, service, "plants/plant-7/cmd/pump-3", "cmd/pump-3")
    bench.ends_well(example)


def hivemq_emqx(bench):
    service = bench.service("hivemq", users=[("plant-7", "secret")], rules="pattern readwrite plants/%u/#",
                            limits=CLOUD_LIMITS.format(retain="true", packet=1 << 20))
    example = bench.example("hivemq-emqx.toml", "cloud", service.url, secrets={"cloud-password": "secret\n"}).connected()
    telemetry_up(bench, example, service, lambda topic: f"plants/plant-7/{topic}")
    command_down(bench, example, service, "plants/plant-7/cmd/a/b", "cmd/a/b")
    version, _, user = service.logins("plant-7")[-1]
    bench.t.check("hivemq-emqx.toml: MQTT 5 with the user's name", (version, user) == ("p5", "plant-7"), service.logins("plant-7"))
    bench.ends_well(example)


def aws(bench):
    # A policy: each client below its own id, which is the name in its certificate.
    service = bench.service("aws", rules="pattern write plants/%c/#\npattern read commands/%c/#",
                            limits=CLOUD_LIMITS.format(retain="true", packet=128 * 1024 + 4096),
                            listener=MUTUAL.format(tls=bench.tls) + "use_identity_as_username true\nmax_qos 1\n")
    names = {"AmazonRootCA1.pem": "ca.pem", "plant-7.pem.crt": "plant-7.pem", "plant-7.private.pem.key": "plant-7.key"}
    secrets = {theirs: bench.tls / ours for theirs, ours in names.items()}
    example = bench.example("aws-iot-core.toml", "aws", service.url, "field", secrets).connected()
    telemetry_up(bench, example, service, lambda topic: f"plants/plant-7/{topic}")
    seconds = in_order(bench, example, service, 240)
    # The first tenth of a second's worth is a burst.
    bench.t.check("aws-iot-core.toml: not more than 80 messages a second", seconds > 232 / 80 - 0.1, f"240 in {seconds:.2f} s")
    command_down(bench, example, service, "commands/plant-7/valve", "cmd/valve")
    bench.ends_well(example)
    large = bench.folder / "large"
    for size, taken in ((128 * 1024 - 100, True), (128 * 1024, False)):
        large.write_bytes(b"x" * size)
        done = subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(example.port), "-V", "mqttv311", "-q", "1", "-t", "sensors/large",
                               "-f", large], capture_output=True, text=True, timeout=20)
        bench.t.check(f"aws-iot-core.toml: {size} bytes are {'taken' if taken else 'refused at the door, and the publisher notices'}",
                      (done.returncode == 0) == taken, done.stderr.strip())
    books = example.drained()
    bench.t.check("aws-iot-core.toml: the largest that is taken goes up", books["telemetry"]["forwarded"] == 244, books)


def iot_hub(bench):
    key = bench.folder / "azure-key"
    key.write_text("c2VjcmV0IGtleSBvZiBwbGFudC03\n")

    def token(file, days):
        subprocess.run([FILES / "azure-sas-token", "contoso.azure-devices.net", "plant-7", key, file, str(days)], check=True, timeout=20)
        return file.read_text().rstrip("\n")

    first = token(bench.folder / "azure-sas", 2)
    service = bench.service("iot-hub", users=[(IOT_HUB_USER, first)], rules=IOT_HUB_RULES, limits="max_packet_size 262144\nretain_available false\n",
                            listener="max_qos 1\n")
    example = bench.example("azure-iot-hub.toml", "hub", service.url, "field", {"azure-sas": f"{first}\n"}).connected()
    bench.t.check("azure-iot-hub.toml: MQTT 3.1.1, the user name as IoT Hub wants it, keep alive within its limit",
                  service.logins("plant-7")[-1] == ("p2", 240, IOT_HUB_USER), service.logins("plant-7"))
    seen = service.observe()
    up = "devices/plant-7/messages/events/$.ct=application%2Fjson&$.ce=utf-8"
    publish(example.port, "sensors/t1", '{"v": 21.5}', "-q", 2)
    topic, qos, _, _, text = seen.wait(up)
    letter = json.loads(text)
    bench.t.check("azure-iot-hub.toml: the envelope has the topic, the id and the payload", qos == 1 and letter["topic"] == "sensors/t1"
                  and letter["id"] == "plant-7/telemetry/1" and letter["payload"] == {"v": 21.5}, text)
    command_down(bench, example, service, "devices/plant-7/messages/devicebound/%24.to=x&level=2", "cmd/%24.to=x&level=2")
    # The token ends: the service closes the connection, and takes the next one only.
    (example.folder / "azure-sas").chmod(0o640)
    second = token(example.folder / "azure-sas", 3)
    mode = (example.folder / "azure-sas").stat().st_mode & 0o777
    bench.t.check("azure-sas-token: a renewed token keeps the mode of its file", mode == 0o640, oct(mode))
    service.stop()
    service.passwords(("observer", "observer"), (IOT_HUB_USER, second))
    service.start()
    publish(example.port, "sensors/t1", '{"v": 22}')
    example.drained()
    bench.t.check("azure-iot-hub.toml: a renewed token is taken up at the next connection", second != first and len(service.logins("plant-7")) >= 2)
    books = example.books()
    bench.t.check("azure-iot-hub.toml: the books balance", books["balanced"] and books["forwarded"] == 2, books)


def event_grid(bench):
    service = bench.service("event-grid", users=[("plant-7", "x")], rules="pattern write plants/%u/#\npattern read commands/%u/#",
                            limits=CLOUD_LIMITS.format(retain="false", packet=512 * 1024).replace("1200", "1160"),
                            listener=MUTUAL.format(tls=bench.tls) + "use_identity_as_username true\nmax_qos 1\n")
    example = bench.example("azure-event-grid.toml", "event-grid", service.url, "field", bench.client()).connected()
    telemetry_up(bench, example, service, lambda topic: f"plants/plant-7/{topic}", retain_kept=False)
    command_down(bench, example, service, "commands/plant-7/valve", "cmd/valve")
    bench.ends_well(example)


def home_assistant(bench):
    t = bench.t
    service = bench.service("home", users=[("barn", "secret")], rules="user barn\ntopic readwrite #", secure=False)
    users = bench.folder / "barn-users"
    subprocess.run([os.environ["TIDEGATE"], "passwd", users, "esp-barn"], input="hush\n", text=True, check=True, capture_output=True, timeout=20)
    example = bench.example("home-assistant.toml", "home", f"mqtt://127.0.0.1:{service.secure}", "barn",
                            {"home-password": "secret\n", "passwd": users}).connected()
    device = ["-u", "esp-barn", "-P", "hush"]
    config = '{"unique_id": "barn_t1", "state_topic": "barn/t1/state", "availability_topic": "barn/t1/status"}'
    publish(example.port, "homeassistant/sensor/barn_t1/config", config, "-r", *device)
    publish(example.port, "barn/t1/state", "7.5", *device)
    seen = service.observe()
    publish(example.port, "barn/t1/state", "7.6", *device)
    seen.wait("barn/t1/state")
    found = service.observe("homeassistant/#").wait("homeassistant/sensor/barn_t1/config")
    t.check("home-assistant.toml: discovery is found by who comes later", found[2] == 1 and json.loads(found[4])["unique_id"] == "barn_t1", found)
    doomed = Listener(t, example.folder / "doomed.log", example.port, "barn/t1/set", *device, "-i", "t1", "--will-topic", "barn/t1/status",
                      "--will-payload", "offline", "--will-qos", "1", "--will-retain")
    service.publish("barn/t1/set", "ON")
    t.check("home-assistant.toml: a switch is switched", doomed.wait("barn/t1/set")[4] == "ON")
    doomed.process.kill()
    t.check("home-assistant.toml: a device that vanishes is shown as offline", seen.wait("barn/t1/status")[4] == "offline")
    birth = Listener(t, example.folder / "birth.log", example.port, "homeassistant/status", *device, "-i", "birth")
    service.publish("homeassistant/status", "online")
    t.check("home-assistant.toml: devices hear that Home Assistant has started", birth.wait("homeassistant/status")[4] == "online")
    t.check("home-assistant.toml: no command comes back", len([got for got in seen.all() if got[0] == "barn/t1/set"]) == 1)
    said = refusal(example.port, "barn/t1/state", "-u", "esp-barn", "-P", "wrong")
    t.check("home-assistant.toml: a wrong password does not get in", "Bad User Name or Password" in said, said)
    books = example.drained()
    t.check("home-assistant.toml: the books balance", all(one["balanced"] for one in books.values()) and books["availability"]["forwarded"] == 1, books)


def hub_and_spoke(bench):
    t = bench.t
    service = bench.service("hub-cloud", users=[("plant-7", "secret")], rules="pattern readwrite plants/%u/#")
    make(bench.tls, "server", "hub", "localhost", "127.0.0.1")
    papers_of_hub = {"cloud-password": "secret\n", "tls/ca.pem": bench.tls / "ca.pem", "tls/hub.pem": bench.tls / "hub.pem",
                     "tls/hub.key": bench.tls / "hub.key"}
    hub = bench.example("hub-and-spoke/hub.toml", "cloud", service.url, "spokes", papers_of_hub).connected()
    spoke = bench.example("hub-and-spoke/spoke.toml", "hub", f"mqtts://localhost:{hub.port}", None, bench.client("plant-7-press")).connected()
    seen = service.observe()
    publish(spoke.port, "sensors/t1", "21.5")
    got = seen.wait("plants/plant-7/plant-7-press/sensors/t1")
    both = [word for word in got[3].split() if word.startswith("tg-id:")]
    t.check("hub and spoke: both ids go along, that of the spoke first", both == ["tg-id:plant-7-press/telemetry/1", "tg-id:plant-7/spokes/1"], got[3])
    renewal(bench, hub, spoke)
    verifier = Verifier(bench.folder, service.port, "verifier-hub", user="observer", password="observer")
    t.later(verifier.kill)
    before = Sensors(bench.folder, spoke.port, "before", sensors=3, count=200)
    before.result()
    hub.kill()
    during = Sensors(bench.folder, spoke.port, "during", first_sensor=10, sensors=3, count=500)
    t.check("hub and spoke: an outage of the hub is not noticed at the spoke", during.result(30)["acked"] == 1500)
    hub.start()
    result = verifier.expect(before.journal, during.journal, seconds=60)
    check_delivery(t, result, "hub and spoke: after a kill -9 of the hub", new_ids_allowed=600)
    wait_for("all is forwarded", lambda: spoke.drained() and hub.drained(), 30)

    def ids():
        """Those of the spoke and those of the hub; what either sent again has the ids that it had."""
        pairs = [[word[6:] for word in got[3].split() if word.startswith("tg-id:")] for got in seen.all()]
        return [set(column) for column in zip(*pairs, strict=True)]

    wait_for("the observer has it all", lambda: len(ids()[1]) == hub.books("spokes")["forwarded"], 20, 0.1)
    t.check("hub and spoke: the books of both balance", spoke.books()["balanced"] and hub.books("spokes")["balanced"]
            and spoke.books()["forwarded"] == 2101, [spoke.books(), hub.books("spokes")])
    came = len(seen.all())
    t.check("hub and spoke: by the id of the spoke each message is there once", len(ids()[0]) == 2101, f"{came} came, {len(ids()[1])} ids of the hub")
    hub.connected()
    spoke.connected()
    command_down(bench, spoke, service, "plants/plant-7/cmd/plant-7-press/stop", "cmd/stop")
    intruder = ["-h", "localhost", "--cafile", str(bench.tls / "ca.pem"), "--cert", str(bench.tls / "intruder.pem"), "--key", str(bench.tls / "intruder.key")]
    said = refusal(hub.port, "spokes/plant-7-press/x", *intruder)
    t.check("hub and spoke: no spoke speaks for another", "Not authorized" in said, said)
    publish(hub.port, "spokes/intruder/x", "1", *intruder)
    t.check("hub and spoke: each for itself", seen.wait("plants/plant-7/intruder/x")[4] == "1")


def renewal(bench, hub, spoke):
    """Both sides get new certificates while they are connected."""
    t = bench.t
    before = ssl.get_server_certificate(("127.0.0.1", hub.port))
    make(bench.tls, "server", "hub", "localhost", "127.0.0.1")
    make(bench.tls, "client", "plant-7-press")
    for side, name in ((hub, "hub"), (spoke, "plant-7-press")):
        for end in ("pem", "key"):
            new = side.folder / "tls" / f"new.{end}"
            new.write_bytes((bench.tls / f"{name}.{end}").read_bytes())
            new.rename(side.folder / "tls" / f"{name}.{end}")
    hub.process.child.send_signal(signal.SIGHUP)
    wait_for("the hub shows the new certificate", lambda: ssl.get_server_certificate(("127.0.0.1", hub.port)) != before, 20, 0.1)
    connects = spoke.metric("tidegate_uplink_connects_total", uplink="hub")
    t.check("tls/make: a renewed certificate is shown at once, and connections live on", connects == 1, connects)


def two_upstreams(bench):
    t = bench.t
    rules = "pattern readwrite plants/%u/#"
    one, two = (bench.service(name, users=[("plant-7", "secret")], rules=rules) for name in ("cloud-a", "cloud-b"))
    historian = bench.service("historian", secure=False)
    door = free_port()
    proxy, second = Proxy(door, one.secure), Proxy(free_port(), two.secure)
    t.later(proxy.close)
    t.later(second.close)
    example = Example(t, bench.folder / "two-upstreams", "two-upstreams.toml", None, {"cloud-password": "secret\n"}, {
        "TIDEGATE__UPLINK__CLOUD__URLS": f"mqtts://localhost:{door},mqtts://localhost:{second.port}", "SSL_CERT_FILE": str(bench.tls / "ca.pem"),
        "TIDEGATE__UPLINK__HISTORIAN__URL": f"mqtt://127.0.0.1:{historian.port}",
        "TIDEGATE__UPLINK__HISTORIAN__USERNAME": "observer", "TIDEGATE__UPLINK__HISTORIAN__PASSWORD_FILE": str(bench.password),
    })
    bench.begin(example).connected()
    seen = one.observe()
    publish(example.port, "sensors/t1", "21.5")
    seen.wait("plants/plant-7/sensors/t1")
    t.check("two-upstreams.toml: the first address is used", not two.logins("plant-7") and len(one.logins("plant-7")) == 1)
    # The first address goes; meanwhile telemetry gathers, then alarms.
    second.refusing = True
    proxy.refusing = True
    proxy.cut()
    wait_for("the cloud is gone", lambda: example.metric("tidegate_uplink_connected", uplink="cloud") == 0, 20)
    archive = Verifier(bench.folder, historian.port, "verifier-historian", user="observer", password="observer", filter="sensors/#")
    t.later(archive.kill)
    sensors = Sensors(bench.folder, example.port, "two", sensors=2, count=400)
    sensors.result()
    for number in range(20):
        publish(example.port, "alarms/a", f"alarm {number}")
    publish(example.port, "diagnostics/d", "lost", "-q", "0")
    check_delivery(t, archive.expect(sensors.journal, seconds=60), "two-upstreams.toml: the historian has everything meanwhile")
    # Whoever watches is there before the first message is.
    seen = two.observe()
    second.refusing = False
    example.drained()
    seen.wait("plants/plant-7/alarms/a")
    wait_for("all telemetry is there", lambda: len([got for got in seen.all() if "/sensors/" in got[0]]) >= 700, 30)
    places = [place for place, got in enumerate(seen.all()) if "/alarms/" in got[0]]
    t.check("two-upstreams.toml: the second address takes over, and alarms overtake telemetry", places and places[-1] < 400, places[-3:])
    books = example.drained()
    t.check("two-upstreams.toml: the books balance; diagnostics at QoS 0 were not kept", all(one["balanced"] for one in books.values())
            and books["diagnostics"]["dropped"] == 1 and books["archive"]["forwarded"] == 821 and books["telemetry"]["forwarded"] == 801, books)


def metered(bench):
    t = bench.t
    service = bench.service("metered", users=[("p7", "secret")], rules="pattern readwrite p7/#")
    proxy = Proxy(free_port(), service.secure)
    t.later(proxy.close)
    example = bench.example("metered-link.toml", "lte", f"mqtts://localhost:{proxy.port}", None, {"cloud-password": "secret\n"}).connected()
    login = proxy.carried["up"] + proxy.carried["down"]
    seen = service.observe()
    began, at = time.monotonic(), proxy.carried["up"]
    # At 200 bytes a second this takes longer than what is looked at.
    sensors = Sensors(bench.folder, example.port, "metered", count=60, size=60, topic="sensors/t{}")
    sensors.result()
    publish(example.port, "alarms/a", "fire")
    seen.wait("p7/alarms/a")
    waiting = example.books()["backlog"]
    t.check("metered-link.toml: an alarm does not wait for the backlog", waiting > 0, f"{waiting} wait")
    wait_for("4 s are over", lambda: time.monotonic() - began > 4, 10)
    seconds, waiting = time.monotonic() - began, example.books()["backlog"]
    pace = (proxy.carried["up"] - at) / seconds
    # On top of the 200: 6 bytes of MQTT and 22 of TLS for each message of some 70.
    t.check("metered-link.toml: the rate is held while there is a backlog", waiting > 0 and 50 < pace < 320, f"{pace:.0f} bytes/s on the wire, {waiting} wait")
    bench.ends_well(example)
    t.say(f"a new TLS connection with login costs {login} bytes")
    example.stop()
    plain = bench.service("metered-plain", users=[("p7", "secret")], rules="pattern readwrite p7/#", secure=False)
    for version, qos in (("5", 1), ("3.1.1", 1), ("3.1.1", 0)):
        relay = Proxy(free_port(), plain.secure)
        t.later(relay.close)
        example.env.update({"TIDEGATE__UPLINK__LTE__URL": f"mqtt://127.0.0.1:{relay.port}", "TIDEGATE__UPLINK__LTE__VERSION": version,
                            "TIDEGATE__UPLINK__LTE__QOS": str(qos), "TIDEGATE__UPLINK__LTE__RATE__BYTES_PER_S": "0B"})
        example.start()
        example.connected()
        before = dict(relay.carried)
        sensors = Sensors(bench.folder, example.port, f"metered-{version}-{qos}", sensors=1, count=500, size=100, topic="sensors/t{}")
        sensors.result()
        example.drained()
        example.stop()
        overhead = {way: (relay.carried[way] - before[way]) / 500 for way in relay.carried}
        expected = {("5", 1): 70, ("3.1.1", 1): 6, ("3.1.1", 0): 4}[version, qos]
        t.check(f"metered-link.toml: MQTT {version} at QoS {qos} costs about {expected} bytes a message besides topic and payload",
                abs(overhead["up"] - 100 - len("p7/sensors/t1") - expected) < 4, {way: round(size, 1) for way, size in overhead.items()})


def the_rest(bench):
    service = bench.service("rest", users=[("x", "x")], secure=False)
    for file, listener in (("minimal.toml", None), ("sd-card.toml", "field")):
        example = bench.example(file, "cloud", f"mqtt://127.0.0.1:{service.port}", listener,
                                TIDEGATE__UPLINK__CLOUD__USERNAME="observer", TIDEGATE__UPLINK__CLOUD__PASSWORD_FILE=str(bench.password),
                                TIDEGATE__UPLINK__CLOUD__CLIENT_ID=file).connected()
        in_order(bench, example, service)
        bench.ends_well(example)
        example.stop()


def main(t):
    bench = Bench(t)
    for part in (mosquitto, hivemq_emqx, aws, iot_hub, event_grid, home_assistant, hub_and_spoke, two_upstreams, metered, the_rest):
        began = time.monotonic()
        part(bench)
        t.say(f"{part.__name__}: {time.monotonic() - began:.1f} s")


with Theme("examples") as theme:
    main(theme)
