"""Mosquitto's own tests of its broker, from the source package of the same name, against the gateway in its place."""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess

from lab.process import free_port, workspace
from lab.report import Theme

HERE = pathlib.Path(__file__).parent
SUITE = pathlib.Path(os.environ["INTEROP_SUITES"]) / "mosquitto"
ADAPTER = HERE / "suites/mosquitto_adapter.py"

# Beginnings of the names of tests that are not run: what they test is Mosquitto's own.
OUT_OF_SCOPE = {
    "06-bridge": "bridges, in Mosquitto's configuration; ours are uplinks, see tests/uplink",
    "08-": "TLS in Mosquitto's configuration, with certificates that ended in 2021; see tests/transport",
    "09-plugin": "plugins", "09-extended-auth-change": "plugins", "09-extended-auth-multi": "plugins",
    "09-extended-auth-single": "plugins", "14-dynsec": "a plugin",
    "09-acl": "Mosquitto's form of access rules; see tests/access", "04-retain-check-source": "likewise, and a setting of its own",
    "01-connect-uname-no-password-denied": "Mosquitto's password files; see tests/access", "01-connect-uname-or-anon": "likewise",
    "01-connect-uname-password": "likewise", "09-pwfile": "likewise",
    "01-connect-zero-length-id": "the setting allow_zero_length_clientid",
    "02-subpub-qos0-oversize-payload": "the setting message_size_limit 1", "02-subpub-qos1-oversize-payload": "likewise",
    "07-will-oversize-payload": "likewise", "12-prop-maximum-packet-size-broker": "a limit of 30 bytes; the least of ours is 1 KiB",
    "03-publish-qos1-retain-disabled": "the setting retain_available", "13-malformed-publish-v5": "likewise, and maximum_qos",
    "04-retain-upgrade-outgoing-qos": "a setting of its own", "10-listener-mount-point": "a setting of its own",
    "12-prop-topic-alias-invalid": "Mosquitto's limit of 10 aliases; ours is 32",
    "01-connect-invalid-id-missing": "MQTT 3.1, which is not spoken (MQTT-3.1.2-2)",
    "07-will-delay-invalid-573191": "the package lacks it",
}
# Tests that we argue wrong.
ARGUED = {
    "02-subscribe-long-topic": "65 535 levels close the connection there; 3.8.4, MQTT-3.8.4-5: the SUBACK says that it failed",
    "03-publish-long-topic": "likewise; MQTT-4.7.3-3 allows such a topic name",
    "02-subpub-qos0-long-topic": "more than 200 levels close the connection there; the SUBACK says that it failed",
    "03-publish-dollar-v5": "$SYS/broker/connection/ is open to all there, for its bridges; 4.7.2: a server SHOULD prevent that",
    "07-will-delay-reconnect": "without a Session Expiry Interval the session, and so the delay, ends at once (MQTT 5, 3.1.3.2.2)",
    "07-will-delay.py": "likewise",
    "07-will-delay-recover": "a clean start ends the session, so the will is sent (MQTT 5, 3.1.4: \"because the Session ends\")",
    "07-will-takeover": "the connection that is taken over is closed without DISCONNECT, so the will is sent (MQTT-3.1.2-8; MQTT 5, 3.1.4)",
    "07-will-properties": "one order of properties; MQTT 5, 2.2.2.2: \"no significance\"",
    "12-prop-assigned-client-identifier": "likewise, in the CONNACK",
    "12-prop-maximum-packet-size-publish": "21 bytes for a client that takes 20; MQTT 5, 2.1.4: the fixed header counts",
    "03-publish-c2b-disconnect-qos2": "PUBREL of an id that is free: PUBCOMP says 0x92 to MQTT 5 (3.7.2.1), there 0x00",
    "13-malformed-subscribe": "a filter of a wrong form closes the connection there; 3.9.3 has a code for it, and others still count",
    "12-prop-subpub-payload-format": "Payload Format Indicator 0xED; MQTT 5, 3.3.2.3.2 knows 0 and 1",
}


def tests():
    """(ports, name) of every test."""
    found = re.findall(r"^ *\((\d), '\./(.*)\.py'\),", (SUITE / "test/broker/test.py").read_text(), re.MULTILINE)
    return [(int(ports), name) for ports, name in found]


def run(folder, ports, name):
    """One test, in a copy of the suite of its own; gives back its exit code and what it said."""
    place = folder / name
    shutil.copytree(SUITE / "test", place / "test")
    (place / "src").mkdir()
    if "BASELINE" in os.environ:
        (place / "src/mosquitto").symlink_to("/usr/sbin/mosquitto")
    else:
        shutil.copy(HERE / "suites/as_mosquitto.py", place / "src/mosquitto")
        (place / "src/mosquitto").chmod(0o755)
        script = place / "test/broker" / f"{name}.py"
        # The calls for MQTT 3.1, which the gateway does not speak.
        script.write_text(re.sub(r"^do_test\(.*proto_ver=3.*\)$", "", script.read_text(), flags=re.MULTILINE))
        with open(place / "test/mosq_test.py", "a", encoding="utf-8") as helper:
            helper.write("\n" + ADAPTER.read_text())
    argv = [os.environ["INTEROP_PYTHON"], f"{name}.py", *(str(free_port()) for _ in range(ports))]
    environment = {**os.environ, "RUST_LOG": "off"}
    with subprocess.Popen(argv, cwd=place / "test/broker", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True) as child:
        try:
            said, _ = child.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            said, _ = child.communicate()
            said = "took more than two minutes: " + said
    shutil.rmtree(place)
    return child.returncode, said


def main(t):
    folder = workspace(t)
    left_out = {name for _, name in tests() for start in {**OUT_OF_SCOPE, **ARGUED} if f"{name}.py".startswith(start)}
    only = os.environ.get("ONLY", "")
    wanted = [(ports, name) for ports, name in tests() if name not in left_out and name.startswith(only)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for (_, name), (code, said) in zip(wanted, pool.map(lambda test: run(folder, *test), wanted)):
            t.check(name, code == 0, "" if code == 0 else said.strip().replace("\n", "; ")[-500:])
    t.say(f"{len(left_out)} tests are out of scope or argued wrong, see {pathlib.Path(__file__).name}")


with Theme("mosquitto_suite") as theme:
    main(theme)
