"""Monitoring: what the contract promises is in the scrape of a gateway with everything configured; promtool finds nothing wrong with it, with the rules
and their tests; every name, label and word in rules and dashboard is one that the gateway shows; a real Prometheus scrapes it with its token,
evaluates every expression, and raises an alert during an outage."""

import json
import pathlib
import re
import subprocess
import time
import urllib.parse
import urllib.request

from lab.gateway import Gateway
from lab.load import Sensors
from lab.mosquitto import Mosquitto
from lab.papers import authority, certificate
from lab.process import Process, free_port, wait_for, workspace
from lab.report import Theme

HERE = pathlib.Path(__file__).resolve().parents[2] / "edge-config" / "monitoring"
TOKEN = "a-token-for-prometheus"

# Section 7 of the contract: name, labels.
CONTRACT = {
    **{f"tidegate_stream_{word}_total": {"stream"} for word in ("accepted", "forwarded", "expired", "purged")},
    **{f"tidegate_stream_{word}_total": {"stream", "reason"} for word in ("dropped", "dead")},
    "tidegate_stream_backlog_messages": {"stream"}, "tidegate_stream_backlog_bytes": {"stream"}, "tidegate_stream_oldest_age_seconds": {"stream"},
    "tidegate_store_commit_seconds": set(), "tidegate_store_commit_messages": set(), "tidegate_store_bytes": set(), "tidegate_store_free_bytes": set(),
    "tidegate_uplink_connected": {"uplink"}, "tidegate_uplink_connects_total": {"uplink"}, "tidegate_uplink_failures_total": {"uplink", "reason"},
    "tidegate_uplink_inflight": {"uplink"}, "tidegate_uplink_ack_seconds": {"uplink"}, "tidegate_broker_connections": {"listener"},
    "tidegate_broker_received_total": {"qos"}, "tidegate_broker_sent_total": {"qos"}, "tidegate_broker_refused_total": {"reason"},
    **{f"tidegate_downlink_{word}_total": {"downlink"} for word in ("received", "delivered", "expired")},
    "tidegate_tls_not_after_seconds": {"file"},
    "process_cpu_seconds_total": set(), "process_resident_memory_bytes": set(), "process_open_fds": set(), "process_start_time_seconds": set(),
}
# What Prometheus adds.
ADDED = {"job", "instance", "le", "alertname", "by"}

MORE = """
[[listener]]
name = "tls"
bind = "127.0.0.1:{tls}"
tls = {{ cert = "gw.pem", key = "gw.key" }}

[[uplink]]
name = "second"
url = "mqtts://localhost:{nowhere}"
ca = "ca.pem"

[[downlink]]
name = "commands"
from = "cloud"
filter = ["cmd/#"]
topic = "cmd/{{rest}}"
"""


class Scrape:
    """The text format, read."""

    def __init__(self, text):
        self.text = text
        self.types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
        self.helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.M))
        self.samples = {}
        for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? \S+$", text, re.M):
            self.samples.setdefault(name, []).append(dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)))

    def labels(self, name):
        found = self.samples.get(name) or self.samples.get(name + "_bucket")
        return set().union(*found) - {"le"} if found else None

    def words(self, name, label):
        return {sample.get(label) for sample in self.samples[name]}


def scrape(gateway):
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.admin}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return Scrape(answer.read().decode())


def promtool(*words, stdin=None, folder=HERE):
    done = subprocess.run(["promtool", *words], input=stdin, capture_output=True, text=True, cwd=folder, timeout=300)
    return done.returncode, (done.stdout + done.stderr).strip()


def start(t, folder, upstream_port):
    authority(folder, "ca")
    certificate(folder, "ca", "gw", 10)
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "token").chmod(0o600)
    gateway = Gateway(folder, upstream_port, stream='ttl = "7d"')
    more = MORE.format(tls=free_port(), nowhere=free_port())
    gateway.config.write_text(gateway.config.read_text().replace("[admin]\n", f'[admin]\ntoken_file = "{folder}/token"\n') + more)
    gateway.start()
    t.later(gateway.kill)
    return gateway


def contract(t, gateway, folder):
    status, _ = gateway.http("/metrics")
    t.check("without the token there is nothing to see", status == 401, status)
    Sensors(folder, gateway.port, "sensors", count=20, client_prefix="secret-client-").result(30)
    seen = scrape(gateway)
    for name, labels in CONTRACT.items():
        kind = seen.types.get(name)
        right = kind == ("counter" if name.endswith("_total") else "histogram" if "commit_" in name or "ack_" in name else "gauge")
        t.check(f"{name}: type, help and labels", right and seen.helps.get(name) and seen.labels(name) == labels, f"{kind}, {seen.labels(name)}")
    t.check("every family has a help text that is a sentence", all(len(text) > 15 for text in seen.helps.values()) and seen.helps.keys() == seen.types.keys())
    counters = [name for name, kind in seen.types.items() if kind == "counter" and not name.endswith("_total")]
    t.check("counters end in _total, and nothing else does", not counters and all(seen.types[n] == "counter" for n in seen.types if n.endswith("_total")), counters)
    buckets = sorted(float(sample["le"]) for sample in seen.samples["tidegate_store_commit_seconds_bucket"])
    t.check("commits have buckets from 0.5 ms to 10 s", buckets[0] == 0.0005 and buckets[-2] == 10, buckets)
    files = {pathlib.Path(file).name for file in seen.words("tidegate_tls_not_after_seconds", "file")}
    t.check("certificates of listeners and uplinks have their end", files == {"gw.pem", "ca.pem"}, files)
    t.check("no client is a label", "secret-client" not in seen.text)
    t.check("promtool check metrics", promtool("check", "metrics", stdin=seen.text) == (0, ""), promtool("check", "metrics", stdin=seen.text)[1][:300])
    return seen


def expressions():
    """(where, expression) of rules and dashboard."""
    found = []
    rules = (HERE / "tidegate.rules.yml").read_text()
    for name, body in re.findall(r"- (?:alert|record): (\S+)\n((?:(?!      - (?:alert|record)).*\n)*)", rules):
        expression = re.search(r" expr: (?:>\n((?:          .*\n)+)|(.*)\n)", body)
        found.append((name, " ".join((expression[1] or expression[2]).split())))
    dashboard = json.loads((HERE / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", [])]
    found += [("annotation", a["expr"]) for a in dashboard["annotations"]["list"]]
    return found, rules, dashboard


def names(t, seen):
    """Every name, label and word of rules and dashboard is one of the running gateway's."""
    found, rules, dashboard = expressions()
    records = set(re.findall(r"record: (\S+)", rules))
    t.check("rules and dashboard were found", len(found) > 80 and len(records) == rules.count("record:"), len(found))
    unknown, labels, words = set(), set(), set()
    queries = [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    everything = set().union(*(set(sample) for samples in seen.samples.values() for sample in samples)) | ADDED
    for expression in [e for _, e in found] + queries:
        for name, matchers in re.findall(r"(?<![:\w])((?:tidegate|process)_\w+)(?:\{([^}]*)\})?", re.sub(r"\w+:tidegate_\w+:\w+", "", expression)):
            known = seen.labels(re.sub(r"_bucket$", "", name)) if name not in seen.samples else set().union(*seen.samples[name])
            if known is None:
                unknown.add(name)
                continue
            for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
                if label not in known | ADDED:
                    labels.add(f"{name}{{{label}}}")
                elif label not in ADDED and "$" not in value:
                    words |= {f"{label}={word}" for word in value.split("|") if word not in seen.words(name, label)}
        for group in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression):
            labels |= {label.strip() for label in group.split(",")} - everything
        unknown |= set(re.findall(r"\w+:tidegate_\w+:\w+", expression)) - records
    labels |= {label for label in re.findall(r"\$labels\.(\w+)", rules)} - everything
    t.check("rules and dashboard know no name that the gateway does not show", not unknown, unknown)
    t.check("nor a label", not labels, labels)
    t.check("nor a word of a reason", not words, words)
    alerts = re.findall(r"- alert: (\S+)", rules)
    tests = (HERE / "tidegate.rules.test.yml").read_text()
    t.check("every alert has a test, a severity, a summary and a description", all(f"- name: {alert}\n" in tests for alert in alerts)
            and rules.count("severity: ") - 1 == rules.count("summary: ") == rules.count("description: ") == len(alerts), len(alerts))
    legends = {label for panel in dashboard["panels"] for target in panel.get("targets", []) for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])}
    t.check("legends of the dashboard know no label that is not there", legends <= everything, legends - everything)
    ids = [panel["id"] for panel in dashboard["panels"]]
    t.check("the dashboard can be imported: ids of its own, a data source to choose", len(ids) == len(set(ids)) and "id" not in dashboard
            and all(p["datasource"]["uid"] == "${datasource}" for p in dashboard["panels"] if p["type"] != "row"))
    return found


class Prometheus:
    """A real one, which scrapes every second and whose rules wait seconds where they say minutes."""

    def __init__(self, t, folder, gateway):
        self.port = free_port()
        rules = (HERE / "tidegate.rules.yml").read_text()
        rules = re.sub(r"for: \w+", "for: 1s", rules)
        (folder / "rules.yml").write_text(re.sub(r"\[(\d+)m\]", "[10s]", rules))
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "tidegate", "authorization": {"credentials_file": str(folder / "token")},
                                "static_configs": [{"targets": [f"127.0.0.1:{gateway.admin}"], "labels": {"instance": "lab"}}]}]}))
        self.process = Process(["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                                f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"], folder / "prometheus.log")
        t.later(self.process.kill)
        wait_for("Prometheus is ready", self.ready, 30, 0.1)

    def ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    def get(self, path, **words):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def query(self, expression):
        return self.get("query", query=expression)

    def firing(self):
        return {a["labels"]["alertname"]: a for a in self.get("alerts")["data"]["alerts"] if a["state"] == "firing"}


def real(t, folder, gateway, upstream, found):
    prometheus = Prometheus(t, folder, gateway)
    wait_for("it has scraped the gateway", lambda: prometheus.query('up{job="tidegate"} == 1')["data"]["result"], 30)
    wrong = []
    for where, expression in found:
        for name, value in (("$__rate_interval", "10s"), ("$job", "tidegate"), ("$instance", ".*"), ("$stream", ".*"), ("$uplink", ".*")):
            expression = expression.replace(name, value)
        answer = prometheus.query(expression)
        if answer["status"] != "success":
            wrong.append((where, answer["error"]))
    t.check(f"all {len(found)} expressions of rules and dashboard evaluate", not wrong, wrong[:3])
    rules = [rule for group in prometheus.get("rules")["data"]["groups"] for rule in group["rules"]]
    wait_for("all rules were evaluated", lambda: all(r["health"] == "ok" for g in prometheus.get("rules")["data"]["groups"] for r in g["rules"]), 30)
    t.check("all rules are healthy", len(rules) > 40, len(rules))
    down = lambda uplink: [a for a in prometheus.get("alerts")["data"]["alerts"]
                           if a["state"] == "firing" and a["labels"]["alertname"] == "TidegateUplinkDown" and a["labels"]["uplink"] == uplink]
    wait_for("the certificate of ten days is seen", lambda: "TidegateCertificateEnds" in prometheus.firing(), 30)
    t.check("a certificate that ends in ten days is an alert", "gw.pem" in json.dumps(prometheus.firing()["TidegateCertificateEnds"]))
    t.check("no alert for the uplink that is up", not down("cloud"), sorted(prometheus.firing()))
    upstream.kill()
    began = time.monotonic()
    alert = wait_for("the alert fires", lambda: down("cloud"), 30)[0]
    t.check("an outage raises TidegateUplinkDown, in words", "uplink cloud is down" in alert["annotations"]["summary"] and "lab" in alert["annotations"]["summary"],
            f"after {time.monotonic() - began:.1f} s: {alert['annotations']['summary']}")
    upstream.start()
    wait_for("it is over when the upstream is back", lambda: not down("cloud"), 30)
    t.check("and it ends with the outage", True)


def cheap(t, folder):
    """A scrape of a gateway with 100 streams."""
    streams = "".join(f'\n[[stream]]\nname = "s{n}"\nfrom = ["s/{n}/#"]\nto = "cloud"\n' for n in range(100))
    gateway = Gateway(folder, free_port())
    gateway.config.write_text(gateway.config.read_text() + streams)
    gateway.start()
    t.later(gateway.kill)
    gateway.http("/metrics")
    cpu, times = gateway.process.cpu_seconds(), 50
    size = [len(gateway.http("/metrics")[1]) for _ in range(times)][-1]
    each_ms = (gateway.process.cpu_seconds() - cpu) / times * 1000
    t.check("a scrape with 100 streams is cheap", each_ms < 50, f"{each_ms:.1f} ms of processor, {size} bytes")


def main(t):
    folder = workspace(t)
    folder.chmod(0o755)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.kill)
    (folder / "gateway").mkdir()
    gateway = start(t, folder / "gateway", upstream.port)
    seen = contract(t, gateway, folder)
    found = names(t, seen)
    for words in (("check", "rules", "tidegate.rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "tidegate.rules.test.yml")):
        code, said = promtool(*words)
        t.check(f"promtool {' '.join(words)}", code == 0, said.splitlines()[-1] if code == 0 else said[-500:])
    real(t, folder / "gateway", gateway, upstream, found)
    cheap(t, folder / "many")


with Theme("monitoring") as theme:
    main(theme)
