//! Rows and messages: what a message weighs, and how its columns become a message again.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rusqlite::{Row, types::ValueRef};

use crate::{
    message::{Message, Properties, QoS},
    topic::TopicName,
};

const QOS_MASK: i64 = 0b11;
const RETAIN: i64 = 0b100;

/// Payloads from this size on get their own allocation; smaller ones share one.
const SHARED_PAYLOAD_MAX: usize = 8 << 10;

/// Size of a shared allocation. A single message that is kept keeps all of it, so it is not larger.
const ARENA_BYTES: usize = 32 << 10;

/// Different topics (and clients) that a decoder remembers; a power of two.
const NAMES: usize = 256;

/// Bytes a message counts for in the books: topic, payload, properties, client id.
pub(super) fn weight(message: &Message) -> u64 {
    let properties = message.properties.as_ref().map_or(0, |properties| properties.encoded_len());
    (message.topic.as_str().len() + message.payload.len() + message.client.len() + properties) as u64
}

/// The flags column.
pub(super) fn flags(message: &Message) -> i64 {
    i64::from(message.qos.number()) | if message.retain { RETAIN } else { 0 }
}

/// Turns rows into messages with few allocations: topics and clients come back again and again, small payloads share memory.
#[derive(Debug)]
pub(super) struct Decoder {
    arena: BytesMut,
    topics: Vec<Option<TopicName>>,
    clients: Vec<Option<ByteString>>,
}

/// A row that was readable but makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("column {0} of the row makes no sense")]
pub(super) struct Senseless(pub(super) &'static str);

/// The columns of a message in a row, by index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) flags: usize,
    pub(super) client: usize,
    pub(super) topic: usize,
    pub(super) properties: usize,
    pub(super) payload: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { arena: BytesMut::new(), topics: vec![None; NAMES], clients: vec![None; NAMES] }
    }

    /// The message of a row.
    pub(super) fn message(&mut self, row: &Row<'_>, columns: Columns) -> Result<Message, Senseless> {
        let Ok(ValueRef::Integer(flags)) = row.get_ref(columns.flags) else { return Err(Senseless("flags")) };
        let qos = u8::try_from(flags & QOS_MASK).ok().and_then(QoS::from_number).ok_or(Senseless("flags"))?;
        let client = self.client(bytes_of(row, columns.client).ok_or(Senseless("client"))?)?;
        let topic = self.topic(bytes_of(row, columns.topic).ok_or(Senseless("topic"))?)?;
        let properties = match row.get_ref(columns.properties) {
            Ok(ValueRef::Null) => None,
            Ok(ValueRef::Blob(block)) => {
                let block = self.keep(block);
                Some(Box::new(Properties::decode(block).map_err(|_| Senseless("properties"))?))
            }
            Ok(_) | Err(_) => return Err(Senseless("properties")),
        };
        let payload = self.keep(bytes_of(row, columns.payload).ok_or(Senseless("payload"))?);
        Ok(Message { topic, payload, qos, retain: flags & RETAIN != 0, client, properties })
    }

    fn topic(&mut self, bytes: &[u8]) -> Result<TopicName, Senseless> {
        let place = &mut self.topics[place(bytes)];
        match place {
            Some(topic) if topic.as_str().as_bytes() == bytes => Ok(topic.clone()),
            Some(_) | None => {
                let text = std::str::from_utf8(bytes).map_err(|_| Senseless("topic"))?;
                let topic = TopicName::new(text).map_err(|_| Senseless("topic"))?;
                Ok(place.insert(topic).clone())
            }
        }
    }

    fn client(&mut self, bytes: &[u8]) -> Result<ByteString, Senseless> {
        let place = &mut self.clients[place(bytes)];
        match place {
            Some(client) if client.as_bytes() == bytes => Ok(client.clone()),
            Some(_) | None => {
                let text = std::str::from_utf8(bytes).map_err(|_| Senseless("client"))?;
                Ok(place.insert(ByteString::from(text)).clone())
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() >= SHARED_PAYLOAD_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.arena.capacity() < bytes.len() {
            self.arena = BytesMut::with_capacity(ARENA_BYTES);
        }
        self.arena.extend_from_slice(bytes);
        self.arena.split().freeze()
    }
}

/// Text or blob: MQTT payloads go in as blobs, names as text, and a damaged type byte is no reason to lose either.
pub(super) fn bytes_of<'r>(row: &'r Row<'_>, column: usize) -> Option<&'r [u8]> {
    match row.get_ref(column).ok()? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}

/// FNV-1a, folded to a place in the table.
fn place(bytes: &[u8]) -> usize {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bytes first: the whole hash is no `usize` on a processor of 32 bits.
    let [low, high, ..] = ((hash >> 32) ^ hash).to_le_bytes();
    usize::from(u16::from_le_bytes([low, high])) & (NAMES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spread_over_the_table_whatever_the_width_of_a_word() {
        let places: std::collections::HashSet<_> =
            (0..1000).map(|n| place(format!("sensors/{n}").as_bytes())).collect();
        assert!(places.len() > NAMES / 2, "1000 names on {} of {NAMES} places", places.len());
    }
}
