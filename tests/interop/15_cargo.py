"""The tests of cargo that need Mosquitto (feature `interop`): uplinks through a broken network and TLS, mosquitto_pub and mosquitto_sub."""

import re
import subprocess
from pathlib import Path

from lab.report import Theme


def main(t):
    command = ["cargo", "test", "--locked", "--features", "interop", "--test", "uplink", "--test", "broker"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    results = re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED)$", run.stdout, re.MULTILINE)
    for name, result in results:
        t.check(name, result == "ok")
    names = {name for name, _ in results}
    t.check("the tests with Mosquitto were among them", {"network", "mosquitto"} <= {name.split("::")[0] for name in names})
    t.check("cargo says so too", run.returncode == 0, "" if run.returncode == 0 else (run.stdout + run.stderr)[-4000:])


with Theme("cargo") as theme:
    main(theme)
