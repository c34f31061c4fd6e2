//! Section 3.1.2.11: what a client says in CONNECT about what it takes and wants.

use crate::{
    rig::Options,
    script::{stage, v5, with},
};

#[test]
fn mqtt_3_1_2_24_no_packet_is_larger_than_the_client_takes() {
    // 32 bytes: a PUBLISH that fits to the byte, and one that does not.
    v5("
        s> 10 (=MQTT 05 02 0000 (27 00000020) =s)
        s< 20 _ 00 00 ...
        s: subscribe t 01
        p: connect
        p> 32 (=t 0001 () 'x'*24)
        p< 40 (0001)
        p> 32 (=t 0001 () 'y'*25)
        p< 40 (0001)
        p> 32 (=t 0001 () 'z')
        p< 40 (0001)
        s< 32 (=t 0001 () 'x'*24)
        s< 32 (=t 0002 () 'z')
        s: quiet
    ");
    // Properties count, and so do subscription identifiers.
    v5("
        s> 10 (=MQTT 05 02 0000 (27 00000020) =s)
        s< 20 _ 00 00 ...
        s> 82 (0001 (0B 01) =t 00)
        s< 90 (0001 () 00)
        p: connect
        p> 30 (=t (26 =key =value) 'x'*11)
        p> 30 (=t (26 =key =value) 'x'*12)
        p: quiet
        s< 30 (=t (26 =key =value 0B 01) 'x'*11)
        s: quiet
    ");
    // A CONNACK that does not fit cannot accept; the shortest refusal has five bytes.
    v5("a> 10 (=MQTT 05 02 0000 (27 00000005) =a)\na< 20 (00 95 ())\na: closed");
    v5("a> 10 (=MQTT 05 02 0000 (27 00000004) =a)\na: closed");
    v5("a> 10 (=MQTT 05 03 0000 (27 00000004) =a)\na< 20 (00 81 ())\na: closed");
    // A SUBACK that does not fit: there is no other way to answer.
    for request in ["82 (0001 () FILTERS)", "A2 (0001 () FILTERS)"] {
        let filter = if request.starts_with("82") { "=t 00 " } else { "=t " };
        let request = request.replace("FILTERS", &filter.repeat(30));
        v5(&format!(
            "a> 10 (=MQTT 05 02 0000 (27 00000020) =a)\na< 20 _ 00 00 ...\na> {request}\na< E0 01 95\na: closed"
        ));
    }
}

#[test]
fn mqtt_3_1_2_25_what_is_too_large_counts_as_sent() {
    // It takes no place in the window of 1, and is not tried again.
    v5("
        s> 10 (=MQTT 05 00 0000 (27 00000020 21 0001 11 0000003C) =s)
        s< 20 _ 00 00 ...
        s: subscribe t 02
        p: connect
        p> 34 (=t 0001 () 'x'*40)
        p< 50 (0001)
        p> 32 (=t 0002 () 'x'*40)
        p< 40 (0002)
        p> 32 (=t 0002 () 'y')
        p< 40 (0002)
        s< 32 (=t _ _ () 'y')
        s: gone
        s: back
        s< 3A (=t _ _ () 'y')
        s: quiet
    ");
}

#[test]
fn mqtt_3_1_2_26_topic_aliases_stay_within_the_clients_maximum() {
    stage(5, Options::default(), async |stage| {
        stage.play("s> 10 (=MQTT 05 02 0000 (22 0002) =s)\ns< 20 _ 00 00 ...\ns: subscribe # 00\np: connect").await;
        let mut topics = vec![None; 3];
        for topic in ["long/topic/a", "long/topic/b", "long/topic/c", "long/topic/a", "long/topic/c"] {
            for _ in 0..3 {
                stage.play(&format!("p> 30 (={topic} () 'x')")).await;
                let packet = stage.packet("s").await;
                let len = usize::from(packet[3]);
                let name = std::str::from_utf8(&packet[4..4 + len]).unwrap().to_owned();
                let alias = packet[4 + len..].strip_prefix(&[3, 0x23]).map(|alias| usize::from(alias[1]));
                if let Some(alias) = alias {
                    assert!((1..=2).contains(&alias), "{packet:02X?}");
                    if !name.is_empty() {
                        topics[alias] = Some(name.clone());
                    }
                }
                let meant = if name.is_empty() { topics[alias.unwrap()].clone().unwrap() } else { name };
                assert_eq!(meant, topic);
            }
        }
    });
}

#[test]
fn mqtt_3_1_2_27_there_are_no_topic_aliases_for_a_client_that_takes_none() {
    for properties in ["", "22 0000"] {
        v5(&format!(
            "
            s> 10 (=MQTT 05 02 0000 ({properties}) =s)
            s< 20 _ 00 00 ...
            s: subscribe # 00
            p: connect
            p> 30 (=long/topic/a () 'x')
            p> 30 (=long/topic/a () 'y')
            s< 30 (=long/topic/a () 'x')
            s< 30 (=long/topic/a () 'y')
        "
        ));
    }
}

#[test]
fn mqtt_3_1_2_28_response_information_is_not_returned_unasked() {
    // It is never returned: which topics a client may use is what the access rules say.
    for properties in ["", "19 00", "19 01"] {
        stage(5, Options::default(), async |stage| {
            stage.play(&format!("a> 10 (=MQTT 05 02 0000 ({properties}) =a)")).await;
            let connack = stage.packet("a").await;
            assert!(connack[3] == 0 && !connack[5..].contains(&0x1A), "{connack:02X?}");
        });
    }
}

#[test]
fn mqtt_3_1_2_29_without_problem_information_there_are_no_reason_strings() {
    let full = || Options { max_messages: Some(1), ..Options::default() };
    // Not asked for, and forbidden: the bare reason code.
    for properties in ["", "17 00"] {
        let script = format!(
            "
            a> 10 (=MQTT 05 02 0000 ({properties}) =a)
            a< 20 _ 00 00 ...
            a> 32 (=s/1 0001 () 'x')
            a< 40 (0001)
            a> 32 (=s/1 0002 () 'x')
            a< 40 (0002 97)
            a> 34 (=s/1 0002 () 'x')
            a< 50 (0002 97)
            a> 82 (0001 () =a# 00)
            a< 90 (0001 () 8F)
            a> A2 (0001 () =other)
            a< B0 (0001 () 11)
            a> 62 (0009)
            a< 70 (0009 92)
            a> 50 (0009)
            a< 62 (0009 92)
            a> 00 00
            a< E0 01 81
            a: closed
        "
        );
        with(5, full(), &script);
    }
    // Asked for: why.
    with(
        5,
        full(),
        "
        a> 10 (=MQTT 05 02 0000 (17 01) =a)
        a< 20 _ 00 00 ...
        a> 32 (=s/1 0001 () 'x')
        a< 40 (0001)
        a> 32 (=s/1 0002 () 'x')
        a< 40 _ 0002 97 _ 1F ...
        a> 34 (=s/1 0002 () 'x')
        a< 50 _ 0002 97 _ 1F ...
        a> 00 00
        a< E0 _ 81 _ 1F ...
        a: closed
        b> 10 (=MQTT 05 02 0000 (17 01) =x*257)
        b< 20 _ 00 85 _ 1F ...
        b: closed
    ",
    );
}
