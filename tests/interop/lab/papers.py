"""Certificates, made by OpenSSL: authorities, and servers of the name localhost."""

import subprocess

EC = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split()


def openssl(folder, *words):
    return subprocess.run(["openssl", *map(str, words)], cwd=folder, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def authority(folder, name):
    """`name.pem` and `name.key`."""
    openssl(folder, "req", "-x509", *EC, "-days", 30, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")


def certificate(folder, authority, name, days):
    """`name.pem` and `name.key` for localhost, each replaced in one step as tools that renew certificates do."""
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl(folder, "req", *EC, "-subj", "/CN=localhost", "-keyout", "new.key", "-out", "new.csr")
    openssl(folder, "x509", "-req", "-in", "new.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
            "-days", days, "-extfile", "names", "-out", "new.pem")
    (folder / "new.key").chmod(0o644)
    (folder / "new.key").rename(folder / f"{name}.key")
    (folder / "new.pem").rename(folder / f"{name}.pem")
