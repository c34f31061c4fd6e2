"""What is on the disk after a power cut: the files as they were, and the journal of what was done to them (shim/journal.c).

The model. What POSIX and Linux promise is kept; beyond that the dice decide, against the program wherever that is allowed:

* A sync of a file that worked keeps everything that was written to it, and its size, before the sync *began*. Later writes may be there.
* What was not synced is kept, dropped or torn, independently for each sector of 512 bytes: a sector has its synced content, or that of after any one
  of the later writes. So writes are reordered at will. The size is the synced one, or that of after any one of the later calls.
  A sector that a file grew by without being written is zeros, or garbage.
* A sync that fails forgets: of what was not synced until then some sectors have reached the disk, the others count as clean and are not
  written by the next sync that works. Who reads the file sees them all the same, until the power goes away.
* Names (made, renamed, removed) are kept by a sync of their folder; a rename between two folders by that of both. A sync of the file does not keep its
  name (ext4 would). What was not synced is undone from some point on (a journal), or each by itself (POSIX), but changes of the same name stay
  in order, and a rename is whole or not at all.
* `-shm` files are always gone.
* An `unlucky` disk has written nothing when a sync fails, and about half of what it was told since the last sync when the power goes.

Not modelled: sectors that are themselves torn, writes that harm what is beside them (flash without power-loss protection), disks that lie
about syncs (there is the rule `lie` for it), bits that rot (`damage` does that), drives that lose what was synced long ago."""

import os
import pathlib
import shutil
import struct

SECTOR = 512
HEAD = struct.Struct("<4sc3xQQQII")


def records(journal):
    """(type, inode, offset, length, name, name2, data) of each whole record."""
    at = 0
    while at + HEAD.size <= len(journal):
        magic, kind, inode, offset, length, name, name2 = HEAD.unpack_from(journal, at)
        if magic != b"TGJ1":
            raise RuntimeError(f"the journal makes no sense at byte {at}")
        at += HEAD.size
        size = name + name2 + (length if kind == b"W" else 0)
        if at + size > len(journal):
            return
        first, second = at + name, at + name + name2
        yield kind.decode(), inode, offset, length, journal[at:first].decode(), journal[first:second].decode(), journal[second:at + size]
        at += size


def _resize(content, size):
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _put(content, offset, data):
    if offset > len(content):
        _resize(content, offset)
    content[offset:offset + len(data)] = data


class Inode:
    """A file: what programs see, what the disk has, and the calls in between as (index, offset, sectors) or (index, size)."""

    def __init__(self, content=b""):
        self.seen = bytearray(content)
        self.disk = bytearray(content)
        self.pending = []

    def write(self, index, offset, data):
        _put(self.seen, offset, data)
        first = offset // SECTOR * SECTOR
        last = -(-(offset + len(data)) // SECTOR) * SECTOR
        self.pending.append((index, first, bytes(self.seen[first:last])))

    def truncate(self, index, size):
        _resize(self.seen, size)
        self.pending.append((index, size))

    def keep(self, before):
        """A sync that began at this index worked."""
        for call in self.pending:
            if call[0] < before:
                _resize(self.disk, call[1]) if len(call) == 2 else _put(self.disk, call[1], call[2])
        self.pending = [call for call in self.pending if call[0] >= before]

    def forget(self, before, dice, unlucky):
        """A sync that began at this index failed."""
        late = [call for call in self.pending if call[0] >= before]
        self.pending = [call for call in self.pending if call[0] < before]
        if not unlucky:
            self.disk = self.torn(dice, unlucky)
        self.pending = late

    def torn(self, dice, unlucky):
        """The content after a power cut now."""
        calls = self.pending
        if not calls:
            return self.disk
        sizes = [len(self.disk)]
        for call in calls:
            sizes.append(call[1] if len(call) == 2 else max(sizes[-1], call[1] + len(call[2])))
        point = dice.choice([0, len(calls), dice.randrange(len(sizes))])
        newest = 0.5 if unlucky else dice.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        garbage = dice.random() < 0.2
        disk = bytearray(self.disk)
        versions = {}
        for number, call in enumerate(calls, 1):
            if len(call) == 3:
                for at in range(0, len(call[2]), SECTOR):
                    versions.setdefault(call[1] + at, []).append(call[2][at:at + SECTOR])
            elif number <= point:
                _resize(disk, min(call[1], len(disk)))
                versions = {at: found for at, found in versions.items() if at < call[1]}
        for at, found in versions.items():
            roll = dice.random()
            if roll < newest:
                _put(disk, at, found[-1])
            elif roll < newest + (1 - newest) / 2 and len(found) > 1:
                _put(disk, at, dice.choice(found))
            elif garbage and at >= len(self.disk):
                _put(disk, at, dice.randbytes(SECTOR))
        _resize(disk, sizes[point])
        return disk


class Disk:
    """Names and files below a folder, through all that a journal says was done to them. `unlucky`: see above."""

    def __init__(self, root, dice, unlucky=False):
        self.root = pathlib.Path(root)
        self.dice, self.unlucky = dice, unlucky
        self.inodes = {}
        self.seen = {}
        self.operations = 0
        self.cut = False
        for path in sorted(self.root.rglob("*")):
            inode = path.stat().st_ino
            self.seen[str(path.relative_to(self.root))] = None if path.is_dir() else inode
            if path.is_file():
                self.inodes[inode] = Inode(path.read_bytes())
        self.names = dict(self.seen)
        self.pending = []  # (index, paths, folders that are not synced yet, change)
        self.syncs = {}

    def play(self, journal):
        for index, record in enumerate(records(journal)):
            self._play(index, *record)
        return self

    def _play(self, index, kind, inode, offset, length, name, name2, data):
        self.operations += kind not in "SFLX"
        if kind == "C":
            self.inodes[inode] = Inode()
        if kind in "CM":
            self._name(index, [name], lambda names: names.__setitem__(name, inode if kind == "C" else None))
        elif kind in "UD":
            self._name(index, [name], lambda names: names.pop(name, None))
        elif kind == "R":
            moved = self.seen.get(name)

            def rename(names):
                names.pop(name, None)
                names[name2] = moved

            self._name(index, [name, name2], rename)
        elif kind == "W":
            self.inodes[inode].write(index, offset, data)
        elif kind == "T":
            self.inodes[inode].truncate(index, length)
        elif kind == "B":
            self.syncs[offset] = index
        elif kind == "S":
            began = self.syncs.pop(offset)
            self.inodes[inode].keep(began) if inode in self.inodes else self._keep_names(name, began)
        elif kind == "F":
            began = self.syncs.pop(offset)
            if inode in self.inodes:
                self.inodes[inode].forget(began, self.dice, self.unlucky)
        elif kind == "X":
            self.cut = True

    def _name(self, index, paths, change):
        change(self.seen)
        self.pending.append((index, paths, {os.path.dirname(path) for path in paths}, change))

    def _keep_names(self, folder, before):
        for index, _, folders, _ in self.pending:
            if index < before:
                folders.discard(folder)
        self._apply([change for change in self.pending if not change[2]])

    def _apply(self, wanted):
        """These changes, and the earlier ones of the same names."""
        paths, chosen = set(), []
        for change in reversed(self.pending):
            if any(change is one for one in wanted) or paths & set(change[1]):
                paths |= set(change[1])
                chosen.append(change)
        for change in reversed(chosen):
            change[3](self.names)
        self.pending = [change for change in self.pending if not any(change is one for one in chosen)]

    def differs(self):
        """What programs see, as far as the journal knows, against what is in the folder; the first difference, or None."""
        found = {str(path.relative_to(self.root)): path for path in self.root.rglob("*") if not path.name.endswith("-shm")}
        if set(found) != set(self.seen):
            return f"names: {sorted(set(found) ^ set(self.seen))}"
        for name, inode in self.seen.items():
            if inode is not None and found[name].read_bytes() != self.inodes[inode].seen:
                return f"content of {name}"
        return None

    def lose_power(self):
        """Makes the folder what is left after a power cut. Gives back how many files and names had something to lose."""
        at_stake = sum(bool(inode.pending) for inode in self.inodes.values()) + len(self.pending)
        if self.dice.random() < 0.6:
            self._apply(self.pending[:self.dice.randrange(len(self.pending) + 1)])
        else:
            self._apply([change for change in self.pending if self.dice.random() < 0.5])
        left = {name: None if inode is None else self.inodes[inode].torn(self.dice, self.unlucky) for name, inode in sorted(self.names.items())}
        shutil.rmtree(self.root)
        self.root.mkdir()
        for name, content in left.items():
            path = self.root / name
            if not path.parent.is_dir() or name.endswith("-shm"):
                continue
            if content is None:
                path.mkdir(mode=0o700)
            else:
                path.write_bytes(content)
                path.chmod(0o600)
        return at_stake
