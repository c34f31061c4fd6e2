//! Section 4.6: message ordering. What is asked of clients there holds for the gateway as a sender and receiver, too.

use crate::script::v5;

#[test]
fn mqtt_4_6_0_1_what_is_sent_again_comes_in_the_order_in_which_it_was_sent() {
    v5("
        s: stay
        s: subscribe t 02
        p: connect
        p> 32 (=t 0001 () '1')
        p< 40 (0001)
        p> 34 (=t 0001 () '2')
        p< 50 (0001)
        p> 32 (=t 0002 () '3')
        p< 40 (0002)
        p> 32 (=t 0002 () '4')
        p< 40 (0002)
        s< 32 (=t 0001 () '1')
        s< 34 (=t 0002 () '2')
        s< 32 (=t 0003 () '3')
        s< 32 (=t 0004 () '4')
        s> 40 (0003)
        s: quiet
        s: gone
        p> 32 (=t 0002 () '5')
        p< 40 (0002)
        s: back
        s< 3A (=t 0001 () '1')
        s< 3C (=t 0002 () '2')
        s< 3A (=t 0004 () '4')
        s< 32 (=t _ _ () '5')
    ");
}

#[test]
fn mqtt_4_6_0_2_pubacks_come_in_the_order_of_their_publishes() {
    // One that the store takes, one that nobody wants, one that is wrong, one that is retained: each takes its own time.
    v5("
        p: connect
        p> 32 (=s/1 0001 () 'x') 32 (=t 0002 () 'x') 32 (=t 0003 (01 01) FF) 33 (=r 0004 () 'x') 32 (=t 0005 () 'x')
        p< 40 (0001)
        p< 40 (0002)
        p< 40 (0003 99)
        p< 40 (0004)
        p< 40 (0005)
    ");
}

#[test]
fn mqtt_4_6_0_3_pubrecs_come_in_the_order_of_their_publishes() {
    v5("
        p: connect
        p> 34 (=s/1 0001 () 'x') 34 (=t 0002 () 'x') 34 (=t 0003 (01 01) FF) 35 (=r 0004 () 'x') 32 (=t 0005 () 'x')
        p< 50 (0001)
        p< 50 (0002)
        p< 50 (0003 99)
        p< 50 (0004)
        p< 40 (0005)
    ");
}

#[test]
fn mqtt_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs() {
    v5("
        s: connect
        s: subscribe t 02
        p: connect
        p> 34 (=t 0001 () '1') 34 (=t 0002 () '2') 34 (=t 0003 () '3')
        p< 50 (0001)
        p< 50 (0002)
        p< 50 (0003)
        s< 34 (=t 0001 () '1')
        s< 34 (=t 0002 () '2')
        s< 34 (=t 0003 () '3')
        s> 50 (0003) 50 (0001) 50 (0002)
        s< 62 (0003)
        s< 62 (0001)
        s< 62 (0002)
    ");
}

#[test]
fn mqtt_4_6_0_5_messages_of_one_client_on_one_topic_keep_their_order() {
    // For every QoS of the subscription, connected or not, through a stream or past it.
    for (topic, granted, session) in
        [("t", 0, "connect"), ("t", 1, "connect"), ("s/1", 1, "connect"), ("t", 1, "stay"), ("s/1", 2, "stay")]
    {
        let mut script = vec![format!("s: {session}\ns: subscribe {topic} 0{granted}\np: connect\np>")];
        for at in 1..=60 {
            script.push(format!(" 32 (={topic} {at:04X} () {at:04X})"));
        }
        for at in 1..=60 {
            script.push(format!("\np< 40 ({at:04X})"));
        }
        for at in 1..=60 {
            let id = if granted == 0 { String::new() } else { format!("{at:04X}") };
            script.push(format!("\ns< {} (={topic} {id} () {at:04X})", if granted == 0 { "30" } else { "32" }));
        }
        v5(&script.concat());
    }
}

#[test]
fn mqtt_4_6_0_6_every_topic_is_ordered_with_retained_messages_and_wildcards() {
    v5("
        s: connect
        s: subscribe # 01
        p: connect
        p> 33 (=a/b 0001 () '1') 32 (=a/b 0002 () '2') 32 (=$x 0003 () '-') 33 (=a/b 0004 () '3') 32 (=s/1 0005 () '4')
        p< 40 (0001)
        p< 40 (0002)
        p< 40 (0003)
        p< 40 (0004)
        p< 40 (0005)
        s< 32 (=a/b 0001 () '1')
        s< 32 (=a/b 0002 () '2')
        s< 32 (=a/b 0003 () '3')
        s< 32 (=s/1 0004 () '4')
    ");
}
