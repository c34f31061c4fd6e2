//! A small MQTT 3.1.1 and 5 codec: only what the load generator says and hears.
//!
//! It shares no line with the gateway on purpose: a mistake in one is seen by the other.

use std::io;

/// Packet types, as the upper four bits of the first byte (MQTT 5, section 2.1.2).
pub(crate) const CONNACK: u8 = 2;
/// PUBLISH.
pub(crate) const PUBLISH: u8 = 3;
/// PUBACK.
pub(crate) const PUBACK: u8 = 4;
/// PUBREC.
pub(crate) const PUBREC: u8 = 5;
/// PUBREL.
pub(crate) const PUBREL: u8 = 6;
/// PUBCOMP.
pub(crate) const PUBCOMP: u8 = 7;
/// SUBACK.
pub(crate) const SUBACK: u8 = 9;
/// DISCONNECT.
pub(crate) const DISCONNECT: u8 = 14;

/// Largest packet the tool believes in.
const MAX_PACKET_BYTES: usize = 16 << 20;

/// The protocol version spoken on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    V5,
}

/// One packet at the beginning of a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// The first byte: type and flags.
    pub first: u8,
    /// What follows the fixed header.
    pub body: &'a [u8],
    /// Length of the whole packet.
    pub len: usize,
}

impl Frame<'_> {
    /// The packet's type.
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// Packet id and reason code of PUBACK, PUBREC, PUBREL and PUBCOMP; a missing reason is 0 (success).
    pub(crate) fn acknowledgement(&self) -> io::Result<(u16, u8)> {
        let id = self.body.first_chunk::<2>().ok_or_else(|| bad("an acknowledgement without a packet id"))?;
        Ok((u16::from_be_bytes(*id), self.body.get(2).copied().unwrap_or(0)))
    }
}

/// What a server said to our CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connack {
    /// Whether it remembers the session.
    pub session_present: bool,
    /// 0 = accepted.
    pub code: u8,
    /// How many unacknowledged messages it takes (MQTT 5).
    pub receive_maximum: u16,
}

/// A PUBLISH as the tool cares about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publish<'a> {
    /// 0, 1 or 2.
    pub qos: u8,
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// The value of the `tg-id` user property, if there is one.
    pub tg_id: Option<&'a str>,
    /// The payload.
    pub payload: &'a [u8],
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The packet at the beginning of `buf`, `None` while it is not whole.
pub(crate) fn frame(buf: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let Some((first, rest)) = buf.split_first() else { return Ok(None) };
    let Some((length, used)) = varint(rest)? else { return Ok(None) };
    if length > MAX_PACKET_BYTES {
        return Err(bad("a packet of more than 16 MiB"));
    }
    let len = 1 + used + length;
    Ok(buf.get(1 + used..len).map(|body| Frame { first: *first, body, len }))
}

fn varint(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut value = 0usize;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(bad("a length of more than four bytes")) }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> io::Result<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(len).ok_or_else(|| bad("a packet that ends too early"))?;
    *bytes = tail;
    Ok(head)
}

fn take_u16(bytes: &mut &[u8]) -> io::Result<u16> {
    let raw = take(bytes, 2)?;
    Ok(u16::from_be_bytes([raw[0], raw[1]]))
}

fn take_string<'a>(bytes: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let len = take_u16(bytes)?;
    take(bytes, usize::from(len))
}

/// Calls `see(id, value)` for every property; user properties give `see(0x26, name)` and then `see(0, value)`.
fn properties<'a>(bytes: &mut &'a [u8], mut see: impl FnMut(u8, &'a [u8])) -> io::Result<()> {
    let (len, used) = varint(bytes)?.ok_or_else(|| bad("no property length"))?;
    take(bytes, used)?;
    let mut block = take(bytes, len)?;
    while !block.is_empty() {
        let id = take(&mut block, 1)?[0];
        let value = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => take(&mut block, 1)?,
            0x13 | 0x21 | 0x22 | 0x23 => take(&mut block, 2)?,
            0x02 | 0x11 | 0x18 | 0x27 => take(&mut block, 4)?,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f | 0x26 => take_string(&mut block)?,
            0x0b => {
                let (_, used) = varint(block)?.ok_or_else(|| bad("half a subscription identifier"))?;
                take(&mut block, used)?
            }
            _ => return Err(bad("an unknown property")),
        };
        see(id, value);
        if id == 0x26 {
            see(0, take_string(&mut block)?);
        }
    }
    Ok(())
}

/// Reads a CONNACK.
pub(crate) fn connack(frame: Frame<'_>, version: Version) -> io::Result<Connack> {
    let mut body = frame.body;
    let fixed = take(&mut body, 2)?;
    let mut answer = Connack { session_present: fixed[0] & 1 == 1, code: fixed[1], receive_maximum: u16::MAX };
    if version == Version::V5 && !body.is_empty() {
        properties(&mut body, |id, value| {
            if let (0x21, [high, low]) = (id, value) {
                answer.receive_maximum = u16::from_be_bytes([*high, *low]);
            }
        })?;
    }
    Ok(answer)
}

/// Reads a PUBLISH.
pub(crate) fn publish(frame: Frame<'_>, version: Version) -> io::Result<Publish<'_>> {
    let mut body = frame.body;
    let qos = (frame.first >> 1) & 3;
    take_string(&mut body)?;
    let packet_id = if qos > 0 { take_u16(&mut body)? } else { 0 };
    let mut tg_id = None;
    if version == Version::V5 {
        let mut is_id = false;
        properties(&mut body, |id, value| match id {
            0x26 => is_id = value == b"tg-id",
            0 if is_id => tg_id = std::str::from_utf8(value).ok(),
            _ => {}
        })?;
    }
    Ok(Publish { qos, packet_id, tg_id, payload: body })
}

fn put_header(out: &mut Vec<u8>, first: u8, mut length: usize) {
    out.push(first);
    loop {
        let low = u8::try_from(length & 0x7f).expect("seven bits fit");
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            return;
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("the tool's own strings are short");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Writes a CONNECT; a session that is not clean is kept for an hour (MQTT 5).
pub(crate) fn put_connect(
    out: &mut Vec<u8>,
    version: Version,
    client_id: &str,
    clean: bool,
    login: Option<(&str, &str)>,
) {
    let mut body = Vec::new();
    put_string(&mut body, "MQTT");
    body.push(if version == Version::V5 { 5 } else { 4 });
    body.push(u8::from(clean) << 1 | if login.is_some() { 0xc0 } else { 0 });
    body.extend_from_slice(&60u16.to_be_bytes());
    if version == Version::V5 {
        // Session Expiry Interval one hour, Receive Maximum 65535 (so that the server may fill the pipe).
        let block: &[u8] = if clean { &[0x21, 0xff, 0xff] } else { &[0x11, 0, 0, 0x0e, 0x10, 0x21, 0xff, 0xff] };
        body.push(u8::try_from(block.len()).expect("a few bytes"));
        body.extend_from_slice(block);
    }
    put_string(&mut body, client_id);
    if let Some((user, password)) = login {
        put_string(&mut body, user);
        put_string(&mut body, password);
    }
    put_header(out, 0x10, body.len());
    out.append(&mut body);
}

/// Writes a SUBSCRIBE of one filter with packet id 1.
pub(crate) fn put_subscribe(out: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    put_string(&mut body, filter);
    body.push(qos);
    put_header(out, 0x82, body.len());
    out.append(&mut body);
}

/// Writes a PUBLISH without properties.
pub(crate) fn put_publish(
    out: &mut Vec<u8>,
    version: Version,
    topic: &str,
    qos: u8,
    dup: bool,
    packet_id: u16,
    payload: &[u8],
) {
    let extra = usize::from(version == Version::V5) + if qos > 0 { 2 } else { 0 };
    put_header(out, 0x30 | u8::from(dup) << 3 | qos << 1, 2 + topic.len() + extra + payload.len());
    put_string(out, topic);
    if qos > 0 {
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        out.push(0);
    }
    out.extend_from_slice(payload);
}

/// Writes PUBACK, PUBREC, PUBREL or PUBCOMP with reason "success".
pub(crate) fn put_acknowledgement(out: &mut Vec<u8>, kind: u8, packet_id: u16) {
    let flags = if kind == PUBREL { 2 } else { 0 };
    out.extend_from_slice(&[kind << 4 | flags, 2]);
    out.extend_from_slice(&packet_id.to_be_bytes());
}

/// Writes a PINGREQ.
pub(crate) fn put_ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

/// Writes a DISCONNECT.
pub(crate) fn put_disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_comes_back_as_it_was_written() {
        for version in [Version::V311, Version::V5] {
            let mut out = Vec::new();
            put_publish(&mut out, version, "a/b", 1, false, 7, &[9; 300]);
            for cut in 0..out.len() {
                assert!(frame(&out[..cut]).unwrap().is_none());
            }
            let whole = frame(&out).unwrap().unwrap();
            let read = publish(whole, version).unwrap();
            assert_eq!((whole.kind(), whole.len, read.qos, read.packet_id), (PUBLISH, out.len(), 1, 7));
            assert_eq!(read.payload, [9; 300]);
        }
    }

    #[test]
    fn the_id_is_found_among_other_properties() {
        let block = b"\x02\0\0\0\x05\x26\0\x01a\0\x01b\x26\0\x05tg-id\0\x07g/s/123";
        let mut packet = vec![0x30];
        packet.push(u8::try_from(3 + 1 + block.len()).unwrap());
        packet.extend_from_slice(b"\0\x01t");
        packet.push(u8::try_from(block.len()).unwrap());
        packet.extend_from_slice(block);
        let read = publish(frame(&packet).unwrap().unwrap(), Version::V5).unwrap();
        assert_eq!(read.tg_id, Some("g/s/123"));
    }
}
