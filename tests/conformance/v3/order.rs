//! Section 4.6: order of messages.

use std::fmt::Write as _;

use crate::script::v3;

/// Messages of all three kinds on one topic, so many that they do not fit into one read or write.
const MESSAGES: usize = 300;

#[test]
fn mqtt_4_6_0_1_messages_are_sent_again_in_the_order_in_which_they_were_sent() {
    v3("
        a: stay
        a: subscribe t 02
        p: connect
        p> 34 (=t 0001 'a') 32 (=t 0002 'b') 34 (=t 0003 'c') 32 (=t 0004 'd')
        p< 50 (0001)
        p< 40 (0002)
        p< 50 (0003)
        p< 40 (0004)
        a< 34 (=t 0001 'a')
        a< 32 (=t 0002 'b')
        a< 34 (=t 0003 'c')
        a< 32 (=t 0004 'd')
        # What was acknowledged meanwhile leaves no disorder behind.
        a> 40 (0002)
        p> 32 (=t 0005 'e')
        p< 40 (0005)
        a< 32 (=t _ _ 'e')
        a: gone
        a: back
        a< 3C (=t 0001 'a')
        a< 3C (=t 0003 'c')
        a< 3A (=t 0004 'd')
        a< 3A (=t _ _ 'e')
    ");
}

#[test]
fn mqtt_4_6_0_2_pubacks_come_in_the_order_of_the_publishes() {
    // Through the store and past it: the second is decided before the first.
    v3("
        p: connect
        p> 32 (=s/t 0009 'x') 32 (=t 0003 'x') 33 (=t 0007 'x') 32 (=t 0001 'x')
        p< 40 (0009)
        p< 40 (0003)
        p< 40 (0007)
        p< 40 (0001)
    ");
}

#[test]
fn mqtt_4_6_0_3_pubrecs_come_in_the_order_of_the_publishes() {
    v3("
        p: connect
        p> 34 (=s/t 0009 'x') 34 (=t 0003 'x') 35 (=t 0007 'x') 34 (=t 0001 'x')
        p< 50 (0009)
        p< 50 (0003)
        p< 50 (0007)
        p< 50 (0001)
    ");
}

#[test]
fn mqtt_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs() {
    v3("
        a: connect
        a: subscribe t 02
        a> 34 (=t 0001 'a') 34 (=t 0002 'b') 34 (=t 0003 'c')
        a< 50 (0001)
        a< 50 (0002)
        a< 50 (0003)
        a< 34 (=t 0001 'a')
        a< 34 (=t 0002 'b')
        a< 34 (=t 0003 'c')
        a> 50 (0003) 50 (0001) 50 (0002)
        a< 62 (0003)
        a< 62 (0001)
        a< 62 (0002)
    ");
}

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
