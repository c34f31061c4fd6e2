"""Who lives through the power cuts: publishers, subscribers with lasting sessions, and the upstream. Each remembers what the gateway owes.

A message is (publisher, number); its payload begins with `publisher:number;`. Everything here runs in one asyncio loop, also the audit
(audit.py), which looks only while the gateway is dead."""

import asyncio
import itertools

from . import mqtt

RETRY_S = 0.01


class Broken(Exception):
    """A guarantee was broken."""


def name_of(payload):
    """(publisher, number) of a payload."""
    publisher, _, rest = payload.partition(b":")
    number, end, _ = rest.partition(b";")
    if not end:
        raise Broken(f"a payload that nobody sent: {payload[:40]!r}")
    return publisher.decode(), int(number)


class Publisher:
    """Publishes on and on, over all connections; repeats what was not acknowledged, as MQTT says."""

    def __init__(self, name, topics, qos, version=5, lasting=True, size=(20, 400), window=20, pause_s=0.0, retain=False, dice=None):
        self.name, self.topics, self.qos, self.version, self.lasting = name, topics, qos, version, lasting
        self.size, self.window, self.pause_s, self.retain, self.dice = size, window, pause_s, retain, dice
        self.next = 1
        self.topic_of = {}
        self.outstanding = {}  # packet id -> [number, phase, payload, topic], oldest first
        self.acknowledged, self.refused, self.repeated = set(), set(), set()
        self.fresh = []  # acknowledged since the last audit
        self.ids = itertools.cycle(range(1, 65536))
        self.had_session = False
        self.connects = 0
        self.limit = None
        self.running = asyncio.Event()
        self.running.set()
        self.problems = []

    def message(self):
        number = self.next
        self.next += 1
        topic = self.topics[number % len(self.topics)]
        head = f"{self.name}:{number};".encode()
        return number, topic, head + bytes(self.dice.randrange(*self.size))

    def idle(self):
        return not self.outstanding

    async def live(self, port):
        while True:
            line = mqtt.Line(self.version, f"p-{self.name}", not self.lasting)
            try:
                present = await line.open(port)
                self.resume(line, present)
                talk = asyncio.ensure_future(self.talk(line))
                try:
                    await self.listen(line)
                finally:
                    talk.cancel()
            except (OSError, TimeoutError, EOFError):
                pass
            except Broken as problem:
                self.problems.append(str(problem))
            line.close()
            await asyncio.sleep(RETRY_S)

    def resume(self, line, present):
        self.connects += 1
        if self.lasting and self.had_session and not present:
            self.problems.append(f"{self.name}: its session is gone")
        self.had_session = self.lasting
        waiting, self.outstanding = self.outstanding, {}
        for packet_id, (number, phase, payload, topic) in waiting.items():
            if not self.lasting:
                packet_id = self.free_id()
            self.outstanding[packet_id] = [number, phase, payload, topic]
            if phase == "release":
                line.send(mqtt.acknowledge(mqtt.PUBREL, packet_id))
            else:
                self.repeated.add(number)
                line.send(mqtt.publish(self.version, topic, payload, self.qos, packet_id, self.retain, dup=self.lasting))

    def free_id(self):
        return next(i for i in self.ids if i not in self.outstanding)

    async def talk(self, line):
        while True:
            await self.running.wait()
            if line.closed():
                return
            sent = 0
            while len(self.outstanding) < self.window and sent < 50 and self.running.is_set():
                number, topic, payload = self.message()
                packet_id = self.free_id()
                self.outstanding[packet_id] = [number, "publish", payload, topic]
                line.send(mqtt.publish(self.version, topic, payload, self.qos, packet_id, self.retain))
                sent += 1
                if self.pause_s:
                    break
            try:
                await line.writer.drain()
            except (OSError, AttributeError):
                return
            await asyncio.sleep(self.pause_s or 0.002)

    async def listen(self, line):
        async for batch in line.batches():
            for kind, _, body in batch:
                if kind == mqtt.DISCONNECT:
                    return
                if kind in (mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP):
                    self.hear(line, kind, *mqtt.acknowledgement(body))

    def hear(self, line, kind, packet_id, reason):
        entry = self.outstanding.get(packet_id)
        if entry is None:
            raise Broken(f"{self.name}: an acknowledgement ({kind}) of {packet_id}, which was not sent")
        number, phase = entry[:2]
        if kind == mqtt.PUBCOMP:
            del self.outstanding[packet_id]
        elif reason >= 0x80:
            if reason not in (0x97, 0x83):  # no room; or (a disk that fails) not willing
                raise Broken(f"{self.name}: refused with {reason:#x}")
            if phase == "publish":
                self.refused.add(number)
                del self.outstanding[packet_id]
        else:
            if phase == "publish":
                self.acknowledged.add(number)
                self.fresh.append((self.name, number))
            if kind == mqtt.PUBACK:
                del self.outstanding[packet_id]
            else:
                entry[1] = "release"
                line.send(mqtt.acknowledge(mqtt.PUBREL, packet_id))


class Subscriber:
    """A lasting session that is sometimes away. `got` is what it has; at QoS 2 nothing may come twice that was sent once."""

    def __init__(self, name, topic_filter, qos, version=5):
        self.name, self.filter, self.qos, self.version = name, topic_filter, qos, version
        self.got, self.times = set(), 0
        self.unreleased = set()
        self.highest = {}
        self.subscribed = False
        self.had_session = False
        self.may_connect = asyncio.Event()
        self.line = None
        self.publishers = {}
        self.since = {}  # the first message of each publisher that was sent after the subscription
        self.problems = []

    def owns(self, publisher, number, topic):
        """Whether a message is due to this session."""
        return self.subscribed and topic.startswith(self.filter[:-1]) and number >= self.since[publisher]

    def away(self):
        self.may_connect.clear()
        if self.line is not None:
            self.line.close()

    async def live(self, port):
        while True:
            await self.may_connect.wait()
            self.line = line = mqtt.Line(self.version, f"s-{self.name}", False)
            try:
                present = await line.open(port)
                if not present and self.had_session and self.subscribed:
                    self.problems.append(f"{self.name}: its session is gone")
                if not present or not self.subscribed:
                    line.send(mqtt.subscribe(self.version, 1, self.filter, self.qos))
                self.had_session = True
                async for batch in line.batches():
                    for kind, flags, body in batch:
                        self.hear(line, kind, flags, body)
            except (OSError, TimeoutError, EOFError, AttributeError):
                pass
            except Broken as problem:
                self.problems.append(str(problem))
            line.close()
            await asyncio.sleep(RETRY_S)

    def hear(self, line, kind, flags, body):
        if kind == mqtt.SUBACK:
            self.subscribed = True
            self.since = {name: publisher.next for name, publisher in self.publishers.items()}
        elif kind == mqtt.PUBREL:
            packet_id, _ = mqtt.acknowledgement(body)
            self.unreleased.discard(packet_id)
            line.send(mqtt.acknowledge(mqtt.PUBCOMP, packet_id))
        elif kind == mqtt.PUBLISH:
            arrived = mqtt.Arrived(self.version, flags, body)
            if arrived.qos == 2:
                line.send(mqtt.acknowledge(mqtt.PUBREC, arrived.packet_id))
                if arrived.packet_id in self.unreleased:
                    return
                self.unreleased.add(arrived.packet_id)
            elif arrived.qos == 1:
                line.send(mqtt.acknowledge(mqtt.PUBACK, arrived.packet_id))
            self.enter(*name_of(arrived.payload), arrived)

    def is_late(self, publisher, number):
        """Whether a message may come behind newer ones of its publisher: where the subscription began in the middle of what was on the
        way, it got the newer ones alone. If the publisher does not hear that it may forget them, it says all of them again, oldest first,
        and now they are for this session too."""
        before = not self.subscribed or number < self.since[publisher]
        return before and number in self.publishers[publisher].repeated

    def enter(self, publisher, number, arrived):
        self.times += 1
        twice = (publisher, number) in self.got
        if twice and arrived.qos == 2 and not (self.publishers[publisher].qos == 1 and number in self.publishers[publisher].repeated):
            raise Broken(f"{self.name}: {publisher}:{number} came twice at QoS 2")
        if not twice and number < self.highest.get(publisher, 0) and not self.is_late(publisher, number):
            raise Broken(f"{self.name}: {publisher}:{number} came after {self.highest[publisher]}")
        self.got.add((publisher, number))
        self.highest[publisher] = max(number, self.highest.get(publisher, 0))


class Pinger:
    """A client that only says that it is there: whether it is always answered, and how fast."""

    KEEP_ALIVE_S = 2

    def __init__(self, name="pinger"):
        self.name = name
        self.worst_s, self.answers, self.connects = 0.0, 0, 0

    async def live(self, port):
        clock = asyncio.get_running_loop().time
        while True:
            line = mqtt.Line(4, self.name, True, self.KEEP_ALIVE_S)
            try:
                await line.open(port)
                self.connects += 1
                batches = line.batches()
                while True:
                    asked = clock()
                    line.send(mqtt.packet(mqtt.PINGREQ, 0))
                    async with asyncio.timeout(30):
                        if await anext(batches, None) is None:
                            break
                    self.answers += 1
                    self.worst_s = max(self.worst_s, clock() - asked)
                    await asyncio.sleep(0.2)
            except (OSError, TimeoutError):
                pass
            line.close()
            await asyncio.sleep(RETRY_S)


class Attached:
    """The upstream's end of a connection, for who publishes over it."""

    def __init__(self, writer):
        self.writer = writer

    def closed(self):
        return self.writer.transport.is_closing()

    def send(self, data):
        if not self.closed():
            self.writer.write(data)


class Upstream:
    """An MQTT 5 server that keeps what it was sent, by stream and sequence number, and acknowledges as its mood is."""

    MOODS = ("all", "all", "slow", "some", "none", "away")

    def __init__(self, dice):
        self.dice = dice
        self.mood = "all"
        self.seen, self.acknowledged, self.highest = {}, {}, {}
        self.times = 0
        self.server = self.port = None
        self.writers = set()
        self.problems = []
        self.commands = None  # a publisher of what comes down
        self.session = self.subscribed = False
        self.current = None  # the connection that has the session

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    def turn(self, mood):
        self.mood = mood
        if mood == "away":
            for writer in list(self.writers):
                writer.transport.abort()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        line, talk = Attached(writer), None
        try:
            async for batch in mqtt.packets(reader):
                if self.mood == "away":
                    break
                if self.mood == "slow":
                    await asyncio.sleep(0.02)
                if batch[0][0] == mqtt.CONNECT:
                    # One session, one connection: what the one before had still to say is not heard any more.
                    for other in self.writers - {writer}:
                        other.transport.abort()
                    self.current = writer
                if self.current is not writer:
                    break
                for kind, flags, body in batch:
                    if kind in (mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP):
                        self.commands.hear(line, kind, *mqtt.acknowledgement(body))
                    else:
                        self.hear(writer, kind, flags, body)
                if self.commands is not None and self.subscribed and talk is None:
                    self.commands.resume(line, True)
                    talk = asyncio.ensure_future(self.commands.talk(line))
                await writer.drain()
        except OSError:
            pass
        except Broken as problem:
            self.problems.append(str(problem))
        except asyncio.CancelledError:
            pass  # the loop ends; asyncio would print that
        finally:
            if talk is not None:
                talk.cancel()
            self.writers.discard(writer)
            writer.transport.abort()

    def hear(self, writer, kind, flags, body):
        if writer.transport.is_closing():
            return
        if kind == mqtt.CONNECT:
            lasting = not body[7] & 2
            self.session &= lasting
            writer.write(mqtt.packet(mqtt.CONNACK, 0, bytes([self.session, 0, 0])))
            self.subscribed &= self.session
            self.session = lasting
        elif kind == mqtt.SUBSCRIBE:
            self.subscribed = True
            writer.write(mqtt.packet(mqtt.SUBACK, 0, body[:2] + bytes([0, self.commands.qos])))
        elif kind == mqtt.PINGREQ:
            writer.write(mqtt.packet(mqtt.PINGRESP, 0))
        elif kind == mqtt.PUBREL:
            writer.write(mqtt.acknowledge(mqtt.PUBCOMP, mqtt.acknowledgement(body)[0]))
        elif kind == mqtt.PUBLISH:
            arrived = mqtt.Arrived(5, flags, body)
            stream, number = self.enter(arrived)
            if self.mood == "none" or (self.mood == "some" and self.dice.random() < 0.3):
                if self.mood == "some":
                    writer.transport.abort()
                return
            if arrived.qos:
                self.acknowledged.setdefault(stream, set()).add(number)
                writer.write(mqtt.acknowledge(mqtt.PUBACK if arrived.qos == 1 else mqtt.PUBREC, arrived.packet_id))

    def enter(self, arrived):
        self.times += 1
        identity = mqtt.user_properties(arrived.properties).get("tg-id", "")
        _, stream, number = identity.split("/")
        number, what = int(number), name_of(arrived.payload)
        known, highest = self.seen.setdefault(stream, {}), self.highest.get(stream, 0)
        if number not in known and number < highest:
            raise Broken(f"{stream}: {number} came for the first time after {highest}")
        if known.setdefault(number, what) != what:
            raise Broken(f"{stream}: the number {number} was {known[number]} and is {what}")
        self.highest[stream] = max(number, highest)
        return stream, number
