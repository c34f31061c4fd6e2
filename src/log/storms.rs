//! Storms: what repeats becomes a line with a count. Pure: the caller says what time it is.
//!
//! # What is equal
//!
//! Two lines are equal when the same place in the source said them of the same *things*: the fields of `THINGS` have the
//! same values. All of these come from the configuration or from a closed list of words, so there are few of them; what
//! strangers choose (client, address, topic, user, the words of an error) tells no lines apart, so that ten thousand clients
//! that fail alike are one storm, and a second kind of trouble is seen beside it.
//!
//! A *fact* is a line with the field `state`: a thing is now connected, disconnected, suspended, listening. All facts that a module tells of a
//! thing are equal, whatever they say (also `reason` and `url`), and the last one counts: where they come so fast that they are held back, the line that stands for
//! them is the last of them, so that the log ends with how things are. The first few with a reason of their own are heard even then.
//!
//! # Bounds
//!
//! - The first `BURST` equal lines (`BURST_OF_FACTS` facts) pass at once; from then on one every `EVERY` (facts: also as soon as
//!   none came for `SETTLED`), with the number of those it stands for. It carries the fields of one of them.
//! - A kind is forgotten when it was not met for `FORGOTTEN`: then the first few pass again.
//! - `KINDS` kinds; beyond, the one that was met longest ago makes room, and what was held back of it is written.
//! - Nothing is left out of the counts: lines passed + the sum of `repeated` = lines that came (a property test).
//!
//! A crash loses the counts of at most `EVERY`; the orderly end writes them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::line::{Line, Repeated};

/// The fields that tell kinds of trouble apart.
pub(super) const THINGS: [&str; 8] = ["listener", "uplink", "url", "downlink", "stream", "reason", "step", "file"];
/// The field that makes a line a fact.
pub(super) const STATE: &str = "state";

/// Equal lines that pass before they are held back.
pub(super) const BURST: u32 = 5;
/// The same for facts: links that come and go every few seconds are still told one by one.
pub(super) const BURST_OF_FACTS: u32 = 20;
/// How often a line stands for those that were held back.
pub(super) const EVERY: Duration = Duration::from_secs(60);
/// Facts are settled when none came for so long.
pub(super) const SETTLED: Duration = Duration::from_secs(3);
/// A kind of line that was not met for so long is new when it comes again.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(5 * 60);
/// Most kinds that are remembered.
pub(super) const KINDS: usize = 512;

/// What makes lines equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// A keyed hash of the place in the source and of the things.
    pub(super) id: u64,
    /// Of a fact: a keyed hash of the module and the things, without `reason` and `url`.
    pub(super) fact: Option<u64>,
}

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Line(u64),
    Fact(u64),
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written.
    Pass,
    /// It is counted, and [`Storms::keep`] wants it: it may have to stand for the others. `first`: of this kind nothing was held back before.
    Keep { first: bool },
    /// It is counted.
    Count,
}

#[derive(Debug, Default)]
pub(super) struct Storms {
    kinds: HashMap<Key, Storm>,
}

#[derive(Debug)]
struct Storm {
    passed: u32,
    /// When the first of those that are held back came.
    since: Instant,
    last: Instant,
    held_back: u64,
    example: Option<Line>,
}

impl Storms {
    /// A line of this kind came. What goes before it, or had to make room for it, is put into `out`.
    pub(super) fn came(&mut self, kind: Kind, now: Instant, out: &mut Vec<Line>) -> Verdict {
        let key = kind.key();
        let storm = self.storm(key, now, out);
        storm.last = now;
        if storm.may_pass(if kind.fact.is_some() { BURST_OF_FACTS } else { BURST }) {
            return Verdict::Pass;
        }
        // The first few with a reason of their own are heard even so, behind what is held back: the last fact stays the last.
        if kind.fact.is_some() && self.storm(Key::Line(kind.id), now, out).heard(now) {
            let held_back = self.storm(key, now, out).stand_for(now);
            out.extend(held_back);
            return Verdict::Pass;
        }
        let storm = self.storm(key, now, out);
        if storm.held_back == 0 {
            storm.since = now;
        }
        storm.held_back += 1;
        let first = storm.held_back == 1;
        if kind.fact.is_some() || first { Verdict::Keep { first } } else { Verdict::Count }
    }

    /// The line that is to stand for those that are held back.
    pub(super) fn keep(&mut self, kind: Kind, line: Line) {
        if let Some(storm) = self.kinds.get_mut(&kind.key()) {
            // Of two threads the one that was later keeps the later line; they differ by microseconds.
            storm.example = Some(line);
        }
    }

    fn storm(&mut self, key: Key, now: Instant, out: &mut Vec<Line>) -> &mut Storm {
        if !self.kinds.contains_key(&key) {
            self.make_room(now, out);
        }
        let new = || Storm { passed: 0, since: now, last: now, held_back: 0, example: None };
        let storm = self.kinds.entry(key).or_insert_with(new);
        if storm.held_back == 0 && now.saturating_duration_since(storm.last) >= FORGOTTEN {
            *storm = new();
        }
        storm
    }

    /// Puts the lines that are due into `out`, in the order of what happened last.
    pub(super) fn due(&mut self, now: Instant, out: &mut Vec<Line>) {
        let mut due: Vec<(Instant, &mut Storm)> = self
            .kinds
            .iter_mut()
            .filter(|(kind, storm)| storm.due_at(**kind).is_some_and(|at| at <= now))
            .filter_map(stands)
            .collect();
        due.sort_by_key(|(last, _)| *last);
        out.extend(due.into_iter().filter_map(|(_, storm)| storm.stand_for(now)));
    }

    /// When [`Storms::due`] has something next; `None` while nothing is held back.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.kinds.iter().filter_map(|(kind, storm)| storm.due_at(*kind)).min()
    }

    /// Puts everything that is held back into `out`: the program ends.
    pub(super) fn finish(&mut self, now: Instant, out: &mut Vec<Line>) {
        let mut storms: Vec<Storm> = self.kinds.drain().map(|(_, storm)| storm).collect();
        storms.sort_by_key(|storm| storm.last);
        out.extend(storms.iter_mut().filter_map(|storm| storm.stand_for(now)));
    }

    fn make_room(&mut self, now: Instant, out: &mut Vec<Line>) {
        if self.kinds.len() < KINDS {
            return;
        }
        self.kinds.retain(|_, storm| storm.held_back > 0 || now.saturating_duration_since(storm.last) < FORGOTTEN);
        let oldest = self.kinds.iter().min_by_key(|(_, storm)| storm.last).map(|(kind, _)| *kind);
        if self.kinds.len() >= KINDS
            && let Some(mut storm) = oldest.and_then(|oldest| self.kinds.remove(&oldest))
        {
            out.extend(storm.stand_for(now));
        }
    }
}

/// Those that have a line to stand for them: it comes a moment after the first that was held back.
fn stands<'a>((_, storm): (&Key, &'a mut Storm)) -> Option<(Instant, &'a mut Storm)> {
    storm.example.is_some().then_some((storm.last, storm))
}

impl Kind {
    fn key(self) -> Key {
        self.fact.map_or(Key::Line(self.id), Key::Fact)
    }
}

impl Storm {
    fn may_pass(&mut self, burst: u32) -> bool {
        let may = self.passed < burst;
        self.passed += u32::from(may);
        may
    }

    /// The same for one that is told only because it has a reason of its own.
    fn heard(&mut self, now: Instant) -> bool {
        self.last = now;
        self.may_pass(BURST)
    }

    fn due_at(&self, key: Key) -> Option<Instant> {
        let at = self.since + EVERY;
        (self.held_back > 0).then(|| match key {
            Key::Line(_) => at,
            Key::Fact(_) => at.min(self.last + SETTLED),
        })
    }

    /// The line that stands for all that was held back.
    fn stand_for(&mut self, now: Instant) -> Option<Line> {
        let mut line = self.example.take()?;
        let over_s = now.saturating_duration_since(self.since).as_secs_f64().round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds, at least 0")]
        let over_s = (over_s as u64).max(1);
        line.repeated = Some(Repeated { times: std::mem::take(&mut self.held_back), over_s });
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;
    use tracing::Level;

    use super::*;

    fn line(message: &str) -> Line {
        Line {
            time: SystemTime::UNIX_EPOCH,
            level: Level::WARN,
            target: "test",
            source: None,
            message: message.to_owned(),
            fields: Vec::new(),
            repeated: None,
        }
    }

    /// Storms with the lines that were written.
    struct Rig {
        storms: Storms,
        written: Vec<Line>,
    }

    impl Rig {
        fn new() -> Self {
            Self { storms: Storms::default(), written: Vec::new() }
        }

        fn say(&mut self, kind: Kind, now: Instant, message: &str) {
            let mut out = Vec::new();
            match self.storms.came(kind, now, &mut out) {
                Verdict::Pass => out.push(line(message)),
                Verdict::Keep { .. } => self.storms.keep(kind, line(message)),
                Verdict::Count => {}
            }
            self.written.append(&mut out);
        }

        fn tick(&mut self, now: Instant) {
            self.storms.due(now, &mut self.written);
        }

        fn count(&self) -> u64 {
            self.written.iter().map(|line| line.repeated.map_or(1, |repeated| repeated.times)).sum()
        }
    }

    const TROUBLE: Kind = Kind { id: 1, fact: None };
    const CONNECTED: Kind = Kind { id: 2, fact: Some(1) };
    const LOST: Kind = Kind { id: 3, fact: Some(1) };
    const STALLED: Kind = Kind { id: 4, fact: Some(1) };

    #[test]
    fn the_first_few_pass_and_then_one_a_minute_stands_for_the_others() {
        let (mut rig, start) = (Rig::new(), Instant::now());
        for second in 0..180 {
            for _ in 0..100 {
                rig.say(TROUBLE, start + Duration::from_secs(second), "x");
            }
            rig.tick(start + Duration::from_secs(second));
        }
        assert_eq!(rig.written.len(), 5 + 2);
        assert_eq!(rig.written[5].repeated, Some(Repeated { times: 6_095, over_s: 60 }));
        rig.tick(start + Duration::from_secs(300));
        assert_eq!((rig.written.len(), rig.count()), (8, 18_000));
        assert_eq!(rig.storms.next_due(), None);
    }

    #[test]
    fn a_storm_that_ended_is_new_when_it_comes_again() {
        let (mut rig, start) = (Rig::new(), Instant::now());
        for _ in 0..6 {
            rig.say(TROUBLE, start, "x");
        }
        rig.tick(start + EVERY);
        rig.say(TROUBLE, start + EVERY, "held back, for it has not been quiet for long");
        rig.tick(start + EVERY * 2);
        assert_eq!(rig.written.len(), 7);
        rig.say(TROUBLE, start + EVERY * 2 + FORGOTTEN, "new");
        assert_eq!(rig.written[7].message, "new");
    }

    #[test]
    fn of_facts_the_last_one_is_told_as_soon_as_things_settle() {
        let (mut rig, start) = (Rig::new(), Instant::now());
        for step in 0..=60 {
            let (kind, message) = if step % 2 == 0 { (CONNECTED, "connected") } else { (LOST, "lost") };
            rig.say(kind, start + Duration::from_millis(step), message);
        }
        rig.say(TROUBLE, start, "other trouble is seen beside it");
        rig.tick(start + SETTLED);
        let told = (BURST_OF_FACTS + BURST * 2) as usize;
        assert_eq!(rig.written.len(), told + 1);
        rig.tick(start + SETTLED + Duration::from_millis(60));
        let last = rig.written.last().unwrap();
        assert_eq!((last.message.as_str(), last.repeated.unwrap().times), ("connected", 61 - told as u64));
    }

    #[test]
    fn a_fact_with_a_new_reason_is_heard_behind_those_that_are_held_back() {
        let (mut rig, start) = (Rig::new(), Instant::now());
        for step in 0..60 {
            rig.say(if step % 2 == 0 { CONNECTED } else { LOST }, start, "came and went");
        }
        rig.say(STALLED, start, "stalled");
        let [.., held_back, stalled] = &rig.written[..] else { panic!("{:?}", rig.written) };
        assert_eq!((held_back.repeated.unwrap().times, stalled.message.as_str()), (30, "stalled"));
        assert_eq!((rig.count(), rig.storms.next_due()), (61, None));
    }

    #[test]
    fn more_kinds_than_are_remembered_make_room_without_a_loss() {
        let (mut rig, start) = (Rig::new(), Instant::now());
        for id in 0..KINDS as u64 * 3 {
            for _ in 0..7 {
                rig.say(Kind { id, fact: None }, start + Duration::from_millis(id), "x");
            }
        }
        assert!(rig.storms.kinds.len() <= KINDS);
        rig.storms.finish(start + EVERY, &mut rig.written);
        assert_eq!(rig.count(), KINDS as u64 * 3 * 7);
    }

    proptest! {
        #[test]
        fn every_line_passes_or_is_counted(steps in proptest::collection::vec((0..40_u64, 0..3_u64, any::<bool>()), 1..300)) {
            let (mut rig, mut now) = (Rig::new(), Instant::now());
            for (pause, id, is_fact) in &steps {
                now += Duration::from_secs(*pause);
                rig.tick(now);
                rig.say(Kind { id: *id, fact: is_fact.then_some(*id % 2) }, now, "x");
            }
            rig.storms.finish(now, &mut rig.written);
            prop_assert_eq!(rig.count(), steps.len() as u64);
        }
    }
}
