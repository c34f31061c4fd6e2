//! A second opinion on packets: rumqttc's codec, written by others, reads what we took.
//!
//! Asked only about packets that we take: it takes much that must not be taken. Where it refuses what is right, the
//! exception is named here with its reason.

use bytes::BytesMut;
use rumqttc::{mqttbytes::v4, v5::mqttbytes::v5};

use super::super::{Packet, RetainHandling, SubscribeOptions, Version, decode::Publish};
use crate::message::Properties;

/// Panics where the other codec reads something else out of the packet.
pub(super) fn compare(version: Version, packet: &Packet, bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    match version {
        Version::V311 => match v4::Packet::read(&mut buffer, bytes.len()) {
            Ok(other) => compare_v4(packet, &other),
            Err(error) => panic!("the other codec refuses {packet:?}: {error}"),
        },
        Version::V5 => match v5::Packet::read(&mut buffer, None) {
            Ok(other) => compare_v5(packet, &other),
            Err(error) if knows_no_better(packet, bytes) => drop(error),
            Err(error) => panic!("the other codec refuses {packet:?}: {error}"),
        },
    }
}

/// It has no AUTH, no DISCONNECT without a reason (section 3.14.2.1), no DISCONNECT or AUTH without properties, and
/// no acknowledgement with a reason and without a length of properties (section 3.4.2.2.1).
fn knows_no_better(packet: &Packet, bytes: &[u8]) -> bool {
    match packet {
        Packet::Auth => true,
        Packet::Disconnect { .. } => bytes.len() <= 3,
        Packet::Publish(_)
        | Packet::PubAck { .. }
        | Packet::PubRec { .. }
        | Packet::PubRel { .. }
        | Packet::PubComp { .. }
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq => false,
    }
}

fn compare_v4(packet: &Packet, other: &v4::Packet) {
    let same = match (packet, other) {
        (Packet::Publish(ours), v4::Packet::Publish(other)) => {
            let message = &ours.message;
            message.topic.as_str() == other.topic
                && message.payload == other.payload
                && message.qos.number() == other.qos as u8
                && message.retain == other.retain
                && ours.packet_id == other.pkid
        }
        (Packet::PubAck { packet_id, .. }, v4::Packet::PubAck(other)) => *packet_id == other.pkid,
        (Packet::PubRec { packet_id, .. }, v4::Packet::PubRec(other)) => *packet_id == other.pkid,
        (Packet::PubRel { packet_id, .. }, v4::Packet::PubRel(other)) => *packet_id == other.pkid,
        (Packet::PubComp { packet_id, .. }, v4::Packet::PubComp(other)) => *packet_id == other.pkid,
        (Packet::Subscribe(ours), v4::Packet::Subscribe(other)) => {
            let filters = other.filters.iter().map(|filter| (filter.path.as_str(), filter.qos as u8));
            ours.packet_id == other.pkid
                && filters.eq(ours.filters.iter().map(|(filter, options)| (&**filter, options.qos.number())))
        }
        (Packet::Unsubscribe(ours), v4::Packet::Unsubscribe(other)) => {
            ours.packet_id == other.pkid && ours.filters.iter().eq(other.topics.iter())
        }
        (Packet::PingReq, v4::Packet::PingReq) | (Packet::Disconnect { .. }, v4::Packet::Disconnect) => true,
        _ => false,
    };
    assert!(same, "{packet:?} is {other:?} to the other codec");
}

fn compare_v5(packet: &Packet, other: &v5::Packet) {
    let same = match (packet, other) {
        (Packet::Publish(ours), v5::Packet::Publish(other)) => same_publish(ours, other),
        (Packet::PubAck { packet_id, .. }, v5::Packet::PubAck(other)) => *packet_id == other.pkid,
        (Packet::PubRec { packet_id, reason }, v5::Packet::PubRec(other)) => {
            *packet_id == other.pkid && reason.is_error() == is_failure(other.reason)
        }
        (Packet::PubRel { packet_id, .. }, v5::Packet::PubRel(other)) => *packet_id == other.pkid,
        (Packet::PubComp { packet_id, .. }, v5::Packet::PubComp(other)) => *packet_id == other.pkid,
        (Packet::Subscribe(ours), v5::Packet::Subscribe(other)) => {
            let id = other.properties.as_ref().and_then(|properties| properties.id);
            let filters = other.filters.iter().map(|filter| (filter.path.as_str(), bits(filter)));
            ours.packet_id == other.pkid
                && ours.subscription_id.map(|id| id as usize) == id
                && filters.eq(ours.filters.iter().map(|(filter, options)| (&**filter, options.bits())))
        }
        (Packet::Unsubscribe(ours), v5::Packet::Unsubscribe(other)) => {
            ours.packet_id == other.pkid && ours.filters.iter().eq(other.filters.iter())
        }
        (Packet::Disconnect { reason, session_expiry_s }, v5::Packet::Disconnect(other)) => {
            let expiry_s = other.properties.as_ref().and_then(|properties| properties.session_expiry_interval);
            reason.0 == other.reason_code as u8 && *session_expiry_s == expiry_s
        }
        (Packet::PingReq, v5::Packet::PingReq(_)) => true,
        _ => false,
    };
    assert!(same, "{packet:?} is {other:?} to the other codec");
}

fn is_failure(reason: v5::PubRecReason) -> bool {
    !matches!(reason, v5::PubRecReason::Success | v5::PubRecReason::NoMatchingSubscribers)
}

fn bits(filter: &v5::Filter) -> u8 {
    let options = SubscribeOptions {
        qos: crate::message::QoS::from_number(filter.qos as u8).expect("both have three"),
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            v5::RetainForwardRule::OnEverySubscribe => RetainHandling::Always,
            v5::RetainForwardRule::OnNewSubscribe => RetainHandling::WhenNew,
            v5::RetainForwardRule::Never => RetainHandling::Never,
        },
    };
    options.bits()
}

fn same_publish(ours: &Publish, other: &v5::Publish) -> bool {
    let message = &ours.message;
    let theirs = other.properties.clone().unwrap_or_default();
    let aliased = theirs.topic_alias.is_some() && other.topic.is_empty();
    let theirs = Properties {
        payload_format: theirs.payload_format_indicator,
        message_expiry_s: theirs.message_expiry_interval,
        content_type: theirs.content_type.map(Into::into),
        response_topic: theirs.response_topic.map(Into::into),
        correlation_data: theirs.correlation_data,
        user: theirs.user_properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        origin: None,
    };
    (aliased || *message.topic.as_bytes() == other.topic)
        && message.payload == other.payload
        && message.qos.number() == other.qos as u8
        && message.retain == other.retain
        && ours.packet_id == other.pkid
        && message.properties.as_deref().cloned().unwrap_or_default() == theirs
}
