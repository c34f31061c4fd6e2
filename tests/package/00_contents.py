"""The package as a file: what Debian's own judge says of it, and that nothing is missing in it."""

import os
import pathlib
import subprocess
import tempfile

from lab.report import Theme

WANTED = """
./usr/bin/tidegate ./lib/systemd/system/tidegate.service ./lib/systemd/system/tidegate@.service ./usr/lib/sysusers.d/tidegate.conf
./usr/lib/tmpfiles.d/tidegate.conf ./etc/tidegate/tidegate.toml ./etc/tidegate/conf.d/ ./usr/share/man/man1/tidegate.1.gz
./usr/share/bash-completion/completions/tidegate ./usr/share/zsh/vendor-completions/_tidegate ./usr/share/fish/vendor_completions.d/tidegate.fish
./usr/share/doc/tidegate/README.Debian ./usr/share/doc/tidegate/copyright ./usr/share/doc/tidegate/third-party.txt.gz ./usr/share/doc/tidegate/changelog.gz
./usr/share/doc/tidegate/examples/minimal.toml ./usr/share/doc/tidegate/examples/monitoring/tidegate.rules.yml
""".split()

# What readelf calls the machine of an architecture of Debian's, and the flag that must be there.
MACHINES = {"amd64": ("X86-64", ""), "arm64": ("AArch64", ""), "armhf": ("ARM", "hard-float ABI")}


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


with Theme("contents") as t:
    package = os.environ["PACKAGE"]
    judged = subprocess.run(["lintian", "--allow-root", "--display-info", "--tag-display-limit=0", "--fail-on=error,warning,info", package], capture_output=True, text=True)
    findings = [line for line in (judged.stdout + judged.stderr).splitlines() if line and not line.startswith("N:")]
    t.check("lintian has no error, warning or remark that is not argued in lintian-overrides", judged.returncode == 0 and not findings, "; ".join(findings))
    listed = [line.split()[5] for line in said("dpkg-deb", "-c", package).splitlines()]
    missing = [path for path in WANTED if path not in listed]
    t.check("everything is in it", not missing, missing)
    owners = {line.split()[1] for line in said("dpkg-deb", "-c", package).splitlines()}
    t.check("all of it root's", owners == {"root/root"}, owners)
    fields = said("dpkg-deb", "-I", package)
    t.say(" ".join(line.strip() for line in fields.splitlines() if "Depends" in line))
    t.check("it depends on a C library of its time", "libc6 (>= 2." in fields)
    architecture = said("dpkg-deb", "-f", package, "Architecture").strip()
    with tempfile.TemporaryDirectory() as folder:
        said("dpkg-deb", "-x", package, folder)
        program = pathlib.Path(folder) / "usr/bin/tidegate"
        header, sections = said("readelf", "-hW", program), said("readelf", "-SW", program)
        t.say(f"{architecture}: the package {pathlib.Path(package).stat().st_size / 2**20:.1f} MiB, the program {program.stat().st_size / 2**20:.1f} MiB")
    machine, flag = MACHINES[architecture]
    t.check(f"the program is one for {architecture}, without symbols", machine in header and flag in header and ".symtab" not in sections)
    scripts = said("dpkg-deb", "-I", package, "postinst") + said("dpkg-deb", "-I", package, "prerm") + said("dpkg-deb", "-I", package, "postrm")
    t.check("debhelper has filled in its part of the scripts", "#DEBHELPER#" not in scripts and "deb-systemd-helper" in scripts and "systemd-sysusers" in scripts)
