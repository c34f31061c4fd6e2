//! Packets as a client writes and reads them, by hand: nothing of the broker's own codec is trusted here.

/// The protocol level of MQTT 5.
pub(crate) const V5: u8 = 5;

/// A packet with its fixed header.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut len = body.len();
    loop {
        let low = u8::try_from(len & 0x7F).expect("seven bits");
        len >>= 7;
        out.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

/// CONNECT without keep alive.
pub(crate) struct Connect<'a> {
    pub(crate) version: u8,
    pub(crate) id: &'a str,
    pub(crate) clean: bool,
    /// MQTT 5: the session does not end with the connection.
    pub(crate) stays: bool,
    /// MQTT 5: Receive Maximum.
    pub(crate) window: u16,
    /// Topic and payload of a QoS 1 will.
    pub(crate) will: Option<(&'a str, &'a [u8])>,
}

impl Connect<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = b"\0\x04MQTT".to_vec();
        let will_flags = if self.will.is_some() { 0x0C } else { 0 };
        body.extend([self.version, u8::from(self.clean) << 1 | will_flags, 0, 0]);
        if self.version == V5 {
            let mut block = vec![0x21];
            block.extend(self.window.to_be_bytes());
            if self.stays {
                block.extend([0x11, 0xFF, 0xFF, 0xFF, 0xFF]);
            }
            body.push(u8::try_from(block.len()).expect("short"));
            body.extend(block);
        }
        text(&mut body, self.id);
        if let Some((topic, payload)) = self.will {
            if self.version == V5 {
                body.push(0);
            }
            text(&mut body, topic);
            body.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
            body.extend(payload);
        }
        packet(0x10, &body)
    }
}

/// PUBLISH; with an alias (MQTT 5) where one is given.
pub(crate) fn publish(version: u8, flags: u8, topic: &str, id: u16, alias: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if flags & 0x06 != 0 {
        body.extend(id.to_be_bytes());
    }
    if version == V5 {
        match alias {
            Some(alias) => {
                body.extend([3, 0x23]);
                body.extend(alias.to_be_bytes());
            }
            None => body.push(0),
        }
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

/// SUBSCRIBE with one filter; MQTT 5 with a subscription identifier.
pub(crate) fn subscribe(version: u8, id: u16, filter: &str, options: u8, subscription_id: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == V5 {
        body.extend([2, 0x0B, subscription_id]);
    }
    text(&mut body, filter);
    body.push(options);
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(version: u8, id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == V5 {
        body.push(0);
    }
    text(&mut body, filter);
    packet(0xA2, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP that says yes.
pub(crate) fn answer(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// What the broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    ConnAck {
        present: bool,
        code: u8,
    },
    Publish(Delivery),
    /// First byte of PUBACK, PUBREC, PUBREL or PUBCOMP, packet id, reason.
    Answer(u8, u16, u8),
    SubAck {
        id: u16,
        codes: Vec<u8>,
    },
    UnsubAck {
        id: u16,
    },
    Pong,
    Disconnect(u8),
}

/// A PUBLISH from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) subscription_ids: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Takes the next whole packet off the buffer.
pub(crate) fn take(buffer: &mut Vec<u8>, version: u8) -> Result<Option<Heard>, String> {
    let (mut len, mut at) = (0usize, 1);
    loop {
        let Some(byte) = buffer.get(at) else { return Ok(None) };
        len |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if buffer.len() < at + len {
        return Ok(None);
    }
    let bytes: Vec<u8> = buffer.drain(..at + len).collect();
    hear(bytes[0], &bytes[at..], version).map(Some).ok_or_else(|| format!("not a packet of a server: {bytes:02X?}"))
}

fn hear(first: u8, body: &[u8], version: u8) -> Option<Heard> {
    let id = || body.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
    Some(match first {
        0x20 => Heard::ConnAck { present: *body.first()? == 1, code: *body.get(1)? },
        0x30..=0x3F => Heard::Publish(delivery(first, body, version)?),
        0x40 | 0x50 | 0x62 | 0x70 => Heard::Answer(first, id()?, body.get(2).copied().unwrap_or(0)),
        0x90 => Heard::SubAck { id: id()?, codes: body[if version == V5 { 3 } else { 2 }..].to_vec() },
        0xB0 => Heard::UnsubAck { id: id()? },
        0xD0 => Heard::Pong,
        0xE0 => Heard::Disconnect(body.first().copied().unwrap_or(0)),
        _ => return None,
    })
}

fn delivery(first: u8, body: &[u8], version: u8) -> Option<Delivery> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    let (topic, mut rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    let qos = first >> 1 & 3;
    let mut id = 0;
    if qos > 0 {
        let (bytes, after) = rest.split_first_chunk::<2>()?;
        (id, rest) = (u16::from_be_bytes(*bytes), after);
    }
    let mut subscription_ids = Vec::new();
    if version == V5 {
        // Messages here have no properties but those that the broker adds, and few of them.
        let (properties, after) = rest[1..].split_at_checked(usize::from(*rest.first()?))?;
        rest = after;
        for pair in properties.chunks(2) {
            subscription_ids.push(match pair {
                [0x0B, id] => *id,
                _ => return None,
            });
        }
    }
    let topic = String::from_utf8(topic.to_vec()).ok()?;
    let (dup, retain) = (first & 8 != 0, first & 1 != 0);
    Some(Delivery { dup, qos, retain, topic, id, subscription_ids, payload: rest.to_vec() })
}
