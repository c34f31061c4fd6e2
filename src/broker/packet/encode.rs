//! What the gateway sends to a client: from packets to bytes.

use bytes::{BufMut, BytesMut};

use super::{
    Manner, Reason, Version, properties as id,
    wire::{put_binary, put_varint, varint_len},
};
use crate::message::{Message, QoS};

/// The acknowledgements, by the first byte of their packet.
#[allow(clippy::enum_variant_names, reason = "these are the names of the packets")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

/// What an accepting CONNACK of MQTT 5 tells the client (section 3.2.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConnAckProperties<'a> {
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) server_keep_alive_s: Option<u16>,
    pub(crate) assigned_client_id: Option<&'a str>,
}

/// CONNACK that accepts.
pub(crate) fn connack(out: &mut BytesMut, version: Version, session_present: bool, properties: &ConnAckProperties<'_>) {
    let mut block = BytesMut::new();
    if version == Version::V5 {
        if let Some(seconds) = properties.session_expiry_s {
            block.put_u8(id::SESSION_EXPIRY);
            block.put_u32(seconds);
        }
        block.put_u8(id::RECEIVE_MAXIMUM);
        block.put_u16(properties.receive_maximum);
        block.put_u8(id::MAXIMUM_PACKET_SIZE);
        block.put_u32(properties.maximum_packet_size);
        if let Some(client_id) = properties.assigned_client_id {
            block.put_u8(id::ASSIGNED_CLIENT_ID);
            put_binary(&mut block, client_id.as_bytes());
        }
        block.put_u8(id::TOPIC_ALIAS_MAXIMUM);
        block.put_u16(properties.topic_alias_maximum);
        if let Some(seconds) = properties.server_keep_alive_s {
            block.put_u8(id::SERVER_KEEP_ALIVE);
            block.put_u16(seconds);
        }
    }
    let properties = if version == Version::V5 { varint_len(block.len()) + block.len() } else { 0 };
    out.put_u8(0x20);
    put_varint(out, 2 + properties);
    out.put_slice(&[u8::from(session_present), 0]);
    if version == Version::V5 {
        put_varint(out, block.len());
        out.put_slice(&block);
    }
}

/// Appends what ends in a Reason String where the client wants one and the packet stays within its limit with it;
/// `bare` is what stands for no properties.
fn put_explained(out: &mut BytesMut, manner: Manner, first: u8, fields: &[u8], bare: &[u8], why: &str) {
    let property = 3 + why.len();
    let remaining = fields.len() + varint_len(property) + property;
    let fits = 1 + varint_len(remaining) + remaining <= manner.max_packet;
    out.put_u8(first);
    if manner.reason_strings && !why.is_empty() && fits {
        put_varint(out, remaining);
        out.put_slice(fields);
        put_varint(out, property);
        out.put_u8(id::REASON_STRING);
        put_binary(out, why.as_bytes());
    } else {
        put_varint(out, fields.len() + bare.len());
        out.put_slice(fields);
        out.put_slice(bare);
    }
}

/// Bytes of the shortest CONNACK that refuses.
const REFUSAL_LEN: usize = 5;

/// CONNACK that refuses; nothing where 3.1.1 has no code for the reason, or the client takes no packet of that size.
pub(crate) fn connack_refusal(out: &mut BytesMut, manner: Manner, reason: Reason, why: &str) {
    match manner.version {
        Version::V5 if manner.max_packet < REFUSAL_LEN => {}
        Version::V5 => put_explained(out, manner, 0x20, &[0, reason.0], &[0], why),
        Version::V311 => {
            if let Some(code) = reason.connect_return_code() {
                out.put_slice(&[0x20, 2, 0, code]);
            }
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP; a success takes four bytes in both versions (MQTT 5, section 3.4.2.1).
pub(crate) fn ack(out: &mut BytesMut, version: Version, kind: AckKind, packet_id: u16, reason: Reason) {
    let [high, low] = packet_id.to_be_bytes();
    if version == Version::V311 || reason == Reason::SUCCESS {
        out.put_slice(&[kind as u8, 2, high, low]);
    } else {
        out.put_slice(&[kind as u8, 3, high, low, reason.0]);
    }
}

/// [`ack`] that says no, and why.
pub(crate) fn refusing_ack(
    out: &mut BytesMut,
    manner: Manner,
    kind: AckKind,
    packet_id: u16,
    reason: Reason,
    why: &str,
) {
    match manner.version {
        Version::V311 => ack(out, manner.version, kind, packet_id, reason),
        Version::V5 => {
            let [high, low] = packet_id.to_be_bytes();
            put_explained(out, manner, kind as u8, &[high, low, reason.0], &[], why);
        }
    }
}

/// Bytes of a SUBACK or UNSUBACK of MQTT 5 with so many codes.
pub(crate) const fn suback_len(codes: usize) -> usize {
    1 + varint_len(3 + codes) + 3 + codes
}

/// SUBACK: one code per filter, in order.
pub(crate) fn suback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    let properties = usize::from(version == Version::V5);
    out.put_u8(0x90);
    put_varint(out, 2 + properties + codes.len());
    out.put_u16(packet_id);
    out.put_bytes(0, properties);
    for code in codes {
        out.put_u8(if version == Version::V311 && *code >= 0x80 { 0x80 } else { *code });
    }
}

/// UNSUBACK: one code per filter in MQTT 5, none in 3.1.1.
pub(crate) fn unsuback(out: &mut BytesMut, version: Version, packet_id: u16, codes: &[u8]) {
    out.put_u8(0xB0);
    match version {
        Version::V311 => {
            out.put_u8(2);
            out.put_u16(packet_id);
        }
        Version::V5 => {
            put_varint(out, 3 + codes.len());
            out.put_u16(packet_id);
            out.put_u8(0);
            out.put_slice(codes);
        }
    }
}

/// PINGRESP.
pub(crate) fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// DISCONNECT with a reason; 3.1.1 has none from the server, so there nothing is written.
pub(crate) fn disconnect(out: &mut BytesMut, manner: Manner, reason: Reason, why: &str) {
    if manner.version == Version::V5 {
        put_explained(out, manner, 0xE0, &[reason.0], &[], why);
    }
}

/// A message on its way to one subscriber.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishOut<'a> {
    pub(crate) message: &'a Message,
    /// QoS of this delivery.
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// 0 for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) subscription_ids: &'a [u32],
    /// What is left of the message expiry interval.
    pub(crate) expiry_s: Option<u32>,
    pub(crate) alias: Option<Alias>,
}

/// A topic alias in a PUBLISH (section 3.3.2.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) number: u16,
    /// Whether the client knows already which topic it stands for, so that the topic is left out.
    pub(crate) known: bool,
}

const MESSAGE_EXPIRY_LEN: usize = 5;
const TOPIC_ALIAS_LEN: usize = 3;

impl PublishOut<'_> {
    /// Bytes of the whole packet.
    pub(crate) fn len(&self, version: Version) -> usize {
        let remaining = self.remaining(version);
        1 + varint_len(remaining) + remaining
    }

    fn remaining(&self, version: Version) -> usize {
        let properties = match version {
            Version::V311 => 0,
            Version::V5 => {
                let len = self.properties_len();
                varint_len(len) + len
            }
        };
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        2 + self.topic().len() + packet_id + properties + self.message.payload.len()
    }

    fn properties_len(&self) -> usize {
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + varint_len(*id as usize)).sum();
        let stored = self.message.properties.as_ref().map_or(0, |properties| {
            properties.encoded_len() - properties.message_expiry_s.map_or(0, |_| MESSAGE_EXPIRY_LEN)
        });
        let alias = self.alias.map_or(0, |_| TOPIC_ALIAS_LEN);
        stored + ids + self.expiry_s.map_or(0, |_| MESSAGE_EXPIRY_LEN) + alias
    }

    /// What stands as the topic.
    fn topic(&self) -> &[u8] {
        if self.alias.is_some_and(|alias| alias.known) { &[] } else { self.message.topic.as_bytes() }
    }

    /// Appends the packet.
    pub(crate) fn encode(&self, out: &mut BytesMut, version: Version) {
        let remaining = self.remaining(version);
        out.reserve(5 + remaining);
        out.put_u8(0x30 | u8::from(self.dup) << 3 | self.qos.number() << 1 | u8::from(self.retain));
        put_varint(out, remaining);
        put_binary(out, self.topic());
        if self.qos != QoS::AtMostOnce {
            out.put_u16(self.packet_id);
        }
        if version == Version::V5 {
            put_varint(out, self.properties_len());
            self.encode_properties(out);
        }
        out.put_slice(&self.message.payload);
    }

    fn encode_properties(&self, out: &mut BytesMut) {
        if let Some(alias) = self.alias {
            out.put_u8(id::TOPIC_ALIAS);
            out.put_u16(alias.number);
        }
        if let Some(properties) = &self.message.properties {
            if properties.message_expiry_s == self.expiry_s {
                properties.encode(out);
            } else {
                let lowered = crate::message::Properties { message_expiry_s: self.expiry_s, ..(**properties).clone() };
                lowered.encode(out);
            }
        }
        for subscription_id in self.subscription_ids {
            out.put_u8(id::SUBSCRIPTION_ID);
            put_varint(out, *subscription_id as usize);
        }
    }
}
