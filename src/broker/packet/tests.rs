//! Tests of the codec: every rule by an example on the wire, and no bytes that make it panic.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::{
    message::{Message, Properties, QoS},
    topic::TopicName,
};

const MAX: u32 = 64 << 10;

fn hex(text: &str) -> BytesMut {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A packet from its first byte and body.
fn packet(first: u8, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(first);
    wire::put_varint(&mut out, body.len());
    out.put_slice(body);
    out
}

fn decoder(version: Version) -> Decoder {
    Decoder::new(version, MAX, "c".into(), 4)
}

fn decode(version: Version, bytes: &BytesMut) -> Result<Option<Packet>, DecodeError> {
    decoder(version).decode(&mut bytes.clone())
}

/// `Some(code)`: the first packet fails with this reason in this version; `None`: it is taken.
fn check(version: Version, text: &str, reason: Option<u8>) {
    let found = decode(version, &hex(text));
    match reason {
        Some(code) => {
            let error = found.expect_err(text);
            assert_eq!(error.reason().0, code, "{version:?} {text}: {error}");
        }
        None => assert!(matches!(found, Ok(Some(_))), "{version:?} {text}: {found:?}"),
    }
}

#[test]
fn packets_that_break_a_rule_are_named_with_their_reason() {
    let both = [Version::V311, Version::V5];
    let table: &[(&[Version], &str, Option<u8>)] = &[
        (&both, "00 00", Some(0x81)),
        (&both, "C0 00", None),
        (&both, "C1 00", Some(0x81)),
        (&both, "C0 01 00", Some(0x81)),
        (&both, "20 02 00 00", Some(0x82)),
        (&both, "10 00", Some(0x82)),
        (&both, "30 FF FF FF FF 01", Some(0x81)),
        (&both, "30 FF FF FF 7F", Some(0x95)),
        (&[Version::V311], "C0 80 00", None),
        (&[Version::V5], "C0 80 00", Some(0x81)),
        // PUBLISH
        (&[Version::V311], "30 04 0001 61 00", None),
        (&[Version::V5], "30 05 0001 61 00 00", None),
        (&both, "36 06 0001 61 0001 00", Some(0x81)),
        (&both, "38 04 0001 61 00", Some(0x81)),
        (&both, "32 06 0001 61 0000 00", Some(0x82)),
        (&both, "30 04 0001 23 00", Some(0x90)),
        (&both, "30 05 0002 612B 00", Some(0x90)),
        (&both, "30 04 0001 00 00", Some(0x81)),
        (&both, "30 04 0001 FF 00", Some(0x81)),
        (&both, "30 06 0003 EDA080 00", Some(0x81)),
        (&both, "30 03 0005 61", Some(0x81)),
        (&[Version::V311], "30 03 0000 00", Some(0x90)),
        (&[Version::V5], "30 03 0000 00", Some(0x82)),
        (&[Version::V5], "30 07 0001 61 03 230001", None),
        (&[Version::V5], "30 07 0001 61 03 230000", Some(0x94)),
        (&[Version::V5], "30 07 0001 61 03 230005", Some(0x94)),
        (&[Version::V5], "30 06 0000 03 230001", Some(0x82)),
        (&[Version::V5], "30 08 0001 61 04 0101 0101", Some(0x82)),
        (&[Version::V5], "30 06 0001 61 02 0102", Some(0x82)),
        (&[Version::V5], "30 06 0001 61 02 0B01", Some(0x82)),
        (&[Version::V5], "30 09 0001 61 05 1100000001", Some(0x81)),
        (&[Version::V5], "30 06 0001 61 02 7F01", Some(0x81)),
        (&[Version::V5], "30 05 0001 61 05 01", Some(0x81)),
        (&[Version::V5], "30 08 0001 61 04 08 0001 23", Some(0x82)),
        // Acknowledgements
        (&both, "40 02 0001", None),
        (&both, "40 02 0000", Some(0x82)),
        (&both, "42 02 0001", Some(0x81)),
        (&both, "60 02 0001", Some(0x81)),
        (&both, "62 02 0001", None),
        (&[Version::V311], "40 03 0001 00", Some(0x81)),
        (&[Version::V5], "40 03 0001 10", None),
        (&[Version::V5], "40 04 0001 10 00", None),
        (&[Version::V5], "40 03 0001 01", Some(0x81)),
        (&[Version::V5], "62 03 0001 92", None),
        (&both, "40 01 00", Some(0x81)),
        // SUBSCRIBE
        (&[Version::V311], "82 06 0001 0001 61 00", None),
        (&[Version::V5], "82 07 0001 00 0001 61 2C", None),
        (&[Version::V311], "82 06 0001 0001 61 04", Some(0x81)),
        (&[Version::V5], "82 07 0001 00 0001 61 40", Some(0x81)),
        (&[Version::V5], "82 07 0001 00 0001 61 30", Some(0x82)),
        (&[Version::V311], "82 06 0001 0001 61 03", Some(0x81)),
        (&[Version::V311], "82 02 0001", Some(0x82)),
        (&[Version::V5], "82 03 0001 00", Some(0x82)),
        (&both, "80 06 0001 0001 61 00", Some(0x81)),
        (&[Version::V5], "82 09 0001 02 0B00 0001 61 00", Some(0x82)),
        (&[Version::V5], "82 0B 0001 04 0B010B02 0001 61 00", Some(0x82)),
        (&[Version::V5], "82 10 0001 00 000A 2473686172652F672F61 04", Some(0x82)),
        (&[Version::V311], "82 05 0001 0001 61", Some(0x81)),
        // UNSUBSCRIBE
        (&[Version::V311], "A2 05 0001 0001 61", None),
        (&[Version::V311], "A2 02 0001", Some(0x82)),
        (&[Version::V5], "A2 03 0001 00", Some(0x82)),
        (&both, "A0 05 0001 0001 61", Some(0x81)),
        // DISCONNECT, AUTH
        (&both, "E0 00", None),
        (&[Version::V311], "E0 01 00", Some(0x81)),
        (&[Version::V5], "E0 01 04", None),
        (&[Version::V5], "E0 02 00 00", None),
        (&[Version::V5], "E0 01 8B", Some(0x81)),
        (&[Version::V5], "E0 07 00 05 1100000001", None),
        (&[Version::V5], "E0 06 00 04 1C000161", Some(0x81)),
        (&both, "E2 00", Some(0x81)),
        (&[Version::V311], "F0 00", Some(0x82)),
        (&[Version::V5], "F0 00", None),
    ];
    for (versions, text, reason) in table {
        for version in *versions {
            check(*version, text, *reason);
        }
    }
}

fn connect(text: &str) -> Result<Option<Connect>, DecodeError> {
    decode_connect(&mut hex(text), MAX)
}

#[test]
fn connects_that_break_a_rule_are_named_with_their_reason() {
    let table = [
        ("10 0D 0004 4D515454 04 02 003C 0001 61", None),
        ("10 0E 0004 4D515454 05 02 003C 00 0001 61", None),
        ("10 0D 0004 4D515454 04 03 003C 0001 61", Some(0x81)),
        ("10 0D 0004 4D515454 03 02 003C 0001 61", Some(0x84)),
        ("10 0D 0004 4D515454 06 02 003C 0001 61", Some(0x84)),
        ("10 0F 0006 4D5149736470 03 02 003C 0001 61", Some(0x84)),
        ("10 0D 0004 48545450 04 02 003C 0001 61", Some(0x82)),
        ("11 0D 0004 4D515454 04 02 003C 0001 61", Some(0x81)),
        ("C0 00", Some(0x82)),
        ("47 45 54 20", Some(0x82)),
        ("10 0D 0004 4D515454 04 0A 003C 0001 61", Some(0x81)),
        ("10 0D 0004 4D515454 04 22 003C 0001 61", Some(0x81)),
        ("10 13 0004 4D515454 04 1E 003C 0001 61 0001 62 0001 63", Some(0x81)),
        ("10 13 0004 4D515454 04 06 003C 0001 61 0001 62 0001 63", None),
        ("10 13 0004 4D515454 04 06 003C 0001 61 0001 23 0001 63", Some(0x90)),
        ("10 10 0004 4D515454 04 42 003C 0001 61 0001 62", Some(0x81)),
        ("10 11 0004 4D515454 05 42 003C 00 0001 61 0001 62", None),
        ("10 0E 0004 4D515454 04 02 003C 0001 61 00", Some(0x81)),
        ("10 11 0004 4D515454 05 02 003C 03 210000 0001 61", Some(0x82)),
        ("10 13 0004 4D515454 05 02 003C 05 2700000000 0001 61", Some(0x82)),
        ("10 14 0004 4D515454 05 02 003C 06 210001210001 0001 61", Some(0x82)),
        ("10 12 0004 4D515454 05 02 003C 04 16000101 0001 61", Some(0x82)),
        ("10 12 0004 4D515454 05 02 003C 04 15000161 0001 61", None),
        ("10 0D 0004 4D515454 04 02 003C 0001 00", Some(0x81)),
    ];
    for (text, reason) in table {
        match (connect(text), reason) {
            (Ok(Some(_)), None) => {}
            (Err(error), Some(code)) => assert_eq!(error.reason().0, code, "{text}: {error}"),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_connect_says_what_it_says() {
    let connect = connect("10 20 0004 4D515454 05 C6 003C 08 1100000009 210007 0000 00 0001 62 0000 0001 75 0000");
    let connect = connect.unwrap().unwrap();
    assert_eq!((connect.session_expiry_s, connect.receive_maximum, connect.keep_alive_s), (9, 7, 60));
    assert_eq!((connect.username.as_deref(), connect.password.is_some()), (Some("u"), true));
    assert!(connect.clean_start && connect.will.is_some() && connect.client_id.is_empty());
}

#[test]
fn the_size_of_a_packet_is_judged_before_its_body() {
    for bytes in ["30 FF FF 7F", "32 80 80 04"] {
        let error = decode(Version::V311, &hex(bytes)).unwrap_err();
        assert_eq!(error.reason(), Reason::PACKET_TOO_LARGE);
    }
    assert_eq!(decode_connect(&mut hex("10 FF FF 7F"), MAX).unwrap_err().reason(), Reason::PACKET_TOO_LARGE);
}

#[test]
fn aliases_stand_for_their_topic() {
    let mut decoder = decoder(Version::V5);
    let mut bytes = hex("30 07 0001 61 03 230002  30 05 0001 62 00 01  30 06 0000 03 230002");
    let mut topics = Vec::new();
    while let Some(Packet::Publish(publish)) = decoder.decode(&mut bytes).unwrap() {
        topics.push(publish.message.topic.to_string());
    }
    assert_eq!(topics, ["a", "b", "a"]);
}

#[test]
fn aliases_of_long_topics_are_refused_before_they_fill_the_memory() {
    let mut decoder = decoder(Version::V5);
    let mut publish = |alias: u8, len: usize| {
        let mut body = u16::try_from(len).unwrap().to_be_bytes().to_vec();
        body.extend(vec![b'a' + alias; len]);
        body.extend([3, 0x23, 0, alias]);
        let mut bytes = BytesMut::from(&[0x30][..]);
        crate::broker::packet::wire::put_varint(&mut bytes, body.len());
        bytes.extend_from_slice(&body);
        decoder.decode(&mut bytes).map(|_| ()).map_err(|error| error.reason())
    };
    // The same alias again and again takes no more.
    for _ in 0..5 {
        assert_eq!(publish(1, 60_000), Ok(()));
    }
    assert_eq!(publish(2, 60_000), Ok(()));
    assert_eq!(publish(3, 60_000), Err(Reason::QUOTA_EXCEEDED));
}

#[test]
fn short_connacks_and_acks_are_as_short_as_allowed() {
    let mut out = BytesMut::new();
    connack(&mut out, Version::V311, true, &ConnAckProperties::default());
    assert_eq!(out, hex("20 02 01 00"));
    out.clear();
    connack_refusal(&mut out, Manner::unknown(Version::V311), Reason::MALFORMED_PACKET, "why");
    assert!(out.is_empty());
    ack(&mut out, Version::V5, AckKind::PubAck, 258, Reason::SUCCESS);
    refusing_ack(&mut out, Manner::unknown(Version::V5), AckKind::PubAck, 1, Reason::QUOTA_EXCEEDED, "why");
    assert_eq!(out, hex("40 02 0102  40 03 0001 97"));
}

fn any_message() -> impl Strategy<Value = Message> {
    let text = || "[a-zé]{0,9}";
    let properties = (
        proptest::option::of(0..=1u8),
        proptest::option::of(1..9u32),
        proptest::option::of(text()),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        proptest::collection::vec((text(), text()), 0..3),
    );
    let properties = properties.prop_map(|(payload_format, message_expiry_s, content_type, data, user)| Properties {
        payload_format,
        message_expiry_s,
        content_type: content_type.map(Into::into),
        response_topic: None,
        correlation_data: data.map(Bytes::from),
        user: user.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        origin: None,
    });
    ("[a-z/é]{1,20}", proptest::collection::vec(any::<u8>(), 0..9000), 0..3u8, any::<bool>(), properties).prop_map(
        |(topic, payload, qos, retain, properties)| Message {
            topic: TopicName::new(topic).unwrap(),
            payload: payload.into(),
            qos: QoS::from_number(qos).unwrap(),
            retain,
            client: "c".into(),
            properties: (!properties.is_empty()).then(|| Box::new(properties)),
        },
    )
}

proptest! {
    #[test]
    fn a_message_comes_out_as_it_went_in(mut message in any_message(), v5 in any::<bool>(), cut in any::<prop::sample::Index>()) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        if version == Version::V311 {
            message.properties = None;
        }
        let expiry_s = message.properties.as_ref().and_then(|properties| properties.message_expiry_s);
        let packet_id = if message.qos == QoS::AtMostOnce { 0 } else { 7 };
        let out = PublishOut {
            message: &message, qos: message.qos, dup: false, retain: message.retain, packet_id, subscription_ids: &[], expiry_s, alias: None,
        };
        let mut bytes = BytesMut::new();
        out.encode(&mut bytes, version);
        prop_assert_eq!(bytes.len(), out.len(version));
        // In two pieces: nothing is taken before all of it is there.
        let mut first = BytesMut::from(&bytes[..cut.index(bytes.len())]);
        let mut decoder = decoder(version);
        let len = first.len();
        prop_assert_eq!(decoder.decode(&mut first), Ok(None));
        prop_assert_eq!(first.len(), len);
        first.extend_from_slice(&bytes[len..]);
        match decoder.decode(&mut first) {
            Ok(Some(Packet::Publish(publish))) => {
                prop_assert_eq!(publish.message, message);
                prop_assert_eq!(publish.packet_id, packet_id);
            }
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert!(first.is_empty());
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        for version in [Version::V311, Version::V5] {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut decoder = decoder(version);
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }
        let _ = decode_connect(&mut BytesMut::from(&bytes[..]), MAX);
        let _ = version_of(&bytes);
    }

    #[test]
    fn no_body_makes_decoding_panic(first in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..40)) {
        for version in [Version::V311, Version::V5] {
            let _ = decode(version, &packet(first, &body));
        }
    }

    #[test]
    fn no_mutated_connect_makes_decoding_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for text in [
            "10 13 0004 4D515454 04 06 003C 0001 61 0001 62 0001 63",
            "10 20 0004 4D515454 05 C6 003C 08 1100000009 210007 0000 00 0001 62 0000 0001 75 0000",
        ] {
            let mut bytes = hex(text);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = version_of(&bytes);
            let _ = decode_connect(&mut bytes, MAX);
        }
    }
}
