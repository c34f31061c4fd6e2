//! Section 4.6: order of messages.

use std::fmt::Write as _;

use crate::script::v3;

/// Messages of all three kinds on one topic, so many that they do not fit into one read or write.
const MESSAGES: usize = 300;

#[test]
fn mqtt_4_6_0_5_every_topic_is_ordered_by_default() {
    let mut script = String::from("a: connect\na: subscribe t 00\np: connect\n");
    for number in 0..MESSAGES {
        writeln!(script, "p> 30 (=t '{number:04}')").unwrap();
    }
    for number in 0..MESSAGES {
        writeln!(script, "a< 30 (=t '{number:04}')").unwrap();
    }
    v3(&script);
}

#[test]
fn mqtt_4_6_0_6_messages_and_acknowledgements_come_in_the_order_of_their_publishing() {
    // Half of the topics go through the store, half past it; both to one subscriber that is there and one that was away.
    let mut script =
        String::from("a: connect\na: subscribe +/t 01\nb: stay\nb: subscribe +/t 01\nb: leave\np: connect\n");
    for number in 1..=MESSAGES {
        let topic = if number % 2 == 0 { "s/t" } else { "x/t" };
        writeln!(script, "p> 32 (={topic} {number:04X} '{number:04}')").unwrap();
    }
    for number in 1..=MESSAGES {
        writeln!(script, "p< 40 ({number:04X})").unwrap();
    }
    for number in 1..=MESSAGES {
        writeln!(script, "a< 32 (=_/t _ _ '{number:04}')").unwrap();
    }
    script += "b: back\n";
    for number in 1..=MESSAGES {
        let topic = if number % 2 == 0 { "s/t" } else { "x/t" };
        writeln!(script, "b< 32 (={topic} _ _ '{number:04}')").unwrap();
    }
    // Sent again, they come in the same order.
    script += "b: gone\nb: back\n";
    for number in 1..=MESSAGES {
        let topic = if number % 2 == 0 { "s/t" } else { "x/t" };
        writeln!(script, "b< 3A (={topic} _ _ '{number:04}')").unwrap();
    }
    v3(&script.replace("=_/t", "0003 _ '/t'"));
}
