//! Queues against plain lists: random messages, steps, policies, sessions that come and go, crashes and restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CLIENTS: [&str; 3] = ["x", "y", "z"];

#[derive(Debug, Clone)]
enum Action {
    /// Save a session with these limits.
    Save(usize, u8),
    Delete(usize),
    /// A message for these clients (bits).
    Publish(u8),
    /// A step of the n-th message of this queue, 0: the oldest.
    Step(usize, usize, u8),
    /// The n-th message of this queue is handed over to these clients (bits).
    Handover(usize, usize, u8),
    /// The broker has sent the first so many.
    Sent(usize, usize),
    Left(usize),
    Crash,
    Restart,
}

fn any_action() -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS.len();
    prop_oneof![
        2 => (client.clone(), 0..5u8).prop_map(|(client, limits)| Action::Save(client, limits)),
        1 => client.clone().prop_map(Action::Delete),
        12 => (1..8u8).prop_map(Action::Publish),
        8 => (client.clone(), 0..4usize, 0..5u8).prop_map(|(client, nth, step)| Action::Step(client, nth, step)),
        4 => (client.clone(), 0..4usize, 0..8u8).prop_map(|(client, nth, to)| Action::Handover(client, nth, to)),
        3 => (client.clone(), 0..6usize).prop_map(|(client, count)| Action::Sent(client, count)),
        1 => client.prop_map(Action::Left),
        1 => Just(Action::Crash),
        1 => Just(Action::Restart),
    ]
}

fn limits(kind: u8) -> QueueLimits {
    match kind {
        0 => UNLIMITED,
        1 => at_most(4, WhenFull::Reject),
        2 => at_most(4, WhenFull::DropOldest),
        3 => at_most(4, WhenFull::DropNewest),
        _ => QueueLimits { max_bytes: 3 * MESSAGE_BYTES, ..at_most(6, WhenFull::DropOldest) },
    }
}

#[derive(Debug)]
struct Plain {
    id: SessionId,
    limits: QueueLimits,
    /// Number and payload, `None` where it was received.
    queue: Vec<(Sequence, Option<u64>)>,
    next: Sequence,
    sent: Sequence,
    left: Option<Sequence>,
    stats: BTreeMap<&'static str, u64>,
}

impl Plain {
    fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    fn bytes(&self) -> u64 {
        self.queue.iter().filter(|(_, number)| number.is_some()).count() as u64 * MESSAGE_BYTES
    }

    fn is_full(&self) -> bool {
        let QueueLimits { max_messages, max_bytes, .. } = self.limits;
        max_messages > 0 && self.queue.len() as u64 >= max_messages
            || max_bytes > 0 && self.bytes() + MESSAGE_BYTES > max_bytes
    }

    fn take(&mut self, number: u64) -> Option<Sequence> {
        self.count("queued");
        if self.is_full() && self.limits.when_full == WhenFull::DropNewest {
            self.count("newest");
            return None;
        }
        while self.is_full() {
            let Some(at) = self.queue.iter().position(|(seq, _)| *seq > self.sent) else {
                self.count("oldest");
                return None;
            };
            if self.queue[at].1.is_none() {
                self.sent = self.queue[at].0;
            } else {
                self.queue.remove(at);
                self.count("oldest");
            }
        }
        self.queue.push((self.next, Some(number)));
        self.next += 1;
        Some(self.next - 1)
    }
}

struct Checked {
    bench: Option<Bench>,
    dir: tempfile::TempDir,
    plain: BTreeMap<usize, Plain>,
    ended: BTreeMap<&'static str, u64>,
    highest: u32,
    number: u64,
}

impl Checked {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Some(Bench::open(&settings(dir.path()), &[]));
        Self { bench, dir, plain: BTreeMap::new(), ended: BTreeMap::new(), highest: 0, number: 0 }
    }

    fn bench(&self) -> &Bench {
        self.bench.as_ref().unwrap()
    }

    fn run(&mut self, action: &Action) {
        match *action {
            Action::Save(client, kind) => self.save(client, limits(kind)),
            Action::Delete(client) => {
                self.bench().wait(self.bench().handle.delete_session(CLIENTS[client].into())).unwrap();
                if let Some(plain) = self.plain.remove(&client) {
                    *self.ended.entry("purged").or_default() += plain.queue.len() as u64;
                    for (what, count) in plain.stats {
                        *self.ended.entry(what).or_default() += count;
                    }
                }
            }
            Action::Publish(clients) => self.publish(clients),
            Action::Step(client, nth, kind) => self.step(client, nth, kind),
            Action::Handover(client, nth, to) => self.handover(client, nth, to & !(1 << client)),
            Action::Sent(client, count) => {
                if let Some(plain) = self.plain.get_mut(&client)
                    && let Some((seq, _)) = plain.queue.get(count)
                {
                    plain.sent = plain.sent.max(*seq);
                    let (id, sent) = (plain.id, plain.sent);
                    self.bench().handle.sent(id, sent);
                }
            }
            Action::Left(client) => {
                if let Some(plain) = self.plain.get_mut(&client) {
                    plain.left = Some(plain.sent);
                    let (id, sent) = (plain.id, plain.sent);
                    self.bench().wait(self.bench().handle.session_left(id, sent)).unwrap();
                }
            }
            Action::Crash => {
                // A crash may forget what is lazy; the model has no word for "may".
                self.bench().flush();
                self.bench.take().unwrap().store.abandon();
                self.reopen();
            }
            Action::Restart => {
                self.bench.take().unwrap().close();
                self.reopen();
            }
        }
    }

    fn reopen(&mut self) {
        self.bench = Some(Bench::open(&settings(self.dir.path()), &[]));
        for plain in self.plain.values_mut() {
            plain.sent = plain.left.unwrap_or(0);
        }
    }

    fn save(&mut self, client: usize, limits: QueueLimits) {
        let id = self.bench().save(CLIENTS[client], limits);
        if let Some(plain) = self.plain.get_mut(&client) {
            assert_eq!(plain.id, id);
            (plain.limits, plain.left) = (limits, None);
            return;
        }
        assert!(id.0 > self.highest, "an id is used again");
        self.highest = id.0;
        let plain = Plain { id, limits, queue: Vec::new(), next: 1, sent: 0, left: None, stats: BTreeMap::new() };
        self.plain.insert(client, plain);
    }

    fn publish(&mut self, clients: u8) {
        let (entry, wanted) = self.message_for(clients);
        assert_eq!(self.bench().copied(vec![entry]), [wanted]);
    }

    /// Out of one queue and into others, or neither; a second time it does nothing.
    fn handover(&mut self, client: usize, nth: usize, clients: u8) {
        let Some(plain) = self.plain.get(&client) else { return };
        let Some(&(seq, _)) = plain.queue.get(nth) else { return };
        let from = plain.id;
        let (entry, wanted) = self.message_for(clients);
        let Entry::Publish(publish) = entry else { unreachable!() };
        let accepted = wanted.0 == Outcome::Accepted;
        let handover = |publish| Entry::Handover(Box::new(Handover { from, seq, publish }));
        assert_eq!(self.bench().copied(vec![handover(publish)]), [wanted]);
        if accepted {
            let plain = self.plain.get_mut(&client).unwrap();
            plain.queue.remove(nth);
            plain.count("delivered");
            let Entry::Publish(again) = for_sessions(&[from], 0) else { unreachable!() };
            assert_eq!(self.bench().copied(vec![handover(again)]), [(Outcome::Duplicate, vec![None])]);
        }
    }

    /// A message for these clients, and what becomes of it.
    fn message_for(&mut self, clients: u8) -> (Entry, (Outcome, Vec<Option<Sequence>>)) {
        self.number += 1;
        let number = self.number;
        let takers: Vec<usize> = self.plain.keys().copied().filter(|client| clients & 1 << client != 0).collect();
        let ids: Vec<SessionId> = takers.iter().map(|client| self.plain[client].id).collect();
        let rejects = |plain: &Plain| plain.limits.when_full == WhenFull::Reject && plain.is_full();
        let wanted = if takers.iter().any(|client| rejects(&self.plain[client])) {
            (Outcome::Refused(Refusal::QueueFull), vec![None; takers.len()])
        } else {
            let take = |client: &usize| self.plain.get_mut(client).unwrap().take(number);
            (Outcome::Accepted, takers.iter().map(take).collect())
        };
        (for_sessions(&ids, number), wanted)
    }

    fn step(&mut self, client: usize, nth: usize, kind: u8) {
        let Some(plain) = self.plain.get_mut(&client) else { return };
        let Some(&(seq, number)) = plain.queue.get(nth) else { return };
        let kind = match kind {
            0 => Step::Received,
            1 | 2 => Step::Delivered,
            3 => Step::Expired,
            _ => Step::TooLarge,
        };
        match kind {
            Step::Received => plain.queue[nth].1 = None,
            Step::Delivered | Step::Expired | Step::TooLarge => {
                plain.queue.remove(nth);
                plain.count(match kind {
                    Step::Expired => "expired",
                    Step::TooLarge => "too-large",
                    Step::Received | Step::Delivered => "delivered",
                });
            }
        }
        let (id, _) = (plain.id, number);
        let mut lane = self.bench().handle.lane(OnRefusal::Report, None);
        assert_eq!(self.bench().outcomes(&mut lane, vec![step(id, seq, kind)]), [Outcome::Stepped]);
    }

    fn check(&self) {
        self.bench().flush();
        let mut all = self.ended.clone();
        let restored = self.bench().restored();
        assert_eq!(restored.len(), self.plain.len());
        for (client, plain) in &self.plain {
            assert_eq!(self.bench().queued_numbers(plain.id), plain.queue);
            let stats = self.bench().queue_stats(plain.id);
            assert_eq!((stats.messages, stats.bytes), (plain.queue.len() as u64, plain.bytes()));
            assert_eq!(figures(&stats), plain.stats);
            for (what, count) in &plain.stats {
                *all.entry(what).or_default() += count;
            }
            let found = restored.iter().find(|found| found.id == plain.id).unwrap();
            assert_eq!(found.record, record(CLIENTS[*client], plain.limits));
            assert_eq!((found.next, found.sent), (plain.next, plain.left));
            assert_eq!(found.head, plain.queue.first().map_or(plain.next, |(seq, _)| *seq));
        }
        all.retain(|_, count| *count > 0);
        let totals = self.bench().handle.queues();
        assert!(totals.balances(), "{totals:?}");
        assert_eq!(figures(&totals), all);
    }
}

fn figures(stats: &QueueStats) -> BTreeMap<&'static str, u64> {
    let mut figures = BTreeMap::from([
        ("queued", stats.queued),
        ("delivered", stats.delivered),
        ("expired", stats.expired),
        ("purged", stats.purged),
    ]);
    for (reason, count) in &stats.dropped {
        let reason = ["oldest", "newest", "too-large", "damaged"].into_iter().find(|known| known == reason).unwrap();
        figures.insert(reason, *count);
    }
    figures.retain(|_, count| *count > 0);
    figures
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn queues_are_lists_that_survive(actions in proptest::collection::vec(any_action(), 1..60)) {
        let mut checked = Checked::new();
        for action in &actions {
            checked.run(action);
            checked.check();
        }
        checked.bench.take().unwrap().close();
    }
}
