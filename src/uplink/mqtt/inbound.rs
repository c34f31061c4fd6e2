//! The inbound half of the wire: PUBLISH, PUBREL and SUBACK in; SUBSCRIBE and answers out.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::{
    super::{Answer, AnswerKind, Arrived, LAST_DELIVERY_ID, Subscription, Version},
    codec::Incoming,
};
use crate::{
    message::{Message, Properties, QoS},
    topic::{TopicFilter, TopicName},
};

/// The packet id of what the session asks for itself; one at a time.
const ASKING_ID: u16 = LAST_DELIVERY_ID + 1;

/// Most filters of one SUBSCRIBE; some brokers take no more.
const FILTERS_AT_ONCE: usize = 8;

/// How long to wait before asking again for what was refused: doubled each time ...
const ASK_AGAIN_MIN: Duration = Duration::from_secs(5);

/// ... up to this.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

/// An answer to SUBSCRIBE that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Reason Codes (MQTT 5, section 2.4).
const UNSPECIFIED: u8 = 0x80;

const SHORT: &str = "a packet that ends too early";

/// Most user properties of one message; each costs some 64 bytes of memory for 5 bytes on the wire.
const USER_PROPERTIES_MAX: usize = 256;

/// Understands a PUBLISH (MQTT 5, section 3.3). A topic that is none is the message's fault, anything else the upstream's.
pub(super) fn read_publish(version: Version, kind: u8, mut body: Bytes) -> Result<Arrived, String> {
    let qos = QoS::from_number(kind >> 1 & 0b11).ok_or("a PUBLISH of QoS 3")?;
    let topic = take_binary(&mut body)?;
    let id = if qos == QoS::AtMostOnce { 0 } else { body.try_get_u16().map_err(|_| SHORT)? };
    if qos != QoS::AtMostOnce && id == 0 {
        return Err("a PUBLISH with the packet id 0".to_owned());
    }
    let properties = match version {
        Version::V311 => None,
        Version::V5 => read_properties(&mut body)?,
    };
    let topic = String::from_utf8(topic.to_vec()).ok().and_then(|topic| TopicName::new(topic).ok());
    let message = topic.ok_or("topic").map(|topic| Message {
        topic,
        // Copied: what waits must not keep the buffer that it came in.
        payload: Bytes::copy_from_slice(&body),
        qos,
        retain: kind & 1 == 1,
        client: ByteString::new(),
        properties,
    });
    Ok(Arrived::Message { id, qos, message })
}

/// What is at the beginning of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Nothing that is too large, as far as can be seen.
    Fits,
    /// Too large, and not enough of it is here to say what.
    Unknown,
    /// Too large: what is to be said of it, and its bytes.
    TooLarge(Arrived, usize),
}

/// A PUBLISH at the beginning of `buffer` that is larger than we take. An upstream of MQTT 3.1.1 cannot be told what we take, and would send it for ever.
pub(super) fn oversized(buffer: &[u8], max: u32) -> Size {
    found(buffer, max).unwrap_or(Size::Fits)
}

fn found(buffer: &[u8], max: u32) -> Option<Size> {
    let (kind, mut rest) = buffer.split_first().filter(|(kind, _)| **kind >> 4 == 3)?;
    let body_len = take_varint(&mut rest).ok().filter(|len| *len > max)? as usize;
    let header_len = buffer.len() - rest.len();
    let qos = QoS::from_number(kind >> 1 & 0b11)?;
    let Some(id) = id_of(qos, rest) else { return Some(Size::Unknown) };
    Some(Size::TooLarge(Arrived::Message { id, qos, message: Err("too-large") }, header_len + body_len))
}

/// The packet id of a PUBLISH that begins so; `None` where it is not here yet.
fn id_of(qos: QoS, mut body: &[u8]) -> Option<u16> {
    let topic_len = usize::from(body.try_get_u16().ok()?);
    body = body.get(topic_len..)?;
    if qos == QoS::AtMostOnce { Some(0) } else { body.try_get_u16().ok() }
}

/// Understands a PUBREL (MQTT 5, section 3.6), whatever its reason.
pub(super) fn read_release(mut body: Bytes) -> Result<Arrived, String> {
    Ok(Arrived::Released(body.try_get_u16().map_err(|_| SHORT)?))
}

/// Understands a SUBACK (MQTT 5, section 3.9).
pub(super) fn read_suback(version: Version, mut body: Bytes) -> Result<Incoming, String> {
    let id = body.try_get_u16().map_err(|_| SHORT)?;
    if version == Version::V5 {
        let len = take_varint(&mut body)? as usize;
        if len > body.len() {
            return Err(SHORT.to_owned());
        }
        body.advance(len);
    }
    Ok(Incoming::Subscribed(id, body))
}

fn take_varint(from: &mut impl Buf) -> Result<u32, &'static str> {
    let mut value = 0;
    for at in 0..4 {
        let byte = from.try_get_u8().map_err(|_| SHORT)?;
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than four bytes")
}

fn take_binary(from: &mut Bytes) -> Result<Bytes, &'static str> {
    let len = usize::from(from.try_get_u16().map_err(|_| SHORT)?);
    if len > from.len() { Err(SHORT) } else { Ok(from.split_to(len)) }
}

fn take_text(from: &mut Bytes) -> Result<ByteString, &'static str> {
    let bytes = Bytes::copy_from_slice(&take_binary(from)?);
    let text = ByteString::try_from(bytes).map_err(|_| "a text that is not UTF-8")?;
    if text.contains('\0') { Err("a text with a NUL character") } else { Ok(text) }
}

/// The properties of a PUBLISH (MQTT 5, section 3.3.2.3), as far as they belong to the message.
fn read_properties(body: &mut Bytes) -> Result<Option<Box<Properties>>, &'static str> {
    let len = take_varint(body)? as usize;
    if len > body.len() {
        return Err(SHORT);
    }
    let mut block = body.split_to(len);
    let mut properties = Properties::default();
    while block.has_remaining() {
        match block.get_u8() {
            0x01 => properties.payload_format = Some(block.try_get_u8().map_err(|_| SHORT)?),
            0x02 => properties.message_expiry_s = Some(block.try_get_u32().map_err(|_| SHORT)?),
            0x03 => properties.content_type = Some(take_text(&mut block)?),
            0x08 => properties.response_topic = Some(take_text(&mut block)?),
            0x09 => properties.correlation_data = Some(Bytes::copy_from_slice(&take_binary(&mut block)?)),
            // Subscription Identifier: we gave none, and it means nothing to others.
            0x0b => drop(take_varint(&mut block)?),
            0x26 if properties.user.len() < USER_PROPERTIES_MAX => {
                properties.user.push((take_text(&mut block)?, take_text(&mut block)?));
            }
            0x26 => return Err("more user properties than make sense"),
            // Topic aliases among them: we allow none.
            _ => return Err("a property that a PUBLISH to us does not have"),
        }
    }
    Ok((!properties.is_empty()).then(|| Box::new(properties)))
}

/// Appends a SUBSCRIBE (MQTT 5, section 3.8). No Local, for what goes up must not come down again; Retain As Published, as a
/// bridge needs it; and what is retained only where the subscription is new.
fn write_subscribe(version: Version, subscriptions: &[Subscription], out: &mut BytesMut) {
    const NO_LOCAL_AS_PUBLISHED_WHEN_NEW: u8 = 0x04 | 0x08 | 0x10;
    let mut body = BytesMut::new();
    body.put_u16(ASKING_ID);
    let options = match version {
        Version::V311 => 0,
        Version::V5 => {
            body.put_u8(0);
            NO_LOCAL_AS_PUBLISHED_WHEN_NEW
        }
    };
    for Subscription { filter, qos } in subscriptions {
        put_filter(filter, &mut body);
        body.put_u8(qos.number() | options);
    }
    put_packet(0x82, &body, out);
}

/// Appends an UNSUBSCRIBE (MQTT 5, section 3.10).
fn write_unsubscribe(version: Version, filters: &[TopicFilter], out: &mut BytesMut) {
    let mut body = BytesMut::new();
    body.put_u16(ASKING_ID);
    if version == Version::V5 {
        body.put_u8(0);
    }
    for filter in filters {
        put_filter(filter, &mut body);
    }
    put_packet(0xa2, &body, out);
}

fn put_filter(filter: &TopicFilter, body: &mut BytesMut) {
    let filter = filter.as_str().as_bytes();
    body.put_u16(u16::try_from(filter.len()).unwrap_or(u16::MAX));
    body.put_slice(filter);
}

fn put_packet(first: u8, body: &[u8], out: &mut BytesMut) {
    out.put_u8(first);
    let mut len = body.len();
    while len >= 0x80 {
        out.put_u8(u8::try_from(len & 0x7f).unwrap_or(0) | 0x80);
        len >>= 7;
    }
    out.put_u8(u8::try_from(len).unwrap_or(0));
    out.extend_from_slice(body);
}

/// Appends PUBACK, PUBREC or PUBCOMP; MQTT 3.1.1 has no word for a refusal.
pub(super) fn write_answer(version: Version, answer: Answer, out: &mut BytesMut) {
    let kind = match answer.kind {
        AnswerKind::Acknowledged => 0x40,
        AnswerKind::Received => 0x50,
        AnswerKind::Completed => 0x70,
    };
    let code = (version == Version::V5 && answer.code != 0).then_some(answer.code);
    out.put_slice(&[kind, 2 + u8::from(code.is_some())]);
    out.put_u16(answer.id);
    out.extend(code);
}

/// What is asked of the upstream on one connection, and how far that has come. Pure.
#[derive(Debug)]
pub(super) struct Asking {
    wanted: Arc<[Subscription]>,
    /// To be taken back, first of all.
    unwanted: Arc<[TopicFilter]>,
    /// Not asked for yet.
    next: usize,
    /// Asked for, and not answered; with the time at which that is too late.
    asked: Option<(Range<usize>, Instant)>,
    /// Refused so far on this turn.
    refused: bool,
    ask_again_at: Option<Instant>,
    wait: Duration,
    /// Where it is noted that this address has granted everything.
    granted: Arc<AtomicUsize>,
    place: usize,
}

impl Asking {
    /// Everything in `wanted` is asked for, unless the upstream at this place has granted it before, and still knows.
    pub(super) fn new(
        wanted: Arc<[Subscription]>,
        granted: Arc<AtomicUsize>,
        place: usize,
        session_present: bool,
    ) -> Self {
        let is_known = session_present && granted.load(Ordering::Relaxed) == place + 1;
        let next = if is_known { wanted.len() } else { 0 };
        let wait = ASK_AGAIN_MIN;
        let unwanted = Arc::default();
        Self { wanted, unwanted, next, asked: None, refused: false, ask_again_at: None, wait, granted, place }
    }

    /// The same, and these are taken back. Nobody waits for the answer: what comes all the same finds no downlink.
    pub(super) fn without(self, unwanted: Arc<[TopicFilter]>) -> Self {
        Self { unwanted, ..self }
    }

    /// Appends what is to be asked now; gives when to look again.
    pub(super) fn ask(&mut self, version: Version, now: Instant, out: &mut BytesMut) -> Option<Instant> {
        for chunk in std::mem::take(&mut self.unwanted).chunks(FILTERS_AT_ONCE) {
            write_unsubscribe(version, chunk, out);
        }
        if let Some((_, until)) = &self.asked {
            if now < *until {
                return Some(*until);
            }
            self.asked = None;
            self.refused = true;
        }
        if let Some(at) = self.ask_again_at {
            if now < at {
                return Some(at);
            }
            (self.ask_again_at, self.next) = (None, 0);
        }
        if self.next < self.wanted.len() {
            let chunk = self.next..self.wanted.len().min(self.next + FILTERS_AT_ONCE);
            write_subscribe(version, &self.wanted[chunk.clone()], out);
            self.next = chunk.end;
            let until = now + ANSWER_TIMEOUT;
            self.asked = Some((chunk, until));
            return Some(until);
        }
        if std::mem::take(&mut self.refused) {
            let at = now + self.wait;
            self.wait = (self.wait * 2).min(ASK_AGAIN_MAX);
            self.ask_again_at = Some(at);
            return Some(at);
        }
        if !self.wanted.is_empty() && self.asked.is_none() {
            self.granted.store(self.place + 1, Ordering::Relaxed);
        }
        None
    }

    /// The upstream has answered; gives what it refused.
    pub(super) fn answered(&mut self, id: u16, codes: &[u8]) -> Vec<(Subscription, u8)> {
        let Some((chunk, _)) = self.asked.take_if(|_| id == ASKING_ID) else { return Vec::new() };
        let codes = codes.iter().copied().chain(std::iter::repeat(UNSPECIFIED));
        let refused: Vec<_> = self.wanted[chunk].iter().cloned().zip(codes).filter(|(_, code)| *code >= 0x80).collect();
        self.refused |= !refused.is_empty();
        refused
    }
}

/// Packet ids under which the upstream may hold half of an exactly-once delivery that nobody here knows of.
///
/// A session that is kept for the sake of its subscriptions outlives this process, and with it the ids of QoS 2 messages
/// that were sent and not completed. A new message under such an id would be taken for the old one, and be lost. So each id is
/// released before a message is first sent under it on a connection: four bytes each way, once.
#[derive(Debug)]
pub(super) struct Unsure {
    released: Box<[u64; Self::WORDS]>,
    /// Whose PUBCOMP is not an answer to a delivery.
    expected: Box<[u64; Self::WORDS]>,
}

impl Unsure {
    const WORDS: usize = (1 << 16) / 64;

    pub(super) fn new() -> Self {
        Self { released: Box::new([0; Self::WORDS]), expected: Box::new([0; Self::WORDS]) }
    }

    /// Whether the id is to be released before it is used; true once.
    pub(super) fn must_release(&mut self, id: u16) -> bool {
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        let is_first = self.released[word] & bit == 0;
        self.released[word] |= bit;
        self.expected[word] |= if is_first { bit } else { 0 };
        is_first
    }

    /// Whether this PUBCOMP is the answer to such a release; true once for each.
    pub(super) fn was_released(&mut self, id: u16) -> bool {
        let (word, bit) = (usize::from(id / 64), 1 << (id % 64));
        let is_expected = self.expected[word] & bit != 0;
        self.expected[word] &= !bit;
        is_expected
    }
}

#[cfg(test)]
mod tests;
