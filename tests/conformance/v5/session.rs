//! Sections 4.1, 4.2 and 4.5: session state, transport, receipt of messages.

use std::time::Instant;

use crate::{
    rig::Options,
    script::{stage, v5},
};

#[test]
fn mqtt_4_1_0_1_the_session_lasts_as_long_as_the_connection() {
    // Its expiry of three seconds counts from the end of the connection.
    v5("
        s> 10 (=MQTT 05 00 0000 (11 00000003) =s)
        s< 20 _ 00 00 ...
        s: subscribe t 01
        time: 3300
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        s< 32 (=t 0001 () 'x')
        s: gone
        s> 10 (=MQTT 05 00 0000 (11 00000001) =s)
        s< 20 _ 01 00 ...
        s< 3A (=t 0001 () 'x')
    ");
}

#[test]
fn mqtt_4_1_0_2_the_session_ends_when_its_expiry_has_passed() {
    v5("
        s> 10 (=MQTT 05 00 0000 (11 00000001) =s)
        s< 20 _ 00 00 ...
        s: subscribe t 01
        s: gone
        zero: connect
        zero: subscribe t 01
        zero: gone
        time: 1100
        s> 10 (=MQTT 05 00 0000 () =s)
        s< 20 _ 00 00 ...
        zero> 10 (=MQTT 05 00 0000 () =zero)
        zero< 20 _ 00 00 ...
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        s: quiet
        zero: quiet
    ");
    // Set anew by DISCONNECT.
    v5("
        s: stay
        s> E0 (00 (11 00000001))
        s: closed
        time: 1100
        s: stay
    ");
    // Nobody has to come back for it.
    stage(5, Options::default(), async |stage| {
        stage.play("s> 10 (=MQTT 05 00 0000 (11 00000001) =s)\ns< 20 _ 00 00 ...\ns: subscribe t 01\ns: gone").await;
        let start = Instant::now();
        while !stage.rig().handle.sessions().await.unwrap().is_empty() {
            assert!(start.elapsed() < crate::rig::DEADLINE, "the session is still there");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn mqtt_4_2_1_packets_come_out_of_a_stream_of_bytes() {
    // In one piece or byte by byte: the stream has no borders.
    let packets = "10 (=MQTT 05 02 0000 () =a) 82 (0001 () =t 00) 30 (=t () 'x')";
    let answers = "a< 20 _ 00 00 ...\na< 90 (0001 () 00)\na< 30 (=t () 'x')";
    v5(&format!("a> {packets}\n{answers}"));
    let bytes = crate::notation::bytes(packets);
    let pieces: Vec<String> = bytes.iter().map(|byte| format!("a> {byte:02X}\ntime: 1\n")).collect();
    v5(&(pieces.concat() + answers));
}

#[test]
fn mqtt_4_5_0_1_an_accepted_message_is_added_to_every_matching_session() {
    // Connected, away, and across a crash right after the acknowledgement.
    v5("
        here: connect
        here: subscribe t 01
        away: stay
        away: subscribe t 01
        away: gone
        late: stay
        late: subscribe t 02
        late: gone
        p: connect
        p> 32 (=t 0001 () 'x')
        p< 40 (0001)
        here< 32 (=t 0001 () 'x')
        away: back
        away< 32 (=t 0001 () 'x')
        gateway: crash
        late: back
        late< 32 (=t _ _ () 'x')
    ");
}
