"""The gateway with all its kinds of streams, and everybody around it, for runs of many lives."""

import asyncio
import json
import os
import pathlib
import random

from lab.process import Process, free_port

from .people import Broken, Publisher, Subscriber, Upstream

CONFIG = """[gateway]
id = "lab"
data_dir = "{data}"
[store]
durability = "{durability}"
commit_delay = "{commit_delay}"
min_free = "0B"
{store}
[[listener]]
name = "local"
bind = "127.0.0.1:{port}"
max_queued_messages = 0
max_queued_bytes = 0
{listener}
[[uplink]]
name = "cloud"
url = "mqtt://127.0.0.1:{upstream}"
qos = {uplink_qos}
max_inflight = {inflight}
connect_timeout = "2s"
progress_timeout = "1s"
backoff = {{ min = "10ms", max = "100ms" }}
[[downlink]]
name = "commands"
from = "cloud"
filter = ["down/#"]
topic = "cmd/{{rest}}"
qos = {down_qos}
[admin]
bind = "127.0.0.1:{admin}"
[log]
level = "info"
format = "json"
"""

STREAM = """[[stream]]
name = "{name}"
from = ["{prefix}#"]
{more}
"""


class Stream:
    """A stream of the plant: takes what begins with `prefix`; `drops` where messages may leave other than upstream."""

    def __init__(self, name, prefix, more, drops=False):
        self.name, self.prefix, self.more, self.drops = name, prefix, more, drops

    def takes(self, topic):
        return topic.startswith(self.prefix)


STREAMS = [
    Stream("telemetry", "sensors/", 'to = "cloud"'),
    Stream("audit", "sensors/a/", 'to = "cloud"\npriority = 5'),
    Stream("small", "small/", 'to = "cloud"\nmax_messages = 60\nwhen_full = "drop-oldest"', drops=True),
    Stream("tight", "tight/", 'to = "cloud"\nmax_messages = 40'),
    Stream("short", "short/", 'ttl = "2s"', drops=True),
]


class Plant:
    """One data directory and everybody around it. `env` is the disk's."""

    def __init__(self, folder, root, seed, env=None, durability="full", store="", listener="", bulk=False, pace_s=0.0, gate=None):
        self.folder, self.dice = pathlib.Path(folder), random.Random(seed)
        self.data = pathlib.Path(root) / "data"
        self.env = env
        self.streams = {stream.name: stream for stream in STREAMS}
        self.upstream = Upstream(random.Random(seed + 1))
        self.port, self.admin = free_port(), free_port()
        self.durability, self.store, self.listener, self.bulk = durability, store, listener, bulk
        self.pace_s = pace_s  # each publisher waits so long after a message
        self.gate = gate  # makes what stands between the gateway and the upstream
        self.publishers = self._publishers()
        self.by_name = {publisher.name: publisher for publisher in self.publishers}
        qos = self.dice.choice([1, 2])
        self.commands = Publisher("k", ["down/k"], qos, dice=random.Random(seed + 2), window=5, pause_s=max(self.pace_s, 0.01))
        self.upstream.commands = self.by_name["k"] = self.commands
        self.subscribers = [Subscriber("two", "plant/#", 2), Subscriber("one", "plant/#", 1, version=4), Subscriber("three", "cmd/#", qos)]
        for subscriber in self.subscribers:
            subscriber.publishers = self.by_name
        self.process = None
        self.tasks = []

    def _publishers(self):
        dice = self.dice

        def person(name, topics, qos, **more):
            more["pause_s"] = max(self.pace_s, more.get("pause_s", 0.0))
            return Publisher(name, topics, qos, dice=random.Random(dice.random()), **more)

        large = (4000, 30000) if self.bulk else (100, 3000)
        return [
            person("a", [f"sensors/a/{n}" for n in range(4)], 1, window=dice.choice([1, 20, 100])),
            person("b", ["sensors/b"], 2, window=dice.choice([1, 20, 60])),
            person("c", ["sensors/c"], 1, version=4, lasting=False, window=30, size=large),
            person("e", ["sensors/e"], 2, version=4, window=10, pause_s=0.003),
            person("d", ["small/d"], 1, window=30, pause_s=0.002),
            person("t", ["tight/t"], 1, window=10, pause_s=0.005),
            person("s", ["short/s"], 1, window=10, pause_s=0.003),
            person("r", [f"state/{n}" for n in range(5)], 1, retain=True, window=5, pause_s=0.005),
            person("x", [f"plant/{n}" for n in range(3)], 2, window=10, pause_s=0.004),
            person("y", ["plant/y"], 1, window=10, pause_s=0.004),
        ]

    async def open(self):
        """Everybody comes; the gateway is started by `start`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.upstream.start()
        upstream_port = self.gate(self.upstream.port) if self.gate else self.upstream.port
        self.config = self.folder / "tidegate.toml"
        text = CONFIG.format(
            data=self.data, durability=self.durability, commit_delay=self.dice.choice(["0s", "2ms"]), port=self.port, admin=self.admin,
            upstream=upstream_port, uplink_qos=self.dice.choice([1, 1, 2]), inflight=self.dice.choice([4, 64, 256]),
            down_qos=self.commands.qos, store=self.store, listener=self.listener)
        self.config.write_text(text + "".join(STREAM.format(name=s.name, prefix=s.prefix, more=s.more) for s in STREAMS))
        self.tasks = [asyncio.ensure_future(who.live(self.port)) for who in (*self.publishers, *self.subscribers)]

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.upstream.server.close()
        self.upstream.turn("away")
        if self.process is not None:
            self.process.kill()

    @property
    def log_path(self):
        return self.folder / "gateway.log"

    def start(self, env=None):
        self.process = Process([os.environ["TIDEGATE"], "run", "-c", self.config], self.log_path, {**(self.env or {}), **(env or {})})
        return self.process

    async def get(self, path, seconds=5):
        """(status, body) of the HTTP interface; (0, "") where nobody answers."""
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            return 0, ""
        head, _, body = answer.partition(b"\r\n\r\n")
        return (int(head.split()[1]), body.decode()) if head else (0, "")

    async def books(self):
        """The books by stream, or None; raises where they do not balance."""
        status, body = await self.get("/api/v1/streams")
        if status != 200:
            return None
        found = {}
        for stream in json.loads(body)["streams"]:
            left = sum(stream[key] for key in ("forwarded", "expired", "dropped", "dead", "purged"))
            if stream["accepted"] != left + stream["backlog"]["messages"]:
                raise Broken(f"the books that it shows do not balance: {stream}")
            found[stream["name"]] = stream
        return found

    def problems(self):
        return [problem for who in (*self.publishers, *self.subscribers, self.upstream, self.commands) for problem in who.problems]

    async def until(self, what, condition, seconds=60, every=0.02):
        """Waits for a condition; raises `Broken` where it does not come true."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            if asyncio.get_running_loop().time() > end:
                raise Broken(f"not within {seconds:g} s: {what}")
            await asyncio.sleep(every)

    async def up(self, seconds=30):
        """Waits until the gateway answers."""
        async def ready():
            if not self.process.alive():
                raise Broken(f"it ended by itself with code {self.process.child.returncode}: {self.log_path.read_text()[-400:]}")
            return (await self.get("/health/live"))[0] == 200

        await self.until("the gateway is up", ready, seconds)

    async def stop(self, seconds=60):
        """SIGTERM; gives back the exit code, None where it had to be killed. The others live on meanwhile."""
        self.process.child.terminate()
        end = asyncio.get_running_loop().time() + seconds
        while self.process.alive() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        if self.process.alive():
            self.process.kill()
            return None
        return self.process.child.returncode

    async def drain(self, seconds=60):
        """Publishers stop, the upstream takes everything: nothing is left to acknowledge, to forward, or to deliver."""
        self.upstream.turn("all")
        for publisher in (*self.publishers, self.commands):
            publisher.running.clear()
        for subscriber in self.subscribers:
            subscriber.may_connect.set()
        await self.until("everything is acknowledged", lambda: all(p.idle() for p in (*self.publishers, self.commands)), seconds)

        # A busy machine takes long for a large backlog: what must not be is that nothing moves.
        left = [None]

        async def fewer():
            books = await self.books()
            if books is None:
                return False
            backlog = sum(b["backlog"]["messages"] for b in books.values())
            if left[0] in (None, backlog) and backlog > 0:
                left[0] = backlog
                return False
            left[0] = backlog
            return True

        while left[0] != 0:
            await self.until(f"the backlog of {left[0]} becomes less", fewer, seconds)
