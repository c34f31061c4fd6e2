//! The store against a plain vector: random appends, settlements, drops, expiries, crashes and restarts.

use proptest::prelude::*;

use super::*;

/// Most messages the dropping stream holds.
const KEPT: u64 = 12;

#[derive(Debug, Clone)]
enum Step {
    /// Batches, each a list of stream choices (bit 0 = "a", bit 1 = "b"), all queued before any is answered.
    Append(Vec<Vec<u8>>),
    /// Settle so many from the head of this stream, with this fate.
    Settle { stream: u32, count: u64, fate: u8 },
    /// Drop so many offline.
    Offline(u64),
    /// Begin a QoS 2 exchange with this packet id, or repeat it.
    Exactly(u16),
    /// End it.
    Release(u16),
    /// Stop as `kill -9` does, and start.
    Crash,
    /// Stop in order, and start.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let batch = proptest::collection::vec(1..4u8, 1..12);
    prop_oneof![
        4 => proptest::collection::vec(batch, 1..5).prop_map(Step::Append),
        3 => (0..2u32, 0..30u64, 0..3u8).prop_map(|(stream, count, fate)| Step::Settle { stream, count, fate }),
        1 => (1..5u64).prop_map(Step::Offline),
        2 => (1..4u16).prop_map(Step::Exactly),
        1 => (1..4u16).prop_map(Step::Release),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

#[derive(Debug, Default)]
struct Plain {
    backlog: Vec<(u64, u64)>,
    next: u64,
    accepted: u64,
    forwarded: u64,
    expired: u64,
    dead: u64,
    dropped: u64,
    limit: Option<u64>,
}

impl Plain {
    fn append(&mut self, number: u64) {
        self.accepted += 1;
        self.next += 1;
        self.backlog.push((self.next, number));
        if self.limit.is_some_and(|limit| self.backlog.len() as u64 > limit) {
            self.backlog.remove(0);
            self.dropped += 1;
        }
    }
}

struct Checked {
    bench: Option<Bench>,
    dir: tempfile::TempDir,
    plain: [Plain; 2],
    ids: std::collections::BTreeSet<u16>,
    number: u64,
}

fn streams() -> [StreamSettings; 2] {
    [stream("a"), StreamSettings { max_messages: Some(KEPT), when_full: WhenFull::DropOldest, ..stream("b") }]
}

impl Checked {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::open(&settings(dir.path()), &streams());
        let plain = [Plain::default(), Plain { limit: Some(KEPT), ..Plain::default() }];
        Self { bench: Some(bench), dir, plain, ids: std::collections::BTreeSet::new(), number: 0 }
    }

    fn bench(&self) -> &Bench {
        self.bench.as_ref().unwrap()
    }

    fn entry(&mut self, bits: u8) -> Entry {
        self.number += 1;
        let mut to = Vec::new();
        for (index, plain) in self.plain.iter_mut().enumerate() {
            if bits & 1 << index != 0 {
                plain.append(self.number);
                to.push(StreamId(u32::try_from(index).unwrap()));
            }
        }
        publish(&to, self.number)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append(batches) => {
                let batches: Vec<Vec<Entry>> =
                    batches.into_iter().map(|bits| bits.into_iter().map(|bits| self.entry(bits)).collect()).collect();
                let (mut lane, mut returns) = self.bench().lane(OnRefusal::Hold);
                let count = batches.len();
                for batch in batches {
                    self.bench().submit(&mut lane, batch);
                }
                for _ in 0..count {
                    let returned = self.bench().wait(returns.recv()).unwrap();
                    assert!(returned.held.is_empty());
                    assert!(returned.verdicts.iter().all(|(_, outcome)| *outcome == Outcome::Accepted));
                }
            }
            Step::Settle { stream, count, fate } => self.settle(stream, count, fate),
            Step::Offline(count) => {
                self.bench().wait(self.bench().handle.drop_offline(A, count)).unwrap();
                // A crash may forget what was not flushed, both sides of it; the model has no word for "may".
                self.bench().flush();
                self.plain[0].accepted += count;
                self.plain[0].dropped += count;
            }
            Step::Exactly(id) => {
                let known = !self.ids.insert(id);
                let wanted = if known { Outcome::Duplicate } else { Outcome::Accepted };
                let entry = if known { publish(&[A], 0) } else { self.entry(1) };
                let Entry::Publish(mut publish) = entry else { unreachable!() };
                publish.packet_id = Some(id);
                let mut lane = self.bench().lane(OnRefusal::Report);
                assert_eq!(self.bench().outcomes(&mut lane, vec![Entry::Publish(publish)]), [wanted]);
            }
            Step::Release(id) => {
                self.ids.remove(&id);
                let mut lane = self.bench().lane(OnRefusal::Report);
                let release = Entry::Release { packet_id: id };
                assert_eq!(self.bench().outcomes(&mut lane, vec![release]), [Outcome::Released]);
            }
            Step::Crash => {
                self.bench.take().unwrap().store.abandon();
                self.bench = Some(Bench::open(&settings(self.dir.path()), &streams()));
            }
            Step::Restart => {
                self.bench.take().unwrap().close();
                self.bench = Some(Bench::open(&settings(self.dir.path()), &streams()));
            }
        }
    }

    fn settle(&mut self, stream: u32, count: u64, fate: u8) {
        let plain = &mut self.plain[stream as usize];
        let count = count.min(plain.backlog.len() as u64).min(if fate == 2 { 1 } else { u64::MAX });
        let Some(&(first, _)) = plain.backlog.first().filter(|_| count > 0) else { return };
        plain.backlog.drain(..usize::try_from(count).unwrap());
        let fate = match fate {
            0 => {
                plain.forwarded += count;
                Fate::Forwarded
            }
            1 => {
                plain.expired += count;
                Fate::Expired
            }
            _ => {
                plain.dead += count;
                Fate::Dead { reason: "refused", detail: String::new() }
            }
        };
        self.bench().settle(StreamId(stream), first, first + count - 1, fate);
    }

    fn check(&self) {
        for (index, plain) in (0..).zip(&self.plain) {
            let id = StreamId(index);
            let backlog: Vec<_> = self.bench().backlog(id).iter().map(|s| (s.seq, number_of(&s.message))).collect();
            assert_eq!(backlog, plain.backlog);
            let books = self.bench().books(id);
            let figures = [books.accepted, books.forwarded, books.expired, books.dropped_total(), books.dead_total()];
            assert_eq!(figures, [plain.accepted, plain.forwarded, plain.expired, plain.dropped, plain.dead]);
            assert_eq!(books.backlog_bytes, plain.backlog.len() as u64 * MESSAGE_BYTES);
            assert_eq!(self.bench().handle.position(id).borrow().next, plain.next + 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_vector_that_survives(steps in proptest::collection::vec(any_step(), 1..40)) {
        let mut checked = Checked::new();
        for step in steps {
            checked.run(step);
            checked.check();
        }
        checked.bench.take().unwrap().close();
    }
}
