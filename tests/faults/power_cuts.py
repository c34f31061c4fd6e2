"""Power cuts at random points in the life of a gateway, one after the other on the same disk, and an audit after each.

    tests/faults/run power-cuts --count 1000 --seed 7

A cut is counted in calls that change the disk, not in time: at the start, at a checkpoint, while it stops. The seed decides everything but
what threads and sockets decide; each disk has its own (`--disk SEED` plays one of them alone)."""

import argparse
import asyncio
import random
import shutil
import sys
import time

from rig.audit import Audit, Image
from rig.disk import FaultyDisk, memory_folder
from rig.people import Broken
from rig.plant import Plant
from rig.starts import KINDS, survives

LIVES = 30  # power cuts that one disk goes through
STARTS = 2  # of each kind (starts.py), for each such disk


class Sums:
    """The figures of the whole run."""

    def __init__(self):
        self.cuts = self.at_start = self.in_checkpoint = self.at_stop = self.outside = self.with_loss = 0
        self.in_starts = self.disks = self.acknowledged = self.received = self.delivered = self.operations = 0


class Life:
    """One disk through its power cuts."""

    def __init__(self, folder, seed, sums, durability="full", lie=False):
        self.seed, self.sums, self.lie = seed, sums, lie
        self.dice = random.Random(seed)
        self.disk = FaultyDisk(folder, seed)
        self.plant = Plant(folder, self.disk.root, seed, self.disk.env, durability, bulk=self.dice.random() < 0.15)
        self.audit = Audit(self.plant)
        self.number = 0

    def rule(self, kind):
        dice = self.dice
        run = int(10 ** dice.uniform(1, 3.6))
        return {
            "start": lambda: f"any cut after {dice.randrange(60)}",
            "early": lambda: f"any cut after {dice.randrange(60, 300)}",
            "run": lambda: f"any cut after {run}",
            "checkpoint": lambda: f"write cut after {int(10 ** dice.uniform(0, 3))} file data/tidegate.db",
            "sync": lambda: f"sync cut after {int(10 ** dice.uniform(0, 2.5))}",
            "checkpoint sync": lambda: "sync cut file data/tidegate.db",
            "names": lambda: f"create,rename,unlink,truncate cut after {dice.randrange(4)}",
            "outside": lambda: "",
            "stop": lambda: f"any cut after {dice.randrange(40)}",
        }[kind]()

    async def one(self):
        """A life: started, cut, audited."""
        dice, plant = self.dice, self.plant
        kind = dice.choices(["start", "early", "run", "checkpoint", "sync", "checkpoint sync", "names", "outside", "stop"],
                            [12, 8, 30, 14, 8, 6, 6, 8, 8])[0]
        rules = ["sync lie"] if self.lie else []
        self.disk.rules(*rules, *([self.rule(kind)] if kind not in ("outside", "stop") else []))
        plant.upstream.turn(dice.choice(plant.upstream.MOODS))
        for subscriber in plant.subscribers:
            subscriber.may_connect.set() if dice.random() < 0.6 else subscriber.away()
        process = plant.start()
        end = time.monotonic() + dice.choice([0.2, 0.6, 0.6, 1.5])
        asked, stopping = False, False
        while process.alive() and time.monotonic() < end:
            await asyncio.sleep(0.004)
            if not asked and await plant.books():
                asked = True
        if kind == "stop" and process.alive() and asked:
            self.disk.rules(*rules, self.rule(kind))
            process.child.terminate()
            stopping = True
            end = time.monotonic() + 10
            while process.alive() and time.monotonic() < end:
                await asyncio.sleep(0.004)
        if not process.alive() and process.child.returncode not in (0, -9):
            raise Broken(f"it ended by itself with code {process.child.returncode}")
        outside = process.alive()
        process.kill()
        await asyncio.sleep(0.02)
        played = self.disk.power_cut()
        self.count(kind, played, asked, outside, stopping)
        self.look()

    def count(self, kind, played, up, outside, stopping):
        sums = self.sums
        sums.cuts += 1
        sums.at_start += not up
        sums.in_checkpoint += kind.startswith("checkpoint") and played.cut
        sums.at_stop += stopping
        sums.outside += outside
        sums.with_loss += played.at_stake > 0
        sums.operations += played.operations

    def look(self):
        problems = self.plant.problems()
        if problems:
            raise Broken(problems[0])
        if (self.plant.data / "quarantine").exists():
            raise Broken("what a power cut left was taken for damage")
        image = Image(self.plant.data, self.disk.folder / "copy")
        try:
            self.audit.check(image)
        finally:
            image.close()

    async def run(self, lives):
        await self.plant.open()
        before = self.snapshot()
        try:
            for self.number in range(lives):
                await self.one()
            await self.finish()
        finally:
            await self.plant.close()
            after = self.snapshot()
            self.sums.acknowledged += after[0] - before[0]
            self.sums.received += after[1] - before[1]
            self.sums.delivered += after[2] - before[2]
        self.sums.disks += 1

    def snapshot(self):
        plant = self.plant
        return (sum(len(p.acknowledged) for p in plant.publishers), plant.upstream.times, sum(s.times for s in plant.subscribers))

    async def finish(self):
        """The last life: everything comes to its end, and the gateway stops in order."""
        plant = self.plant
        self.disk.rules(*(["sync lie"] if self.lie else []))
        plant.start()
        await plant.up()
        await plant.drain()
        self.audit.fresh()
        for subscriber in plant.subscribers:
            await plant.until(f"{subscriber.name} has everything", lambda s=subscriber: self.audit.due[s.name] <= s.got, 30)
        code = await plant.stop()
        if code != 0:
            raise Broken(f"SIGTERM ended it with code {code}")
        self.look()
        for name, stream in plant.streams.items():
            missing = self.audit.owed[name] if not stream.drops else set()
            if missing:
                raise Broken(f"{name}: not forwarded in the end: {sorted(missing)[:5]}")


def starts(folder, seed, sums, durability):
    """Starts that are cut while they make, migrate, salvage or replay the database."""
    dice = random.Random(seed)
    for kind in KINDS:
        for _ in range(STARTS):
            own = dice.randrange(1 << 32)
            try:
                cuts = survives(folder / kind / str(own), kind, own, durability)
            except Broken as problem:
                raise Broken(f"{kind}, seed {own}: {problem}") from None
            sums.cuts += cuts
            sums.in_starts += cuts
            shutil.rmtree(folder / kind)


async def campaign(options):
    began = time.monotonic()
    sums = Sums()
    seeds = random.Random(options.seed)
    folder = memory_folder()
    print(f"== power-cuts (--count {options.count} --seed {options.seed})", flush=True)
    failed = 0
    while sums.cuts < options.count:
        seed = options.disk if options.disk is not None else seeds.randrange(1 << 32)
        life = Life(folder / str(seed), seed, sums, options.durability, options.lie)
        try:
            await life.run(min(LIVES, options.count - sums.cuts))
            if not options.lie:
                starts(folder / f"{seed}-starts", seed, sums, options.durability)
        except Broken as problem:
            failed += 1
            print(f"FAIL power-cuts: disk {seed}, life {life.number}: {problem}; files kept in {life.disk.folder}", flush=True)
            break
        shutil.rmtree(life.disk.folder)
        shutil.rmtree(folder / f"{seed}-starts", ignore_errors=True)
        if sums.disks % 5 == 0 or options.disk is not None:
            print(f"     {sums.cuts} cuts, {sums.acknowledged} messages, {time.monotonic() - began:.0f} s", flush=True)
        if options.disk is not None:
            break
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"     {vars(sums)}, {seconds:.0f} s", flush=True)
    good = not failed and sums.acknowledged > 10 * sums.cuts
    print(f"{'PASS' if good else 'FAIL'} power-cuts: {sums.cuts} cuts, {sums.acknowledged} messages acknowledged, "
          f"{'none lost, none twice at QoS 2' if good else 'see above'}", flush=True)
    if options.expected:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(description="Power cuts at random points, and an audit after each.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--disk", type=int, help="the seed of one disk: plays it alone")
    parser.add_argument("--durability", default="full", choices=["full", "process"])
    parser.add_argument("--lie", action="store_true", help="a disk that lies about syncs")
    parser.add_argument("--expected", action="store_true", help="a failure is what is wanted: keeps no files")
    sys.exit(asyncio.run(campaign(parser.parse_args())))


main()
