"""The rig itself: what is not synced is found lost, what is synced never is, and each fault comes as it was ordered."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

from lab.process import workspace
from lab.report import Theme
from rig.disk import FaultyDisk
from rig.people import Broken, Publisher, Subscriber

PRELUDE = """
import os, sys, errno
root = os.environ["FAULTS_ROOT"]
def path(name): return os.path.join(root, name)
def put(name, data, flags=os.O_WRONLY | os.O_CREAT, at=None, sync=False):
    fd = os.open(path(name), flags, 0o600)
    n = os.write(fd, data) if at is None else os.pwrite(fd, data, at)
    if sync: os.fsync(fd)
    os.close(fd)
    return n
def sync_folder(name=""):
    fd = os.open(path(name), os.O_RDONLY); os.fsync(fd); os.close(fd)
def error_of(f, *a, **k):
    try: f(*a, **k)
    except OSError as e: return errno.errorcode[e.errno]
    return "ok"
"""


def run(disk, program):
    """Runs a Python program on the disk; gives back its code and what it printed."""
    done = subprocess.run([sys.executable, "-S", "-c", PRELUDE + program], env={**os.environ, **disk.env}, capture_output=True, text=True)
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(done.stderr)
    return done.returncode, done.stdout.split()


def outcomes(t, name, program, seeds=60, before=None):
    """What a power cut at the end of the program left, over many seeds: {folder as a dict}."""
    found = []
    for seed in range(seeds):
        disk = FaultyDisk(t.folder / f"{name}-{seed}", seed)
        if before:
            before(disk.root)
            disk.power_up()
        run(disk, program)
        disk.power_cut(compare=True)
        found.append({str(p.relative_to(disk.root)): p.read_bytes() for p in sorted(disk.root.rglob("*")) if p.is_file()})
    return found


def power_cuts(t):
    whole = b"x" * 2048
    program = f"put('a', {whole!r}, sync=True); sync_folder()"
    found = outcomes(t, "synced", program)
    t.check("synced, and its folder: always there", all(f == {"a": whole} for f in found), len(found))

    found = outcomes(t, "unsynced", f"put('a', {whole!r}); sync_folder()")
    kinds = {"whole": 0, "torn": 0, "empty": 0}
    for f in found:
        kinds["whole" if f["a"] == whole else "empty" if f["a"].strip(b"\0") == b"" else "torn"] += 1
    t.check("not synced: sometimes whole, torn, or nothing", all(kinds.values()), kinds)

    found = outcomes(t, "unnamed", f"put('a', {whole!r}, sync=True)")
    t.check("synced, but not its folder: sometimes gone, never torn", {} in found and {"a": whole} in found and len(found) == 60
            and all(f in ({}, {"a": whole}) for f in found), sum(f == {} for f in found))

    new = b"y" * 1024
    found = outcomes(t, "ordered", f"put('a', {new!r}, at=0); put('a', {new!r}, at=1024); ",
                     before=lambda root: (root / "a").write_bytes(whole))
    seen = {bytes(f["a"][at] for at in range(0, 2048, 512)) for f in found}
    t.check("writes are reordered: the second without the first, and sectors of one without the others",
            b"xxyy" in seen or b"xyyy" in seen, sorted(seen)[:6])

    found = outcomes(t, "overwritten", f"put('a', {new!r}, at=0, sync=True); put('a', b'z' * 512, at=0)",
                     before=lambda root: (root / "a").write_bytes(whole))
    t.check("what was synced is what a later write falls back to", {f["a"][:512] for f in found} == {b"y" * 512, b"z" * 512}
            and all(f["a"][512:] == b"y" * 512 + b"x" * 1024 for f in found))

    program = f"put('b', {whole!r}, sync=True); sync_folder(); os.rename(path('b'), path('a'))"
    found = outcomes(t, "renamed", program, before=lambda root: (root / "a").write_bytes(b"old"))
    t.check("a rename is done or not, and nothing in between",
            {tuple(sorted(f.items())) for f in found} == {(("a", whole),), (("a", b"old"), ("b", whole))})
    found = outcomes(t, "renamed-synced", program + "; sync_folder()", before=lambda root: (root / "a").write_bytes(b"old"))
    t.check("... and with its folder synced, done", all(f == {"a": whole} for f in found))

    found = outcomes(t, "unlinked", "os.unlink(path('a'))", before=lambda root: (root / "a").write_bytes(b"old"))
    t.check("what was removed may come back", {"a": b"old"} in found and {} in found)

    found = outcomes(t, "truncated", "fd = os.open(path('a'), os.O_RDWR); os.ftruncate(fd, 0); os.pwrite(fd, b'n' * 512, 0)",
                     before=lambda root: (root / "a").write_bytes(whole))
    t.check("a file that was cut and written anew: old, new, or short", {2048, 512} <= {len(f["a"]) for f in found}, {len(f["a"]) for f in found})

    found = outcomes(t, "shared", "put('d-shm', b'x', sync=True); sync_folder()")
    t.check("-shm is always gone", all(f == {} for f in found))


def cuts(t):
    program = "\n".join(f"put('{n}', b'x' * 512, sync=True); sync_folder(); print({n}, flush=True)" for n in range(8))
    lost = said = 0
    for seed in range(40):
        disk = FaultyDisk(t.folder / f"cut-{seed}", seed)
        disk.rules(f"any cut after {seed}")
        code, words = run(disk, program)
        played = disk.power_cut()
        said += len(words)
        lost += sum(not (disk.root / w).exists() or (disk.root / w).read_bytes() != b"x" * 512 for w in words)
        if seed < 32:
            lost += code != -signal.SIGKILL or not played.cut or played.operations != seed + 1
    t.check("a cut comes at its operation, and what was said to be synced is there", lost == 0 and said > 100, said)
    disk = FaultyDisk(t.folder / "killed", 1)
    code, _ = run(disk, "put('a', b'x' * 512, sync=True); sync_folder(); put('a', b'y' * 512); os.kill(os.getpid(), 9)")
    disk.power_cut(compare=True)
    t.check("SIGKILL from outside leaves the journal", code == -signal.SIGKILL and (disk.root / "a").read_bytes()[:1] in (b"x", b"y"))


def traps(t):
    program = """
fd = os.open(path('a'), os.O_RDWR | os.O_CREAT, 0o600); sync_folder()
os.pwrite(fd, b'x' * 4096, 0)
print(error_of(os.fsync, fd), error_of(os.fsync, fd), os.pread(fd, 1, 0).decode())
"""
    gone = 0
    for seed in range(60):
        disk = FaultyDisk(t.folder / f"trap-{seed}", seed)
        disk.rules("sync eio count 1 file a")
        _, words = run(disk, program)
        disk.power_cut(compare=True)
        gone += (disk.root / "a").read_bytes() != b"x" * 4096
        if words != ["EIO", "ok", "x"]:
            gone = -1000
    t.check("a failed sync forgets, though the next one works and the data can be read", 20 < gone, gone)
    left = set()
    for seed in range(20):
        disk = FaultyDisk(t.folder / f"unlucky-{seed}", seed, unlucky=True)
        disk.rules("sync eio count 1 file a")
        run(disk, program + "os.pwrite(fd, b'y' * 512, 4096); os.fsync(fd)")
        calls = [kind for kind, name in disk.calls() if name == "a"]
        disk.power_cut(compare=True)
        left.add((disk.root / "a").read_bytes())
    t.check("with no luck a failed sync has written nothing, and what is written and synced behind it is there",
            left == {bytes(4096) + b"y" * 512} and calls == list("CWBFBSWBS"), f"{len(left)} {''.join(calls)}")
    lies = 0
    for seed in range(30):
        disk = FaultyDisk(t.folder / f"lie-{seed}", seed)
        disk.rules("sync lie file a")
        run(disk, "put('a', b'x' * 4096, sync=True); sync_folder()")
        disk.power_cut(compare=True)
        lies += (disk.root / "a").read_bytes() != b"x" * 4096
    t.check("a disk that lies about syncs is found out", lies > 10, lies)


def rules(t):
    disk = FaultyDisk(t.folder / "rules", journal=False)

    def says(rule, program, expected):
        disk.rules(*rule) if isinstance(rule, tuple) else disk.rules(rule)
        _, words = run(disk, program)
        t.check(f"rule: {rule}", words == expected.split(), " ".join(words))

    (disk.root / "old").write_bytes(b"o" * 8192)
    says("sync eio", "put('a', b'x'); print(error_of(put, 'a', b'x', sync=True), error_of(sync_folder))", "EIO EIO")
    says("sync eio count 1 file b*", "print(*(error_of(put, n, b'x', sync=True) for n in ('a', 'b', 'b')))", "ok EIO ok")
    says("write eio after 2", "print(*(error_of(put, 'a', b'x') for _ in range(4)))", "ok ok EIO EIO")
    says("readonly erofs", "print(error_of(put, 'a', b'x'), error_of(os.unlink, path('a')), error_of(os.rename, path('a'), path('c')), "
         "error_of(os.mkdir, path('m')), error_of(os.open, path('a'), os.O_RDONLY), error_of(os.truncate, path('zz'), 0))",
         "EROFS EROFS EROFS EROFS ok ENOENT")
    says("write enospc budget 1000", "print(put('n', b'x' * 600), put('n', b'x' * 600, at=600), error_of(put, 'n', b'x', at=1000), "
         "put('old', b'y' * 4096, at=0), error_of(os.unlink, path('n')), put('n', b'x' * 500))", "600 400 ENOSPC 4096 ok 500")
    says("read eio range 4096-8192 file old", "fd = os.open(path('old'), os.O_RDONLY); print(error_of(os.pread, fd, 4096, 0), "
         "error_of(os.pread, fd, 4096, 4096))", "ok EIO")
    says(f"read eio inode {(disk.root / 'old').stat().st_ino}", "os.rename(path('old'), path('older')); fd = os.open(path('older'), os.O_RDONLY); "
         "print(error_of(os.pread, fd, 1, 0)); os.rename(path('older'), path('old')); fd = os.open(path('a'), os.O_RDONLY); print(error_of(os.pread, fd, 1, 0))", "EIO ok")
    says("openr eacces file old", "print(error_of(os.open, path('old'), os.O_RDONLY), error_of(os.open, path('a'), os.O_RDONLY))", "EACCES ok")
    says(("seed 7", "write eio chance 50"), "n = sum(error_of(put, 'a', b'x') == 'EIO' for _ in range(200)); print(60 < n < 140)", "True")
    says("sync delay 300ms", "import time; a = time.monotonic(); put('a', b'x', sync=True); print(time.monotonic() - a >= 0.3)", "True")
    says("# nothing", "print(error_of(put, 'a', b'x', sync=True))", "ok")
    says("write eio", "import shutil; control = os.environ['FAULTS_CONTROL']; a = error_of(put, 'a', b'x'); open(control + '2', 'w').close(); "
         "os.rename(control + '2', control); print(a, error_of(put, 'a', b'x'))", "EIO ok")
    disk.rules("write fails")
    done = subprocess.run([sys.executable, "-S", "-c", PRELUDE + "put('a', b'x')"], env={**os.environ, **disk.env}, capture_output=True, text=True)
    t.check("a rule that makes no sense ends the program", done.returncode == 96 and "fails" in done.stderr, done.stderr.strip())


def order(t):
    """The judge of order: a message may come behind newer ones only where its publisher said it again to a subscription that is new to it."""

    def judged(*numbers, since, repeated):
        publisher = Publisher("y", ["plant/y"], 1)
        publisher.repeated.update(repeated)
        subscriber = Subscriber("two", "plant/#", 2)
        subscriber.publishers = {"y": publisher}
        subscriber.subscribed, subscriber.since = since is not None, {"y": since}
        try:
            for number in numbers:
                subscriber.enter("y", number, SimpleNamespace(qos=1))
        except Broken as problem:
            return str(problem)
        return "ok"

    again = range(34, 42)
    t.check("subscribed in the middle, and the rest said again: fine", judged(41, *again, since=42, repeated=again) == "ok")
    t.check("the same before SUBACK was heard", judged(41, *again, since=None, repeated=again) == "ok")
    t.check("not said again: out of order", "34 came after 41" in judged(41, 34, since=42, repeated=[]))
    t.check("sent since the subscription: out of order, said again or not", "34 came after 41" in judged(41, 34, since=34, repeated=again))


with Theme("selftest") as theme:
    theme.folder = workspace(theme)
    power_cuts(theme)
    cuts(theme)
    traps(theme)
    rules(theme)
    order(theme)
