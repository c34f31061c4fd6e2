"""The books after a power cut: everything that was acknowledged is in the database, or left it in one of the ways that are counted."""

import pathlib
import shutil
import sqlite3

from .people import Broken, name_of

RECEIVED = 1 << 6
SEQUENCE_BITS = 40


def tally(text):
    return sum(int(word.split(":")[1]) for word in text.split())


class Image:
    """What a database says: a copy of it, for reading it changes it."""

    def __init__(self, data, scratch):
        self.path = pathlib.Path(scratch)
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        for name in ("tidegate.db", "tidegate.db-wal", "tidegate.db-journal"):
            if (data / name).exists():
                shutil.copy(data / name, self.path / name)
        self.database = sqlite3.connect(self.path / "tidegate.db", isolation_level=None)
        self.database.text_factory = lambda value: value.decode(errors="replace")

    def close(self):
        self.database.close()

    def rows(self, sql, *values):
        return self.database.execute(sql, values).fetchall()

    def check_integrity(self):
        found = self.rows("PRAGMA integrity_check")
        if found != [("ok",)]:
            raise Broken(f"integrity_check: {found[:3]}")

    def has(self, table):
        return bool(self.rows("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", table))

    def streams(self):
        """The books of each stream, with what was appended since they were written, and its rows from the head on."""
        found = {}
        columns = ("id", "head", "next", "tail", "accepted", "forwarded", "expired", "purged")
        for name, dropped, dead, *numbers in self.rows(f"SELECT name, dropped, dead, {', '.join(columns)} FROM stream"):
            books = dict(zip(columns, numbers, strict=True), dropped=tally(dropped), dead=tally(dead))
            rows = self.rows(f"SELECT seq, payload FROM s_{books['id']} WHERE seq >= ? ORDER BY seq", books["head"])
            if rows and rows[-1][0] >= books["next"]:
                books["accepted"] += rows[-1][0] + 1 - books["next"]
                books["next"] = rows[-1][0] + 1
            books["backlog"] = books["next"] - books["head"]
            found[name] = books, rows
        return found


class Audit:
    """What is known of one data directory over all its lives."""

    def __init__(self, plant):
        self.plant = plant
        self.damaged = False  # the file itself was damaged: what is lost must be counted as dropped, and numbers may be left out
        self.known = {name: {} for name in plant.streams}     # stream -> number -> message
        self.first = {name: {} for name in plant.streams}     # stream -> message -> number
        self.highest = {name: {} for name in plant.streams}   # stream -> publisher -> message number
        self.owed = {name: set() for name in plant.streams}   # acknowledged, not yet known to have left
        self.gone = {name: set() for name in plant.streams}   # acknowledged, neither there nor forwarded: dropped or expired
        self.due = {s.name: set() for s in plant.subscribers}
        self.acknowledged = 0

    def fresh(self):
        """What was acknowledged since the last time goes on the list of what is owed."""
        for publisher in self.plant.publishers:
            for message in publisher.fresh:
                self.acknowledged += 1
                topic = publisher.topics[message[1] % len(publisher.topics)]
                for stream in self.plant.streams.values():
                    if stream.takes(topic):
                        self.owed[stream.name].add(message)
                for subscriber in self.plant.subscribers:
                    if subscriber.owns(*message, topic):
                        self.due[subscriber.name].add(message)
            publisher.fresh.clear()
        commands = self.plant.commands
        self.due["three"].update(commands.fresh)
        self.acknowledged += len(commands.fresh)
        commands.fresh.clear()

    def check(self, image, durable=True):
        """The whole audit; raises `Broken`. Not `durable`: what only the page cache has is not learnt, for it may be gone the next time."""
        kept = None if durable else tuple({name: kind(found) for name, found in part.items()} for kind, part in
                                          ((dict, self.known), (dict, self.first), (dict, self.highest), (set, self.gone)))
        owed = None if durable else {name: set(found) for name, found in self.owed.items()}
        self.check_all(image)
        if not durable:
            self.known, self.first, self.highest, self.gone = kept
            for name, before in owed.items():
                self.owed[name] |= before

    def check_all(self, image):
        self.fresh()
        image.check_integrity()
        if not image.has("stream"):
            if self.acknowledged:
                raise Broken("the database is empty")
            return
        streams = image.streams()
        for name in self.plant.streams:
            if name in streams:
                self.check_stream(self.plant.streams[name], *streams[name])
            elif self.owed[name] or self.known[name]:
                raise Broken(f"{name}: the stream is gone")
        self.check_retained(image)
        for subscriber in self.plant.subscribers:
            self.check_session(image, subscriber)
        self.check_commands(image)

    def check_stream(self, stream, books, rows):
        name, head = stream.name, books["head"]
        if not self.damaged and [seq for seq, _ in rows] != list(range(head, books["next"])):
            raise Broken(f"{name}: rows {rows[:1]}..{rows[-1:]} do not fit {books}")
        left = books["forwarded"] + books["expired"] + books["dropped"] + books["dead"] + books["purged"]
        if books["accepted"] != left + len(rows) or (left != head - 1 and not self.damaged):
            raise Broken(f"{name}: the books do not balance: {books}, {len(rows)} rows")
        if books["dead"] + books["purged"] and not self.damaged:
            raise Broken(f"{name}: nobody asked for that: {books}")
        self.learn(stream, books, rows)
        self.settle(stream, books)

    def learn(self, stream, books, rows):
        """Which number is which message, from the rows and from the upstream; a number never means two, and order is kept."""
        name = stream.name
        known, first, highest = self.known[name], self.first[name], self.highest[name]
        found = dict(self.plant.upstream.seen.get(name, {}))
        for seq, payload in rows:
            message = name_of(payload)
            if found.setdefault(seq, message) != message:
                raise Broken(f"{name}: {seq} went upstream as {found[seq]} and is {message}")
        lost = [seq for seq in found if seq >= books["next"]]
        if lost or (known and max(known) >= books["next"]):
            raise Broken(f"{name}: {max(known, default=0)} and {lost[:5]} were used, and the next number is {books['next']}")
        for seq in sorted(found):
            message = found[seq]
            if known.get(seq, message) != message:
                raise Broken(f"{name}: the number {seq} was {known[seq]} and is {message}")
            if seq in known:
                continue
            known[seq] = message
            publisher = self.plant.by_name[message[0]]
            if message[1] in publisher.refused and message[1] not in publisher.repeated:
                raise Broken(f"{name}: {message} was refused and is there")
            if message in first:
                if publisher.qos == 2 or message[1] not in publisher.repeated:
                    raise Broken(f"{name}: {message} is {first[message]} and {seq}")
                continue
            first[message] = seq
            if message[1] < highest.get(message[0], 0):
                raise Broken(f"{name}: {message} is {seq}, after {highest[message[0]]}")
            highest[message[0]] = message[1]

    def settle(self, stream, books):
        """Everything owed is in the backlog, or the upstream has acknowledged it, or it is among those counted as dropped or expired."""
        name, head = stream.name, books["head"]
        upstream = self.plant.upstream.acknowledged.get(name, set())
        numbers = {}
        for seq, message in self.known[name].items():
            numbers.setdefault(message, []).append(seq)
        for message in list(self.owed[name]):
            places = numbers.get(message, [])
            if any(seq >= head for seq in places):
                continue
            self.owed[name].discard(message)
            if not any(seq in upstream for seq in places):
                self.gone[name].add(message)
        gone, counted = self.gone[name], books["dropped"] + books["expired"] + books["dead"]
        if len(gone) > counted:
            raise Broken(f"{name}: {len(gone) - counted} acknowledged messages are lost: {sorted(gone)[:5]}, {books}")
        if self.damaged:
            return
        if not stream.drops and counted:
            raise Broken(f"{name}: dropped or expired: {books}")
        below = sum(seq < head for seq in upstream)
        if books["forwarded"] > below:
            raise Broken(f"{name}: {books['forwarded']} forwarded, but the upstream acknowledged {below}")
        if not stream.drops and books["forwarded"] != below:
            raise Broken(f"{name}: {books['forwarded']} forwarded, and the upstream acknowledged {below} below {head}")

    def check_retained(self, image):
        found = dict(image.rows("SELECT topic, payload FROM retained"))
        for publisher in self.plant.publishers:
            if not publisher.retain:
                continue
            best = {}
            for number in publisher.acknowledged:
                topic = publisher.topics[number % len(publisher.topics)]
                best[topic] = max(number, best.get(topic, 0))
            for topic, number in best.items():
                if topic not in found or name_of(found[topic])[1] < number:
                    raise Broken(f"retained {topic}: {found.get(topic, b'')[:20]}, but {number} was acknowledged")
            for topic, payload in found.items():
                if topic in publisher.topics and name_of(payload)[1] >= publisher.next:
                    raise Broken(f"retained {topic}: {payload[:20]} was never sent")

    def check_session(self, image, subscriber):
        """All that is due to a session was delivered, or waits."""
        name = subscriber.name
        if not subscriber.subscribed:
            return
        session = image.rows("SELECT id FROM session WHERE client_id = ?", f"s-{name}")
        if not session:
            raise Broken(f"{name}: its session is gone")
        low = session[0][0] << SEQUENCE_BITS
        (head, end, messages, queued, *left), = image.rows(
            "SELECT head, next, messages, queued, delivered, expired, purged, oldest, newest, too_large, damaged FROM queue WHERE session = ?", session[0][0])
        rows = image.rows("SELECT id, flags, payload FROM queued WHERE id >= ? AND id < ?", low + head, low + (1 << SEQUENCE_BITS))
        late = sum(key - low >= end for key, _, _ in rows)
        if messages + late != len(rows) or queued != sum(left) + messages:
            raise Broken(f"{name}: the books of its queue do not balance: {messages}+{late}, {queued}, {left}, {len(rows)} rows")
        waiting = {name_of(payload) for _, flags, payload in rows if not flags & RECEIVED}
        lost = self.due[name] - subscriber.got - waiting
        if subscriber.filter == "cmd/#":
            return  # may wait before they come into this queue, too: check_commands
        if len(lost) > left[-1]:
            raise Broken(f"{name}: {len(lost)} messages are neither delivered nor queued: {sorted(lost)[:5]}")
        self.due[name] &= waiting

    def check_commands(self, image):
        """What the upstream was told is taken was delivered, or waits: for its subscriber, or in its queue."""
        if not image.has("queued"):  # cut while the database was brought up to version 2: nothing was accepted yet
            if self.due["three"] - next(s for s in self.plant.subscribers if s.name == "three").got:
                raise Broken("the queues are gone")
            return
        rows = image.rows("SELECT payload FROM queued WHERE payload IS NOT NULL AND flags & ? = 0", RECEIVED)
        waiting = {name_of(payload) for payload, in rows if payload.startswith(b"k:")}
        three = next(s for s in self.plant.subscribers if s.name == "three")
        lost = self.due["three"] - three.got - waiting
        damaged = image.rows("SELECT sum(damaged) FROM queue")[0][0] or 0
        if len(lost) > damaged:
            raise Broken(f"{len(lost)} commands are neither delivered nor queued: {sorted(lost)[:5]}")
        self.due["three"] &= waiting
