"""Messages carried by file from a gateway without a network to another: upstream they are what they would have been, once."""

import json
import os
import subprocess

from lab.gateway import Gateway, check_books
from lab.load import Sensors
from lab.mosquitto import Mosquitto
from lab.process import Process, free_port, wait_for, workspace
from lab.report import Theme

COUNT = 400
BINARY = bytes(range(256))


def publish(gateway, *words, payload=b"x"):
    """One message with properties, acknowledged."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-V", "5", "-q", "1", *words, "-s"]
    subprocess.run(command, input=payload, check=True, timeout=20)


def seen(log):
    """What the upstream's subscriber got: (topic, payload, user properties, other properties), in order."""
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            message = json.loads(line)
            properties = message.get("properties", {})
            user = properties.pop("user-properties", [])
            user = [tuple(pair.items())[0] if isinstance(pair, dict) else tuple(pair) for pair in (user if isinstance(user, list) else user.items())]
            yield message["topic"], message.get("payload"), user, properties


def main(t):
    folder = workspace(t)
    lonely = Gateway(folder / "lonely", free_port()).start()
    t.later(lonely.stop)
    Sensors(folder, lonely.port, sensors=4, count=COUNT // 4, size=200).result()
    publish(lonely, "-t", "sensors/rich", "-D", "publish", "content-type", "text/plain", "-D", "publish", "correlation-data", "abc",
            "-D", "publish", "response-topic", "re/ply", "-D", "publish", "user-property", "unit", "K", payload="Süd 21.5".encode())
    publish(lonely, "-t", "sensors/binary", payload=BINARY)
    publish(lonely, "-t", "sensors/short", "-D", "publish", "message-expiry-interval", "3600", payload=b"1")
    file = folder / "telemetry.ndjson"
    code, said = lonely.cli("export", "telemetry", "-o", file)
    t.check("the running gateway is exported", code == 0 and said.startswith(f"{COUNT + 3} messages of telemetry"), said.strip())
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lonely.kill()
    before = {path.name: path.read_bytes() for path in lonely.data.iterdir()}
    again = folder / "again.ndjson"
    code, said = lonely.cli("export", "telemetry", "-o", again)
    same = [line | {"expires": ""} for line in map(json.loads, again.read_text().splitlines())]
    t.check("after kill -9 its data directory gives the same", code == 0 and same == [line | {"expires": ""} for line in lines], said.strip())
    t.check("and nothing in it was changed", before == {path.name: path.read_bytes() for path in lonely.data.iterdir()})

    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    log = folder / "subscriber.log"
    subscriber = Process(["mosquitto_sub", "-h", "127.0.0.1", "-p", upstream.port, "-V", "5", "-q", "1", "-i", "watch", "-t", "#",
                          "-F", "%j"], log)
    t.later(subscriber.kill)
    other = Gateway(folder / "other", upstream.port)
    other.reconfigure('id = "lab"', 'id = "headquarters"')
    other.start()
    t.later(other.stop)
    publish(other, "-t", "sensors/own", payload=b"ready")
    wait_for("the subscriber is there", lambda: any(topic == "sensors/own" for topic, *_ in seen(log)) or publish(
        other, "-t", "sensors/own", payload=b"ready"), 30, 0.2)
    other.wait_drained()
    accepted = other.books()["accepted"]
    code, said = other.cli("import", "telemetry", file)
    t.check("all is imported", code == 0 and said.startswith(f"{COUNT + 3} messages imported"), said.strip())
    other.wait_drained()
    wait_for("everything is upstream", lambda: sum(topic != "sensors/own" for topic, *_ in seen(log)) >= COUNT + 3, 30, 0.1)
    got = [message for message in seen(log) if message[0] != "sensors/own"]
    marks = [(dict(user).get("tg-id"), dict(user).get("tg-time")) for _, _, user, _ in got]
    t.check("in order, each with the id and time that it had", marks == [(line["id"], line["time"]) for line in lines], marks[:2])
    t.check("ids are those of the first gateway", all(mark[0].startswith("lab/telemetry/") for mark in marks))
    rich = next(message for message in got if message[0] == "sensors/rich")
    t.check("with all properties", ("unit", "K") in rich[2] and rich[3].get("content-type") == "text/plain"
            and rich[3].get("response-topic") == "re/ply" and "correlation-data" in rich[3], rich)
    short = next(message for message in got if message[0] == "sensors/short")
    t.check("the message expiry is lowered by all the time that passed", 0 < short[3].get("message-expiry-interval", 0) <= 3600, short[3])

    code, said = other.cli("import", "telemetry", file)
    t.check("the same file again brings nothing", code == 0 and said.startswith("0 messages imported") and f"{COUNT + 3} skipped" in said, said)
    check_books(t, other)
    t.check("the books count what came in", other.books()["accepted"] == accepted + COUNT + 3, other.books())
    code, said = other.cli("export", "telemetry")
    t.check("an empty stream is an empty file", code == 0, said.strip())

    pages = folder / "man"
    subprocess.run([os.environ["TIDEGATE"], "man", pages], check=True, capture_output=True)
    said = "".join(subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True).stderr
                   for page in sorted(pages.iterdir()))
    t.check("the manual pages are set without a warning", said == "" and len(list(pages.iterdir())) > 20, said[:500])


with Theme("export") as theme:
    main(theme)
