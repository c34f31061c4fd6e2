//! Tests of the ledger: examples, and a model of a store and an upstream that does everything wrong.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn send(ledger: &mut Ledger, lane: usize, seq: Sequence, qos: QoS) -> u16 {
    let id = if qos == QoS::AtMostOnce { 0 } else { ledger.next_id() };
    ledger.sent(lane, seq, id, qos, Instant::now());
    id
}

fn forwarded(first: Sequence, last: Sequence) -> Run {
    Run { first, last, fate: Fate::Forwarded }
}

#[test]
fn acknowledgements_out_of_order_wait_for_the_gap_to_close() {
    let mut ledger = Ledger::new(1);
    ledger.connect(10, false);
    let ids: Vec<_> = (1..=4).map(|seq| send(&mut ledger, 0, seq, QoS::AtLeastOnce)).collect();
    ledger.answer(Ack::Acknowledged, ids[1], false);
    ledger.answer(Ack::Acknowledged, ids[3], false);
    assert!(ledger.take_ready(0).is_empty());
    ledger.answer(Ack::Acknowledged, ids[0], false);
    assert_eq!(ledger.take_ready(0), [forwarded(1, 2)]);
    ledger.answer(Ack::Acknowledged, ids[2], false);
    assert_eq!(ledger.take_ready(0), [forwarded(3, 4)]);
}

#[test]
fn a_second_acknowledgement_is_unexpected_and_settles_nobody_else() {
    let mut ledger = Ledger::new(1);
    ledger.connect(1, false);
    let first = send(&mut ledger, 0, 1, QoS::AtLeastOnce);
    ledger.answer(Ack::Acknowledged, first, false);
    let second = send(&mut ledger, 0, 2, QoS::AtLeastOnce);
    assert_ne!(first, second);
    assert_eq!(ledger.answer(Ack::Acknowledged, first, false), Answer::Unexpected);
    assert_eq!(ledger.answer(Ack::Completed, second, false), Answer::Unexpected);
    assert_eq!(ledger.answer(Ack::Received, second, false), Answer::Unexpected);
    assert_eq!(ledger.in_flight(), 1);
}

#[test]
fn what_was_acknowledged_before_a_disconnect_is_not_sent_again() {
    let mut ledger = Ledger::new(1);
    ledger.connect(10, false);
    let ids: Vec<_> = (1..=3).map(|seq| send(&mut ledger, 0, seq, QoS::AtLeastOnce)).collect();
    ledger.answer(Ack::Acknowledged, ids[1], false);
    ledger.disconnect();
    assert!(ledger.connect(10, false).is_empty());
    assert_eq!(ledger.next_to_read(0), 0);
    let plans: Vec<_> = (1..=3).map(|seq| ledger.plan(0, seq)).collect();
    assert_eq!(plans, [Plan::Send, Plan::Skip, Plan::Send]);
}

#[test]
fn done_messages_do_not_overtake_one_that_was_given_back() {
    let mut ledger = Ledger::new(1);
    ledger.connect(10, false);
    let ids: Vec<_> = (1..=2).map(|seq| send(&mut ledger, 0, seq, QoS::AtLeastOnce)).collect();
    ledger.answer(Ack::Acknowledged, ids[1], false);
    ledger.disconnect();
    assert!(ledger.take_ready(0).is_empty());
    // Row 1 was purged meanwhile: the first that is read is 2.
    ledger.connect(10, false);
    assert!(ledger.pass_over(0, 2).is_empty());
    assert_eq!(ledger.take_ready(0), [forwarded(1, 2)]);
}

#[test]
fn exactly_once_goes_on_under_its_ids_where_the_session_was_kept() {
    let mut ledger = Ledger::new(1);
    ledger.connect(10, false);
    let ids: Vec<_> = (1..=3).map(|seq| send(&mut ledger, 0, seq, QoS::ExactlyOnce)).collect();
    assert_eq!(ledger.answer(Ack::Received, ids[0], false), Answer::Release);
    ledger.disconnect();
    assert_eq!(ledger.connect(10, true), [ids[0]]);
    assert_eq!(ledger.plan(0, 1), Plan::Skip);
    assert_eq!(ledger.plan(0, 2), Plan::SendAgain(ids[1]));
    // Row 2 has gone: its id is released before it can be used again.
    assert_eq!(ledger.pass_over(0, 3), [ids[1]]);
    assert_eq!(ledger.plan(0, 3), Plan::SendAgain(ids[2]));
    ledger.sent(0, 3, ids[2], QoS::ExactlyOnce, Instant::now());
    for id in ids {
        ledger.answer(Ack::Received, id, false);
        assert!(matches!(ledger.answer(Ack::Completed, id, false), Answer::Forwarded { .. }));
    }
    assert_eq!(ledger.take_ready(0), [forwarded(1, 3)]);
    assert_eq!(ledger.in_flight(), 0);
}

#[test]
fn exactly_once_begins_anew_where_the_session_was_lost() {
    let mut ledger = Ledger::new(1);
    ledger.connect(10, false);
    let ids: Vec<_> = (1..=2).map(|seq| send(&mut ledger, 0, seq, QoS::ExactlyOnce)).collect();
    ledger.answer(Ack::Received, ids[0], false);
    ledger.disconnect();
    assert!(ledger.connect(10, false).is_empty());
    assert_eq!((ledger.plan(0, 1), ledger.plan(0, 2)), (Plan::Send, Plan::Send));
    assert_eq!(ledger.in_flight(), 0);
}

#[test]
fn a_refused_message_is_sent_again_on_the_next_connection_only() {
    let mut ledger = Ledger::new(1);
    ledger.connect(10, false);
    let id = send(&mut ledger, 0, 1, QoS::AtLeastOnce);
    assert_eq!(ledger.answer(Ack::Acknowledged, id, true), Answer::Refused { lane: 0, seq: 1 });
    assert_eq!(ledger.plan(0, 1), Plan::Skip);
    ledger.pass_over(0, 2);
    assert!(ledger.take_ready(0).is_empty());
    ledger.disconnect();
    assert_eq!(ledger.plan(0, 1), Plan::Send);
}

#[test]
fn ids_go_round_and_avoid_those_in_use() {
    let mut ledger = Ledger::new(1);
    ledger.connect(u16::MAX, false);
    let held = send(&mut ledger, 0, 1, QoS::AtLeastOnce);
    for seq in 2..=65_540 {
        let id = send(&mut ledger, 0, seq, QoS::AtLeastOnce);
        assert!(id != held && id != 0);
        ledger.answer(Ack::Acknowledged, id, false);
    }
}

#[test]
fn one_hanging_message_cannot_make_the_ledger_grow_without_bound() {
    let mut ledger = Ledger::new(1);
    ledger.connect(2, false);
    send(&mut ledger, 0, 1, QoS::AtLeastOnce);
    let mut seq = 1;
    while ledger.lane_has_room(0) {
        seq += 1;
        let id = send(&mut ledger, 0, seq, QoS::AtLeastOnce);
        ledger.answer(Ack::Acknowledged, id, false);
    }
    assert_eq!(seq, 2 + SPAN as u64);
}

/// A store with rows that vanish, and an upstream that answers when, how often and in what order it likes.
#[derive(Debug)]
struct Model {
    ledger: Ledger,
    qos: QoS,
    rows: Vec<BTreeSet<Sequence>>,
    reading: Vec<Sequence>,
    /// What the upstream took for good.
    taken: Vec<BTreeSet<Sequence>>,
    expired: Vec<BTreeSet<Sequence>>,
    gone: Vec<BTreeSet<Sequence>>,
    settled: Vec<Sequence>,
    first_sent: Vec<Sequence>,
    /// Ids on this connection: (id, lane, seq, got PUBREC).
    flying: Vec<(u16, usize, Sequence, bool)>,
}

impl Model {
    fn new(lanes: usize, rows: u64, window: u16, qos: QoS) -> Self {
        let mut ledger = Ledger::new(lanes);
        ledger.connect(window, false);
        Self {
            ledger,
            qos,
            rows: vec![(1..=rows).collect(); lanes],
            reading: vec![0; lanes],
            taken: vec![BTreeSet::new(); lanes],
            expired: vec![BTreeSet::new(); lanes],
            gone: vec![BTreeSet::new(); lanes],
            settled: vec![0; lanes],
            first_sent: vec![0; lanes],
            flying: Vec::new(),
        }
    }

    fn send(&mut self, lane: usize, expire: bool) {
        let Some(seq) = self.rows[lane].range(self.reading[lane]..).next().copied() else { return };
        let release = self.ledger.pass_over(lane, seq);
        self.release(&release);
        match self.ledger.plan(lane, seq) {
            Plan::Skip => {}
            Plan::Send if expire => {
                self.expired[lane].insert(seq);
                self.ledger.settle(lane, seq, Fate::Expired);
            }
            Plan::Send if self.qos != QoS::AtMostOnce && self.ledger.room() == 0 => return,
            Plan::Send => {
                let id = send(&mut self.ledger, lane, seq, self.qos);
                assert!(self.flying.iter().all(|fly| fly.0 != id), "id {id} used twice");
                if self.qos == QoS::AtMostOnce {
                    self.taken[lane].insert(seq);
                    self.ledger.settle(lane, seq, Fate::Forwarded);
                } else {
                    self.flying.push((id, lane, seq, false));
                }
                self.delivered(lane, seq);
            }
            Plan::SendAgain(id) => {
                self.ledger.sent(lane, seq, id, self.qos, Instant::now());
                self.flying.push((id, lane, seq, false));
            }
        }
        self.reading[lane] = seq + 1;
    }

    fn delivered(&mut self, lane: usize, seq: Sequence) {
        assert!(self.first_sent[lane] != seq || self.qos != QoS::AtMostOnce);
        self.first_sent[lane] = self.first_sent[lane].max(seq);
    }

    fn release(&mut self, ids: &[u16]) {
        for id in ids {
            self.flying.push((*id, usize::MAX, 0, true));
        }
    }

    fn acknowledge(&mut self, pick: usize, refuse: bool) {
        if self.flying.is_empty() {
            return;
        }
        let index = pick % self.flying.len();
        let (id, lane, seq, received) = self.flying[index];
        let done = self.qos == QoS::AtLeastOnce || received;
        let ack = match (self.qos, received) {
            (QoS::AtLeastOnce, _) => Ack::Acknowledged,
            (_, false) => Ack::Received,
            (_, true) => Ack::Completed,
        };
        let refuse = refuse && !received;
        if done && !refuse && lane != usize::MAX {
            self.taken[lane].insert(seq);
        }
        let answer = self.ledger.answer(ack, id, refuse);
        match answer {
            Answer::Refused { lane: l, seq: s } => assert!(refuse && (l, s) == (lane, seq)),
            Answer::Forwarded { lane: l, seq: s, .. } => {
                assert!(done);
                assert!(lane == usize::MAX || (l, s) == (lane, seq));
            }
            Answer::Release => self.flying[index].3 = true,
            Answer::Unexpected => panic!("an answer that was due is unexpected"),
        }
        if done || refuse {
            self.flying.swap_remove(index);
            assert_eq!(self.ledger.answer(ack, id, refuse), Answer::Unexpected, "answered twice");
        }
    }

    fn reconnect(&mut self, window: u16, resumed: bool) {
        self.ledger.disconnect();
        // Deliveries past PUBREC go on; the rest is forgotten by the connection.
        let resumed = resumed && self.qos == QoS::ExactlyOnce;
        let release = self.ledger.connect(window, resumed);
        if resumed {
            self.flying.retain(|fly| fly.3);
            let mut kept: Vec<u16> = self.flying.iter().map(|fly| fly.0).collect();
            kept.sort_unstable();
            assert_eq!(kept, release);
        } else {
            assert!(release.is_empty());
            self.flying.clear();
        }
        self.reading = (0..self.rows.len()).map(|lane| self.ledger.next_to_read(lane)).collect();
    }

    fn take(&mut self) {
        for lane in 0..self.rows.len() {
            for run in self.ledger.take_ready(lane) {
                assert!(run.first > self.settled[lane] && run.last >= run.first, "runs out of order: {run:?}");
                // Everything between the last run and this one has left by another way.
                for seq in self.settled[lane] + 1..=run.last {
                    let there = self.rows[lane].remove(&seq);
                    let expected = match (&run.fate, seq < run.first) {
                        (_, true) => !there,
                        (Fate::Forwarded, false) => !there || self.taken[lane].contains(&seq),
                        (Fate::Expired, false) => !there || self.expired[lane].contains(&seq),
                        (Fate::Dead { .. }, false) => false,
                    };
                    assert!(expected, "{seq} of lane {lane} settled as {:?}", run.fate);
                }
                self.settled[lane] = run.last;
            }
        }
    }

    fn purge(&mut self, lane: usize, seq: Sequence) {
        if self.rows[lane].remove(&seq) {
            self.gone[lane].insert(seq);
        }
    }

    /// A well-behaved upstream from now on: everything must leave.
    fn finish(&mut self) {
        self.reconnect(u16::MAX, false);
        for lane in 0..self.rows.len() {
            while self.rows[lane].range(self.reading[lane]..).next().is_some() {
                self.send(lane, false);
            }
        }
        while !self.flying.is_empty() {
            self.acknowledge(0, false);
        }
        self.take();
        for lane in 0..self.rows.len() {
            assert_eq!(self.rows[lane], BTreeSet::new(), "left behind in lane {lane}");
        }
        assert_eq!(self.ledger.in_flight(), 0);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Send { lane: usize, expire: bool },
    Acknowledge { pick: usize, refuse: bool },
    Nonsense { id: u16, ack: usize },
    Reconnect { window: u16, resumed: bool },
    Take,
    Purge { lane: usize, seq: Sequence },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0_usize..2, prop::bool::weighted(0.1)).prop_map(|(lane, expire)| Op::Send { lane, expire }),
        8 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(pick, refuse)| Op::Acknowledge { pick, refuse }),
        1 => (30_000_u16.., 0_usize..3).prop_map(|(id, ack)| Op::Nonsense { id, ack }),
        1 => (20_u16..40, any::<bool>()).prop_map(|(window, resumed)| Op::Reconnect { window, resumed }),
        2 => Just(Op::Take),
        1 => (0_usize..2, 1_u64..60).prop_map(|(lane, seq)| Op::Purge { lane, seq }),
    ]
}

proptest! {
    #[test]
    fn every_message_is_settled_once_in_order_and_with_its_own_fate(
        qos in prop::sample::select(QOS.to_vec()),
        ops in proptest::collection::vec(op(), 1..300),
    ) {
        let mut model = Model::new(2, 60, 20, qos);
        for op in ops {
            match op {
                Op::Send { lane, expire } => model.send(lane, expire),
                Op::Acknowledge { pick, refuse } => model.acknowledge(pick, refuse),
                Op::Nonsense { id, ack } => {
                    let ack = [Ack::Acknowledged, Ack::Received, Ack::Completed][ack];
                    prop_assert_eq!(model.ledger.answer(ack, id, false), Answer::Unexpected);
                }
                Op::Reconnect { window, resumed } => model.reconnect(window, resumed),
                Op::Take => model.take(),
                Op::Purge { lane, seq } => model.purge(lane, seq),
            }
            prop_assert!(model.ledger.in_flight() <= 40);
        }
        model.finish();
    }
}
