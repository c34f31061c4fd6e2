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

# Beginnings of the names of tests that are not run.
OUT_OF_SCOPE = {
    "06-bridge": "Mosquitto's bridges, set up in its configuration",
    "08-": "TLS: 54_",
    "09-plugin": "Mosquitto's plugins",
    "09-extended": "Mosquitto's plugins",
    "14-dynsec": "Mosquitto's dynamic security plugin",
}
# Tests that we argue wrong.
ARGUED = {
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
    left_out = {name: why for _, name in tests() for start, why in {**OUT_OF_SCOPE, **ARGUED}.items() if name.startswith(start)}
    only = os.environ.get("ONLY", "")
    wanted = [(ports, name) for ports, name in tests() if name not in left_out and name.startswith(only)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for (_, name), (code, said) in zip(wanted, pool.map(lambda test: run(folder, *test), wanted)):
            t.check(name, code == 0, "" if code == 0 else said.strip().replace("\n", "; ")[-500:])
    t.say(f"{len(left_out)} tests are out of scope or argued wrong, see {pathlib.Path(__file__).name}")


with Theme("mosquitto_suite") as theme:
    main(theme)
