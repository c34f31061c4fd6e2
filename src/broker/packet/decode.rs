//! What a connected client sends: from bytes to packets, with every rule of the specifications that needs no session.

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;
use smallvec::SmallVec;

use super::{
    DecodeError, Reason, Version,
    properties::{Allowed, Received},
    wire::{Frame, Reader, peek},
};
use crate::{
    broker::limits::TOPIC_ALIAS_BYTES,
    message::{Message, QoS},
    topic::TopicName,
};

/// Packets shorter than this are copied out of the read buffer, longer ones share it.
///
/// A message that waits in a queue pins the whole buffer that it shares; a copy of a small one costs about as much as
/// the reference count, and pins nothing.
const COPY_BELOW: usize = 16 << 10;

/// A packet from a connected client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Publish(Publish),
    PubAck { packet_id: u16 },
    PubRec { packet_id: u16, reason: Reason },
    PubRel { packet_id: u16 },
    PubComp { packet_id: u16 },
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect { reason: Reason, session_expiry_s: Option<u32> },
    Auth,
}

/// PUBLISH (section 3.3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) message: Message,
    /// 0 for QoS 0.
    pub(crate) packet_id: u16,
}

/// SUBSCRIBE (section 3.8).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) packet_id: u16,
    pub(crate) subscription_id: Option<u32>,
    /// Filter as text (whether it is a valid filter is answered one by one) and its options.
    pub(crate) filters: SmallVec<[(ByteString, SubscribeOptions); 1]>,
}

/// Options of one subscription (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubscribeOptions {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: RetainHandling,
}

/// When retained messages are sent (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetainHandling {
    Always,
    WhenNew,
    Never,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) packet_id: u16,
    pub(crate) filters: SmallVec<[ByteString; 1]>,
}

/// Decodes what one client sends after its CONNECT. Pure: bytes in, packets out.
#[derive(Debug)]
pub(crate) struct Decoder {
    version: Version,
    max_packet: u32,
    client: ByteString,
    /// Devices publish to the same topic again and again: the last one is neither checked nor copied again.
    last_topic: Option<TopicName>,
    aliases: Vec<Option<TopicName>>,
    alias_max: u16,
}

impl Decoder {
    /// `alias_max`: the Topic Alias Maximum that the CONNACK gave the client.
    pub(crate) fn new(version: Version, max_packet: u32, client: ByteString, alias_max: u16) -> Self {
        Self { version, max_packet, client, last_topic: None, aliases: Vec::new(), alias_max }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// Takes the next packet off the buffer; `None` while it is not complete. After an error the stream is lost.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(&first) = buffer.first() else { return Ok(None) };
        check_flags(first)?;
        let Some(frame) = peek(buffer, self.max_packet, self.version == Version::V5)? else { return Ok(None) };
        if buffer.len() < frame.total {
            return Ok(None);
        }
        if frame.total >= COPY_BELOW && first >> 4 == PUBLISH {
            let body: Bytes = buffer.split_to(frame.total).freeze().slice(frame.header..);
            return self.read(frame, &mut Reader::sharing(&body)).map(Some);
        }
        let packet = self.read(frame, &mut Reader::copying(&buffer[frame.header..frame.total]));
        buffer.advance(frame.total);
        packet.map(Some)
    }

    fn read(&mut self, frame: Frame, reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        let packet = match frame.first >> 4 {
            PUBLISH => return self.read_publish(frame.first, reader).map(Packet::Publish),
            PUBACK => {
                let (packet_id, _) = self.read_ack(reader, PUBLISH_REASONS)?;
                Packet::PubAck { packet_id }
            }
            PUBREC => {
                let (packet_id, reason) = self.read_ack(reader, PUBLISH_REASONS)?;
                Packet::PubRec { packet_id, reason }
            }
            PUBREL => {
                let (packet_id, _) = self.read_ack(reader, RELEASE_REASONS)?;
                Packet::PubRel { packet_id }
            }
            PUBCOMP => {
                let (packet_id, _) = self.read_ack(reader, RELEASE_REASONS)?;
                Packet::PubComp { packet_id }
            }
            SUBSCRIBE => self.read_subscribe(reader)?,
            UNSUBSCRIBE => self.read_unsubscribe(reader)?,
            PINGREQ => Packet::PingReq,
            DISCONNECT => self.read_disconnect(reader)?,
            AUTH if self.version == Version::V5 => read_auth(reader)?,
            CONNECT => return Err(DecodeError::Protocol("a second CONNECT")),
            _ => return Err(DecodeError::Protocol("packet that a client must not send")),
        };
        reader.end()?;
        Ok(packet)
    }

    fn read_publish(&mut self, first: u8, reader: &mut Reader<'_>) -> Result<Publish, DecodeError> {
        let qos = QoS::from_number((first >> 1) & 3).ok_or(DecodeError::Malformed("QoS 3"))?;
        if qos == QoS::AtMostOnce && first & 0x08 != 0 {
            return Err(DecodeError::Malformed("DUP with QoS 0"));
        }
        let name = reader.binary()?;
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
        let (alias, properties) = match self.version {
            Version::V311 => (None, None),
            Version::V5 => {
                let received = Received::read(reader, Allowed::PUBLISH)?;
                (received.topic_alias, received.into_message())
            }
        };
        let topic = match alias {
            Some(alias) => self.aliased(name, alias)?,
            None if name.is_empty() && self.version == Version::V5 => {
                return Err(DecodeError::Protocol("neither topic name nor topic alias"));
            }
            None => self.topic(name)?,
        };
        let payload = reader.take_rest();
        let payload = reader.own(payload);
        let retain = first & 0x01 != 0;
        let message = Message { topic, payload, qos, retain, client: self.client.clone(), properties };
        Ok(Publish { message, packet_id })
    }

    fn topic(&mut self, name: &[u8]) -> Result<TopicName, DecodeError> {
        if let Some(last) = self.last_topic.as_ref().filter(|last| last.as_bytes() == name) {
            return Ok(last.clone());
        }
        let text = std::str::from_utf8(name).map_err(|_| DecodeError::Malformed("topic is not UTF-8"))?;
        let topic = match TopicName::new(text) {
            Err(crate::topic::TopicError::Nul) => {
                return Err(DecodeError::Malformed("topic contains the NUL character"));
            }
            checked => checked?,
        };
        self.last_topic = Some(topic.clone());
        Ok(topic)
    }

    fn aliased(&mut self, name: &[u8], alias: u16) -> Result<TopicName, DecodeError> {
        if alias == 0 || alias > self.alias_max {
            return Err(DecodeError::TopicAlias { alias, max: self.alias_max });
        }
        let index = usize::from(alias - 1);
        if name.is_empty() {
            let known = self.aliases.get(index).and_then(Clone::clone);
            return known.ok_or(DecodeError::Protocol("topic alias that was never set"));
        }
        let topic = self.topic(name)?;
        let others = self.aliases.iter().enumerate().filter(|(at, _)| *at != index);
        let bytes: usize = others.filter_map(|(_, topic)| topic.as_ref()).map(|topic| topic.as_str().len()).sum();
        if bytes + topic.as_str().len() > TOPIC_ALIAS_BYTES {
            return Err(DecodeError::Quota("bytes of topics behind topic aliases"));
        }
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        self.aliases[index] = Some(topic.clone());
        Ok(topic)
    }

    fn read_ack(&self, reader: &mut Reader<'_>, reasons: &[u8]) -> Result<(u16, Reason), DecodeError> {
        let packet_id = reader.packet_id()?;
        if self.version == Version::V311 || reader.is_empty() {
            return Ok((packet_id, Reason::SUCCESS));
        }
        let reason = read_reason(reader, reasons)?;
        if !reader.is_empty() {
            Received::read(reader, Allowed::ACK)?;
        }
        Ok((packet_id, reason))
    }

    fn read_subscribe(&self, reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        let packet_id = reader.packet_id()?;
        let subscription_id = match self.version {
            Version::V311 => None,
            Version::V5 => Received::read(reader, Allowed::SUBSCRIBE)?.subscription_id,
        };
        let mut filters: SmallVec<[(ByteString, SubscribeOptions); 1]> = SmallVec::new();
        while !reader.is_empty() {
            let filter = ByteString::from(reader.text()?);
            filters.push((filter, SubscribeOptions::read(reader.u8()?, self.version)?));
            check_filter_count(filters.len())?;
        }
        if filters.is_empty() {
            return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
        }
        for (filter, options) in &filters {
            if options.no_local && filter.starts_with("$share/") {
                return Err(DecodeError::Protocol("No Local on a shared subscription"));
            }
        }
        Ok(Packet::Subscribe(Subscribe { packet_id, subscription_id, filters }))
    }

    fn read_unsubscribe(&self, reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        let packet_id = reader.packet_id()?;
        if self.version == Version::V5 {
            Received::read(reader, Allowed::UNSUBSCRIBE)?;
        }
        let mut filters = SmallVec::new();
        while !reader.is_empty() {
            let filter = ByteString::from(reader.text()?);
            if filter.is_empty() {
                return Err(DecodeError::Protocol("empty topic filter"));
            }
            filters.push(filter);
            check_filter_count(filters.len())?;
        }
        if filters.is_empty() {
            return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
        }
        Ok(Packet::Unsubscribe(Unsubscribe { packet_id, filters }))
    }

    fn read_disconnect(&self, reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        let mut reason = Reason::SUCCESS;
        let mut session_expiry_s = None;
        if self.version == Version::V5 && !reader.is_empty() {
            reason = read_reason(reader, DISCONNECT_REASONS)?;
            if !reader.is_empty() {
                session_expiry_s = Received::read(reader, Allowed::DISCONNECT)?.session_expiry_s;
            }
        }
        Ok(Packet::Disconnect { reason, session_expiry_s })
    }
}

impl SubscribeOptions {
    fn read(bits: u8, version: Version) -> Result<Self, DecodeError> {
        let reserved = match version {
            Version::V311 => 0b1111_1100,
            Version::V5 => 0b1100_0000,
        };
        if bits & reserved != 0 {
            return Err(DecodeError::Malformed("reserved bits of the subscription options"));
        }
        Ok(Self {
            qos: QoS::from_number(bits & 3).ok_or(DecodeError::Malformed("subscription QoS 3"))?,
            no_local: bits & 0b100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            retain_handling: match bits >> 4 {
                0 => RetainHandling::Always,
                1 => RetainHandling::WhenNew,
                2 => RetainHandling::Never,
                _ => return Err(DecodeError::Protocol("retain handling 3")),
            },
        })
    }

    /// The options as the byte in which they came.
    pub(crate) fn bits(self) -> u8 {
        let handling = match self.retain_handling {
            RetainHandling::Always => 0,
            RetainHandling::WhenNew => 1,
            RetainHandling::Never => 2,
        };
        self.qos.number() | u8::from(self.no_local) << 2 | u8::from(self.retain_as_published) << 3 | handling << 4
    }

    /// Reads what [`SubscribeOptions::bits`] wrote.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        Self::read(bits, Version::V5).ok()
    }
}

/// Most filters in one SUBSCRIBE or UNSUBSCRIBE.
const FILTERS_MAX: usize = 1024;

fn check_filter_count(count: usize) -> Result<(), DecodeError> {
    if count > FILTERS_MAX { Err(DecodeError::Quota("filters in one packet")) } else { Ok(()) }
}

fn read_reason(reader: &mut Reader<'_>, known: &[u8]) -> Result<Reason, DecodeError> {
    let code = reader.u8()?;
    if known.contains(&code) { Ok(Reason(code)) } else { Err(DecodeError::Malformed("reason code of another packet")) }
}

fn read_auth(reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    if !reader.is_empty() {
        read_reason(reader, &[0x00, 0x18, 0x19])?;
        if !reader.is_empty() {
            Received::read(reader, Allowed::AUTH)?;
        }
    }
    Ok(Packet::Auth)
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

const PUBLISH_REASONS: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const RELEASE_REASONS: &[u8] = &[0x00, 0x92];
const DISCONNECT_REASONS: &[u8] = &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

/// Whether the buffer begins with a PUBLISH, complete or not.
pub(crate) fn is_publish(buffer: &[u8]) -> bool {
    buffer.first().is_some_and(|first| first >> 4 == PUBLISH)
}

/// Whether the buffer begins with what a receiver of messages answers, complete or not: PUBACK, PUBREC or PUBCOMP.
pub(crate) fn is_acknowledgement(buffer: &[u8]) -> bool {
    buffer.first().is_some_and(|first| matches!(first >> 4, PUBACK | PUBREC | PUBCOMP))
}

/// Reserved flags of the fixed header (section 2.1.3), seen before a byte of the body is waited for.
fn check_flags(first: u8) -> Result<(), DecodeError> {
    let right = match first >> 4 {
        0 => return Err(DecodeError::Malformed("packet type 0")),
        PUBLISH => return Ok(()),
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => 0b0010,
        _ => 0,
    };
    if first & 0x0F == right { Ok(()) } else { Err(DecodeError::Malformed("reserved flags of the fixed header")) }
}
