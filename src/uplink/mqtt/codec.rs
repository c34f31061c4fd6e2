//! Bytes to packets and packets to bytes, for both protocol versions.
//!
//! Sizes in, sizes out: no frame larger than [`MAX_INCOMING_BYTES`] is accepted (MQTT 5 upstreams are told so in CONNECT), no PUBLISH
//! larger than the upstream's limit is written. Nothing here panics on any input: a property that overruns its packet is an error.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::{
    mqttbytes::v4,
    v5::mqttbytes::{QoS as WireQoS, v5},
};

use super::super::{Delivery, Event, Reply, TooLarge, Version};
use super::inbound;
use crate::message::QoS;

/// Largest packet that an upstream may send where it has no messages for us: acknowledgements and a few properties.
pub(super) const MAX_INCOMING_BYTES: u32 = 64 * 1024;

/// Largest packet that an upstream may send where we have subscriptions.
pub(super) const MAX_MESSAGE_BYTES: u32 = 256 * 1024;

/// Largest packet of the protocol: five bytes of fixed header and 268 435 455 behind it (MQTT 5, section 1.5.5).
pub(super) const MAX_PACKET_BYTES: usize = 5 + 268_435_455;

/// A complete packet, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    kind: u8,
    body: Bytes,
}

/// A packet from the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// CONNACK.
    Greeting(Box<ConnAck>),
    /// PUBACK, PUBREC, PUBCOMP.
    Event(Event),
    /// PINGRESP.
    Pong,
    /// DISCONNECT: reason code and the upstream's words.
    Disconnect(u8, Option<String>),
    /// SUBACK or UNSUBACK: packet id, codes.
    Subscribed(u16, Bytes),
    /// A packet that asks nothing of an uplink without subscriptions, by its type number.
    Other(u8),
}

/// CONNACK, of either version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::uplink) struct ConnAck {
    pub(in crate::uplink) session_present: bool,
    pub(in crate::uplink) code: u8,
    /// Whether the code is one of MQTT 5.
    pub(in crate::uplink) v5: bool,
    pub(in crate::uplink) receive_maximum: Option<u16>,
    pub(in crate::uplink) maximum_qos: Option<u8>,
    pub(in crate::uplink) retain_available: Option<u8>,
    pub(in crate::uplink) maximum_packet_bytes: Option<u32>,
    pub(in crate::uplink) keep_alive_s: Option<u16>,
    pub(in crate::uplink) client_id: Option<String>,
    pub(in crate::uplink) text: Option<String>,
}

/// Takes the next complete packet off `buffer`; `None` when more bytes are needed. None may be larger than `max`.
pub(super) fn take_frame(buffer: &mut BytesMut, max: u32) -> Result<Option<Frame>, String> {
    let Some(&kind) = buffer.first() else { return Ok(None) };
    let mut body_len = 0_u32;
    let mut header_len = 1;
    loop {
        if header_len > 4 {
            return Err("remaining length of more than four bytes".to_owned());
        }
        let Some(&byte) = buffer.get(header_len) else { return Ok(None) };
        body_len |= u32::from(byte & 0x7f) << (7 * (header_len - 1));
        header_len += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if body_len > max {
        return Err(format!("a packet of {body_len} bytes; at most {max} make sense here"));
    }
    let end = header_len + body_len as usize;
    if buffer.len() < end {
        return Ok(None);
    }
    let mut body = buffer.split_to(end).freeze();
    body.advance(header_len);
    Ok(Some(Frame { kind, body }))
}

/// Understands a packet.
pub(super) fn read(version: Version, frame: Frame) -> Result<Incoming, String> {
    let Frame { kind, body } = frame;
    Ok(match kind {
        0x20 => Incoming::Greeting(Box::new(read_connack(version, body)?)),
        0x40 => Incoming::Event(Event::Acknowledged(read_reply(version, body)?)),
        0x50 => Incoming::Event(Event::Received(read_reply(version, body)?)),
        0x70 => Incoming::Event(Event::Completed(read_reply(version, body)?)),
        0xd0 => Incoming::Pong,
        0xe0 => read_disconnect(body),
        0x30..=0x3f => Incoming::Event(Event::Arrived(inbound::read_publish(version, kind, body)?)),
        0x62 => Incoming::Event(Event::Arrived(inbound::read_release(body)?)),
        0x90 => inbound::read_suback(version, body)?,
        0xb0 => Incoming::Other(kind >> 4),
        _ => return Err(format!("a packet that a server does not send (first byte 0x{kind:02x})")),
    })
}

fn read_connack(version: Version, mut body: Bytes) -> Result<ConnAck, String> {
    let short = |_| "CONNACK of less than two bytes".to_owned();
    let flags = body.try_get_u8().map_err(short)?;
    let code = body.try_get_u8().map_err(short)?;
    let session_present = flags & 1 == 1;
    // A server that knows only 3.1.1 answers an MQTT 5 CONNECT in its own format, without properties.
    if version == Version::V311 || body.is_empty() {
        return Ok(ConnAck { session_present, code, v5: code >= 0x80, ..ConnAck::default() });
    }
    let properties = v5::ConnAckProperties::read(&mut body).map_err(|error| format!("CONNACK: {error}"))?;
    let mut connack = ConnAck { session_present, code, v5: true, ..ConnAck::default() };
    if let Some(properties) = properties {
        connack.receive_maximum = properties.receive_max;
        connack.maximum_qos = properties.max_qos;
        connack.retain_available = properties.retain_available;
        connack.maximum_packet_bytes = properties.max_packet_size;
        connack.keep_alive_s = properties.server_keep_alive;
        connack.client_id = properties.assigned_client_identifier;
        connack.text = properties.reason_string;
    }
    if connack.receive_maximum == Some(0) || connack.maximum_packet_bytes == Some(0) {
        return Err("CONNACK: a Receive Maximum or Maximum Packet Size of 0".to_owned());
    }
    Ok(connack)
}

fn read_reply(version: Version, mut body: Bytes) -> Result<Reply, String> {
    let id = body.try_get_u16().map_err(|_| "an acknowledgement of less than two bytes".to_owned())?;
    if version == Version::V311 || body.is_empty() {
        return Ok(Reply { id, code: 0, text: None });
    }
    let code = body.get_u8();
    // The words matter only when something is wrong, and damaged words must not cost the code.
    let properties = if code >= 0x80 && !body.is_empty() { v5::PubAckProperties::read(&mut body) } else { Ok(None) };
    let text = properties.ok().flatten().and_then(|properties| properties.reason_string).map(String::into_boxed_str);
    Ok(Reply { id, code, text })
}

fn read_disconnect(mut body: Bytes) -> Incoming {
    let code = body.try_get_u8().unwrap_or(0);
    let properties = v5::DisconnectProperties::extract(&mut body).ok().flatten();
    Incoming::Disconnect(code, properties.and_then(|properties| properties.reason_string))
}

/// Writes PUBLISHes; keeps its allocations from one to the next.
#[derive(Debug)]
pub(super) enum Publisher {
    V311(v4::Publish),
    V5(Box<(v5::Publish, v5::PublishProperties)>),
}

impl Publisher {
    pub(super) fn new(version: Version) -> Self {
        match version {
            Version::V311 => Self::V311(v4::Publish::new("", rumqttc::mqttbytes::QoS::AtMostOnce, Vec::new())),
            Version::V5 => Self::V5(Box::default()),
        }
    }

    /// Appends a PUBLISH to `out`, or nothing when it would be larger than `max` bytes.
    pub(super) fn write(&mut self, delivery: &Delivery<'_>, max: usize, out: &mut BytesMut) -> Result<(), TooLarge> {
        match self {
            Self::V311(packet) => {
                fill_v311(packet, delivery);
                let size = packet.size();
                write_checked(size, max, || packet.write(out).is_ok())
            }
            Self::V5(parts) => {
                let (packet, spare) = &mut **parts;
                fill_v5(packet, std::mem::take(spare), delivery);
                let size = packet.size();
                let written = write_checked(size, max, || packet.write(out).is_ok());
                packet.payload = Bytes::new();
                *spare = packet.properties.take().unwrap_or_default();
                written
            }
        }
    }
}

fn write_checked(size: usize, max: usize, write: impl FnOnce() -> bool) -> Result<(), TooLarge> {
    let max = max.min(MAX_PACKET_BYTES);
    // The codec fails only for a packet beyond the protocol's size, and `max` is at most that.
    if size <= max && write() { Ok(()) } else { Err(TooLarge { size, max }) }
}

fn fill_v311(packet: &mut v4::Publish, delivery: &Delivery<'_>) {
    packet.dup = delivery.dup;
    packet.qos = match delivery.qos {
        QoS::AtMostOnce => rumqttc::mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => rumqttc::mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => rumqttc::mqttbytes::QoS::ExactlyOnce,
    };
    packet.retain = delivery.retain;
    packet.topic.clear();
    packet.topic.push_str(delivery.topic.as_str());
    packet.pkid = delivery.id;
    packet.payload = delivery.payload.clone();
}

fn fill_v5(packet: &mut v5::Publish, mut properties: v5::PublishProperties, delivery: &Delivery<'_>) {
    packet.dup = delivery.dup;
    packet.qos = match delivery.qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce => WireQoS::AtLeastOnce,
        QoS::ExactlyOnce => WireQoS::ExactlyOnce,
    };
    packet.retain = delivery.retain;
    packet.topic = delivery.topic.as_bytes().clone();
    packet.pkid = delivery.id;
    packet.payload = delivery.payload.clone();
    let given = delivery.properties;
    properties.payload_format_indicator = given.and_then(|given| given.payload_format);
    properties.message_expiry_interval = delivery.expiry_s;
    properties.content_type = given.and_then(|given| given.content_type.as_ref()).map(ToString::to_string);
    properties.response_topic = given.and_then(|given| given.response_topic.as_ref()).map(ToString::to_string);
    properties.correlation_data = given.and_then(|given| given.correlation_data.clone());
    let theirs = given.map_or(&[][..], |given| &given.user[..]).iter().map(|(name, value)| (&**name, &**value));
    let ours = delivery.marks.iter().copied();
    let mut count = 0;
    for (name, value) in theirs.chain(ours) {
        if let Some((kept_name, kept_value)) = properties.user_properties.get_mut(count) {
            kept_name.clear();
            kept_name.push_str(name);
            kept_value.clear();
            kept_value.push_str(value);
        } else {
            properties.user_properties.push((name.to_owned(), value.to_owned()));
        }
        count += 1;
    }
    properties.user_properties.truncate(count);
    packet.properties = Some(properties);
}

/// Appends a PUBREL.
pub(super) fn write_release(version: Version, id: u16, out: &mut BytesMut) {
    let written = match version {
        Version::V311 => v4::PubRel::new(id).write(out).is_ok(),
        Version::V5 => v5::PubRel::new(id, None).write(out).is_ok(),
    };
    debug_assert!(written, "a PUBREL is four bytes long");
}

/// PINGREQ, the same in both versions.
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0x00];

/// Appends a DISCONNECT for a normal end; with `forget`, the upstream is told to drop the session (MQTT 5 only).
pub(in crate::uplink) fn write_disconnect(version: Version, forget: bool, out: &mut BytesMut) {
    match version {
        Version::V5 if forget => out.extend_from_slice(&[0xe0, 0x07, 0x00, 0x05, 0x11, 0x00, 0x00, 0x00, 0x00]),
        Version::V311 | Version::V5 => out.extend_from_slice(&[0xe0, 0x00]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Properties, topic::TopicName};
    use proptest::prelude::*;

    fn read_all(version: Version, bytes: &[u8]) -> Result<Vec<Incoming>, String> {
        let mut buffer = BytesMut::from(bytes);
        let mut packets = Vec::new();
        while let Some(frame) = take_frame(&mut buffer, MAX_INCOMING_BYTES)? {
            packets.push(read(version, frame)?);
        }
        Ok(packets)
    }

    fn reply(id: u16, code: u8) -> Reply {
        Reply { id, code, text: None }
    }

    #[test]
    fn acknowledgements_are_read_with_and_without_reason() {
        let bytes = [0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x10, 0x50, 4, 1, 0, 0x97, 0, 0x70, 2, 0, 4, 0xd0, 0];
        let expected = vec![
            Incoming::Event(Event::Acknowledged(reply(1, 0))),
            Incoming::Event(Event::Acknowledged(reply(2, 0x10))),
            Incoming::Event(Event::Received(reply(256, 0x97))),
            Incoming::Event(Event::Completed(reply(4, 0))),
            Incoming::Pong,
        ];
        assert_eq!(read_all(Version::V5, &bytes).unwrap(), expected);
    }

    #[test]
    fn short_disconnects_and_unknown_codes_are_understood() {
        assert_eq!(read_all(Version::V5, &[0xe0, 0]).unwrap(), [Incoming::Disconnect(0, None)]);
        assert_eq!(read_all(Version::V5, &[0xe0, 1, 0x8b]).unwrap(), [Incoming::Disconnect(0x8b, None)]);
        let bytes = [0x40, 3, 0, 2, 0xfe];
        assert_eq!(read_all(Version::V5, &bytes).unwrap(), [Incoming::Event(Event::Acknowledged(reply(2, 0xfe)))]);
    }

    #[test]
    fn an_old_servers_refusal_of_mqtt_5_is_understood() {
        let packets = read_all(Version::V5, &[0x20, 2, 0, 1]).unwrap();
        let connack = ConnAck { code: 1, ..ConnAck::default() };
        assert_eq!(packets, [Incoming::Greeting(Box::new(connack))]);
    }

    #[test]
    fn a_property_that_overruns_its_packet_is_an_error_and_not_a_wait() {
        // CONNACK whose property length says 40 where one byte follows.
        let frame = take_frame(&mut BytesMut::from(&[0x20, 4, 0, 0, 40, 33][..]), MAX_INCOMING_BYTES).unwrap().unwrap();
        assert!(read(Version::V5, frame).is_err());
        let frame = take_frame(&mut BytesMut::from(&[0x20, 3, 0, 0, 0x80][..]), MAX_INCOMING_BYTES).unwrap().unwrap();
        assert!(read(Version::V5, frame).is_err());
    }

    #[test]
    fn a_huge_remaining_length_is_refused_before_it_is_read() {
        assert!(take_frame(&mut BytesMut::from(&[0x40, 0xff, 0xff, 0xff, 0x7f][..]), MAX_INCOMING_BYTES).is_err());
        assert!(take_frame(&mut BytesMut::from(&[0x40, 0xff, 0xff, 0xff, 0xff][..]), MAX_INCOMING_BYTES).is_err());
    }

    #[test]
    fn a_publish_carries_its_properties_and_ours_behind_them() {
        let properties = Properties {
            payload_format: Some(1),
            message_expiry_s: Some(90),
            content_type: Some("text/plain".into()),
            response_topic: Some("re/ply".into()),
            correlation_data: Some(Bytes::from_static(b"\x00\x01")),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            origin: None,
        };
        let topic = TopicName::new("a/b").unwrap();
        let mut delivery = Delivery {
            id: 7,
            qos: QoS::AtLeastOnce,
            dup: false,
            retain: true,
            topic: &topic,
            payload: &Bytes::from_static(b"hello"),
            expiry_s: Some(60),
            properties: Some(&properties),
            marks: &[("tg-id", "g/s/1")],
        };
        let mut publisher = Publisher::new(Version::V5);
        let mut out = BytesMut::new();
        publisher.write(&delivery, MAX_PACKET_BYTES, &mut out).unwrap();
        delivery.properties = None;
        delivery.expiry_s = None;
        publisher.write(&delivery, MAX_PACKET_BYTES, &mut out).unwrap();
        let Ok(v5::Packet::Publish(first)) = v5::Packet::read(&mut out, None) else { panic!("not a PUBLISH") };
        let given = first.properties.unwrap();
        assert_eq!((first.pkid, first.retain, &first.payload[..]), (7, true, &b"hello"[..]));
        assert_eq!((given.message_expiry_interval, given.payload_format_indicator), (Some(60), Some(1)));
        assert_eq!(
            (given.content_type.as_deref(), given.response_topic.as_deref()),
            (Some("text/plain"), Some("re/ply"))
        );
        let users: Vec<_> = given.user_properties.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(users, [("a", "1"), ("a", "2"), ("tg-id", "g/s/1")]);
        let Ok(v5::Packet::Publish(second)) = v5::Packet::read(&mut out, None) else { panic!("not a PUBLISH") };
        let given = second.properties.unwrap();
        assert_eq!(given.user_properties, [("tg-id".to_owned(), "g/s/1".to_owned())]);
        assert_eq!((given.content_type, given.message_expiry_interval, given.correlation_data), (None, None, None));
    }

    #[test]
    fn a_publish_over_the_limit_writes_nothing() {
        let (topic, payload) = (TopicName::new("t").unwrap(), Bytes::from(vec![0; 100]));
        let delivery = Delivery {
            id: 0,
            qos: QoS::AtMostOnce,
            dup: false,
            retain: false,
            topic: &topic,
            payload: &payload,
            expiry_s: None,
            properties: None,
            marks: &[],
        };
        for version in [Version::V311, Version::V5] {
            let mut out = BytesMut::new();
            assert_eq!(Publisher::new(version).write(&delivery, 100, &mut out).unwrap_err().max, 100);
            assert!(out.is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), v5 in any::<bool>()) {
            let _ = read_all(if v5 { Version::V5 } else { Version::V311 }, &bytes);
        }

        #[test]
        fn no_body_makes_reading_panic(
            kind in prop::sample::select(vec![0x20_u8, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xe0]),
            body in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = read(Version::V5, Frame { kind, body: Bytes::from(body) });
        }
    }
}
