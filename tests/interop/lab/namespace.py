"""Mounts and a network of our own: a small disk, a name server, without touching the machine's."""

import fcntl
import os
import socket
import struct
import subprocess
import sys

_MARK = "LAB_UNSHARED"


def _may_mount():
    probe = "d=$(mktemp -d) && mount -t tmpfs none $d && umount $d && rmdir $d"
    return subprocess.run(probe, shell=True, capture_output=True).returncode == 0


def own(network=False):
    """Starts the theme again where it may mount: as root, or else as root of a user namespace; `network`: with a loopback of its own."""
    if os.environ.get(_MARK):
        if network:
            _loopback_up()
        return
    root = _may_mount()
    if root and not network:
        return
    flags = ["-m" if root else "-rm", *(["-n"] if network else [])]
    os.environ[_MARK] = "1"
    os.execvp("unshare", ["unshare", *flags, sys.executable, *sys.argv])


def _loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # SIOCSIFFLAGS, IFF_UP | IFF_LOOPBACK | IFF_RUNNING
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x8 | 0x40))


def small_disk(t, path, mebibytes):
    """A file system of this size, until the end of the theme."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", path], check=True)
    t.later(lambda: subprocess.run(["umount", "-l", path], check=True))
    return path


def bind(t, source, target):
    """`source` in the place of `target`, for us and those we start."""
    subprocess.run(["mount", "--bind", source, target], check=True)
    t.later(lambda: subprocess.run(["umount", "-l", target], check=True))


def free_bytes(path):
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def fill(path):
    """Writes until nothing more goes in."""
    with open(path, "wb", buffering=0) as out:
        try:
            while out.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    return path
