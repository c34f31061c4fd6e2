//! The message: what a client published, in the form in which it travels through the gateway.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::topic::TopicName;

/// Quality of service of a message (MQTT 5, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once: sent, never acknowledged.
    AtMostOnce = 0,
    /// At least once: acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: acknowledged by PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS with this number, `None` for anything above 2.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// 0, 1 or 2.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// An application message, as accepted from a client.
///
/// Cloning is cheap: topic, payload and client id share their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published to; never empty, never a wildcard, at most 65 535 bytes.
    pub topic: TopicName,
    /// The bytes of the message; may be empty.
    pub payload: Bytes,
    /// The QoS of the PUBLISH that brought it.
    pub qos: QoS,
    /// The retain flag of the PUBLISH that brought it.
    pub retain: bool,
    /// The client that published it; empty where the gateway itself did.
    pub client: ByteString,
    /// The MQTT 5 properties that travel with it; `None` where there are none, which is the common case.
    pub properties: Option<Box<Properties>>,
}

impl Message {
    /// Bytes of memory that topic, payload and properties take, about.
    pub fn footprint(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |properties| properties.footprint());
        self.topic.as_str().len() + self.payload.len() + properties
    }
}

/// The properties of a PUBLISH that belong to the message and not to one hop (MQTT 5, section 3.3.2.3).
///
/// Topic alias and subscription identifier belong to the hop and are not here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload Format Indicator: 0 = bytes, 1 = UTF-8.
    pub payload_format: Option<u8>,
    /// Message Expiry Interval in seconds, as it was when the message was accepted.
    pub message_expiry_s: Option<u32>,
    /// Content Type.
    pub content_type: Option<ByteString>,
    /// Response Topic.
    pub response_topic: Option<ByteString>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User Properties, in the order in which they came; names may repeat.
    pub user: Vec<(ByteString, ByteString)>,
    /// Where an imported message was first accepted. No property of MQTT: it is stored with them and never sent as one.
    pub origin: Option<Box<Origin>>,
}

/// Which message this was where it was first accepted, before it was exported there and imported here: its id and time go upstream, so that
/// duplicates can be recognised whichever way they took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `<gateway>/<stream>`.
    pub source: ByteString,
    /// Its number in that stream.
    pub sequence: u64,
    /// When it was accepted there, in milliseconds since 1970 (UTC).
    pub accepted_unix_ms: i64,
    /// Whether the clock was set there.
    pub clock_synced: bool,
}

impl Origin {
    /// Its `tg-id`: `<gateway>/<stream>/<sequence>`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.source, self.sequence)
    }
}

/// Why stored properties could not be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored message properties are damaged at byte {at} of {len}")]
pub struct DamagedProperties {
    /// Offset of the first byte that makes no sense.
    pub at: usize,
    /// Length of the whole block in bytes.
    pub len: usize,
}

const PAYLOAD_FORMAT: u8 = 0x01;
const MESSAGE_EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
const USER_PROPERTY: u8 = 0x26;
/// Ours: no property of MQTT has this identifier (MQTT 5, section 2.2.2.2).
const ORIGIN: u8 = 0x7E;

/// Bytes of an origin beside its source: identifier, length, sequence, time, clock.
const ORIGIN_LEN: usize = 3 + 8 + 8 + 1;

impl Properties {
    /// True when there is nothing to carry.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Appends the properties in MQTT 5 wire form (section 2.2.2.2), without the length in front.
    ///
    /// Strings and data longer than 65 535 bytes cannot come from the wire and are cut by nobody: the caller checked.
    pub fn encode(&self, out: &mut BytesMut) {
        if let Some(format) = self.payload_format {
            out.put_slice(&[PAYLOAD_FORMAT, format]);
        }
        if let Some(seconds) = self.message_expiry_s {
            out.put_u8(MESSAGE_EXPIRY);
            out.put_u32(seconds);
        }
        if let Some(text) = &self.content_type {
            out.put_u8(CONTENT_TYPE);
            put_binary(out, text.as_bytes());
        }
        if let Some(text) = &self.response_topic {
            out.put_u8(RESPONSE_TOPIC);
            put_binary(out, text.as_bytes());
        }
        if let Some(data) = &self.correlation_data {
            out.put_u8(CORRELATION_DATA);
            put_binary(out, data);
        }
        for (name, value) in &self.user {
            out.put_u8(USER_PROPERTY);
            put_binary(out, name.as_bytes());
            put_binary(out, value.as_bytes());
        }
        if let Some(origin) = &self.origin {
            out.put_u8(ORIGIN);
            put_binary(out, origin.source.as_bytes());
            out.put_u64(origin.sequence);
            out.put_i64(origin.accepted_unix_ms);
            out.put_u8(u8::from(origin.clock_synced));
        }
    }

    /// Bytes of memory that the properties take, about: a user property of two bytes takes two allocations.
    pub fn footprint(&self) -> usize {
        const USER: usize = size_of::<(ByteString, ByteString)>() + 32;
        size_of::<Self>() + self.encoded_len() + USER * self.user.len()
    }

    /// Number of bytes that [`Properties::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        let binary = |len: usize| 3 + len;
        self.payload_format.map_or(0, |_| 2)
            + self.message_expiry_s.map_or(0, |_| 5)
            + self.content_type.as_ref().map_or(0, |t| binary(t.len()))
            + self.response_topic.as_ref().map_or(0, |t| binary(t.len()))
            + self.correlation_data.as_ref().map_or(0, |d| binary(d.len()))
            + self.user.iter().map(|(n, v)| 5 + n.len() + v.len()).sum::<usize>()
            + self.origin.as_ref().map_or(0, |origin| ORIGIN_LEN + origin.source.len())
    }

    /// Reads what [`Properties::encode`] wrote; the strings share the bytes of `block`.
    ///
    /// This reads our own storage. What comes from a client goes through the broker's stricter decoder first.
    pub fn decode(mut block: Bytes) -> Result<Self, DamagedProperties> {
        let len = block.len();
        let mut properties = Self::default();
        while block.has_remaining() {
            let at = len - block.remaining();
            properties.decode_one(&mut block).ok_or(DamagedProperties { at, len })?;
        }
        Ok(properties)
    }

    fn decode_one(&mut self, block: &mut Bytes) -> Option<()> {
        match block.try_get_u8().ok()? {
            PAYLOAD_FORMAT => self.payload_format = Some(block.try_get_u8().ok()?),
            MESSAGE_EXPIRY => self.message_expiry_s = Some(block.try_get_u32().ok()?),
            CONTENT_TYPE => self.content_type = Some(take_text(block)?),
            RESPONSE_TOPIC => self.response_topic = Some(take_text(block)?),
            CORRELATION_DATA => self.correlation_data = Some(take_binary(block)?),
            USER_PROPERTY => self.user.push((take_text(block)?, take_text(block)?)),
            ORIGIN => {
                self.origin = Some(Box::new(Origin {
                    source: take_text(block)?,
                    sequence: block.try_get_u64().ok()?,
                    accepted_unix_ms: block.try_get_i64().ok()?,
                    clock_synced: block.try_get_u8().ok()? != 0,
                }));
            }
            _ => return None,
        }
        Some(())
    }
}

fn put_binary(out: &mut BytesMut, data: &[u8]) {
    let len = u16::try_from(data.len()).expect("MQTT strings and binary data are at most 65 535 bytes long");
    out.put_u16(len);
    out.put_slice(data);
}

fn take_binary(block: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(block.try_get_u16().ok()?);
    (block.remaining() >= len).then(|| block.split_to(len))
}

fn take_text(block: &mut Bytes) -> Option<ByteString> {
    ByteString::try_from(take_binary(block)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_properties() -> impl Strategy<Value = Properties> {
        let text = || "[a-z/é]{0,12}".prop_map(ByteString::from);
        (
            proptest::option::of(0..=1u8),
            proptest::option::of(any::<u32>()),
            proptest::option::of(text()),
            proptest::option::of(text()),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from)),
            proptest::collection::vec((text(), text()), 0..4),
            proptest::option::of((text(), any::<u64>(), any::<i64>(), any::<bool>())),
        )
            .prop_map(
                |(payload_format, message_expiry_s, content_type, response_topic, correlation_data, user, origin)| {
                    let origin = origin.map(|(source, sequence, accepted_unix_ms, clock_synced)| {
                        Box::new(Origin { source, sequence, accepted_unix_ms, clock_synced })
                    });
                    Properties {
                        payload_format,
                        message_expiry_s,
                        content_type,
                        response_topic,
                        correlation_data,
                        user,
                        origin,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn properties_come_back_as_they_were_stored(properties in any_properties()) {
            let mut block = BytesMut::new();
            properties.encode(&mut block);
            prop_assert_eq!(block.len(), properties.encoded_len());
            prop_assert_eq!(Properties::decode(block.freeze()).unwrap(), properties);
        }

        #[test]
        fn no_bytes_make_decoding_panic(block in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Properties::decode(Bytes::from(block));
        }
    }
}
