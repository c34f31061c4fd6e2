"""One gateway among its people, on a disk that gets into trouble and out of it again. The themes say what trouble."""

import asyncio
import json
import random
import shutil

from .audit import Audit, Image
from .disk import FaultyDisk, memory_folder
from .people import Pinger
from .plant import Plant

# What the log says, and when.
SUSPENDED = "the store is suspended"
WORKS = "the store works again"


class Trouble:
    """`async with Trouble(theme, label) as trouble`: healthy at first, with messages flowing."""

    def __init__(self, theme, label, journal=True, unlucky=False, **plant):
        self.theme, self.label = theme, label
        self.folder = memory_folder()
        seed = theme.random.randrange(1 << 32)
        self.disk = FaultyDisk(self.folder, seed, journal, unlucky)
        self.plant = Plant(self.folder, self.disk.root, seed, self.disk.env, **plant)
        self.audit = Audit(self.plant)
        self.pinger = Pinger()
        self.dice = random.Random(seed)
        self.logged = 0
        self.failed = False

    async def __aenter__(self):
        await self.plant.open()
        for subscriber in self.plant.subscribers:
            subscriber.may_connect.set()
        self.plant.start()
        await self.plant.up()
        self.plant.tasks.append(asyncio.ensure_future(self.pinger.live(self.plant.port)))
        await self.flows("messages flow")
        await self.plant.until("the pinger is connected", lambda: self.pinger.answers > 0)
        return self

    async def __aexit__(self, kind, error, trace):
        if error is not None:
            self.check("runs to its end", False, f"{kind.__name__}: {error}")
        await self.plant.close()
        if self.failed:
            self.theme.say(f"files kept in {self.folder}")
        else:
            shutil.rmtree(self.folder)
        return kind is not None and issubclass(kind, Exception)

    def check(self, what, good, detail=""):
        self.failed |= not good
        return self.theme.check(f"{self.label}: {what}", good, detail)

    def acknowledged(self):
        return sum(len(p.acknowledged) for p in self.plant.publishers)

    async def flows(self, what, seconds=30, messages=50):
        """Waits until so many more are acknowledged."""
        before = self.acknowledged()
        await self.plant.until(what, lambda: self.acknowledged() > before + messages, seconds)

    async def ready(self):
        """Status and reasons of /health/ready."""
        status, body = await self.plant.get("/health/ready")
        return status, json.loads(body).get("reasons", []) if body else []

    def fault(self, *rules):
        self.logged = len(self.plant.log_path.read_bytes())
        self.disk.rules(*rules)

    async def says(self, words, seconds=30):
        """Waits until the log has these words, since the fault began."""
        await self.plant.until(f"the log says: {words}", lambda: words.encode() in self.plant.log_path.read_bytes()[self.logged:], seconds)

    async def suffers(self, *rules, seconds=5, withheld=True):
        """The disk has this trouble for so long; who watches from outside sees what the contract says."""
        plant, pid = self.plant, self.plant.process.pid
        connects = self.pinger.connects
        self.fault(*rules)
        await asyncio.sleep(1)  # what was on its way may still be answered
        before, reasons, statuses = self.acknowledged(), [], set()
        live = set()
        end = asyncio.get_running_loop().time() + seconds - 1
        while asyncio.get_running_loop().time() < end and plant.process.alive():
            status, said = await self.ready()
            statuses.add(status)
            reasons = said or reasons
            live.add((await plant.get("/health/live"))[0])
            await asyncio.sleep(0.2)
        self.check("the process stays up", plant.process.alive() and plant.process.pid == pid)
        if not plant.process.alive():
            raise RuntimeError(f"it ended with code {plant.process.child.returncode}")
        self.check("it says that it is alive", live == {200}, live)
        late = self.acknowledged() - before
        if withheld:
            self.check("it says that it is not ready, and why", statuses == {503} and reasons, f"{statuses} {reasons}")
            self.check("nothing is acknowledged", late == 0, late)
        self.statuses, self.reasons = statuses, reasons
        self.check("keep alive is answered, no client is thrown out",
                   self.pinger.connects == connects == 1 and self.pinger.worst_s < 1.5, f"worst {self.pinger.worst_s:.2f} s, {self.pinger.connects} connections")
        lines = self.log_lines()
        self.check("the log says it, and is not flooded", (not withheld or lines) and len(lines) < 10 + 5 * seconds, f"{len(lines)} lines")

    def log_lines(self):
        """Warnings and errors since the fault began."""
        text = self.plant.log_path.read_bytes()[self.logged:].decode(errors="replace")
        return [line for line in text.splitlines() if '"WARN"' in line or '"ERROR"' in line]

    async def recovers(self, seconds=20):
        """The disk is well again: work goes on by itself."""
        pid = self.plant.process.pid
        self.disk.rules()
        began = asyncio.get_running_loop().time()
        await self.flows("messages flow again", seconds)
        took = asyncio.get_running_loop().time() - began
        self.check("work goes on by itself, without a restart", self.plant.process.alive() and self.plant.process.pid == pid, f"after {took:.1f} s")

        async def ready():
            return (await self.ready())[0] == 200

        await self.plant.until("it is ready again", ready, seconds)
        self.check("it is ready again", True)

    async def power_cut(self):
        """At once; then the audit of what is left, and a start from it."""
        self.plant.process.kill()
        await asyncio.sleep(0.05)
        self.disk.rules()
        self.disk.power_cut(compare=False)
        sound = self.look("after a power cut")
        self.plant.start()
        await self.plant.up()
        return sound

    def look(self, when):
        problems = self.plant.problems()
        error = problems[0] if problems else None
        image = Image(self.plant.data, self.folder / "copy")
        try:
            if error is None:
                self.audit.check(image)
        except Exception as problem:  # a database that cannot be read fails the check, too
            error = f"{type(problem).__name__}: {problem}"
        finally:
            image.close()
        self.check(f"{when} nothing acknowledged is lost, order and books are right", error is None, error or f"{self.audit.acknowledged} messages")
        return error is None

    async def finish(self, seconds=60):
        """Everything comes to its end, and the gateway stops in order."""
        self.disk.rules()
        await self.plant.drain(seconds)
        self.audit.fresh()
        code = await self.plant.stop()
        self.check("SIGTERM ends it with code 0", code == 0, code)
        self.look("in the end")


def run(theme, *stories):
    """Runs one story after the other in one loop."""
    async def all_of_them():
        for story in stories:
            await story(theme)

    asyncio.run(all_of_them())
