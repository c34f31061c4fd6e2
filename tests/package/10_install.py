"""Installed on a machine that has never seen it: what is there, whose it is, that it runs, and what systemd does with it."""

import gzip

from lab.process import wait_for
from lab.report import Theme
from system import System, log_file, packages

with Theme("install") as t:
    package, _ = packages()
    system = System(t, log_file("10-install"))

    done = system.install(package)
    t.check("dpkg -i ends well", done.returncode == 0, f"{done.seconds:.1f} s")
    t.check("and has nothing to say about the service", "\ntidegate:" not in f"\n{done.stderr}", done.stderr.strip().splitlines()[-1:])
    t.check("the service is active as soon as dpkg is done", system.property("ActiveState") == "active")
    t.check("and starts with the machine", system.run("systemctl is-enabled tidegate").stdout.strip() == "enabled")
    system.run("systemctl --no-pager status tidegate")
    t.check("tidegate status answers", "ready" in system.run("tidegate status").stdout)
    doctor = system.run("tidegate doctor", check=False)
    t.check("tidegate doctor finds nothing that has failed", doctor.returncode == 0, [line for line in doctor.said.splitlines() if "FAILED" in line])

    # The journal as an operator looks at it: systemd's word about keys that it does not know yet is no warning of the gateway's.
    loud = [line for line in system.run("journalctl -u tidegate -p warning -o cat --no-pager").stdout.splitlines() if line and "Unknown key" not in line]
    t.check("the journal has no warning", not loud, loud)

    stat = lambda path: system.run(f"stat -c '%U:%G %a' {path}").stdout.strip()
    for path, wanted in {
        "/usr/bin/tidegate": "root:root 755",
        "/etc/tidegate": "root:root 755",
        "/etc/tidegate/tidegate.toml": "root:root 644",
        "/etc/tidegate/conf.d": "root:root 755",
        "/etc/tidegate/secrets": "root:root 700",
        "/var/lib/tidegate": "tidegate:tidegate 700",
        "/var/lib/tidegate/tidegate.db": "tidegate:tidegate 600",
    }.items():
        t.check(f"{path} is {wanted}", stat(path) == wanted, stat(path))
    user = system.run("getent passwd tidegate").stdout.strip().split(":")
    t.check("its user is a system user without a shell", int(user[2]) < 1000 and user[6].endswith("nologin"), user)
    pid = system.property("MainPID")
    t.check("and it runs as that", system.run(f"stat -c %U /proc/{pid}").stdout.strip() == "tidegate")
    t.check("dpkg finds all files as they were packed", system.run("dpkg --verify tidegate").said == "")

    for page in ["tidegate", "tidegate-run", "tidegate-doctor", "tidegate-dead-list"]:
        with gzip.open(system.inside(f"/usr/share/man/man1/{page}.1.gz"), "rt") as manual:
            t.check(f"man page {page}", ".TH " in manual.read())
    t.check("bash completes", "tidegate" in system.run("bash -c '. /usr/share/bash-completion/completions/tidegate && complete -p tidegate'").stdout)
    t.check("zsh and fish have theirs", system.run("head -n 1 /usr/share/zsh/vendor-completions/_tidegate /usr/share/fish/vendor_completions.d/tidegate.fish").stdout.count("tidegate") > 1)
    smallest = system.run("tidegate check -c /usr/share/doc/tidegate/examples/minimal.toml", check=False)
    t.check("the smallest example is a configuration", smallest.returncode == 0, smallest.said if smallest.returncode else "")

    system.publish(["one"])
    t.check("what is published is stored", [one[1:] for one in system.stored("telemetry")] == [("sensors/a", "one")], system.stored("telemetry"))

    # Reload: a drop-in of the operator's, without a new process.
    system.write("/etc/tidegate/conf.d/50-site.toml", '[[stream]]\nname = "alarms"\nfrom = ["alarms/#"]\n')
    system.run("systemctl reload tidegate")
    wait_for("the new stream is there", lambda: "alarms" in system.run("tidegate streams", log=False).stdout)
    t.check("systemctl reload takes a new stream, in the same process", system.property("MainPID") == pid)
    system.run("tidegate streams")

    system.run(f"kill -9 {pid}")
    wait_for("it runs again", lambda: system.property("ActiveState") == "active" and system.property("MainPID") not in ("0", pid), 30, every=0.1)
    t.check("after kill -9 systemd starts it again", system.property("NRestarts") == "1", system.property("NRestarts"))
    t.check("with what was stored", [one[2] for one in system.stored("telemetry")] == ["one"])

    # A wrong configuration: refused by reload, final at the start, and an operator sees why.
    system.write("/etc/tidegate/conf.d/60-wrong.toml", '[store]\nmax_byte = "1GiB"\n')
    done = system.run("systemctl reload tidegate", check=False)
    t.check("reload refuses a wrong configuration", done.returncode != 0 and system.property("ActiveState") == "active", done.returncode)
    system.run("systemctl restart tidegate", check=False)
    system.wait_property("ActiveState", "failed")
    t.check("a start with it fails with code 78", (system.property("Result"), system.property("ExecMainStatus")) == ("exit-code", "78"), system.property("ExecMainStatus"))
    t.check("and is not tried again", (system.property("NRestarts"), system.property("SubState")) == ("0", "failed"), system.property("NRestarts"))
    said = system.run("systemctl --no-pager status tidegate", check=False).stdout
    t.check("systemctl status says what is wrong, where", "max_byte" in said and "60-wrong.toml" in said, said if "max_byte" not in said else "")
    system.run("rm /etc/tidegate/conf.d/60-wrong.toml && systemctl start tidegate")
    t.check("corrected it starts, with what was stored", [one[2] for one in system.stored("telemetry")] == ["one"])

    books = system.books("telemetry")
    t.check("the books balance", books["balance"] and books["accepted"] == 1, books)
