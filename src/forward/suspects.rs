//! Poison or sick? Which message the upstream will never take, and which upstream takes nothing at the moment; pure.
//!
//! # What must hold
//!
//! - A message that the upstream fails on again and again, while it takes others of the same stream in between, leaves for the dead letters after a
//!   bounded number of tries, and the stream flows on.
//! - An upstream that fails on everything (refuses all, hangs up on all, answers nothing, for hours) costs no message its place. Nor does one that fails at
//!   random, or on every second connection.
//! - While it is not known which of the two it is, nothing of the stream overtakes the message (guarantee G2), and other streams flow.
//!
//! # Failures
//!
//! The upstream *fails* on a message when it refuses it (PUBACK or PUBREC of 0x80 or more), when it ends the connection in a way that may be meant for a message
//! while that message alone is in flight, or when it leaves it unanswered for `progress_timeout` while alone or overtaken by later ones.
//! Networks that fail, pings unanswered, `server busy`, `server shutting down` and the like are held against nobody.
//!
//! # At once
//!
//! Codes that speak of the message itself (0x90 topic name invalid, 0x95 too large, 0x99 payload format invalid, 0x9a retain not supported) make it
//! dead at the first refusal. Where more than [`AT_ONCE_MAX`] of a stream are refused like that in a row with none taken, it is not the messages but the
//! topic template or the upstream that is wrong; then these codes count like all others, and the stream waits until somebody repairs it.
//!
//! # The trial
//!
//! 1. *Suspicion.* A refused message is a suspect at once; else the one that was its stream's oldest in flight on [`STRIKES`] connections in a row that failed.
//!    A stream has one suspect at most, its oldest, and is *held*: nothing of it is sent but what the trial asks for. Several streams may be held
//!    at the same time, but one is tried at a time. Where the upstream hangs up, all others are silent during a try.
//! 2. *The suspect alone.* It is tried again after waits that grow (those of `backoff`). If it is taken the case is closed.
//!    Otherwise it must fail [`PATIENCE`] times in a row before anything else happens. Where messages behind it in the same window were taken, which only a
//!    refusal leaves room for, they have overtaken it already, and 2 to 4 times are enough.
//! 3. *A follower.* Right after such a failure, without a wait, one later message of the same stream is tried: the nearest that the upstream has not
//!    failed on yet; where [`NEAREST_TRIES`] have failed, the nearest of another topic. If it fails too, that says nothing of the suspect: back to 2, for 2 to 4 tries, and after
//!    [`FOLLOWERS_IN_VAIN`] of them for more and more, up to [`MOST_PATIENCE`].
//!    Where there is none, the suspect waits.
//! 4. *Evidence.* If it is taken, that is one piece of evidence, and the suspect must fail 2 to 4 times more, at random, before the next
//!    follower. After [`PASSES`] pieces the suspect is dead.
//!
//! # Why this is enough
//!
//! Let the upstream fail on any message with probability p, whatever the message is. To die, a sound message must fail at least `PATIENCE + 2 (PASSES - 1)`
//! times in a row, and followers be taken [`PASSES`] times: with 3 failures between on average that is about p^22 (1-p)^5, at most 5 in 100 000 for the worst p (0.8),
//! 1 in 10^8 for p = 0.5; for a message refused within a window, p^13 (1-p)^5, 1 in 10 000 for the worst and 1 in 100 000 for p = 0.5. An upstream that recovers after hours
//! can be mistaken once at most (a follower is taken that was tried a moment after the suspect), and then takes the suspect at its next turn. One that fails in a pattern,
//! such as every second connection, meets a suspect whose number of tries is not fixed.
//!
//! *Why the same stream.* A right that one stream's topics lack while the other streams' are taken would otherwise send the whole of that stream to
//! the dead letters, message by message, until somebody grants it. Like this the stream waits.
//!
//! # Order
//!
//! First deliveries are in order always. In step 2 nothing overtakes the suspect. A suspect that is taken after step 3 has begun (p^[`PATIENCE`] (1-p) for sound
//! messages, below 1 in 100 000 for p = 0.3) arrives behind the followers that were taken, at most [`PASSES`] - 1.
//! Messages refused in one window with others that were taken arrive behind those; that is what a window is.
//!
//! # Known refusals
//!
//! A topic that was convicted for a code is remembered ([`KNOWN_FOR`], [`KNOWN_MAX`] of them): a further message of that topic that is refused with that code while one
//! behind it is taken is dead without a trial. A right that is missing for one topic of many thus costs one trial, not one for each message.
//!
//! What a crash does: all this is memory; the trial begins anew.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::reasons::{HUNG_UP, REFUSED, UNANSWERED};
use crate::{store::Sequence, topic::TopicName, uplink::Backoff};

/// Failed connections in a row, with the same message the oldest in flight of its stream, that make it a suspect.
pub(super) const STRIKES: u32 = 3;
/// Failures in a row of a suspect before another message is sent past it.
pub(super) const PATIENCE: u32 = 10;
/// Followers that may fail before the patience between them is doubled each time.
const FOLLOWERS_IN_VAIN: u32 = 4;
/// It is doubled up to here.
const MOST_PATIENCE: u32 = 64;
/// Pieces of evidence that convict.
pub(super) const PASSES: u32 = 5;
/// Messages of one stream that go at once for what their refusal says, with none taken between.
pub(super) const AT_ONCE_MAX: u32 = 64;
/// A follower's turn that could not be taken for so long is over: the upstream may have recovered since the suspect's.
const FOLLOW_WITHIN: Duration = Duration::from_secs(10);
/// Later messages of a lane that failed too and are remembered.
const FAILED_MAX: usize = 4096;
/// Followers that fail in a row before one of another topic is preferred.
pub(super) const NEAREST_TRIES: u32 = 2;
/// Convicted topics that are remembered.
pub(super) const KNOWN_MAX: usize = 64;
/// For how long.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(10 * 60);

/// How the upstream failed on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It refused it; the whole story is for the operator.
    Refused { code: u8, story: String },
    /// It ended the connection.
    HungUp { story: String },
    /// It never answered.
    Unanswered { story: String },
}

/// What a refusal's code speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The message itself: it will never be taken.
    Message,
    /// Perhaps the message, perhaps the upstream.
    Perhaps,
    /// Packet ids that the upstream has lost track of: begin a new session.
    NewSession,
}

/// Judges a reason code (MQTT 5, sections 3.4.2.1, 3.5.2.1 and 3.14.2.1).
pub(super) const fn verdict(code: u8) -> Verdict {
    match code {
        0x90 | 0x95 | 0x99 | 0x9a => Verdict::Message,
        0x91 => Verdict::NewSession,
        _ => Verdict::Perhaps,
    }
}

/// What is to be done about a message, or what became of its case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing.
    None,
    /// The case of the lane's suspect is closed; the lane flows again.
    Closed,
    /// The upstream will never take this message, as its first answer says.
    Dead(Dead),
    /// The same, and the case of the lane's suspect is closed with it; the lane flows again.
    Convicted(Dead),
    /// The lane is held until the suspect's next turn.
    Held,
}

/// A message that leaves for the dead letters, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) seq: Sequence,
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

/// Whom a trial sends next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Suspect,
    /// A later message of the same lane, after so many others have failed in its place.
    Follower(u32),
}

/// A try that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Try {
    pub(super) lane: usize,
    pub(super) suspect: Sequence,
    pub(super) turn: Turn,
    /// Nothing else may be in flight.
    pub(super) alone: bool,
}

/// All suspects of one uplink.
#[derive(Debug)]
pub(super) struct Suspects {
    lanes: Vec<Lane>,
    backoff: Backoff,
    known: VecDeque<Known>,
}

#[derive(Debug, Default)]
struct Lane {
    /// The oldest in flight at the last failed connection, and on how many in a row.
    strikes: Option<(Sequence, u32)>,
    /// Dead at once, with none taken since.
    at_once: u32,
    /// Newest message taken on this connection.
    newest_taken: Sequence,
    case: Option<Case>,
}

#[derive(Debug)]
struct Case {
    seq: Sequence,
    /// Known from the first try on.
    topic: Option<TopicName>,
    /// Failures of the suspect, in all.
    failures: u32,
    /// Failures of the suspect since a follower was tried.
    run: u32,
    /// How many of them bring the next follower's turn.
    run_wanted: u32,
    /// Failures of anybody since somebody was taken.
    in_vain: u32,
    /// Followers taken.
    passes: u32,
    /// Later messages that the upstream failed on too, and how many of them in place of a follower since one was taken.
    failed: BTreeSet<Sequence>,
    followers_in_vain: u32,
    turn: Turn,
    due: Instant,
    last: Failure,
}

#[derive(Debug)]
struct Known {
    lane: usize,
    topic: TopicName,
    code: u8,
    at: Instant,
}

impl Suspects {
    pub(super) fn new(lanes: usize, backoff: Backoff) -> Self {
        let lanes = std::iter::repeat_with(Lane::default).take(lanes).collect();
        Self { lanes, backoff, known: VecDeque::new() }
    }

    /// Forgets everything of a lane: it is about other messages from now on.
    pub(super) fn forget_lane(&mut self, lane: usize) {
        self.lanes[lane] = Lane::default();
        self.known.retain(|known| known.lane != lane);
    }

    /// Whether nothing of a lane may be sent but what its trial asks for.
    pub(super) fn is_held(&self, lane: usize) -> bool {
        self.lanes[lane].case.is_some()
    }

    /// The lane's suspect.
    pub(super) fn suspect(&self, lane: usize) -> Option<Sequence> {
        self.lanes[lane].case.as_ref().map(|case| case.seq)
    }

    /// Lanes that are held.
    pub(super) fn held(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.case.is_some()).count()
    }

    /// When the next try is due, of the lanes that may be tried.
    pub(super) fn next_due(&self, may: impl Fn(usize) -> bool) -> Option<Instant> {
        self.cases().filter(|(lane, _)| may(*lane)).map(|(_, case)| case.due).min()
    }

    /// The try that has been due for longest.
    pub(super) fn due(&mut self, now: Instant, may: impl Fn(usize) -> bool) -> Option<Try> {
        for case in self.lanes.iter_mut().filter_map(|lane| lane.case.as_mut()) {
            if case.turn != Turn::Suspect && now > case.due + FOLLOW_WITHIN {
                (case.turn, case.run) = (Turn::Suspect, case.run_wanted.saturating_sub(1));
            }
        }
        let (lane, case) = self
            .cases()
            .filter(|(lane, case)| case.due <= now && may(*lane))
            .min_by_key(|(_, case)| (matches!(case.turn, Turn::Suspect), case.due))?;
        let alone = matches!(case.last, Failure::HungUp { .. });
        Some(Try { lane, suspect: case.seq, turn: case.turn, alone })
    }

    /// Whether a follower's turn has come, which does not wait.
    pub(super) fn hurries(&self) -> bool {
        self.cases().any(|(_, case)| matches!(case.turn, Turn::Follower(_)))
    }

    fn cases(&self) -> impl Iterator<Item = (usize, &Case)> {
        self.lanes.iter().enumerate().filter_map(|(index, lane)| Some((index, lane.case.as_ref()?)))
    }

    /// A connection was made. Where the upstream does not acknowledge (QoS 0), it cannot fail on messages.
    pub(super) fn connected(&mut self, acknowledges: bool) {
        for lane in &mut self.lanes {
            lane.newest_taken = 0;
            if !acknowledges {
                lane.case = None;
            }
        }
    }

    /// Whether a later message may follow the suspect: the upstream has not failed on it too.
    pub(super) fn may_follow(&self, lane: usize, seq: Sequence) -> bool {
        self.lanes[lane].case.as_ref().is_some_and(|case| !case.failed.contains(&seq))
    }

    /// Whether a message of this topic would tell nothing new where the topic is what the upstream does not like.
    pub(super) fn is_like(&self, lane: usize, topic: &TopicName) -> bool {
        self.lanes[lane].case.as_ref().is_some_and(|case| case.topic.as_ref() == Some(topic))
    }

    /// The suspect, of this topic, is about to be tried. Says whether it need not be: a known case.
    pub(super) fn tries(&mut self, index: usize, topic: &TopicName, now: Instant) -> Option<Dead> {
        let known = &mut self.known;
        let case = self.lanes[index].case.as_mut()?;
        if case.topic.as_ref() != Some(topic) {
            case.topic = Some(topic.clone());
        }
        let Failure::Refused { code, .. } = &case.last else { return None };
        known.retain(|known| now < known.at + KNOWN_FOR);
        let known =
            known.iter_mut().find(|known| known.lane == index && known.code == *code && known.topic == *topic)?;
        if case.passes == 0 {
            return None;
        }
        known.at = now;
        let dead = case.dead("messages of this topic are refused again and again while others are taken");
        self.lanes[index].case = None;
        Some(dead)
    }

    /// The upstream took a message.
    pub(super) fn taken(&mut self, index: usize, seq: Sequence, now: Instant, random: f64) -> Outcome {
        let lane = &mut self.lanes[index];
        lane.newest_taken = lane.newest_taken.max(seq);
        lane.at_once = 0;
        if lane.strikes.is_some_and(|(oldest, _)| oldest == seq) {
            lane.strikes = None;
        }
        let Some(case) = &mut lane.case else { return Outcome::None };
        if seq == case.seq {
            lane.case = None;
            self.hasten(now);
            return Outcome::Closed;
        }
        if seq < case.seq || (case.turn == Turn::Suspect && case.passes > 0) {
            return Outcome::None;
        }
        case.pass(now, self.backoff, random);
        if case.passes < PASSES {
            return Outcome::Held;
        }
        let dead = case.dead("tried again and again while others were taken in between");
        if let (Failure::Refused { code, .. }, Some(topic)) = (&case.last, &case.topic) {
            self.known.truncate(KNOWN_MAX - 1);
            self.known.push_front(Known { lane: index, topic: topic.clone(), code: *code, at: now });
        }
        lane.case = None;
        Outcome::Convicted(dead)
    }

    /// The upstream refused a message with a code other than [`Verdict::NewSession`].
    pub(super) fn refused(
        &mut self,
        index: usize,
        seq: Sequence,
        code: u8,
        story: String,
        now: Instant,
        random: f64,
    ) -> Outcome {
        let lane = &mut self.lanes[index];
        if verdict(code) == Verdict::Message && lane.at_once < AT_ONCE_MAX {
            lane.at_once += 1;
            let dead = Dead { seq, reason: REFUSED, detail: story };
            if lane.case.as_ref().is_some_and(|case| case.seq == seq) {
                lane.case = None;
                return Outcome::Convicted(dead);
            }
            return Outcome::Dead(dead);
        }
        self.failed(index, seq, Failure::Refused { code, story }, now, random)
    }

    /// The connection failed, and this was the oldest of its lane in flight. `alone`: nothing else was.
    pub(super) fn lost(
        &mut self,
        index: usize,
        seq: Sequence,
        failure: Failure,
        alone: bool,
        now: Instant,
        random: f64,
    ) -> Outcome {
        let lane = &mut self.lanes[index];
        if let Some(case) = &mut lane.case {
            // Among others it may be none of its fault. Alone the next time.
            if !alone && seq == case.seq && matches!(failure, Failure::HungUp { .. }) {
                case.last = failure;
                case.wait(now, self.backoff, random);
                return Outcome::Held;
            }
            return self.failed(index, seq, failure, now, random);
        }
        if matches!(failure, Failure::Unanswered { .. }) && lane.newest_taken > seq {
            return self.failed(index, seq, failure, now, random);
        }
        let count = lane.strikes.filter(|(oldest, _)| *oldest == seq).map_or(1, |(_, count)| count + 1);
        lane.strikes = Some((seq, count));
        if count < STRIKES {
            return Outcome::None;
        }
        self.failed(index, seq, failure, now, random);
        if let Some(case) = &mut self.lanes[index].case {
            (case.failures, case.run, case.in_vain) = (STRIKES, STRIKES, STRIKES);
            // A wait was just made, between the connections.
            case.due = now;
        }
        Outcome::Held
    }

    /// Later messages of the lane were answered long ago, this one was not.
    pub(super) fn overtaken(
        &mut self,
        index: usize,
        seq: Sequence,
        story: String,
        now: Instant,
        random: f64,
    ) -> Outcome {
        self.failed(index, seq, Failure::Unanswered { story }, now, random)
    }

    fn failed(&mut self, index: usize, seq: Sequence, failure: Failure, now: Instant, random: f64) -> Outcome {
        let backoff = self.backoff;
        let lane = &mut self.lanes[index];
        match &mut lane.case {
            Some(case) if case.seq == seq => case.suspect_failed(failure, now, backoff, random),
            // Whatever it was that followed the suspect: it has the same trouble.
            Some(case) if case.seq < seq => case.follower_failed(seq, now, backoff, random),
            Some(_) | None => {
                lane.strikes = None;
                let mut case = Case::open(seq, failure, now);
                if lane.newest_taken > seq {
                    case.passes = 1;
                    case.run_wanted = some_more(random);
                }
                // What is known is recognised without a wait.
                if self.known.is_empty() {
                    case.wait(now, backoff, random);
                }
                lane.case = Some(case);
            }
        }
        Outcome::Held
    }

    /// A try came to nothing, by nobody's fault: the network failed, the upstream is going down.
    pub(super) fn put_off(&mut self, lane: usize, now: Instant, random: f64) {
        if let Some(case) = &mut self.lanes[lane].case {
            case.wait(now, self.backoff, random);
        }
    }

    /// There is nobody to follow the suspect: it is tried alone.
    pub(super) fn no_follower(&mut self, lane: usize, now: Instant, random: f64) {
        if let Some(case) = &mut self.lanes[lane].case {
            case.turn = Turn::Suspect;
            case.wait(now, self.backoff, random);
        }
    }

    /// The suspect has left the stream by another way: expired, dropped, purged, too large.
    pub(super) fn left(&mut self, lane: usize) {
        self.lanes[lane].case = None;
    }

    /// Failures of a lane's suspect so far.
    pub(super) fn failures(&self, lane: usize) -> u32 {
        self.lanes[lane].case.as_ref().map_or(0, |case| case.failures)
    }

    /// The upstream takes messages: nobody need wait long.
    fn hasten(&mut self, now: Instant) {
        for case in self.lanes.iter_mut().filter_map(|lane| lane.case.as_mut()) {
            case.in_vain = 0;
            case.due = case.due.min(now + self.backoff.min);
        }
    }
}

impl Case {
    fn open(seq: Sequence, failure: Failure, now: Instant) -> Self {
        Self {
            seq,
            topic: None,
            failures: 1,
            run: 1,
            run_wanted: PATIENCE,
            in_vain: 1,
            passes: 0,
            failed: BTreeSet::new(),
            followers_in_vain: 0,
            turn: Turn::Suspect,
            due: now,
            last: failure,
        }
    }

    fn suspect_failed(&mut self, failure: Failure, now: Instant, backoff: Backoff, random: f64) {
        self.failures += 1;
        self.run += 1;
        self.in_vain += 1;
        self.last = failure;
        if self.run >= self.run_wanted {
            self.turn = Turn::Follower(self.followers_in_vain);
            self.due = now;
        } else {
            self.turn = Turn::Suspect;
            self.wait(now, backoff, random);
        }
    }

    fn follower_failed(&mut self, seq: Sequence, now: Instant, backoff: Backoff, random: f64) {
        self.failed.insert(seq);
        while self.failed.len() > FAILED_MAX {
            self.failed.pop_first();
        }
        if self.turn == Turn::Suspect {
            // One of the same window; the suspect's turn comes first anyway.
            return;
        }
        self.in_vain += 1;
        self.followers_in_vain += 1;
        self.try_suspect(now, backoff, random);
        let doublings = self.followers_in_vain.saturating_sub(FOLLOWERS_IN_VAIN);
        if doublings > 0 {
            self.run_wanted = 4_u32.checked_shl(doublings).unwrap_or(MOST_PATIENCE).min(MOST_PATIENCE);
        }
    }

    /// A follower was taken.
    fn pass(&mut self, now: Instant, backoff: Backoff, random: f64) {
        self.passes += 1;
        self.in_vain = 0;
        self.followers_in_vain = 0;
        self.try_suspect(now, backoff, random);
    }

    fn try_suspect(&mut self, now: Instant, backoff: Backoff, random: f64) {
        self.run = 0;
        self.run_wanted = some_more(random);
        self.turn = Turn::Suspect;
        self.wait(now, backoff, random);
    }

    fn wait(&mut self, now: Instant, backoff: Backoff, random: f64) {
        let doubled = 1_u32.checked_shl(self.in_vain.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = backoff.min.saturating_mul(doubled).min(backoff.max);
        self.due = now + bound.mul_f64(random.clamp(0.0, 1.0));
    }

    fn dead(&self, how: &str) -> Dead {
        let (reason, story) = match &self.last {
            Failure::Refused { story, .. } => (REFUSED, story),
            Failure::HungUp { story } => (HUNG_UP, story),
            Failure::Unanswered { story } => (UNANSWERED, story),
        };
        let (tries, passes) = (self.failures, self.passes);
        Dead { seq: self.seq, reason, detail: format!("{story} ({how}: {tries} tries, {passes} others)") }
    }
}

/// 2 to 4.
fn some_more(random: f64) -> u32 {
    match random {
        low if low < 1.0 / 3.0 => 2,
        middle if middle < 2.0 / 3.0 => 3,
        _ => 4,
    }
}

#[cfg(test)]
#[path = "suspects_tests.rs"]
mod tests;
