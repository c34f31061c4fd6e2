//! `envelope = "json"`: the message and what the gateway knows of it as one JSON object, for systems that see payloads only; pure.
//!
//! `{"id":"plant-7/telemetry/42","time":"2026-11-21T10:12:38.007Z","topic":"sensors/t1","client":"s1","payload":{"c":21.5}}`
//!
//! | the payload is | becomes |
//! | --- | --- |
//! | JSON that every parser takes (nested at most 128 deep, no lone surrogates, no numbers beyond a double) | `payload`, byte for byte as it was |
//! | other UTF-8, also empty | `payload`, a string |
//! | anything else | `payload_base64` (RFC 4648, padded) |
//!
//! `id` and `time` are those of `tg-id` and `tg-time`; `topic` is the one the message was published to here, `client` who published it. It is made at the
//! moment of sending, so the store and replays know nothing of it, and what does not fit into the upstream's Maximum Packet Size with it is too
//! large. In MQTT 5 the content type becomes `application/json` and the payload format UTF-8; all other properties stay. A retained message with an empty payload
//! is wrapped like all others.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value;

use crate::message::{Message, Properties};

/// What MQTT 5 receivers are told of the payload.
const CONTENT_TYPE: &str = "application/json";

/// Wraps a message.
pub(super) fn wrap(id: &str, time: &str, message: &Message) -> Bytes {
    let payload = &message.payload[..];
    let mut out = Vec::with_capacity(payload.len() + message.topic.as_str().len() + id.len() + 128);
    member(&mut out, b"{\"id\":", id);
    member(&mut out, b",\"time\":", time);
    member(&mut out, b",\"topic\":", message.topic.as_str());
    member(&mut out, b",\"client\":", &message.client);
    match std::str::from_utf8(payload) {
        Ok(text) if serde_json::from_str::<Value>(text).is_ok() => {
            out.extend_from_slice(b",\"payload\":");
            out.extend_from_slice(payload);
        }
        Ok(text) => member(&mut out, b",\"payload\":", text),
        Err(_) => member(&mut out, b",\"payload_base64\":", &STANDARD.encode(payload)),
    }
    out.push(b'}');
    Bytes::from(out)
}

/// The properties that fit the wrapped payload.
pub(super) fn properties(given: Option<&Properties>) -> Properties {
    Properties {
        payload_format: Some(1),
        content_type: Some(CONTENT_TYPE.into()),
        ..given.cloned().unwrap_or_default()
    }
}

fn member(out: &mut Vec<u8>, head: &[u8], text: &str) {
    out.extend_from_slice(head);
    serde_json::to_writer(out, text).expect("a text can always be written to memory as JSON");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::QoS, topic::TopicName};
    use proptest::prelude::*;

    fn message(topic: &str, client: &str, payload: &[u8]) -> Message {
        Message {
            topic: TopicName::new(topic).unwrap(),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            client: client.into(),
            properties: None,
        }
    }

    #[track_caller]
    fn check(payload: &[u8], wrapped: &str) {
        let all = wrap("g/s/1", "2026-11-21T10:12:38.007Z", &message("a/b", "c", payload));
        let head = r#"{"id":"g/s/1","time":"2026-11-21T10:12:38.007Z","topic":"a/b","client":"c","#;
        assert_eq!(std::str::from_utf8(&all).unwrap(), format!("{head}{wrapped}}}"));
        serde_json::from_slice::<Value>(&all).unwrap();
    }

    #[test]
    fn json_stays_as_it_is_text_becomes_a_string_and_bytes_become_base64() {
        check(
            br#"{"c": 21.50, "n": 12345678901234567890123}"#,
            r#""payload":{"c": 21.50, "n": 12345678901234567890123}"#,
        );
        check(b" 21.5\n", "\"payload\": 21.5\n");
        check(b"null", r#""payload":null"#);
        check(b"", r#""payload":"""#);
        check(b"21,5 \"C\"\x01", r#""payload":"21,5 \"C\"\u0001""#);
        check(b"NaN", r#""payload":"NaN""#);
        check(b"1 2", r#""payload":"1 2""#);
        check(b"1e999", r#""payload":"1e999""#);
        check(br#""\ud800""#, r#""payload":"\"\\ud800\"""#);
        check(b"\xff\x00", r#""payload_base64":"/wA=""#);
        // What would break the parsers behind it.
        check("[".repeat(2000).as_bytes(), &format!(r#""payload":"{}""#, "[".repeat(2000)));
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        check(deep.as_bytes(), &format!(r#""payload":"{deep}""#));
    }

    #[test]
    fn the_properties_say_what_the_payload_is_now() {
        let given = Properties {
            payload_format: Some(0),
            content_type: Some("image/png".into()),
            message_expiry_s: Some(9),
            ..Properties::default()
        };
        let now = properties(Some(&given));
        assert_eq!(
            (now.payload_format, now.content_type.as_deref(), now.message_expiry_s),
            (Some(1), Some("application/json"), Some(9))
        );
    }

    proptest! {
        #[test]
        fn the_result_is_json_and_the_message_comes_back(
            topic in "[^#+\0]{1,40}", client in "\\PC{0,20}",
            payload in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "\\PC{0,60}".prop_map(String::into_bytes),
                "[\\[\\]{}\",:0-9eE.+-]{0,20}".prop_map(String::into_bytes),
                "(true|[0-9]{1,30}|\"[a-z\\\\u0-9]{0,9}\"|\\[[0-9],[0-9]\\])".prop_map(String::into_bytes),
            ],
        ) {
            let all = wrap("g/s/1", "t", &message(&topic, &client, &payload));
            let value: Value = serde_json::from_slice(&all).unwrap();
            prop_assert_eq!(value.as_object().unwrap().len(), 5);
            prop_assert_eq!((value["topic"].as_str().unwrap(), value["client"].as_str().unwrap()), (&topic[..], &client[..]));
            let back = match (&value["payload"], value.get("payload_base64")) {
                (Value::Null, Some(base64)) => STANDARD.decode(base64.as_str().unwrap()).unwrap(),
                (inner, None) => match serde_json::from_slice::<Value>(&payload) {
                    Ok(was) => {
                        prop_assert_eq!(inner, &was);
                        payload.clone()
                    }
                    Err(_) => inner.as_str().unwrap().as_bytes().to_vec(),
                },
                (_, Some(_)) => return Err(TestCaseError::fail("both kinds of payload")),
            };
            prop_assert_eq!(back, payload);
        }
    }
}
