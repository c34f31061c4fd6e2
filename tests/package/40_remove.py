"""Removed, installed again, purged; and what an installation does where it finds a configuration with an error in it."""

from lab.process import wait_for
from lab.report import Theme
from system import System, log_file, packages

NORTH = """
[gateway]
id = "north"
[[listener]]
name = "north"
bind = "127.0.0.1:1885"
[admin]
bind = "127.0.0.1:9885"
[[stream]]
name = "telemetry"
from = ["sensors/#"]
"""

with Theme("remove") as t:
    package, _ = packages()
    system = System(t, log_file("40-remove"))

    # Somebody has written a configuration before there was a package, and made a mistake.
    system.write("/etc/tidegate/conf.d/50-site.toml", '[gateway]\nidd = "plant-7"\n')
    done = system.install(package)
    t.check("an installation beside a wrong configuration ends well", done.returncode == 0, done.last)
    t.check("and says that the service does not run", "does not run" in done.stderr, done.last)
    t.check("dpkg has it installed", system.run("dpkg-query -W -f '${Status}' tidegate").stdout == "install ok installed")
    system.write("/etc/tidegate/conf.d/50-site.toml", '[gateway]\nid = "plant-7"\n')
    system.run("systemctl start tidegate")

    # A second gateway on the same machine.
    system.write("/etc/tidegate/north/tidegate.toml", NORTH)
    system.run("systemctl enable --now tidegate@north")
    north = "-c /etc/tidegate/north/tidegate.toml"
    system.publish(["one", "two", "three"])
    system.publish(["uno", "due"], port=1885)
    stored, other = system.stored("telemetry"), system.stored("telemetry", north)
    t.check("two gateways store, each its own", [one[2] for one in stored] == ["one", "two", "three"] and [one[2] for one in other] == ["uno", "due"])
    pids = system.property("MainPID"), system.property("MainPID", "tidegate@north")
    system.install(package)
    t.check("an upgrade restarts both", system.property("MainPID") != pids[0] and system.property("MainPID", "tidegate@north") != pids[1])
    t.check("and both run", system.property("ActiveState") == system.property("ActiveState", "tidegate@north") == "active")

    system.run("dpkg -r tidegate")
    t.check("removed, nothing of it runs", system.run("pidof tidegate", check=False).stdout == "")
    t.check("no program is left", not system.inside("/usr/bin/tidegate").exists())
    t.check("the configuration is left", system.inside("/etc/tidegate/tidegate.toml").exists() and system.inside("/etc/tidegate/conf.d/50-site.toml").exists())
    t.check("the data is left", system.inside("/var/lib/tidegate/tidegate.db").exists() and system.inside("/var/lib/tidegate-north/tidegate.db").exists())

    done = system.install(package)
    t.check("installed again it runs", system.property("ActiveState") == "active", done.last)
    t.check("and finds what was stored", system.stored("telemetry") == stored)
    t.check("the other one, too", system.property("ActiveState", "tidegate@north") == "active" and system.stored("telemetry", north) == other)

    # Somebody's copy: no unit's data, whatever its name.
    system.run("cp -a /var/lib/tidegate /var/lib/tidegate-copy")
    done = system.run("dpkg -P tidegate")
    t.check("a purge says what it deletes", "/var/lib/tidegate " in done.stderr and "/var/lib/tidegate-north " in done.stderr, done.last)
    t.check("and leaves what belongs to no unit", system.inside("/var/lib/tidegate-copy/tidegate.db").exists() and "tidegate-copy" not in done.stderr)
    system.run("rm -r /var/lib/tidegate-copy")
    wait_for("systemd has forgotten it", lambda: "tidegate" not in system.run("systemctl list-unit-files --no-legend", log=False).stdout)
    left = system.run("find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /mnt -o -path /tmp \\) -prune -o -name '*tidegate*' -print").stdout.split()
    t.check("purged, nothing is left", left == [], left)
    t.check("but the user, whose number must not be given to another", system.run("getent passwd tidegate", check=False).returncode == 0)
    t.check("no unit has failed", system.run("systemctl --failed --no-legend --plain").stdout == "")
