//! The order of each topic, whoever comes and goes.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

#[test]
fn what_is_left_holds_its_topic_and_no_other_until_the_next_sweep() {
    let mut desk = Desk::default();
    desk.begin(1);
    desk.leave(&topic("a"));
    assert!(!desk.may_go(&topic("a"), Way::Kept, 2) && desk.may_go(&topic("b"), Way::Kept, 2));
    desk.begin(2);
    assert!(desk.may_go(&topic("a"), Way::Kept, 2));
}

#[test]
fn what_is_out_holds_its_topic_where_others_would_get_the_next() {
    let (mut desk, a) = (Desk::default(), topic("a"));
    desk.begin(1);
    desk.goes_out(1, &a, 1);
    assert!(desk.may_go(&a, Way::Offered, 1) && desk.is_out(1));
    desk.goes_out(2, &a, 1);
    assert!(!desk.may_go(&a, Way::Offered, 2), "somebody else may get the third");
    assert_eq!(desk.taken(1), Again::Now);
    desk.begin(2);
    assert!(!desk.may_go(&a, Way::Kept, 2));
    assert_eq!(desk.came_back(2, 2), Again::Now);
    desk.begin(2);
    assert!(desk.may_go(&a, Way::Kept, 2) && !desk.is_out(2));
    desk.goes_out(2, &a, 2);
    assert_eq!(desk.came_back(2, 2), Again::Later, "nothing has changed");
    assert!(!desk.may_go(&a, Way::Kept, 2));
}

#[test]
fn a_client_that_does_not_answer_uses_up_its_share_and_no_more() {
    let (mut desk, slow) = (Desk::default(), topic("slow"));
    desk.begin(1);
    let mut seq = 0;
    while desk.may_go(&slow, Way::Offered, 1) {
        seq += 1;
        desk.goes_out(seq, &slow, 1);
    }
    assert_eq!(seq, TOPIC_WINDOW as u64);
    assert!(desk.may_go(&topic("fast"), Way::Offered, 1));
    assert_eq!(desk.taken(1), Again::Now, "there is a place again");
    assert_eq!(desk.taken(2), Again::Never);
}

#[test]
fn more_topics_than_can_be_remembered_only_end_the_sweep_when_something_changes() {
    let mut desk = Desk::default();
    desk.begin(1);
    for number in 0..=LEFT_MAX {
        desk.leave(&topic(&number.to_string()));
    }
    let beyond = topic(&LEFT_MAX.to_string());
    assert!(!desk.must_begin_anew(1) && desk.may_go(&beyond, Way::Kept, 1));
    assert!(desk.must_begin_anew(2) && !desk.may_go(&beyond, Way::Kept, 2));
}

/// Clients that subscribe and go, get messages from memory or by their queue, acknowledge or do not.
#[derive(Debug, Clone, Copy)]
enum Act {
    Receive(u8),
    /// Topic, client, with a queue in the store.
    Subscribe(u8, u8, bool),
    Go(u8),
    Acknowledge(u8),
    /// Look at so many messages.
    Look(u8),
    Sweep,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..2u8).prop_map(Act::Receive),
        2 => (0..2u8, 0..3u8, any::<bool>()).prop_map(|(topic, client, kept)| Act::Subscribe(topic, client, kept)),
        1 => (0..3u8).prop_map(Act::Go),
        3 => (0..3u8).prop_map(Act::Acknowledge),
        4 => (1..4u8).prop_map(Act::Look),
        2 => Just(Act::Sweep),
    ]
}

#[derive(Debug, Default)]
struct World {
    desk: Desk,
    changes: u64,
    last: u64,
    waiting: BTreeMap<Sequence, u8>,
    cursor: Sequence,
    /// Topic and client: whether with a queue.
    subscriptions: BTreeMap<(u8, u8), bool>,
    /// What each client got since it came, by topic: for the order.
    got: BTreeMap<(u8, u8), Vec<Sequence>>,
    /// Who has not acknowledged what.
    holders: BTreeMap<Sequence, Vec<u8>>,
}

impl World {
    fn act(&mut self, act: Act) {
        match act {
            Act::Receive(topic) => {
                self.last += 1;
                self.waiting.insert(self.last, topic);
            }
            Act::Subscribe(topic, client, kept) => {
                self.changes += 1;
                self.subscriptions.entry((topic, client)).or_insert(kept);
            }
            Act::Go(client) => {
                self.changes += 1;
                self.subscriptions.retain(|(_, it), _| *it != client);
                self.got.retain(|(_, it), _| *it != client);
                let held: Vec<_> = self.holders.keys().copied().collect();
                for seq in held {
                    let holders = self.holders.get_mut(&seq).unwrap();
                    holders.retain(|it| *it != client);
                    if holders.is_empty() {
                        self.holders.remove(&seq);
                        self.desk.came_back(seq, self.changes);
                    }
                }
            }
            Act::Acknowledge(client) => {
                let first = self.holders.iter().find(|(_, holders)| holders.contains(&client)).map(|(seq, _)| *seq);
                if let Some(seq) = first {
                    self.holders.remove(&seq);
                    self.desk.taken(seq);
                    self.waiting.remove(&seq);
                }
            }
            Act::Look(count) => (0..count).for_each(|_| self.look()),
            Act::Sweep => {
                self.desk.begin(self.changes);
                self.cursor = 0;
            }
        }
    }

    fn look(&mut self) {
        let Some((&seq, &number)) = self.waiting.range(self.cursor..).next() else { return };
        self.cursor = seq + 1;
        let name = topic(&number.to_string());
        if self.desk.is_out(seq) {
            return;
        }
        let takers: Vec<(u8, bool)> = self
            .subscriptions
            .iter()
            .filter(|((it, _), _)| *it == number)
            .map(|((_, client), kept)| (*client, *kept))
            .collect();
        let way = if takers.iter().any(|(_, kept)| *kept) { Way::Kept } else { Way::Offered };
        if takers.is_empty() {
            self.desk.leave(&name);
        } else if self.desk.may_go(&name, way, self.changes) {
            for (client, _) in &takers {
                self.got.entry((number, *client)).or_default().push(seq);
            }
            if way == Way::Kept {
                self.waiting.remove(&seq);
            } else {
                self.desk.goes_out(seq, &name, self.changes);
                self.holders.insert(seq, takers.iter().map(|(client, _)| *client).collect());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_client_gets_each_topic_in_order_and_once(acts in proptest::collection::vec(any_act(), 1..80)) {
        let mut world = World::default();
        world.desk.begin(0);
        for act in &acts {
            world.act(*act);
            for ((topic, client), got) in &world.got {
                prop_assert!(got.is_sorted_by(|a, b| a < b), "client {} got {:?} of topic {}", client, got, topic);
            }
        }
        // In the end, with somebody who takes it all, nothing is left behind.
        (0..3).for_each(|client| world.act(Act::Go(client)));
        (0..2).for_each(|topic| world.act(Act::Subscribe(topic, 9, true)));
        world.act(Act::Sweep);
        (0..100).for_each(|_| world.look());
        prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
    }
}
