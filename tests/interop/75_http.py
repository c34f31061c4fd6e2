"""The HTTP interface of a running gateway: every answer held against its own OpenAPI document by schemathesis, messages published over it
that survive kill -9 in order, clients of others seen and sent away, bodies as real HTTP clients send them."""

import http.client
import json
import os
import pathlib
import re
import subprocess
import threading
import urllib.parse

from lab.gateway import Gateway, check_books, warnings
from lab.mosquitto import Mosquitto
from lab.process import Process, wait_for, workspace
from lab.report import Theme

DOCUMENT = pathlib.Path(__file__).parents[2] / "src/admin/openapi.json"
EXAMPLES = int(os.environ.get("HTTP_EXAMPLES") or 20)
TOKEN = "Aa0-s3cret"

# What no check can know from the document alone.
EXCEPTIONS = """
[[operations]]
include-operation-id = "purgeAllDead"
checks.positive_data_acceptance.enabled = false  # one of two parameters is needed, and not both

[[operations]]
include-operation-id = "events"
enabled = false  # an answer without end

[[operations]]
include-operation-id = "import"
checks.positive_data_acceptance.enabled = false  # the body is lines, of which a schema knows nothing

[[operations]]
include-operation-id = "replay"
checks.positive_data_acceptance.enabled = false  # a time may be one that RFC 3339 cannot say
"""


def ask(gateway, method, path, body=None, headers=None):
    """Status, headers and parsed body of one request; the headers are as they are given, `Host` included."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(text) if text.startswith((b"{", b"[")) else text
    finally:
        connection.close()


def publish(gateway, topic, body, **parameters):
    query = urllib.parse.urlencode({"topic": topic, **parameters})
    status, _, answer = ask(gateway, "POST", f"/api/v1/publish?{query}", body)
    return status, answer


def dead_letters(gateway):
    """Five more messages that no upstream can be sent: nothing there can be called odd/a+b. Gives the list of all."""
    before = ask(gateway, "GET", "/api/v1/dead")[2]["messages"]
    for _ in range(5):
        subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(gateway.port), "-i", "a+b", "-q", "1", "-t", "odd/x", "-m", "x"],
                       check=True, timeout=30)
    wait_for("dead letters", lambda: ask(gateway, "GET", "/api/v1/dead")[2]["messages"] == before + 5, 20)
    return ask(gateway, "GET", "/api/v1/dead")


def schemathesis(t, folder, gateway, name, config="", *argv):
    """One run; gives what it said, its failures first."""
    file = folder / f"{name}.toml"
    file.write_text(config + EXCEPTIONS)
    environment = {k: v for k, v in os.environ.items() if k != "SEED"}
    done = subprocess.run(
        [os.environ["INTEROP_SCHEMATHESIS"], "--config-file", str(file), "run", str(DOCUMENT), "--url", f"http://127.0.0.1:{gateway.admin}",
         "--seed", str(t.seed % (1 << 31)), "--max-examples", str(EXAMPLES), "--continue-on-failure",
         "--warnings", "off", "--request-timeout", "30", *map(str, argv)],
        capture_output=True, text=True, timeout=300, cwd=folder, env={**environment, "NO_COLOR": "1"}, stdin=subprocess.DEVNULL)
    said = "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines() if line.strip())
    cases = re.search(r"(\d+) generated", said)
    t.check(f"every answer is one of the document: {name}", done.returncode == 0 and cases is not None, cases[0] if cases else "nothing was asked")
    if done.returncode != 0:
        t.say(said)


def held_against_the_document(t, folder, gateway):
    """Right and wrong data: once with names that nobody has, once with those of what is there."""
    schemathesis(t, folder, gateway, "any names, right and wrong", "", "--phases", "coverage,fuzzing")
    _, _, dead = dead_letters(gateway)
    known = f'[parameters]\nname = "telemetry"\n"path.id" = "{dead["dead"][0]["id"]}"\n'
    schemathesis(t, folder, gateway, "names that are there", known, "--phases", "fuzzing", "--mode", "positive")
    t.check("and it lives", ask(gateway, "GET", "/health/live")[0] == 200)


class Sub:
    """mosquitto_sub with a session that stays."""

    def __init__(self, folder, name, port, topic, *more):
        self.process = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", port, "-i", name, "-q", 1, "-t", topic,
                                "-F", "GOT %p", *more], folder / f"{name}.log")
        wait_for(f"{name} is subscribed", lambda: "Subscribed" in self.process.log(), 20)

    def got(self):
        return [line[4:] for line in self.process.log().splitlines() if line.startswith("GOT ")]


def published_survives_kill(t, folder, gateway, upstream):
    """What was answered 200 is upstream after kill -9, in order and, first deliveries, once."""
    reader = Sub(folder, "reader", upstream.port, "sensors/http")
    accepted, last = [], threading.Event()

    def publisher():
        connection = http.client.HTTPConnection("127.0.0.1", gateway.admin, timeout=10)
        for number in range(1_000_000):
            try:
                connection.request("POST", "/api/v1/publish?topic=sensors/http", str(number))
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                break
            if answer.status != 200:
                break
            accepted.append(number)
        last.set()

    thread = threading.Thread(target=publisher)
    thread.start()
    wait_for("300 messages are accepted", lambda: len(accepted) >= 300, 60)
    gateway.kill()
    last.wait(30)
    thread.join()
    gateway.start()
    wait_for("what was accepted is upstream", lambda: str(accepted[-1]) in reader.got(), 30)
    first = list(dict.fromkeys(map(int, reader.got())))
    t.check("kill -9 loses nothing that was answered 200", set(accepted) <= set(first), f"{len(accepted)} accepted")
    t.check("... and changes no order", first == sorted(first) and len(first) <= len(accepted) + 1, len(first))
    reader.process.terminate()


def clients(t, folder, gateway):
    """Clients of others are seen, and sent away."""
    doomed = Sub(folder, "doomed", gateway.port, "x/#", "-V", "mqttv5", "-c", "-x", "3600", "--will-topic", "wills", "--will-payload", "gone")
    watcher = Sub(folder, "watcher", gateway.port, "wills")
    _, _, page = ask(gateway, "GET", "/api/v1/clients")
    seen = {client["id"]: client for client in page["clients"]}
    good = seen["doomed"]["version"] == "5" and seen["doomed"]["lasting"] and not seen["watcher"]["lasting"]
    t.check("clients are seen as they are", good and seen["watcher"]["subscriptions"] == 1, seen)
    status, _, answer = ask(gateway, "DELETE", "/api/v1/clients/doomed")
    t.check("one is sent away", (status, answer) == (200, {"id": "doomed", "disconnected": True}), answer)
    wait_for("its will", lambda: watcher.got() == ["gone"], 20)
    wait_for("it hears why", lambda: "Received DISCONNECT (152)" in doomed.process.log(), 20)
    doomed.process.terminate()
    wait_for("it is away", lambda: ask(gateway, "GET", "/api/v1/clients?state=away")[2]["away"] == 1, 20)
    publish(gateway, "x/y", b"later")
    _, _, page = ask(gateway, "GET", "/api/v1/clients?state=away")
    t.check("what waits for one that is away is seen", page["clients"][0]["queued"]["messages"] == 1, page)
    t.check("one that is away cannot be sent away", ask(gateway, "DELETE", "/api/v1/clients/doomed")[0] == 404)
    watcher.process.terminate()


def bodies(t, folder, gateway):
    """Bodies as curl and Python send them."""
    binary = os.urandom(200_000)
    file = folder / "body"
    file.write_bytes(binary)
    url = f"http://127.0.0.1:{gateway.admin}/api/v1/publish?topic="

    def curl(*argv):
        done = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *argv], capture_output=True, text=True, timeout=60)
        return (done.stdout or done.stderr).rsplit("\n", 1)

    for name, more in [("plainly", []), ("in chunks", ["-H", "Transfer-Encoding: chunked"]), ("after 100 Continue", ["-H", "Expect: 100-continue"])]:
        body, status = curl(*more, "--data-binary", f"@{file}", url + "kept&retain=true")
        t.check(f"curl sends 200 kB {name}", status == "200" and json.loads(body)["bytes"] == len(binary), body)
        got = subprocess.run(["mosquitto_sub", "-h", "127.0.0.1", "-p", str(gateway.port), "-t", "kept", "-C", "1", "-N"], capture_output=True, timeout=30)
        t.check(f"... and that is the message ({name})", got.stdout == binary, len(got.stdout))
    with open(file, "wb") as out:
        out.truncate(20_000_000)
    for name, more in [("plainly", ["-H", "Expect:"]), ("in chunks", ["-H", "Transfer-Encoding: chunked"]), ("after 100 Continue", [])]:
        body, status = curl(*more, "--data-binary", f"@{file}", url + "kept")
        t.check(f"curl hears that 20 MB are too much, sent {name}", status == "413" and "too-large" in body, f"{status} {body[:200]}")


def no_room(t, gateway):
    """A stream that is full refuses, and says which."""
    statuses = [publish(gateway, "little/x", b"x") for _ in range(4)]
    good = [status for status, _ in statuses] == [200, 200, 507, 507]
    t.check("507 where a stream is full", good and "`little`" in statuses[3][1]["error"]["message"], statuses[3])


def with_a_token(t, folder, upstream):
    """On all addresses: the token, and a name of the gateway's own in `hosts`."""
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    gateway = Gateway(folder / "open", upstream.port)
    gateway.reconfigure(f'[admin]\nbind = "127.0.0.1:{gateway.admin}"', f'[admin]\nbind = "0.0.0.0:{gateway.admin}"\ntoken_file = "{token}"\nhosts = ["gw.plant.example"]')
    gateway.start()
    t.later(gateway.stop)
    right = {"Authorization": f"Bearer {TOKEN}"}
    for what, headers, expected in [("no token", {}, 401), ("a wrong token", {"Authorization": "Bearer x"}, 401), ("the token", right, 200),
                                    ("a name in `hosts`", {**right, "Host": "gw.plant.example"}, 200),
                                    ("a name of somebody else", {**right, "Host": "evil.example"}, 403)]:
        status, _, answer = ask(gateway, "GET", "/api/v1/status", headers=headers)
        t.check(f"{what}: {expected}", status == expected, answer)
    schemathesis(t, folder, gateway, "with a token", "", "-H", f"Authorization: Bearer {TOKEN}", "--phases", "coverage", "--mode", "positive")


def main():
    with Theme("http") as t:
        folder = workspace(t)
        upstream = Mosquitto(folder / "upstream", extra="").start()
        t.later(upstream.stop)
        more = ('retain_sent = "1h"\n[[stream]]\nname = "little"\nfrom = ["little/#"]\nmax_messages = 2\n'
                '[[stream]]\nname = "odd"\nfrom = ["odd/#"]\nto = "cloud"\ntopic = "odd/{client}"')
        gateway = Gateway(folder / "gateway", upstream.port, stream=more)
        gateway.start()
        t.later(gateway.stop)
        published_survives_kill(t, folder, gateway, upstream)
        clients(t, folder, gateway)
        bodies(t, folder, gateway)
        no_room(t, gateway)
        check_books(t, gateway)
        held_against_the_document(t, folder, gateway)
        with_a_token(t, folder, upstream)
        errors = [line for line in warnings(gateway.log()) if "ERROR" in line]
        t.check("no error in the log", not errors, errors[:3])


main()
