"""`tidegate doctor` against real upstreams, good and bad, full and odd disks; and beside a gateway under load, which must not notice."""

import json
import os
import subprocess

from lab.gateway import Gateway, check_books, warnings
from lab.load import Sensors
from lab.mosquitto import Mosquitto, start_tls_upstream
from lab.namespace import fill, own, small_disk
from lab.papers import EC, openssl
from lab.process import free_port, wait_for, workspace
from lab.report import Theme
from lab.rogue import Rogue


def doctor(gateway, *words, seconds=60):
    """Exit code, and the findings."""
    argv = [os.environ["TIDEGATE"], "doctor", "--json", *map(str, words), "-c", gateway.config]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds)
    try:
        return done.returncode, json.loads(done.stdout)["findings"]
    except (json.JSONDecodeError, KeyError):
        raise RuntimeError(f"no JSON: {done.stdout}{done.stderr}") from None


def find(findings, subject, grade, *words):
    """The finding of this grade about this subject that has all these words, in what was found or the advice."""
    def is_it(f):
        return subject in f["subject"] and f["grade"] == grade and all(w in f"{f['found']} {f['advice']}" for w in words)

    return next((f"{f['found']} > {f['advice']}" for f in findings if is_it(f)), None)


def checked(t, what, findings, subject, grade, *words):
    it = find(findings, subject, grade, *words)
    t.check(what, it is not None, it or [(f["subject"], f["grade"], f["found"]) for f in findings])


def beside_a_gateway(t, folder):
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    gateway = Gateway(folder / "gateway", upstream.port, listener="max_connections = 500").start()
    t.later(gateway.stop)
    wait_for("the uplink is connected", lambda: gateway.metric("tidegate_uplink_connected", uplink="cloud") == 1)
    sensors = Sensors(folder, gateway.port, sensors=10, rate=2000, mqtt=5, qos=1)
    wait_for("messages flow", lambda: gateway.books()["accepted"] > 1000, 30)
    before = set(os.listdir(gateway.data))
    code, findings = doctor(gateway)
    sent = sensors.stop()
    wrong = [f for f in findings if f["grade"] == "failed"]
    t.check("beside a gateway under load nothing fails", code == 0 and not wrong, wrong)
    checked(t, "the running gateway is seen by its lock", findings, "tidegate.lock", "ok", str(gateway.process.pid))
    checked(t, "and answers", findings, "[admin]", "ok", "ready")
    checked(t, "its uplink is connected, as it says", findings, "uplink cloud", "ok", "connected")
    checked(t, "its listener is its own", findings, "listener sensors", "ok", "held by the running gateway")
    checked(t, "its limits are its own", findings, "open files", "ok", "of the running gateway")
    checked(t, "Mosquitto lets the probe in", findings, "login", "ok", "lab-doctor-")
    t.check("every message was acknowledged over the first connections", sent["acked"] > 0 and sent["connects"] == 10, sent)
    t.check("the uplink's session was never interrupted", gateway.metric("tidegate_uplink_connects_total", uplink="cloud") == 1)
    t.check("nothing was left in the data folder", set(os.listdir(gateway.data)) == before, os.listdir(gateway.data))
    check_books(t, gateway)
    code, findings = doctor(gateway, "--own-client-id", "--only", "uplinks")
    checked(t, "the gateway's own client id is not used while it runs", findings, "--own-client-id", "failed")
    t.check("and that is an error", code == 1)
    bad = warnings(gateway.log())
    t.check("the gateway has nothing to say of all this", not bad, bad[:3])

    os.kill(gateway.process.pid, 19)
    code, findings = doctor(gateway, "--only", "gateway", seconds=90)
    os.kill(gateway.process.pid, 18)
    checked(t, "a gateway that hangs is told of", findings, "[admin]", "failed", "does not answer")
    upstream.stop()
    wait_for("the gateway has noticed", lambda: gateway.metric("tidegate_uplink_connected", uplink="cloud") == 0)
    code, findings = doctor(gateway, "--only", "gateway,uplinks")
    checked(t, "an uplink that is down is told of by the gateway", findings, "uplink cloud", "failed", "not connected")
    checked(t, "and by the probe", findings, "cloud mqtt://", "failed", "nothing listens on port")
    gateway.stop()
    code, findings = doctor(gateway, "--only", "gateway,listeners,data")
    checked(t, "a gateway that is stopped is no failure", findings, "process", "note", "no gateway runs")
    checked(t, "its port is free", findings, "listener sensors", "ok", "free")
    checked(t, "its database is of this version", findings, "tidegate.db", "ok", "version")
    t.check("and the exit code is 0", code == 0, findings)
    return gateway


def probe(t, what, gateway, grade, *words, code=1):
    given, findings = doctor(gateway, "--only", "uplinks,tls", "--timeout", "3s")
    checked(t, what, findings, "cloud", grade, *words)
    t.check(f"exit code {code}: {what}", given == code, given)
    return findings


def upstreams(t, folder):
    folder.mkdir()
    papers = folder / "papers"
    port, _ = start_tls_upstream(t, papers)
    ca = f'ca = "{papers}/ca.pem"\n'

    def tls(name, port, more=ca):
        return Gateway(folder / name, port, scheme="mqtts", uplink=more)

    findings = probe(t, "a good upstream with TLS", tls("good", port), "ok", "trusted", code=0)
    checked(t, "the certificate of the server has names and days", findings, "certificate", "warning", "localhost", " days left")
    told = find(findings, "ca.pem", "ok", " days left") or find(findings, "ca.pem", "warning", " days left")
    t.check("the days of the authority are told", told is not None, told)
    probe(t, "a server whose authority is not ours", tls("stranger", port, ""), "failed", "UnknownIssuer", "`ca`")
    (papers / "empty.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    probe(t, "an authority that is none", tls("garbage", port, f'ca = "{papers}/empty.pem"\n'), "failed", "empty.pem")

    old, other = free_port(), free_port()
    issue(papers, "old", "localhost", "20200101000000Z", "20200201000000Z")
    issue(papers, "other", "other.example.com", "20200101000000Z", "20400101000000Z")
    extra = "".join(f"listener {port} 127.0.0.1\ncertfile {papers}/{name}.pem\nkeyfile {papers}/{name}.key\n"
                    for port, name in ((old, "old"), (other, "other")))
    broker = Mosquitto(folder / "bad-papers", port=old, extra=extra).start()
    t.later(broker.stop)
    findings = probe(t, "an expired certificate", tls("expired", old), "failed", "expired")
    checked(t, "and since when", findings, "certificate", "failed", "has expired", "days ago")
    findings = probe(t, "a server of another name", tls("name", other), "failed", "not valid for name", "dial one of its names")
    checked(t, "and which names it has", findings, "certificate", "ok", "for other.example.com")

    (folder / "passwords").write_text("")
    subprocess.run(["mosquitto_passwd", "-b", folder / "passwords", "plant", "right"], check=True)
    (folder / "passwords").chmod(0o644)
    users = Mosquitto(folder / "users", extra="")
    users.config.write_text(users.config.read_text().replace("allow_anonymous true", "allow_anonymous false") + f"password_file {folder}/passwords\n")
    users.start()
    t.later(users.stop)
    for word, secret in (("right", "right"), ("wrong", "wrong")):
        secret_file = folder / f"secret-{word}"
        secret_file.write_text(secret + "\n")
        secret_file.chmod(0o600)
        more = f'username = "plant"\npassword_file = "{secret_file}"\n'
        gateway = Gateway(folder / f"password-{word}", users.port, uplink=more)
        if word == "right":
            probe(t, "a right password", gateway, "ok", "let \"lab-doctor-", code=0)
        else:
            probe(t, "a wrong password", gateway, "failed", "authori", "let this user in")
        probe(t, f"{word} password, MQTT 3.1.1", Gateway(folder / f"old-password-{word}", users.port, uplink=more + 'version = "3.1.1"\n'),
              "ok" if word == "right" else "failed", "let", code=0 if word == "right" else 1)

    only = Mosquitto(folder / "only", extra="")
    only.config.write_text(only.config.read_text() + "clientid_prefixes other\n")
    only.start()
    t.later(only.stop)
    probe(t, "an upstream that lets in other client ids only", Gateway(folder / "prefix", only.port), "failed", "--own-client-id")

    rogue = Rogue(free_port(), "says_nothing")
    t.later(rogue.close)
    probe(t, "an upstream that says nothing", Gateway(folder / "silent", rogue.listener.getsockname()[1]), "failed", "no answer within 3s")
    garbage = Rogue(free_port(), "sends_garbage_first")
    t.later(garbage.close)
    probe(t, "an upstream that sends garbage", Gateway(folder / "rogue", garbage.listener.getsockname()[1]), "failed", "protocol error")
    probe(t, "plain MQTT where TLS is dialled", tls("plain", users.port), "failed", "mqtt://")


def issue(papers, name, host, start, end):
    """`name.pem` and `name.key`, valid from `start` to `end`: what `openssl x509` cannot date back."""
    (papers / "issue.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n"
        f"x509_extensions=e\n[p]\ncommonName=supplied\n[e]\nsubjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n")
    (papers / "index.txt").write_text("")
    openssl(papers, "req", *EC, "-subj", f"/CN={host}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(papers, "ca", "-batch", "-config", "issue.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", f"{name}.csr",
            "-out", f"{name}.pem", "-notext", "-startdate", start, "-enddate", end)
    (papers / f"{name}.key").chmod(0o644)


def disks(t, folder):
    folder.mkdir()
    disk = small_disk(t, folder / "disk", 48)
    gateway = Gateway(folder / "gateway", free_port(), data=disk / "data", store='min_free = "1MiB"\nmax_bytes = "1GiB"')
    code, findings = doctor(gateway, "--only", "data,disk")
    checked(t, "memory is no disk", findings, "file system", "warning", "tmpfs", "gone with the power")
    checked(t, "a limit that the disk cannot hold", findings, "free space", "note", "max_bytes")
    checked(t, "too small a disk is not tried", findings, "disk", "warning", "not tried")
    t.check("all of that is a warning", code == 0, findings)
    fill(disk / "ballast")
    code, findings = doctor(gateway, "--only", "data,disk")
    checked(t, "a full disk", findings, "free space", "failed", "every message is refused")
    t.check("and its exit code", code == 1)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, findings = doctor(gateway, "--only", "data,disk")
    checked(t, "a read-only disk", findings, "file system", "failed", "read-only")
    large = small_disk(t, folder / "large", 256)
    gateway = Gateway(folder / "tried", free_port(), data=large / "data", store='min_free = "1MiB"')
    code, findings = doctor(gateway, "--only", "disk")
    checked(t, "a disk that is large enough is tried", findings, "one publisher", "ok", "messages/s")
    t.check("and left as it was", not os.listdir(large), os.listdir(large))


def damaged(t, gateway):
    """Of the stopped gateway: what lies in its data folder."""
    database = gateway.data / "tidegate.db"
    whole = database.read_bytes()
    for what, change, grade, word in (
        ("a newer database", whole[:60] + (99).to_bytes(4, "big") + whole[64:], "failed", "made by a newer program"),
        ("a database of another program", whole[:68] + b"ELSE" + whole[72:], "failed", "another program"),
        ("a damaged header", b"\xff" * 100 + whole[100:], "warning", "quarantine"),
    ):
        database.write_bytes(change)
        _, findings = doctor(gateway, "--only", "data")
        checked(t, what, findings, "tidegate.db", grade, word)
    database.write_bytes(whole)
    gateway.data.chmod(0o755)
    (gateway.data / "quarantine" / "x").mkdir(parents=True)
    (gateway.data / "quarantine" / "x" / "tidegate.db").write_bytes(b"x" * 5000)
    (gateway.data / "tidegate.db.damaged").write_text("x")
    _, findings = doctor(gateway, "--only", "data")
    checked(t, "a folder that others can look into", findings, "data", "warning", "chmod 0700")
    checked(t, "what lies in the quarantine", findings, "quarantine", "warning", "1 database was set aside")
    checked(t, "a salvage that is due", findings, "tidegate.db.damaged", "warning", "next start")


def main(t):
    folder = workspace(t)
    gateway = beside_a_gateway(t, folder)
    damaged(t, gateway)
    upstreams(t, folder / "upstreams")
    disks(t, folder / "disks")


own()
with Theme("doctor") as theme:
    main(theme)
