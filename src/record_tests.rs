//! Tests of the line format: what goes out comes back, and what is wrong is named.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_795_257_690_290;

fn any_message() -> impl Strategy<Value = Message> {
    let text = || "[a-zé\"\\\\\n\u{1}\u{202e}]{0,12}".prop_map(ByteString::from);
    let properties = (
        proptest::option::of(0..=1u8),
        proptest::option::of(text()),
        proptest::option::of(text()),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from)),
        proptest::collection::vec((text(), text()), 0..4),
        proptest::option::of(("[a-z.]{1,9}/[A-Z_]{1,9}", 0..1_u64 << 62, 0..253_402_300_000_000_i64, any::<bool>())),
    );
    let payload = prop_oneof![proptest::collection::vec(any::<u8>(), 0..40), "\\PC{0,20}".prop_map(String::into_bytes)];
    (properties, payload, "[^#+\0]{1,20}", text(), 0..3_u8, any::<bool>()).prop_map(
        |(
            (payload_format, content_type, response_topic, correlation_data, user, origin),
            payload,
            topic,
            client,
            qos,
            retain,
        )| {
            let origin = origin.map(|(source, sequence, accepted_unix_ms, clock_synced)| {
                Box::new(Origin { source: source.into(), sequence, accepted_unix_ms, clock_synced })
            });
            let properties = Properties {
                payload_format,
                message_expiry_s: None,
                content_type,
                response_topic,
                correlation_data,
                user,
                origin,
            };
            Message {
                topic: TopicName::new(topic).unwrap(),
                payload: Bytes::from(payload),
                qos: QoS::from_number(qos).unwrap(),
                retain,
                client,
                properties: Some(Box::new(properties)),
            }
        },
    )
}

fn record(message: Message) -> Record {
    Record { sequence: 42, accepted_unix_ms: NOW - 60_000, clock_synced: true, age_ms: 60_000, message }
}

fn written(record: &Record) -> Vec<u8> {
    serde_json::to_vec(&Line::new(record, "plant-7/telemetry", NOW)).unwrap()
}

proptest! {
    #[test]
    fn a_message_comes_back_from_its_line_with_its_id_and_time(message in any_message()) {
        let record = record(message);
        let bytes = written(&record);
        prop_assert!(!bytes.contains(&b'\n'));
        let back = Line::parse(&bytes).unwrap().message(NOW).unwrap();
        let given = record.message.properties.as_ref().unwrap();
        let origin = given.origin.clone().unwrap_or_else(|| Box::new(Origin {
            source: "plant-7/telemetry".into(),
            sequence: 42,
            accepted_unix_ms: NOW - 60_000,
            clock_synced: true,
        }));
        let expected = Properties { origin: Some(origin), ..(**given).clone() };
        prop_assert_eq!(back, Message { properties: Some(Box::new(expected)), ..record.message });
    }

    #[test]
    fn no_line_makes_reading_panic(text in "\\PC{0,60}", member in "(id|time|qos|expires|topic)", value in "(\"[0-9TZ:/-]{0,30}\"|-?[0-9]{1,25}|null|\\[\\])") {
        let _ = Line::parse(text.as_bytes());
        let line = format!("{{\"topic\":\"a\",\"payload\":\"\",\"{member}\":{value}}}");
        if let Ok(line) = Line::parse(line.as_bytes()) {
            let _ = line.message(NOW);
        }
    }
}

#[test]
fn a_line_is_as_documented() {
    let mut message = any_plain();
    message.properties = Some(Box::new(Properties { message_expiry_s: Some(90), ..Properties::default() }));
    let text = String::from_utf8(written(&record(message))).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"sequence":42,"id":"plant-7/telemetry/42","time":"2026-11-21T10:40:30.290Z","clock":"synced","client":"s1","topic":"a/b","qos":1,"retain":false,"expires":"2026-11-21T10:42:00.290Z","payload":"21.5"}"#
    );
    // Half of what was left passes on the way.
    let back = Line::parse(text.as_bytes()).unwrap().message(NOW + 15_000).unwrap();
    assert_eq!(back.properties.unwrap().message_expiry_s, Some(15));
    let late = Line::parse(text.as_bytes()).unwrap().message(NOW + 100_000).unwrap();
    assert_eq!(late.properties.unwrap().message_expiry_s, Some(0), "it is taken, expires and is counted");
}

fn any_plain() -> Message {
    Message {
        topic: TopicName::new("a/b").unwrap(),
        payload: Bytes::from_static(b"21.5"),
        qos: QoS::AtLeastOnce,
        retain: false,
        client: "s1".into(),
        properties: None,
    }
}

#[test]
fn a_line_by_hand_needs_a_topic_and_a_payload() {
    let message = Line::parse(br#"{"topic":"a/b","payload":"21.5"}"#).unwrap().message(NOW).unwrap();
    assert_eq!(message, Message { client: ByteString::new(), ..any_plain() });
}

#[test]
fn what_is_wrong_with_a_line_is_named() {
    let table = [
        ("", "EOF while parsing a value (column 0)"),
        ("{\"topic\":\"a\"", "EOF while parsing an object (column 12)"),
        (r#"{"payload":""}"#, "missing field `topic` (column 14)"),
        (r#"{"topic":"a","paylod":""}"#, "unknown field `paylod`, expected one of `v`, `sequence`"),
        (r#"{"topic":"a"}"#, "there is neither `payload` nor `payload_base64`"),
        (r#"{"topic":"a","payload":"","payload_base64":""}"#, "`payload` and `payload_base64` are both there"),
        (r#"{"topic":"a","payload_base64":"*"}"#, "`payload_base64` is no base64"),
        (r#"{"topic":"a/+","payload":""}"#, "`topic` "),
        (r#"{"topic":"a","payload":"","qos":3}"#, "`qos` is 3; expected 0, 1 or 2"),
        (
            r#"{"topic":"a","payload":"","id":"x","time":"2026-11-21T10:00:00Z"}"#,
            "`id` is not <gateway>/<stream>/<number>",
        ),
        (r#"{"topic":"a","payload":"","id":"g/s/1"}"#, "`id` without `time`"),
        (r#"{"topic":"a","payload":"","time":"2026-11-21T10:00:00Z"}"#, "`time` without `id`"),
        (r#"{"topic":"a","payload":"","id":"g/s/1","time":"yesterday"}"#, "`time` is no time of RFC 3339"),
        (r#"{"topic":"a","payload":"","expires":"soon"}"#, "`expires` is no time of RFC 3339"),
        (r#"{"topic":"a","payload":"","content_type":"\u0000"}"#, "`content_type` has the character U+0000"),
        (r#"{"topic":"a","payload":"","payload_format":2}"#, "`payload_format` is neither 0"),
        (r#"{"v":2,"new":true}"#, "version 2 of the format; this program knows version 1"),
    ];
    for (line, expected) in table {
        let error = Line::parse(line.as_bytes()).and_then(|line| line.message(NOW)).unwrap_err();
        assert!(error.starts_with(expected), "{line}: {error}");
    }
}
