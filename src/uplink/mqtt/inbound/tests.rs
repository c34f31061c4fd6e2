//! The inbound half of the wire, byte by byte.

use super::*;
use crate::topic::TopicFilter;
use proptest::prelude::*;

fn publish(version: Version, kind: u8, body: &[u8]) -> Result<Arrived, String> {
    read_publish(version, kind, Bytes::copy_from_slice(body))
}

fn subscriptions(count: usize) -> Arc<[Subscription]> {
    (0..count)
        .map(|n| Subscription { filter: TopicFilter::new(format!("f/{n}")).unwrap(), qos: QoS::AtLeastOnce })
        .collect()
}

#[test]
fn a_message_is_read_with_what_belongs_to_it() {
    let body = [&b"\0\x03a/b\x01\x02"[..], &[10, 2, 0, 0, 0, 60, 11, 0x81, 1, 1, 1], b"hello"].concat();
    let Ok(Arrived::Message { id, qos, message }) = publish(Version::V5, 0x33, &body) else { panic!("no message") };
    let message = message.unwrap();
    assert_eq!((id, qos, message.retain, message.topic.as_str()), (258, QoS::AtLeastOnce, true, "a/b"));
    assert_eq!(&message.payload[..], b"hello");
    let properties = message.properties.unwrap();
    assert_eq!((properties.message_expiry_s, properties.payload_format), (Some(60), Some(1)));
    let Ok(Arrived::Message { message: Ok(message), .. }) = publish(Version::V311, 0x30, b"\0\x01tx") else { panic!() };
    assert_eq!((&message.payload[..], message.qos, message.properties), (&b"x"[..], QoS::AtMostOnce, None));
}

#[test]
fn a_wrong_topic_is_the_messages_fault_and_wrong_bytes_are_the_upstreams() {
    for topic in [&b"\0\0"[..], b"\0\x01#", b"\0\x02a\0", b"\0\x01\xff"] {
        let body = [topic, b"\0\x07"].concat();
        let arrived = publish(Version::V311, 0x34, &body).unwrap();
        assert_eq!(arrived, Arrived::Message { id: 7, qos: QoS::ExactlyOnce, message: Err("topic") });
    }
    for (kind, body) in
        [(0x36, &b"\0\x01t\0\x01\0"[..]), (0x32, b"\0\x01t\0\0\0"), (0x32, b"\0\x09t"), (0x32, b"\0\x01t\0")]
    {
        assert!(publish(Version::V5, kind, body).is_err(), "{kind:x} {body:?}");
    }
    for properties in [&[1, 0x23][..], &[3, 0x23, 0, 1], &[2, 0x11, 0], &[5, 1], &[4, 3, 0, 1, 0]] {
        assert!(publish(Version::V5, 0x30, &[b"\0\x01t", properties].concat()).is_err(), "{properties:?}");
    }
}

#[test]
fn what_is_too_large_is_named_and_measured_without_being_read() {
    let mut packet = vec![0x32, 0x80, 0x80, 0x20];
    assert_eq!(oversized(&packet, 1000), Size::Unknown, "the id is not here yet");
    packet.extend(b"\0\x01t\0\x09begins");
    let message = Arrived::Message { id: 9, qos: QoS::AtLeastOnce, message: Err("too-large") };
    assert_eq!(oversized(&packet, 1000), Size::TooLarge(message, 4 + (0x20 << 14)));
    assert_eq!(oversized(&packet, 0x20 << 14), Size::Fits);
    assert_eq!(oversized(&[0x40, 0x80, 0x80, 0x20], 1000), Size::Fits);
}

#[test]
fn answers_are_as_the_protocol_has_them() {
    let answer = Answer { epoch: 1, kind: AnswerKind::Acknowledged, id: 258, code: 0 };
    let table = [
        (Version::V5, answer, &[0x40, 2, 1, 2][..]),
        (Version::V5, Answer { kind: AnswerKind::Received, code: 0x90, ..answer }, &[0x50, 3, 1, 2, 0x90]),
        (Version::V311, Answer { kind: AnswerKind::Completed, code: 0x90, ..answer }, &[0x70, 2, 1, 2]),
    ];
    for (version, answer, bytes) in table {
        let mut out = BytesMut::new();
        write_answer(version, answer, &mut out);
        assert_eq!(&out[..], bytes);
    }
}

#[test]
fn a_subscribe_asks_for_the_options_of_a_bridge() {
    let mut out = BytesMut::new();
    write_subscribe(Version::V5, &subscriptions(1), &mut out);
    assert_eq!(&out[..], b"\x82\x09\xff\xff\0\0\x03f/0\x1d");
    out.clear();
    write_subscribe(Version::V311, &subscriptions(1), &mut out);
    assert_eq!(&out[..], b"\x82\x08\xff\xff\0\x03f/0\x01");
}

#[test]
fn everything_is_asked_for_in_turn_and_what_is_refused_again_after_a_while() {
    let (now, granted) = (Instant::now(), Arc::<AtomicUsize>::default());
    let mut asking = Asking::new(subscriptions(10), Arc::clone(&granted), 1, true);
    let mut out = BytesMut::new();
    assert_eq!(asking.ask(Version::V5, now, &mut out), Some(now + ANSWER_TIMEOUT));
    let first = out.split().len();
    assert!(first > 0 && asking.ask(Version::V5, now, &mut out).is_some() && out.is_empty(), "one at a time");
    assert!(asking.answered(77, &[0x80]).is_empty(), "not ours");
    let refused = asking.answered(ASKING_ID, &[0, 1, 0x87, 0, 0, 0, 0, 0]);
    assert_eq!(refused.iter().map(|(it, code)| (it.filter.as_str(), *code)).collect::<Vec<_>>(), [("f/2", 0x87)]);
    asking.ask(Version::V5, now, &mut out);
    assert!(
        !out.split().is_empty() && asking.answered(ASKING_ID, &[0]).len() == 1,
        "a code that is missing is no grant"
    );
    assert_eq!(asking.ask(Version::V5, now, &mut out), Some(now + ASK_AGAIN_MIN));
    assert!(out.is_empty() && granted.load(Ordering::Relaxed) == 0);
    let later = now + ASK_AGAIN_MIN;
    asking.ask(Version::V5, later, &mut out);
    assert_eq!(out.split().len(), first);
    assert!(asking.answered(ASKING_ID, &[1; 8]).is_empty());
    asking.ask(Version::V5, later, &mut out);
    assert!(asking.answered(ASKING_ID, &[1; 2]).is_empty());
    assert_eq!(asking.ask(Version::V5, later, &mut out), None);
    assert_eq!(granted.load(Ordering::Relaxed), 2);
    out.clear();
    for (place, present, asks) in [(1, true, false), (1, false, true), (0, true, true)] {
        let mut next = Asking::new(subscriptions(1), Arc::clone(&granted), place, present);
        assert_eq!(next.ask(Version::V5, now, &mut out).is_some(), asks, "{place} {present}");
    }
}

#[test]
fn an_id_is_released_before_its_first_use_and_that_answer_is_swallowed_once() {
    let mut unsure = Unsure::new();
    assert!(
        unsure.must_release(1) && !unsure.must_release(1) && unsure.must_release(64) && unsure.must_release(u16::MAX)
    );
    assert!(
        unsure.was_released(1) && !unsure.was_released(1) && !unsure.was_released(2) && unsure.was_released(u16::MAX)
    );
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(kind in 0x30..0x40_u8, body in proptest::collection::vec(any::<u8>(), 0..60), v5 in any::<bool>()) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let _ = read_publish(version, kind, Bytes::from(body.clone()));
        let _ = read_suback(version, Bytes::from(body.clone()));
        let _ = oversized(&[&[kind][..], &body].concat(), 20);
        let _ = read_release(Bytes::from(body));
    }
}
