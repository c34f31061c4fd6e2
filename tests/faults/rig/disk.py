"""A folder whose disk fails as it is told: the shim (../shim), its control file and its journal."""

import os
import pathlib
import random
import subprocess
import tempfile

from .powercut import Disk, records

HERE = pathlib.Path(__file__).resolve().parent.parent
SOURCES = [HERE / "shim" / name for name in ("calls.c", "control.c", "journal.c")]
MEMORY_MIN_BYTES = 2 << 30
_built = None


def shim():
    """The shared library, built where it is missing or old."""
    global _built
    if _built is None:
        folder = pathlib.Path(os.environ.get("FAULTS_BUILD") or HERE.parent.parent / "target" / "faults")
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "shim.so"
        sources = [*SOURCES, HERE / "shim" / "shim.h"]
        if not library.exists() or library.stat().st_mtime < max(s.stat().st_mtime for s in sources):
            new = folder / f"shim.{os.getpid()}.so"
            subprocess.run(["gcc", "-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-o", new, *SOURCES,
                            "-lpthread"], check=True)
            new.rename(library)
        _built = library
    return _built


def memory_folder(prefix="tidegate-faults-"):
    """A new folder, in memory where there is enough of it: everything is written twice, and a sync of the machine's own disk is nobody's business here."""
    folder = os.environ.get("FAULTS_DIR")
    if folder is None:
        memory = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
        folder = "/dev/shm" if memory and memory.f_bavail * memory.f_frsize > MEMORY_MIN_BYTES else None
    return pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=folder))


class FaultyDisk:
    """`root` is the disk. Programs started with `env` see its faults; with `journal=False` no power can be cut, and long runs cost no memory.
    `unlucky`: see powercut.py."""

    def __init__(self, folder, seed=0, journal=True, unlucky=False):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.root = self.folder / "disk"
        self.root.mkdir(exist_ok=True)
        self.control = self.folder / "control"
        self.journal = self.folder / "journal" if journal else None
        self.dice = random.Random(seed)
        self.disk, self.unlucky = None, unlucky
        self.rules()
        self.env = {"LD_PRELOAD": str(shim()), "FAULTS_ROOT": str(self.root), "FAULTS_CONTROL": str(self.control)}
        if journal:
            self.env["FAULTS_JOURNAL"] = str(self.journal)
            self.power_up()

    def rules(self, *lines):
        """What fails from now on; nothing without arguments. See shim/control.c."""
        new = self.control.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(self.control)

    def power_up(self):
        """Before a program is started: what is in the folder now is on the disk."""
        self.journal.unlink(missing_ok=True)
        self.disk = Disk(self.root, self.dice, self.unlucky)

    def calls(self):
        """(type, name) of each record of the journal since the power came; what was done to the same file has the same name, the last one that is known."""
        names = {inode: name for name, inode in self.disk.seen.items()}
        found = []
        for kind, inode, _, _, name, _, _ in records(self.journal.read_bytes()):
            if kind == "C":
                names[inode] = name
            found.append((kind, name or names.get(inode, "")))
        return found

    def power_cut(self, compare=None):
        """When the program has been killed: leaves in the folder what the disk has, and gives back what the journal says.

        Where the shim itself cut the power, the folder must be as the journal says (`compare` overrules that): else the shim has missed a call."""
        played = self.disk.play(self.journal.read_bytes() if self.journal.exists() else b"")
        if played.cut if compare is None else compare:
            difference = played.differs()
            if difference:
                raise RuntimeError(f"the shim has missed something: {difference}")
        played.at_stake = played.lose_power()
        self.power_up()
        return played
