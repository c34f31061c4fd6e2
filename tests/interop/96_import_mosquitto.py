"""One mosquitto.conf, given to Mosquitto and (imported) to the gateway: both answer the same to logins, publications, subscriptions, and both
bring the same messages to an upstream and back under the same topics."""

import json
import os
import subprocess

from lab.mosquitto import Mosquitto
from lab.papers import EC, authority, certificate, openssl
from lab.process import Process, accepts, free_port, wait_for, workspace
from lab.report import Theme

CONF = """per_listener_settings false
user root
persistence true
persistence_location {folder}/mosquitto-data/
allow_anonymous {anonymous}
password_file {folder}/users
acl_file {folder}/rules
max_packet_size 20000
include_dir {folder}/{client}.d
"""

LISTENERS = """listener {port} 127.0.0.1
listener {tls} 127.0.0.1
certfile {folder}/server.pem
keyfile {folder}/server.key
cafile {folder}/ca.pem
require_certificate true
use_identity_as_username true
"""

BRIDGE = """connection cloud
address 127.0.0.1:{upstream}
remote_clientid {client}
remote_username plant
remote_password up
bridge_protocol_version mqttv50
restart_timeout 1 2
notifications false
topic free/# out 1 "" site7/
topic map/+/raw/# out 1 lane/ site7/mapped/
topic cmd/# in 1 "" site7/
topic both/# both 1
"""

RULES = """# anonymous
topic readwrite free/#
topic deny free/secret/#
user plant
topic readwrite free/#
topic readwrite lane/#
topic read cmd/#
topic readwrite both/#
topic write plant/in
topic deny plant/in/no
topic read plant/out
user plc
topic readwrite plc/#
pattern readwrite dev/%c/#
pattern read user/%u/#
pattern deny dev/%c/locked
"""

PLANT, WRONG, NOBODY = ["-u", "plant", "-P", "right"], ["-u", "plant", "-P", "wrong"], ["-u", "ghost", "-P", "x"]

# Who publishes where, and whether it arrives at a client that may read it: what the two have to agree on.
PUBLICATIONS = [
    ([], "a", "free/x"), ([], "a", "free/secret/x"), ([], "a", "lane/map/1/raw/x"), ([], "a", "other"), ([], "d1", "dev/d1/x"),
    ([], "d1", "dev/d2/x"), ([], "d1", "dev/d1/locked"), (PLANT, "p", "free/secret/x"), (PLANT, "p", "plant/in"), (PLANT, "p", "plant/in/no"),
    (PLANT, "p", "plant/out"), (PLANT, "p", "cmd/x"), (PLANT, "p", "dev/p/x"), (PLANT, "p", "dev/x/x"), (PLANT, "p", "user/plant/x"),
    (PLANT, "p", "lane/map/1/raw/a/b"), (PLANT, "p", "plc/x"),
]
# Who reads what of that.
READERS = [([], "a", "free/#"), ([], "a", "#"), (PLANT, "p", "#"), (PLANT, "p", "plant/out"), (PLANT, "p", "user/plant/#"), ([], "d1", "dev/d1/#")]


def client(program, port, who, client_id, *words, seconds=20):
    """Exit code and what it said, of mosquitto_pub or mosquitto_sub."""
    argv = [program, "-h", "127.0.0.1", "-p", port, "-V", "mqttv5", "-i", client_id, *who, *words]
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=seconds)
    return done.returncode, (done.stdout + done.stderr).strip()


def publishes(port, who, client_id, topic, text):
    """Whether a publication at QoS 1 was taken: `yes`, `denied` or `no login`."""
    code, said = client("mosquitto_pub", port, who, client_id, "-t", topic, "-m", text, "-q", 1)
    if code != 0:
        return "no login"
    return "denied" if "not authorized" in said.lower() else "yes"


class Side:
    """Mosquitto, or the gateway in its place, with an upstream of its own."""

    def __init__(self, t, folder, name, anonymous):
        self.name, self.folder = name, folder
        self.upstream = Mosquitto(folder / f"upstream-{name}", extra="")
        (folder / "upstream-users").write_text("")
        subprocess.run(["mosquitto_passwd", "-b", folder / "upstream-users", "plant", "up"], check=True)
        (folder / "upstream-users").chmod(0o644)
        self.upstream.config.write_text(self.upstream.config.read_text() + f"password_file {folder}/upstream-users\n")
        self.upstream.start()
        t.later(self.upstream.stop)
        self.port, self.tls = free_port(), free_port()
        self.conf = folder / f"{name}.conf"
        places = {"folder": folder, "port": self.port, "tls": self.tls, "upstream": self.upstream.port, "client": name, "anonymous": anonymous}
        self.conf.write_text(CONF.format(**places))
        own = folder / f"{name}.d"
        own.mkdir(exist_ok=True)
        (own / "1.conf").write_text(LISTENERS.format(**places))
        (own / "2.conf").write_text(BRIDGE.format(**places))
        self.heard = {}

    def ready(self):
        """Also the bridge, in both directions."""
        wait_for(f"{self.name} listens", lambda: self.process.alive() and accepts(self.port) and accepts(self.tls), 30)
        above = self.listens_above("ready", "site7/#")

        def through():
            client("mosquitto_pub", self.port, PLANT, "probe", "-t", "free/probe", "-m", "probe", "-q", 1)
            return "site7/free/probe" in above.log()

        wait_for(f"the bridge of {self.name}", through, 30, 0.2)
        above.kill()
        return self

    def reads(self, key, who, client_id, topic, *more, port=None):
        """A reader that goes on until the end; whether it was let in at all is to be seen in its log."""
        reader = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", "-h", "127.0.0.1", "-p", port or self.port, "-V", "mqttv5", "-i", client_id, *who,
                          "-t", topic, "-q", 1, "-F", "GOT %t %p", *more], self.folder / f"{self.name}-{key}.log")
        self.heard[key] = reader
        wait_for("the reader is subscribed, or sent away", lambda: "Subscribed" in reader.log() or not reader.alive(), 20)
        return reader

    def listens_above(self, key, topic):
        return self.reads(f"above-{key}", ["-u", "plant", "-P", "up"], f"above-{key}", topic, port=self.upstream.port)

    def got(self, key):
        """Topics and texts that a reader got, without probes and the figures of the broker."""
        lines = [line[4:] for line in self.heard[key].log().splitlines() if line.startswith("GOT ")]
        return sorted(line for line in lines if "probe" not in line and not line.startswith("$"))


class AsMosquitto(Side):
    def start(self):
        (self.folder / "mosquitto-data").mkdir(exist_ok=True)
        self.process = Process(["/usr/sbin/mosquitto", "-c", self.conf], self.folder / "mosquitto.log")
        return self.ready()


class AsTidegate(Side):
    def start(self):
        new = self.folder / "imported"
        done = subprocess.run([os.environ["TIDEGATE"], "import-mosquitto", "--json", self.conf, "-o", new], capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise RuntimeError(f"not imported: {done.stdout}{done.stderr}")
        self.notes = json.loads(done.stdout)["notes"]
        toml = new / "tidegate.toml"
        # What an importer cannot know: two of these run here, and none has the default port of the other.
        toml.write_text(toml.read_text() + f'\n[admin]\nbind = "127.0.0.1:{free_port()}"\n')
        env = {"TIDEGATE__GATEWAY__DATA_DIR": str(self.folder / "tidegate-data"), "TIDEGATE__STORE__MIN_FREE": "0", "TIDEGATE__GATEWAY__ID": "lab"}
        self.process = Process([os.environ["TIDEGATE"], "run", "-c", toml], self.folder / "tidegate.log", {**os.environ, **env})
        return self.ready()


def end(side):
    for reader in side.heard.values():
        reader.kill()
    side.process.terminate(30)


def logins(t, theirs, ours, anonymous):
    for what, who in (("nobody", []), ("a user", PLANT), ("a wrong password", WRONG), ("an unknown user", NOBODY)):
        answers = [publishes(side.port, who, "login", "free/login", "probe") for side in (theirs, ours)]
        t.check(f"anonymous {anonymous}: {what} is let in by both or by neither", answers[0] == answers[1], answers)


def publications(t, theirs, ours):
    for side in (theirs, ours):
        for number, (who, client_id, topic) in enumerate(READERS):
            # Rules with %c are about this client id; the others only must not be those of the writers.
            side.reads(number, who, "d1" if client_id == "d1" else f"r{number}", topic)
    for number, (who, client_id, topic) in enumerate(PUBLICATIONS):
        # A reader and a writer cannot share a client id: `d1` writes from where it reads.
        if client_id == "d1":
            continue
        answers = [publishes(side.port, who, client_id, topic, f"m{number}") for side in (theirs, ours)]
        t.check(f"{'plant' if who else 'nobody'} publishes to {topic}: both say the same", answers[0] == answers[1], answers)
    for side in (theirs, ours):
        side.heard[5].kill()
    for number, (who, client_id, topic) in enumerate(PUBLICATIONS):
        if client_id == "d1":
            answers = [publishes(side.port, who, client_id, topic, f"m{number}") for side in (theirs, ours)]
            t.check(f"d1 publishes to {topic}: both say the same", answers[0] == answers[1], answers)
    for side in (theirs, ours):
        publishes(side.port, PLANT, "last", "free/last", "last")
        wait_for("the last message is there", lambda s=side: any("last" in line for line in s.got(2)), 20)
    for number, (who, client_id, topic) in enumerate(READERS):
        got = [side.got(number) for side in (theirs, ours)]
        t.check(f"{client_id} reads {topic}: both bring the same", got[0] == got[1], got)


def certificates(t, theirs, ours, folder):
    with_papers = ["--cafile", folder / "ca.pem", "--cert", folder / "plc.pem", "--key", folder / "plc.key", "--insecure"]
    without = ["--cafile", folder / "ca.pem", "--insecure"]
    for what, words, topic in (("a certificate", with_papers, "plc/x"), ("a certificate elsewhere", with_papers, "free/x"), ("none", without, "plc/x")):
        answers = [publishes(side.tls, words, "plc", topic, "tls") for side in (theirs, ours)]
        t.check(f"{what}: both say the same", answers[0] == answers[1], answers)


def bridge(t, theirs, ours):
    for side in (theirs, ours):
        side.listens_above("all", "#")
        side.reads("below", PLANT, "below", "#")
        above = ["-u", "plant", "-P", "up"]
        for number in range(20):
            client("mosquitto_pub", side.port, PLANT, "w", "-t", f"lane/map/{number}/raw/a/b", "-m", f"u{number}", "-q", 1)
        client("mosquitto_pub", side.port, PLANT, "w", "-t", "both/up", "-m", "u", "-q", 1)
        client("mosquitto_pub", side.upstream.port, above, "w", "-t", "both/down", "-m", "d", "-q", 1)
        client("mosquitto_pub", side.upstream.port, above, "w", "-t", "site7/cmd/go", "-m", "d", "-q", 1)
        client("mosquitto_pub", side.upstream.port, above, "w", "-t", "other", "-m", "d", "-q", 1)
        client("mosquitto_pub", side.port, PLANT, "w", "-t", "free/end", "-m", "end", "-q", 1)
        client("mosquitto_pub", side.upstream.port, above, "w", "-t", "site7/cmd/end", "-m", "end", "-q", 1)
        wait_for("what goes up is there", lambda s=side: any("free/end" in line for line in s.got("above-all"))
                 and any("both/up" in line for line in s.got("above-all")) and sum("mapped" in line for line in s.got("above-all")) == 20, 30)
        wait_for("what comes down is there", lambda s=side: any("cmd/end" in line for line in s.got("below"))
                 and any("both/down" in line for line in s.got("below")), 30)
    for key, what in (("above-all", "the upstream"), ("below", "a local client")):
        got = [side.got(key) for side in (theirs, ours)]
        t.check(f"the bridge brings {what} the same messages under the same topics", got[0] == got[1],
                [sorted(set(got[0]) ^ set(got[1])), len(got[0]), len(got[1])])


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    authority(folder, "ca")
    certificate(folder, "ca", "server", 10)
    openssl(folder, "req", *EC, "-subj", "/CN=plc", "-keyout", "plc.key", "-out", "plc.csr")
    openssl(folder, "x509", "-req", "-in", "plc.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", 10, "-extfile", "names",
            "-out", "plc.pem")
    (folder / "rules").write_text(RULES)
    (folder / "users").write_text("")
    subprocess.run(["mosquitto_passwd", "-b", folder / "users", "plant", "right"], check=True)
    for anonymous in ("false", "true"):
        place = folder / anonymous
        place.mkdir()
        for name in ("users", "rules", "ca.pem", "server.pem", "server.key"):
            (place / name).symlink_to(folder / name)
        theirs, ours = AsMosquitto(t, place, "theirs", anonymous).start(), None
        t.later(lambda side=theirs: end(side))
        ours = AsTidegate(t, place, "ours", anonymous).start()
        t.later(lambda side=ours: end(side))
        lost = [note for note in ours.notes if note["became"] == "lost"]
        t.check(f"anonymous {anonymous}: nothing is lost", not lost, lost)
        logins(t, theirs, ours, anonymous)
    publications(t, theirs, ours)
    certificates(t, theirs, ours, folder)
    bridge(t, theirs, ours)


with Theme("import_mosquitto") as theme:
    main(theme)
