"""As much of MQTT 3.1.1 and 5 on the wire as the rig's clients and its upstream speak."""

import asyncio
import struct

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 5, 6, 7, 8, 9
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14

# MQTT 5 properties by the length of their values; None: a string or bytes.
_FIXED = {0x01: 1, 0x02: 4, 0x11: 4, 0x13: 2, 0x17: 1, 0x18: 4, 0x19: 1, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">H", len(value)) + value


def _length(value):
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def packet(kind, flags, body=b""):
    return bytes([kind << 4 | flags]) + _length(len(body)) + body


def connect(version, client_id, clean, keep_alive=60, expiry=0xFFFFFFFF):
    properties = (b"\x05\x11" + struct.pack(">I", expiry) if not clean else b"\x00") if version == 5 else b""
    return packet(CONNECT, 0, text("MQTT") + bytes([version, 2 if clean else 0]) + struct.pack(">H", keep_alive) + properties + text(client_id))


def publish(version, topic, payload, qos, packet_id, retain=False, dup=False):
    body = text(topic) + (struct.pack(">H", packet_id) if qos else b"") + (b"\x00" if version == 5 else b"") + payload
    return packet(PUBLISH, dup << 3 | qos << 1 | retain, body)


def acknowledge(kind, packet_id):
    return packet(kind, 2 if kind == PUBREL else 0, struct.pack(">H", packet_id))


def subscribe(version, packet_id, topic_filter, qos):
    return packet(SUBSCRIBE, 2, struct.pack(">H", packet_id) + (b"\x00" if version == 5 else b"") + text(topic_filter) + bytes([qos]))


def _varint(body, at):
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def user_properties(block):
    """The user properties of a block of MQTT 5 properties."""
    found, at = {}, 0
    while at < len(block):
        kind, at = block[at], at + 1
        if kind == 0x0B:
            _, at = _varint(block, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            values = []
            for _ in range(2 if kind == 0x26 else 1):
                size = struct.unpack_from(">H", block, at)[0]
                values.append(block[at + 2:at + 2 + size].decode())
                at += 2 + size
            if kind == 0x26:
                found[values[0]] = values[1]
    return found


class Arrived:
    """A PUBLISH that came."""

    __slots__ = ("topic", "payload", "qos", "packet_id", "retain", "dup", "properties")

    def __init__(self, version, flags, body):
        self.dup, self.qos, self.retain = bool(flags & 8), flags >> 1 & 3, bool(flags & 1)
        size = struct.unpack_from(">H", body)[0]
        self.topic = body[2:2 + size].decode()
        at = 2 + size
        self.packet_id = struct.unpack_from(">H", body, at)[0] if self.qos else None
        at += 2 if self.qos else 0
        self.properties = b""
        if version == 5:
            length, at = _varint(body, at)
            self.properties = body[at:at + length]
            at += length
        self.payload = body[at:]


def acknowledgement(body):
    """(packet id, reason code) of a PUBACK, PUBREC, PUBREL or PUBCOMP."""
    return struct.unpack_from(">H", body)[0], body[2] if len(body) > 2 else 0


async def packets(reader):
    """(kind, flags, body) of each packet, in lists of what came together, until the connection ends."""
    buffer = bytearray()
    while True:
        try:
            data = await reader.read(65536)
        except OSError:
            return
        if not data:
            return
        buffer += data
        at, found = 0, []
        while len(buffer) - at >= 2:
            length, shift, place = 0, 0, at + 1
            while place < len(buffer):
                byte = buffer[place]
                length |= (byte & 0x7F) << shift
                place, shift = place + 1, shift + 7
                if not byte & 0x80:
                    break
            else:
                break
            if len(buffer) < place + length:
                break
            found.append((buffer[at] >> 4, buffer[at] & 15, bytes(buffer[place:place + length])))
            at = place + length
        del buffer[:at]
        if found:
            yield found


class Line:
    """A client's connection: `open` gives back whether the broker had its session."""

    def __init__(self, version, client_id, clean, keep_alive=60):
        self.version, self.client_id, self.clean, self.keep_alive = version, client_id, clean, keep_alive
        self.writer = self.incoming = None
        self.early = []

    async def open(self, port, seconds=5):
        reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.write(connect(self.version, self.client_id, self.clean, self.keep_alive))
        self.incoming = packets(reader)
        async with asyncio.timeout(seconds):
            first = await anext(self.incoming, None)
        if not first or first[0][0] != CONNACK:
            raise OSError("no CONNACK")
        if first[0][2][1] != 0:
            raise OSError(f"CONNACK with code {first[0][2][1]:#x}")
        self.early = first[1:]
        return bool(first[0][2][0] & 1)

    async def batches(self):
        """What comes, until the connection ends."""
        if self.early:
            yield self.early
        async for batch in self.incoming:
            yield batch

    def closed(self):
        return self.writer is None or self.writer.transport.is_closing()

    def send(self, data):
        if not self.closed():
            self.writer.write(data)

    def close(self):
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None
