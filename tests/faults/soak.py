"""Everything at once, for hours: disk faults, power cuts, kill -9, restarts, a bad network, an upstream that comes and goes.

    tests/faults/run soak --minutes 30 --seed 7

The books are asked for every second and must balance; what was acknowledged is looked for after every death; memory must stay bounded.
A gateway that ends by itself with a failure is started again, as systemd would, and that is counted."""

import argparse
import asyncio
import collections
import random
import shutil
import statistics
import sys
import time

from lab.process import free_port
from lab.proxy import Proxy
from rig.audit import Audit, Image
from rig.disk import FaultyDisk, memory_folder
from rig.people import Broken, Pinger
from rig.plant import Plant

RSS_MAX_MIB = 256

DISK = [
    "write enospc", "write enospc budget 200000", "readonly erofs", "write eio", "sync eio", "sync eio count 1", "sync eio chance 20", "write eio chance 10",
    "write eio file data/tidegate.db", "write eio file data/tidegate.db-wal", "sync delay 1s", "sync delay 3s", "any delay 20ms", "sync delay 200ms",
    "truncate eio", "open emfile",
]


class Soak:
    def __init__(self, folder, seed):
        self.dice = random.Random(seed)
        self.disk = FaultyDisk(folder, seed)
        self.proxy = None
        self.plant = Plant(folder, self.disk.root, seed, self.disk.env, pace_s=0.015, gate=self.make_proxy)
        self.audit = Audit(self.plant)
        self.pinger = Pinger()
        self.events = collections.Counter()
        self.rss, self.audits, self.asked, self.failures = [], 0, 0, []
        self.began = time.monotonic()

    def make_proxy(self, upstream):
        self.proxy = Proxy(free_port(), upstream)
        return self.proxy.port

    async def start(self):
        """As systemd: again and again, until it is up."""
        self.plant.start()
        for tries in range(20):
            if tries == 5:
                self.disk.rules()  # a disk that stays broken is not to be started on
            try:
                await self.plant.up(20)
                return
            except Broken:
                if self.plant.process.alive():
                    raise
                self.note_exit()
                await asyncio.sleep(0.2)
                self.plant.start()
        raise Broken("it does not start any more")

    def note_exit(self):
        code = self.plant.process.child.returncode
        self.events[f"ended by itself with code {code}"] += 1
        if code < 0 or code == 101:
            raise Broken(f"it ended with code {code}: {self.plant.log_path.read_text()[-500:]}")

    def look(self, durable=True):
        problems = self.plant.problems()
        if problems:
            raise Broken(problems[0])
        image = Image(self.plant.data, self.disk.folder / "copy")
        try:
            self.audit.check(image, durable)
        finally:
            image.close()
        self.audits += 1

    async def watch(self):
        """Every second: is it there, do the books balance, how much memory does it take."""
        while True:
            await asyncio.sleep(1)
            if self.plant.process.alive():
                self.rss.append(self.plant.process.rss_bytes())
                if await self.plant.books():
                    self.asked += 1

    # What happens to it.

    async def power_cut(self):
        if self.dice.random() < 0.7:
            self.disk.rules(f"any cut after {self.dice.randrange(400)}")
            end = time.monotonic() + 2
            while self.plant.process.alive() and time.monotonic() < end:
                await asyncio.sleep(0.005)
        self.plant.process.kill()
        await asyncio.sleep(0.02)
        self.disk.rules()
        self.disk.power_cut(compare=False)
        self.look()
        await self.start()

    async def kill(self):
        self.plant.process.kill()
        await asyncio.sleep(0.02)
        self.look(durable=False)
        await self.start()

    async def restart(self):
        self.plant.process.child.terminate()
        end = time.monotonic() + 30
        while self.plant.process.alive() and time.monotonic() < end:
            await asyncio.sleep(0.02)
        if self.plant.process.child.poll() != 0:
            raise Broken(f"SIGTERM ended it with {self.plant.process.child.returncode}")
        self.look(durable=False)
        await self.start()

    async def disk_fault(self):
        rule = self.dice.choice(DISK)
        self.events[f"disk: {rule}"] += 1
        self.disk.rules(f"seed {self.dice.randrange(1000)}", rule)
        await asyncio.sleep(self.dice.choice([0.3, 1.5, 5]))
        if self.dice.random() < 0.3:  # while it lasts
            await self.dice.choice([self.power_cut, self.kill])()
        self.disk.rules()

    async def network(self):
        trouble = self.dice.choice(["cut", "stall", "half-close", "refuse", "mood"])
        self.events[f"network: {trouble}"] += 1
        if trouble == "cut":
            for _ in range(self.dice.randrange(1, 6)):
                self.proxy.cut()
                await asyncio.sleep(self.dice.uniform(0, 0.3))
        elif trouble == "stall":
            self.proxy.stall()
            await asyncio.sleep(self.dice.uniform(0.2, 4))
            self.proxy.flow()
        elif trouble == "half-close":
            self.proxy.half_close(self.dice.random() < 0.5)
        elif trouble == "refuse":
            self.proxy.refusing = True
            self.proxy.cut()
            await asyncio.sleep(self.dice.uniform(0.2, 3))
            self.proxy.refusing = False
        else:
            self.plant.upstream.turn(self.dice.choice(["slow", "some", "none"]))
            await asyncio.sleep(self.dice.uniform(0.5, 4))
            self.plant.upstream.turn("all")

    async def upstream_restart(self):
        self.plant.upstream.turn("away")
        await asyncio.sleep(self.dice.uniform(0.2, 5))
        self.plant.upstream.turn("all")

    async def sessions(self):
        for subscriber in self.plant.subscribers:
            subscriber.may_connect.set() if self.dice.random() < 0.6 else subscriber.away()

    async def quiet(self):
        await asyncio.sleep(self.dice.uniform(0.5, 3))

    async def run(self, minutes):
        await self.plant.open()
        await self.start()
        self.plant.tasks.append(asyncio.ensure_future(self.pinger.live(self.plant.port)))
        watch = asyncio.ensure_future(self.watch())
        end, said = time.monotonic() + minutes * 60, 0
        happenings = [self.power_cut, self.kill, self.restart, self.disk_fault, self.network, self.upstream_restart, self.sessions, self.quiet]
        try:
            while time.monotonic() < end:
                if watch.done():
                    watch.result()
                if not self.plant.process.alive():
                    self.note_exit()
                    await self.start()
                what = self.dice.choices(happenings, [3, 2, 1, 5, 4, 1, 2, 4])[0]
                self.events[what.__name__.replace("_", " ")] += 1
                await what()
                if time.monotonic() - self.began > said + 60:
                    said = time.monotonic() - self.began
                    print(f"     {said / 60:.0f} min, {sum(self.events.values())} events, {self.audit.acknowledged} acknowledged, "
                          f"rss {self.rss[-1] >> 20 if self.rss else 0} MiB", flush=True)
            await self.finish()
        finally:
            watch.cancel()
            self.proxy.close()
            await self.plant.close()

    async def finish(self):
        self.disk.rules()
        self.proxy.flow()
        self.proxy.refusing = False
        if not self.plant.process.alive():
            self.note_exit()
            await self.start()
        await self.plant.drain(120)
        self.audit.fresh()
        for subscriber in self.plant.subscribers:
            await self.plant.until(f"{subscriber.name} has everything", lambda s=subscriber: self.audit.due[s.name] <= s.got, 60)
        if (code := await self.plant.stop()) != 0:
            raise Broken(f"SIGTERM ended it with code {code}")
        self.look()
        for name, owed in self.audit.owed.items():
            if owed and not self.plant.streams[name].drops:
                raise Broken(f"{name}: not forwarded in the end: {sorted(owed)[:5]}")

    def table(self):
        plant = self.plant
        quarter = max(1, len(self.rss) // 4)
        rows = {
            "minutes": f"{(time.monotonic() - self.began) / 60:.1f}",
            "acknowledged": sum(len(p.acknowledged) for p in plant.publishers),
            "refused (0x97)": sum(len(p.refused) for p in plant.publishers),
            "publisher connections": sum(p.connects for p in plant.publishers),
            "received upstream": plant.upstream.times,
            "different upstream": sum(map(len, plant.upstream.seen.values())),
            "delivered to sessions": sum(s.times for s in plant.subscribers),
            "audits": self.audits,
            "books asked for": self.asked,
            "dropped or expired by rule": sum(map(len, self.audit.gone.values())),
            "keep alive: worst answer": f"{self.pinger.worst_s:.2f} s of {self.pinger.answers}",
            "resident memory, most": f"{max(self.rss, default=0) >> 20} MiB",
            "resident memory, first and last quarter": f"{statistics.median(self.rss[:quarter] or [0]) / 2**20:.0f} and "
                                                        f"{statistics.median(self.rss[-quarter:] or [0]) / 2**20:.0f} MiB",
            **{f"  {name}": count for name, count in sorted(self.events.items())},
        }
        return "\n".join(f"     {name:<55} {value}" for name, value in rows.items())


def main():
    parser = argparse.ArgumentParser(description="Everything at once.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args()
    print(f"== soak (--minutes {options.minutes:g} --seed {options.seed})", flush=True)
    folder = memory_folder()
    soak = Soak(folder, options.seed)
    problem = None
    try:
        asyncio.run(soak.run(options.minutes))
    except Broken as broken:
        problem = broken
    if problem is None and max(soak.rss, default=0) > RSS_MAX_MIB << 20:
        problem = f"resident memory {max(soak.rss) >> 20} MiB"
    print(soak.table(), flush=True)
    if problem is None:
        shutil.rmtree(folder)
        print("PASS soak: nothing acknowledged was lost, order and books were right throughout", flush=True)
    else:
        print(f"FAIL soak: {problem}; files kept in {folder}", flush=True)
    sys.exit(problem is not None)


main()
