"""Bad input on every port: random bytes, oversized and half packets, mutated conversations, HTTP nonsense, ten thousand connections
opened and left. The gateway lives, its memory is bounded, and a well-behaved client beside it does not notice."""

import select
import socket
import struct

from lab.gateway import Gateway, check_books
from lab.load import Sensors, Verifier, check_delivery
from lab.mosquitto import Mosquitto
from lab.process import wait_for, workspace
from lab.report import Theme

CONNECT4 = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03bad"
CONNECT5 = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03bad"
CROWD = 10_000


def string(text):
    return struct.pack(">H", len(text)) + text


def packet(first, body):
    length, out = len(body), b""
    while True:
        length, low = length >> 7, length & 0x7F
        out += bytes([low | (0x80 if length else 0)])
        if not length:
            return bytes([first]) + out + body


def talk(port, data, seconds=3.0):
    """Sends, and gives everything that comes back and whether the other side closed."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 5) as stream:
        stream.settimeout(seconds)
        try:
            stream.sendall(data)
            while part := stream.recv(65536):
                answer += part
            return answer, True
        except TimeoutError:
            return answer, False
        except OSError:
            return answer, True


# What is sent after CONNECT, and what MQTT says of it: reason codes of CONNACK (first byte 0x20) or DISCONNECT (0xe0), or just closed.
PROTOCOL_ERRORS = [
    ("a wrong protocol name", packet(0x10, string(b"NQTT") + b"\x04\x02\x00\x3c" + string(b"x")), None),
    ("an unknown protocol version", packet(0x10, string(b"MQTT") + b"\x09\x02\x00\x3c" + string(b"x")), {b"\x20\x02\x00\x01", b"\x84"}),
    ("MQTT 3.1.1 without a client id that wants a session", packet(0x10, string(b"MQTT") + b"\x04\x00\x00\x3c" + string(b"")), {b"\x20\x02\x00\x02"}),
    ("something else before CONNECT", packet(0x30, string(b"a") + b"x"), None),
    ("CONNECT twice", CONNECT5 + CONNECT5, {b"\x82"}),
    ("PUBLISH to a wildcard", CONNECT5 + packet(0x30, string(b"a/#") + b"\x00x"), {b"\x90", b"\x82", b"\x81"}),
    ("PUBLISH to invalid UTF-8", CONNECT5 + packet(0x30, string(b"a\xff\xfe") + b"\x00x"), {b"\x81", b"\x90"}),
    ("PUBLISH at QoS 3", CONNECT5 + packet(0x36, string(b"a") + b"\x00\x01\x00x"), {b"\x81", b"\x82"}),
    ("PUBLISH with packet id 0", CONNECT5 + packet(0x32, string(b"a") + b"\x00\x00\x00x"), {b"\x81", b"\x82"}),
    ("SUBSCRIBE with wrong flags", CONNECT5 + packet(0x80, b"\x00\x01\x00" + string(b"a") + b"\x00"), {b"\x81", b"\x82"}),
    ("SUBSCRIBE to nothing", CONNECT5 + packet(0x82, b"\x00\x01\x00"), {b"\x82", b"\x81"}),
    ("a packet of 256 MB", CONNECT5 + b"\x30\xff\xff\xff\x7f" + b"\x00" * 100_000, {b"\x95"}),
    ("a length of five bytes", CONNECT5 + b"\x30\xff\xff\xff\xff\x01", {b"\x81"}),
    ("a reserved packet type", CONNECT5 + b"\x00\x00", {b"\x81", b"\x82"}),
    ("a property that PUBLISH cannot have", CONNECT5 + packet(0x30, string(b"a") + b"\x02\x24\x01x"), {b"\x81", b"\x82"}),
    ("a topic alias that was never set", CONNECT5 + packet(0x30, string(b"") + b"\x03\x23\x00\x05x"), {b"\x94", b"\x82"}),
    ("an empty topic", CONNECT4 + packet(0x30, string(b"") + b"x"), None),
]


def protocol_errors(t, port):
    for name, data, codes in PROTOCOL_ERRORS:
        answer, closed = talk(port, data)
        good = closed and (codes is None or any(answer.endswith(c) or (answer[-3:-1] or b"")[-1:] == c
                                                or reason_of(answer) == c for c in codes))
        t.check(f"{name}: the right reason, and closed", good, f"{answer.hex()} {'closed' if closed else 'still open'}")


def reason_of(answer):
    """The reason code of the last packet, if that is a CONNACK or DISCONNECT."""
    last = b""
    while len(answer) >= 2 and len(answer) >= 2 + answer[1] and answer[1] < 128:
        last, answer = answer[:2 + answer[1]], answer[2 + answer[1]:]
    if last[:1] == b"\xe0":
        return last[2:3]
    return last[3:4] if last[:1] == b"\x20" else b""


def noise(t, gateway):
    """Random bytes, mutated conversations, half packets: thousands of short, bad lives."""
    dice = t.random
    good = [CONNECT4, CONNECT5, packet(0x32, string(b"sensors/x") + b"\x00\x01\x00hello"), packet(0x82, b"\x00\x02\x00" + string(b"#") + b"\x01"),
            packet(0xA2, b"\x00\x03\x00" + string(b"#")), b"\xc0\x00", b"\x62\x02\x00\x01", b"\x40\x02\x00\x01"]
    kept = []
    for i in range(3000):
        kind = dice.randrange(4)
        if kind == 0:
            data = dice.randbytes(dice.choice([1, 5, 50, 500, 5000, 50000]))
        else:
            data = bytearray(dice.choice(good[:2]) + b"".join(dice.choice(good) for _ in range(dice.randrange(6))))
            if kind > 1:
                for _ in range(dice.randrange(1, 6)):
                    data[dice.randrange(len(data))] = dice.randrange(256)
            data = bytes(data[: dice.randrange(1, len(data) + 1)] if kind == 3 else data)
        port = gateway.admin if i % 5 == 4 else gateway.port
        try:
            stream = socket.create_connection(("127.0.0.1", port), 5)
            stream.settimeout(5)
            stream.sendall(data)
            kept.append(stream)
        except OSError:
            pass
        if len(kept) > 200:
            for stream in kept:
                stream.close()
            kept = []
    for stream in kept:
        stream.close()
    t.check("3000 noisy connections later it is up", gateway.up() and gateway.http("/health/live")[0] == 200)


def http_nonsense(t, gateway):
    answers = {
        "an endless header": b"GET / HTTP/1.1\r\nX: " + b"a" * 2_000_000,
        "ten thousand headers": b"GET /metrics HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(10000)) + b"\r\n",
        "a body that never comes": b"POST /api/v1/publish?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00" + bytes(600),
        "an unknown path": b"GET /api/v1/%00%ff/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "an unknown stream": b"GET /api/v1/streams/nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "an unknown method": b"BREW /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    }
    for name, data in answers.items():
        answer, closed = talk(gateway.admin, data, 2)
        line = answer.split(b"\r\n")[0]
        t.check(f"HTTP, {name}: an error or nothing, never success", b" 200" not in line, line.decode(errors="replace"))


def crowd(t, gateway, label):
    """Ten thousand connections: a third silent, a third with half a CONNECT, a third connected; all left open."""
    before = gateway.process.rss_bytes()
    streams = []
    for i in range(CROWD):
        stream = socket.socket()
        stream.setblocking(False)
        stream.connect_ex(("127.0.0.1", gateway.port))
        streams.append((i, stream))
        if len(streams) % 500 == 0:
            made = select.poll()  # not select(): these are numbers above 1024
            made.register(stream, select.POLLOUT)
            made.poll(5000)
    for i, stream in streams:
        name = b"crowd%d" % i
        whole = packet(0x10, string(b"MQTT") + b"\x04\x02\x00\x00" + string(name))
        try:
            stream.send(b"" if i % 3 == 0 else whole[:8] if i % 3 == 1 else whole)
        except OSError:
            pass
    wait_for("the connected third is there, or refused", lambda: sum(answered(s) for i, s in streams if i % 3 == 2) > CROWD / 3.1, 30, 0.2)
    grown = (gateway.process.rss_bytes() - before) / 2**20
    t.check(f"{label}: memory is bounded", grown < 160, f"{grown:.0f} MiB for {CROWD} connections")
    t.check(f"{label}: it is up and answers", gateway.http("/health/live")[0] == 200)
    return streams


def answered(stream):
    """Whether something (or the end) can be read, without reading it."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))


def main(t):
    folder = workspace(t)
    upstream = Mosquitto(folder / "upstream").start()
    t.later(upstream.stop)
    for label, limit in (("room for all", 12000), ("room for 100", 100)):
        place = folder / str(limit)
        place.mkdir()
        verifier = Verifier(place, upstream.port, f"verifier-{limit}", idle=20)
        gateway = Gateway(place / "gateway", upstream.port, listener=f"max_connections = {limit}").start()
        t.later(gateway.stop)
        beside = Sensors(place, gateway.port, sensors=3, rate=600, topic="sensors/{}/good", window=500)
        if limit > 1000:
            protocol_errors(t, gateway.port)
            http_nonsense(t, gateway)
            noise(t, gateway)
        wait_for("good sensors are served", lambda: gateway.books()["accepted"] > 500, 20)
        streams = crowd(t, gateway, label)
        if limit > 1000:
            late = Sensors(place, gateway.port, "late", sensors=1, first_sensor=50, count=100, client_prefix="late", topic="sensors/{}/late")
            t.check(f"{label}: a new client gets in beside the crowd", late.result(20)["acked"] == 100)
        connected = beside.alive()
        sent = beside.stop()
        t.check(f"{label}: the clients beside it did not notice",
                connected and sent["connects"] == 3 and sent["unacknowledged"] == 0 and sent["ack"]["p99_us"] < 1_000_000,
                {"connects": sent["connects"], **sent["ack"]})
        check_delivery(t, verifier.expect(beside.journal), label, duplicates_allowed=False)
        for _, stream in streams:
            stream.close()
        wait_for("the connections are gone", lambda: gateway.metric("tidegate_broker_connections") == 0, 40, 0.1)
        t.check(f"{label}: every connection is given back", True)
        check_books(t, gateway, f"{label}: the books balance and the backlog is empty")
        t.check(f"{label}: no panic in the log", "panicked" not in gateway.log())
        t.check(f"{label}: SIGTERM ends it with code 0", gateway.stop() == 0)


with Theme("bad_input") as theme:
    main(theme)
