"""The units of systemd/ under a systemd that runs: every claim of their comments, and every drop-in."""

import json
import pathlib

from lab.process import TookTooLong, wait_for
from lab.report import Theme
from system import System, log_file, packages

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
CONFIG = "/etc/tidegate/tidegate.toml"
DROP_INS = "/etc/systemd/system/tidegate.service.d"
PLAIN = """
[[listener]]
name = "field"
bind = "127.0.0.1:1883"

[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:2883"
backoff = { min = "200ms", max = "1s" }

[[stream]]
name = "telemetry"
from = ["sensors/#"]
to = "cloud"
"""


class Units(System):
    """A system with the program of the package and the units of the checkout, as somebody installs them by hand."""

    def __init__(self, t):
        super().__init__(t, log_file("50-units"))
        self.t = t
        self.put(packages()[0], "/tmp/tidegate.deb")
        self.run("dpkg -x /tmp/tidegate.deb /tmp/package && install -m 755 /tmp/package/usr/bin/tidegate /usr/bin/; mkdir -p /usr/lib/sysusers.d /usr/lib/tmpfiles.d")
        for name in ("tidegate.service", "tidegate@.service"):
            self.put(UNITS / name, f"/usr/lib/systemd/system/{name}")
        for kind in ("sysusers", "tmpfiles"):
            self.put(UNITS / f"tidegate.{kind}", f"/usr/lib/{kind}.d/tidegate.conf")
        self.run("systemctl daemon-reload")

    def configure(self, text, path=CONFIG):
        self.write(path, text)
        self.run(f"chmod 644 {path}")

    def drop_in(self, text, name="test", folder=DROP_INS):
        self.write(f"{folder}/{name}.conf", text)
        self.run("systemctl daemon-reload")

    def copy_drop_in(self, name):
        self.drop_in((UNITS / "drop-ins" / f"{name}.conf").read_text(), name)

    def without(self, name="test"):
        self.run(f"rm -f {DROP_INS}/{name}.conf; systemctl daemon-reload")

    def state(self, unit="tidegate.service"):
        return f"{self.property('ActiveState', unit)}/{self.property('SubState', unit)}"

    def wait_state(self, state, unit="tidegate.service", seconds=40.0):
        wait_for(f"{unit} is {state}", lambda: self.state(unit) == state, seconds, every=0.1)

    def journal(self, options="", unit="tidegate.service"):
        return self.run(f"journalctl --no-pager -o cat -b -u {unit} {options}", log=False).stdout

    def says(self, *words, options="-p err", unit="tidegate.service"):
        """Waits for a line of the journal that has all these words, and gives it back; "" if there is none."""
        def line():
            return next((line for line in self.journal(options, unit).split("\n") if all(word in line for word in words)), "")

        try:
            return wait_for(f"the journal says {words}", line, 20, every=0.1)
        except TookTooLong:
            return ""

    def publish_one(self, payload, options=""):
        """One message at QoS 1, acknowledged or not: the exit code of mosquitto_pub."""
        return self.run(f"mosquitto_pub -V 5 -q 1 -i one -t sensors/a -m {payload} {options}", check=False).returncode

    def start_upstream(self):
        """Mosquitto, which wants the password of the credential."""
        self.write("/tmp/upstream.conf", "listener 2883 127.0.0.1\npassword_file /tmp/upstream.users\n")
        self.run("mosquitto_passwd -b -c /tmp/upstream.users plant hunter2; chown mosquitto /tmp/upstream.users")
        self.run("systemd-run --quiet --unit=upstream mosquitto -c /tmp/upstream.conf")


def older_unit(t, system):
    """Data that a unit with DynamicUser=yes left."""
    system.run("mkdir -p /etc/tidegate")
    system.configure(PLAIN)
    system.drop_in("[Service]\nUser=\nGroup=\nDynamicUser=yes\nRestartSec=1s\n")
    system.run("systemctl start tidegate")
    system.publish([f"old-{n}" for n in range(20)])
    before = system.stored("telemetry")
    t.check("an older unit keeps its data below /var/lib/private", system.run("readlink /var/lib/tidegate").stdout.strip() == "private/tidegate")
    system.run("systemctl stop tidegate; systemd-sysusers; systemd-tmpfiles --create tidegate.conf")
    system.without()
    system.run("systemctl start tidegate")
    owners = system.run("stat -c '%U %G %a' /var/lib/tidegate; find /var/lib/tidegate -not -user tidegate; ls /var/lib/private").stdout
    t.check("this unit moves it back, and it is the user's", owners == "tidegate tidegate 700\n", owners)
    t.check("with every message", system.stored("telemetry") == before and len(before) == 20, len(before))


def starts(t, system):
    """The start, what it makes, and what the journal gets."""
    system.run("systemctl stop tidegate")
    done = system.run("systemctl start tidegate && mosquitto_pub -q 1 -t sensors/a -m first", check=False)
    t.check("`systemctl start` ends when clients are served", done.returncode == 0, done.said)
    made = system.run("stat -c '%n %U %a' /run/tidegate /etc/tidegate/secrets; getent passwd tidegate | cut -d: -f6,7").stdout.split("\n")
    t.check("folders are made for their owners", made[:2] == ["/run/tidegate tidegate 755", "/etc/tidegate/secrets root 700"], made)
    t.check("the user has no shell", made[2] == "/var/lib/tidegate:/usr/sbin/nologin", made[2])
    t.check("the summary of what it is going to do is in the journal", "telemetry  sensors/#  cloud" in system.journal())
    line = json.loads(system.run("journalctl -o json -b TIDEGATE_EVENT='gateway ready' | tail -1").stdout)
    fields = {name: line.get(name) for name in ("_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER", "PRIORITY", "TIDEGATE_STREAMS", "TIDEGATE_GATEWAY")}
    expected = ["tidegate.service", "tidegate", "6", "1", system.run("hostname").stdout.strip()]
    t.check("fields of the log are fields of the journal", list(fields.values()) == expected, fields)
    status = "0 of 1 uplinks connected, backlog 21 messages"
    wait_for(f"the status is {status!r}", lambda: status in system.property("StatusText"), 20, every=0.1)
    t.check("`systemctl status` says how it is", status in system.run("systemctl status tidegate").stdout)
    done = system.run("tidegate doctor --json", check=False)
    findings = json.loads(done.stdout)["findings"]
    bad = [(f["subject"], f["found"]) for f in findings if f["grade"] == "failed" and "cloud" not in f["subject"]]
    t.check("doctor, asked by root beside the service, fails nothing but the upstream that is not there", not bad, bad)


def reloads(t, system):
    """A reload that is applied, and one that is refused."""
    pid = system.property("MainPID")
    system.write("/etc/tidegate/conf.d/10-more.toml", '[[listener]]\nname = "more"\nbind = "127.0.0.1:1884"\n')
    system.run("chmod 644 /etc/tidegate/conf.d/*; systemctl reload tidegate")
    wait_for("the new listener", lambda: system.publish_one("more", "-p 1884") == 0, 20, every=0.1)
    t.check("a reload is applied without a restart", system.property("MainPID") == pid)
    system.write("/etc/tidegate/conf.d/20-wrong.toml", '[[listener]]\nname = "wrong"\nbnd = "127.0.0.1:1885"\n')
    system.run("chmod 644 /etc/tidegate/conf.d/*")
    done = system.run("systemctl reload tidegate", check=False)
    t.check("a reload with an error fails for whoever asked", done.returncode == 1, done.said)
    t.check("and the gateway goes on with what it had", system.property("MainPID") == pid and system.publish_one("more", "-p 1884") == 0)
    t.check("the problem is an error of the journal, with its file and line", system.says("20-wrong.toml:3: listener[2].bnd (wrong)"))
    system.run("rm /etc/tidegate/conf.d/*")


def killed(t, system):
    """kill -9, and a gateway that stands still."""
    system.publish([f"kill-{n}" for n in range(50)])
    before = system.stored("telemetry")
    restarts = int(system.property("NRestarts"))
    system.run("systemctl kill -s KILL tidegate")
    wait_for("a restart", lambda: int(system.property("NRestarts")) > restarts and system.state() == "active/running", 30, every=0.1)
    t.check("after kill -9 it is started again, with everything", system.stored("telemetry") == before, len(before))
    system.drop_in("[Service]\nWatchdogSec=2s\nRestartSec=1s\n")
    system.run("systemctl restart tidegate")
    restarts = int(system.property("NRestarts"))
    system.publish([f"stop-{n}" for n in range(50)])
    before = system.stored("telemetry")
    system.run("systemctl kill -s STOP --kill-who=main tidegate")
    wait_for("a restart", lambda: int(system.property("NRestarts")) > restarts and system.state() == "active/running", 40, every=0.1)
    t.check("one that stands still is ended by the watchdog", system.says("Watchdog timeout"))
    t.check("and comes back with everything", system.stored("telemetry") == before, len(before))
    t.check("the books balance", system.books("telemetry")["balance"])
    system.without()


def stays_down(t, system):
    """What somebody has to correct is not tried again; what may pass by itself is."""
    system.configure(PLAIN.replace("[[stream]]", "[[straem]]"))
    done = system.run("systemctl restart tidegate", check=False)
    t.check("with a refused configuration `systemctl start` fails", done.returncode == 1)
    # With a restart to come it would be activating/auto-restart.
    t.check("and nothing is tried again", (system.state(), system.property("ExecMainStatus")) == ("failed/failed", "78"), system.state())
    system.says("straem: unknown key", "did you mean `stream`?")
    said = system.run("systemctl status tidegate", check=False).stdout
    t.check("its status says what is wrong", "straem: unknown key; did you mean `stream`?" in said and "status=78" in said, said[-200:])
    system.configure(PLAIN)
    system.run("systemctl start tidegate")
    t.check("corrected, it starts", system.state() == "active/running")
    system.drop_in("[Service]\nExecStart=\nExecStart=/usr/bin/tidegate run --cnofig /etc/tidegate/tidegate.toml\n")
    system.run("systemctl restart tidegate", check=False)
    t.check("nor is a wrong command line", (system.state(), system.property("ExecMainStatus")) == ("failed/failed", "2"), system.state())
    system.drop_in("[Service]\nRestartSec=500ms\n")
    system.configure(PLAIN.replace("127.0.0.1:1883", "gateway.plant.example:1883"))
    system.run("systemctl start tidegate", check=False)
    t.check("without a network a name to listen on is not known, which may pass", system.says("this name cannot be resolved"))
    system.write("/etc/hosts", "127.0.0.1 gateway.plant.example\n", "a")
    system.wait_state("active/running")
    t.check("and when it is known the gateway starts by itself", system.publish_one("named") == 0)
    system.configure(PLAIN.replace("[[listener]]", '[gateway]\ndata_dir = "/opt/data"\n[[listener]]'))
    system.run("mkdir /opt/data; chown tidegate /opt/data; systemctl restart tidegate", check=False)
    t.check("a data folder that the unit keeps read-only is named", system.says("/opt/data", "Read-only file system"))
    system.configure(PLAIN)
    system.run("systemctl stop tidegate")
    system.without()


def credentials(t, system):
    """A password, a token and a TLS key that root alone can read."""
    system.copy_drop_in("credentials")
    system.drop_in("[Service]\nRestartSec=500ms\n")
    folder = "/run/credentials/tidegate.service"
    tls = f'[[listener]]\nname = "tls"\nbind = "127.0.0.1:8883"\nanonymous = true\ntls = {{ cert = "gw.pem", key = "{folder}/cloud-key" }}\n'
    more = f'username = "plant"\npassword_file = "{folder}/cloud-password"\n\n[[stream]]'
    system.configure(f'{tls}[admin]\ntoken_file = "{folder}/admin-token"\n' + PLAIN.replace("[[stream]]", more))
    done = system.run("systemctl start tidegate", check=False)
    t.check("a secret that is not there keeps it from starting", system.property("ExecMainStatus") == "243", done.said)
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=gw -addext subjectAltName=DNS:localhost"
    system.run(f"cd /etc/tidegate/secrets && {request} -keyout cloud-key -out ../gw.pem && chmod 644 ../gw.pem && echo token-1 >admin-token && echo hunter2 >cloud-password && chmod 400 *")
    system.wait_state("active/running")
    t.check("and is tried again until it is there", True)
    kept = system.run(f"stat -c '%U %a' /etc/tidegate/secrets/cloud-key {folder} {folder}/cloud-key").stdout.split("\n")
    t.check("the key is root's, and what the service gets is its own", kept[:3] == ["root 400", "tidegate 500", "tidegate 400"], kept)
    t.check("a listener serves with that key", system.publish_one("tls", "-h localhost -p 8883 --cafile /etc/tidegate/gw.pem") == 0)
    system.start_upstream()
    wait_for("the uplink", lambda: system.books("telemetry")["backlog"]["messages"] == 0, 60, every=0.2)
    t.check("the uplink's password is right, and everything goes upstream", system.books("telemetry")["balance"])
    without = system.run("tidegate status --admin 127.0.0.1:9883", check=False)
    t.check("the token is wanted, and root's commands find it", without.returncode == 1 and system.run("tidegate status").returncode == 0, without.said)
    done = system.run("tidegate check", check=False)
    t.check("`tidegate check` by root looks into them while the service runs", done.returncode == 0 and "not looked at" not in done.stderr, done.stderr)
    done = system.run("systemctl reload tidegate", check=False)
    t.check("`systemctl reload` is not refused for want of them", done.returncode == 0 and system.says("configuration reloaded", options="-n 3"), done.said)


def stops(t, system):
    """A stop while the upstream does not answer any more, and the commands beside a stopped service."""
    system.run("systemctl kill -s STOP upstream")
    system.publish([f"late-{n}" for n in range(300)])
    done = system.run("systemctl stop tidegate")
    ended = [system.property(name) for name in ("Result", "ExecMainStatus", "ActiveState")]
    t.check("a stop without the upstream is in order", ended == ["success", "0", "inactive"], ended)
    t.check("and well within TimeoutStopSec", done.seconds < 40, f"{done.seconds:.1f} s")
    done = system.run("tidegate check", check=False)
    t.check("`tidegate check` beside a stopped service says which secrets it has not seen", done.returncode == 0 and done.stderr.count("not looked at") == 3, done.stderr)
    t.check("and which data folder the unit has", "/var/lib/tidegate\n" in done.stdout, done.stdout[:200])
    t.check("the backlog can be seen there", system.stored("telemetry")[-1][2] == "late-299")
    system.run("systemctl kill -s KILL upstream")
    before = system.stored("telemetry")
    done = system.run("tidegate backup /root/copy.db && tidegate restore /root/copy.db && stat -c %U /var/lib/tidegate/* | sort -u", check=False)
    t.check("root backs up and restores the unit's data, which stay its user's", done.stdout.endswith("\ntidegate\n"), done.said)
    t.check("with everything", system.stored("telemetry") == before, len(before))
    system.without()
    system.without("credentials")
    system.configure(PLAIN)


def instances(t, system):
    """Two gateways of the template beside the plain one."""
    for name, port in (("north", 3883), ("south", 4883)):
        text = f'[gateway]\nid = "{name}"\n[admin]\nbind = "127.0.0.1:{port + 1}"\n' + PLAIN.replace("1883", str(port))
        system.configure(text, f"/etc/tidegate/{name}/tidegate.toml")
        system.run(f"systemctl start tidegate@{name}")
        system.publish([f"{name}-{n}" for n in range(10)], port=port)
    system.run("systemctl start tidegate")
    of = {name: [payload for _, _, payload in system.stored("telemetry", f"-c /etc/tidegate/{name}/tidegate.toml")] for name in ("north", "south")}
    t.check("instances run side by side, each with data of its own", all(of[name] == [f"{name}-{n}" for n in range(10)] for name in of), of)
    folders = system.run("stat -c '%n %U %a' /var/lib/tidegate*").stdout.split("\n")
    t.check("in folders beside each other", folders[:3] == [f"/var/lib/tidegate{name} tidegate 700" for name in ("", "-north", "-south")], folders)
    system.run("systemctl stop tidegate@south")
    seen = system.stored("telemetry", "-c /etc/tidegate/south/tidegate.toml")
    t.check("of a stopped instance its data folder is found by its configuration", len(seen) == 10, len(seen))
    south = "/etc/tidegate/south/tidegate.toml"
    text = system.inside(south).read_text()
    system.configure(text.replace(":4883", ":3883"), south)
    system.run("systemctl start tidegate@south", check=False)
    said = system.says("127.0.0.1:3883", "in use", unit="tidegate@south.service")
    t.check("a port that another has is named", said, said)
    wait_for("and it is waited for", lambda: system.state("tidegate@south.service") == "activating/auto-restart", 20)
    system.run("systemctl stop tidegate@south")
    system.configure('[gateway]\nid = "south"\ndata_dir = "/var/lib/tidegate-north"\n' + text.split("\n", 2)[2], south)
    system.drop_in("[Service]\nReadWritePaths=/var/lib/tidegate-north\n", folder="/etc/systemd/system/tidegate@south.service.d")
    system.run("systemctl start tidegate@south", check=False)
    said = system.says("/var/lib/tidegate-north", "in use by another gateway", unit="tidegate@south.service")
    t.check("a data folder that another has is named", said, said)
    system.run("systemctl stop tidegate@south tidegate@north tidegate")


def drop_ins(t, system):
    """What people change most often."""
    system.configure(PLAIN.replace("127.0.0.1:1883", "127.0.0.1:443"))
    system.run("systemctl start tidegate", check=False)
    t.check("a port below 1024 is refused by name", system.says("127.0.0.1:443", "Permission denied"))
    system.run("systemctl stop tidegate")
    system.copy_drop_in("low-ports")
    system.run("systemctl start tidegate")
    t.check("low-ports.conf opens it", system.publish_one("low", "-p 443") == 0)
    system.without("low-ports")

    system.copy_drop_in("limits")
    system.configure(PLAIN)
    system.run("systemctl restart tidegate")
    t.check("limits.conf is taken", system.property("MemoryHigh") == str(96 << 20), system.property("MemoryHigh"))
    system.without("limits")

    system.copy_drop_in("other-disk")
    system.drop_in("[Service]\nRestartSec=500ms\n")
    system.configure(PLAIN.replace("[[listener]]", '[gateway]\ndata_dir = "/media/stick/tidegate"\n[[listener]]'))
    system.run("systemctl restart tidegate", check=False)
    t.check("without its disk it does not start", system.property("ExecMainStatus") == "226", system.property("ExecMainStatus"))
    unit = "[Mount]\nWhat=tmpfs\nWhere=/media/stick\nType=tmpfs\n"
    system.run("mkdir -p /tmp/stick")
    system.write("/run/systemd/system/media-stick.mount", unit)
    system.run("systemctl daemon-reload; systemctl start media-stick.mount; install -d -o tidegate -g tidegate -m 0700 /media/stick/tidegate")
    system.wait_state("active/running")
    system.publish(["on the stick"])
    t.check("and starts by itself when it is there, with its data on it", system.run("ls /media/stick/tidegate").stdout.startswith("tidegate.db"))
    system.run("systemctl stop tidegate")
    system.without()
    system.without("other-disk")
    for unit in ("tidegate.service", "tidegate@north.service"):
        rating = system.run(f"systemd-analyze security --no-pager --threshold=15 {unit} | tail -n 1", log=False).stdout.strip()
        t.check(f"the exposure of {unit}, as it is loaded, is at most 1.5", float(rating.split(": ")[1].split()[0]) <= 1.5, rating)


with Theme("units") as t:
    system = Units(t)
    older_unit(t, system)
    starts(t, system)
    reloads(t, system)
    killed(t, system)
    stays_down(t, system)
    credentials(t, system)
    stops(t, system)
    instances(t, system)
    drop_ins(t, system)
