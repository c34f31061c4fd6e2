//! Sessions: who owns which client id, and what outlives a connection.
//!
//! - A session's state ([`Kept`]) is owned by one connection at a time, through an async lock that it holds for its whole
//!   life. A client that connects again kicks the owner, which finishes what it had submitted to the store and lets go;
//!   so no two connections ever work on one session (MQTT 5, section 3.1.4).
//! - A session that ends with its connection is in memory alone. One that outlives it has a record in the store
//!   (subscriptions, expiry, limits, will, QoS 2 ids) and a queue there (see `connection/durable`); it gets both before
//!   its CONNACK. Every CONNECT writes the record anew, which says that the client is here, and whose commit comes after
//!   all that the connection before had submitted.
//! - When the client goes, the store is told so ([`Claim::leave`]): expiry and will delay count from that moment also
//!   across a restart. A client that was connected when the gateway died counts as having left at the start.
//! - The sweeper (see `sweep`) ends expired sessions and fires delayed wills, within a second. It claims a session like a
//!   connection does, so a client that comes back at that moment waits until the end is committed.
//! - There are at most [`SESSIONS_MAX`] sessions. Beyond that those that have been away longest, and for whom no message
//!   waits, end to make room, and are counted: clients that come with a new id each time must not lock all others out.
//!
//! A crash loses what memory alone has: sessions that end with their connections, whose connections have ended.

mod kept;
mod look;
mod sweep;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use prometheus::IntCounter;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use kept::decode_state;
pub(crate) use kept::{Kept, Receipt, Subscription};
pub(crate) use look::Whereabouts;
pub(crate) use sweep::sweep;

use super::{
    clients::Presence,
    fanout::{Fanout, Subscriber},
    limits::{EVICTED_AT_ONCE, SESSIONS_MAX, TAKEOVER},
};
use crate::{
    intake::{Intake, RestoredSession, SessionRecord, StoreError},
    message::Message,
};

/// One session.
#[derive(Debug)]
struct Session {
    subscriber: Arc<Subscriber>,
    kept: Arc<tokio::sync::Mutex<Kept>>,
}

#[derive(Debug)]
struct Slot {
    session: Arc<Session>,
    /// Number of the latest claim.
    claim: u64,
    /// Sends the latest claimant away; `None` while the client is away.
    kick: Option<CancellationToken>,
    /// The connection that owns the session, once its client was let in.
    presence: Option<Arc<Presence>>,
    /// Since when the client is away, while it is.
    left: Instant,
    /// When the session ends, while the client is away; `None` = never.
    expires: Option<Instant>,
    /// A will that waits for its delay.
    will: Option<(Instant, Message)>,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    map: Mutex<Map>,
    fanout: Arc<Fanout>,
    evictions: IntCounter,
    /// Rung when a session or a will got a time, for the sweeper.
    timed: Notify,
}

#[derive(Debug, Default)]
struct Map {
    slots: HashMap<ByteString, Slot>,
    last_claim: u64,
    /// Sessions that were evicted and whose places are not taken yet.
    evicted: usize,
}

/// Why a session could not be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    /// No room for another session.
    #[error("there are {SESSIONS_MAX} sessions already")]
    Full,
    /// The previous connection does not let go.
    #[error("the previous connection of this client id has not finished yet")]
    Busy,
    /// Another connection with the same client id came meanwhile.
    #[error("another connection with the same client id came")]
    TakenOver,
}

/// The right to a session, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Claim {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    number: u64,
    client_id: ByteString,
    pub(crate) kept: OwnedMutexGuard<Kept>,
    /// Seconds that the session outlives this claim; `u32::MAX` = for ever.
    pub(crate) expiry_s: u32,
    /// A will to be sent when its delay has passed, unless the client comes back before.
    pub(crate) delayed_will: Option<(Instant, Message)>,
}

impl Sessions {
    /// No sessions; those that give way to others are counted in `evictions`.
    pub(crate) fn new(fanout: Arc<Fanout>, evictions: IntCounter) -> Arc<Self> {
        Arc::new(Self { map: Mutex::default(), fanout, evictions, timed: Notify::new() })
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings back a session that the store remembered. A client that was connected when the gateway ended counts as
    /// having left now.
    pub(crate) fn restore(&self, restored: RestoredSession, now: Instant) {
        let RestoredSession { id, record, away_ms, head, next, sent } = restored;
        let SessionRecord { client_id, expiry_s, state, received, limits, will } = record;
        let subscriptions = decode_state(state).unwrap_or_else(|| {
            tracing::warn!(client = %client_id, "the subscriptions of a session could not be read back; it starts without");
            HashMap::new()
        });
        let subscriber = Subscriber::new(client_id.clone());
        subscriber.attach(id, head, next);
        for (filter, subscription) in &subscriptions {
            self.fanout.subscribe(&subscriber, filter, subscription.fanout_options());
        }
        let away = Duration::from_millis(away_ms.unwrap_or(0));
        let left = |seconds: u32| now + Duration::from_secs(u64::from(seconds)).saturating_sub(away);
        let due = will.as_ref().map(|will| (left(will.delay_s.min(expiry_s)), will.message.clone()));
        let receipt = Receipt { decided: true, counted: false };
        let kept = Kept {
            subscriptions,
            received: received.into_iter().map(|id| (id, receipt)).collect(),
            stored: Some(expiry_s),
            id: Some(id),
            will,
            limits,
            sent: sent.unwrap_or(next.saturating_sub(1)),
            resume: head,
            present: true,
            ..Kept::default()
        };
        let session = Arc::new(Session { subscriber, kept: Arc::new(tokio::sync::Mutex::new(kept)) });
        let slot = Slot {
            session,
            claim: 0,
            kick: None,
            presence: None,
            left: now.checked_sub(away).unwrap_or(now),
            expires: (expiry_s != u32::MAX).then(|| left(expiry_s)),
            will: due,
        };
        self.map().slots.insert(client_id, slot);
    }

    /// Whether a connection owns this client id, or waits for it.
    pub(crate) fn is_connected(&self, client_id: &str) -> bool {
        self.map().slots.get(client_id).is_some_and(|slot| slot.kick.is_some())
    }

    /// How many sessions there are, and of how many the client is connected.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let map = self.map();
        let connected = map.slots.values().filter(|slot| slot.kick.is_some()).count();
        (map.slots.len() as u64, connected as u64)
    }

    /// Takes the session of a client id over from whoever has it, and waits until they have let go.
    ///
    /// Gives back the will of the session as well, where it waited and the session ends here (`clean_start`, or expired).
    pub(crate) async fn claim(
        self: &Arc<Self>,
        client_id: &ByteString,
        clean_start: bool,
        kick: &CancellationToken,
    ) -> Result<(Claim, Option<Message>), ClaimError> {
        let (session, number, is_over) = self.enter(client_id, kick)?;
        let kept = tokio::select! {
            biased;
            () = kick.cancelled() => Err(ClaimError::TakenOver),
            kept = tokio::time::timeout(TAKEOVER, Arc::clone(&session.kept).lock_owned()) => {
                kept.map_err(|_| ClaimError::Busy)
            }
        };
        let mut kept = kept.inspect_err(|_| self.abandon(client_id, number))?;
        // Only now: whoever was taken over has put its will here on the way out.
        let will = self.take_will(client_id);
        kept.present &= !is_over;
        let expiry_s = kept.stored.filter(|_| !is_over).unwrap_or(0);
        let claim = Claim {
            sessions: Arc::clone(self),
            session,
            number,
            client_id: client_id.clone(),
            kept,
            expiry_s,
            delayed_will: None,
        };
        Ok((claim, will.filter(|_| clean_start || is_over)))
    }

    /// The session, the number of the claim, and whether the session had expired and only waits for its end.
    fn enter(&self, client_id: &ByteString, kick: &CancellationToken) -> Result<(Arc<Session>, u64, bool), ClaimError> {
        let mut map = self.map();
        map.last_claim += 1;
        let number = map.last_claim;
        if let Some(slot) = map.slots.get_mut(client_id) {
            if let Some(previous) = slot.kick.replace(kick.clone()) {
                previous.cancel();
            }
            slot.claim = number;
            let is_over = slot.expires.take().is_some_and(|at| at <= Instant::now());
            return Ok((Arc::clone(&slot.session), number, is_over));
        }
        if map.slots.len() >= SESSIONS_MAX {
            // The sweeper ends within a second what is evicted; until then there are so many sessions too many.
            if map.evicted == 0 {
                map.evicted = map.evict(Instant::now());
                self.evictions.inc_by(map.evicted as u64);
                self.timed.notify_one();
            }
            map.evicted = map.evicted.checked_sub(1).ok_or(ClaimError::Full)?;
        }
        let session = Arc::new(Session { subscriber: Subscriber::new(client_id.clone()), kept: Arc::default() });
        let (kick, left) = (Some(kick.clone()), Instant::now());
        let session_here = Arc::clone(&session);
        let slot = Slot { session: session_here, claim: number, kick, presence: None, left, expires: None, will: None };
        map.slots.insert(client_id.clone(), slot);
        Ok((session, number, false))
    }

    fn take_will(&self, client_id: &ByteString) -> Option<Message> {
        let mut map = self.map();
        map.slots.get_mut(client_id)?.will.take().map(|(_, message)| message)
    }

    /// A claimant gives up waiting; the owner's release will then settle the matter.
    fn abandon(&self, client_id: &ByteString, number: u64) {
        if let Some(slot) = self.map().slots.get_mut(client_id).filter(|slot| slot.claim == number) {
            slot.kick = None;
        }
    }
}

impl Map {
    /// Makes room: sessions whose clients have been away longest, and for whom nothing waits, are over. Gives their number.
    fn evict(&mut self, now: Instant) -> usize {
        let is_idle = |slot: &Slot| {
            slot.kick.is_none() && slot.expires.is_none_or(|at| at > now) && slot.session.subscriber.has_empty_queue()
        };
        let mut idle: Vec<&mut Slot> = self.slots.values_mut().filter(|slot| is_idle(slot)).collect();
        let count = idle.len().min(EVICTED_AT_ONCE);
        if count < idle.len() {
            idle.select_nth_unstable_by_key(count, |slot| slot.left);
        }
        idle.truncate(count);
        for slot in idle {
            slot.expires = Some(now);
        }
        count
    }
}

impl Claim {
    pub(crate) fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    pub(crate) fn subscriber(&self) -> &Arc<Subscriber> {
        &self.session.subscriber
    }

    /// The client is let in: from now on operators see its connection.
    pub(crate) fn announce(&self, presence: &Arc<Presence>) {
        if let Some(slot) = self.sessions.map().slots.get_mut(&self.client_id) {
            slot.presence = Some(Arc::clone(presence));
        }
    }

    /// Ends the session, in memory and in the store; a new one begins under the same claim.
    pub(crate) async fn end(&mut self, intake: &Intake) -> Result<(), StoreError> {
        self.kept.reset(&self.sessions.fanout, &self.session.subscriber);
        if self.kept.stored.is_some() {
            intake.delete_session(self.client_id.clone()).await?;
            (self.kept.stored, self.kept.id) = (None, None);
        }
        Ok(())
    }

    /// Writes the session into the store; the first time, its queue begins. Everything that was submitted before is
    /// committed then, too.
    pub(crate) async fn save(&mut self, intake: &Intake) -> Result<(), StoreError> {
        let record = self.kept.record(&self.client_id, self.expiry_s);
        // Before it is there: whoever gives up waiting must not take it for a session that the store does not know.
        self.kept.stored = Some(self.expiry_s);
        let id = intake.save_session(record).await?;
        if self.kept.id != Some(id) {
            self.kept.id = Some(id);
            self.kept.resume = 1;
            self.session.subscriber.attach(id, 1, 1);
        }
        Ok(())
    }

    /// Tells the store that the client is away from now on.
    pub(crate) async fn leave(&self, intake: &Intake) -> Result<(), StoreError> {
        match self.kept.id {
            Some(id) => intake.session_left(id, self.kept.sent).await,
            None => Ok(()),
        }
    }
}

impl Drop for Claim {
    /// Also what a panic of the connection leaves behind: the session is away, or gone.
    fn drop(&mut self) {
        let Self { sessions, session, number, client_id, kept, expiry_s, delayed_will } = self;
        sessions.fanout.disconnect(&session.subscriber, &mut VecDeque::new());
        // What is still in the store is ended by the sweeper, for that takes a commit.
        let over = *expiry_s == 0 && kept.stored.is_none();
        if over {
            kept.reset(&sessions.fanout, &session.subscriber);
        }
        let mut map = sessions.map();
        let Some(slot) = map.slots.get_mut(client_id) else { return };
        // A successor says that it is here only once it has the session, so this is our own.
        slot.presence = None;
        if slot.claim != *number && slot.kick.is_some() {
            // The successor decides: a clean start ends the session, and then the will is due (MQTT 5, section 3.1.3.2.2).
            slot.will = delayed_will.take();
            sessions.timed.notify_one();
            return;
        }
        if over {
            map.slots.remove(client_id);
        } else {
            slot.kick = None;
            slot.left = Instant::now();
            slot.expires = expires(slot.left, *expiry_s);
            slot.will = delayed_will.take();
            sessions.timed.notify_one();
        }
    }
}

fn expires(now: Instant, expiry_s: u32) -> Option<Instant> {
    (expiry_s != u32::MAX).then(|| now + Duration::from_secs(u64::from(expiry_s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::metrics::Drops;

    #[tokio::test]
    async fn a_second_claim_waits_for_the_first_to_let_go() {
        let sessions = Sessions::new(Arc::new(Fanout::new(Drops::unregistered())), IntCounter::new("e", "e").unwrap());
        let id = ByteString::from("c");
        let (first_kick, second_kick) = (CancellationToken::new(), CancellationToken::new());
        let (mut first, _) = sessions.claim(&id, false, &first_kick).await.unwrap();
        first.kept.present = true;
        first.expiry_s = 60;
        let second = {
            let (sessions, id, kick) = (Arc::clone(&sessions), id.clone(), second_kick.clone());
            tokio::spawn(async move { sessions.claim(&id, false, &kick).await.map(|(claim, _)| claim) })
        };
        first_kick.cancelled().await;
        drop(first);
        let mut second = second.await.unwrap().unwrap();
        assert!(second.kept.present && sessions.is_connected("c"));
        second.expiry_s = 0;
        drop(second);
        assert!(!sessions.is_connected("c") && sessions.map().slots.is_empty());
    }

    #[tokio::test]
    async fn a_claimant_that_is_taken_over_itself_gives_up() {
        let sessions = Sessions::new(Arc::new(Fanout::new(Drops::unregistered())), IntCounter::new("e", "e").unwrap());
        let id = ByteString::from("c");
        let owner = sessions.claim(&id, false, &CancellationToken::new()).await.unwrap().0;
        let kick = CancellationToken::new();
        kick.cancel();
        assert_eq!(sessions.claim(&id, false, &kick).await.map(|_| ()), Err(ClaimError::TakenOver));
        drop(owner);
        assert!(!sessions.is_connected("c"));
    }

    #[tokio::test]
    async fn sessions_away_longest_for_which_nothing_waits_make_room() {
        let evictions = IntCounter::new("e", "e").unwrap();
        let sessions = Sessions::new(Arc::new(Fanout::new(Drops::unregistered())), evictions.clone());
        let now = Instant::now();
        for number in 0..SESSIONS_MAX as u64 {
            // The first ones have been away longest, and have something waiting.
            let away_ms = Some(1_000_000 - number);
            let next = if number < 10 { 2 } else { 1 };
            sessions.restore(restored(&number.to_string(), u32::MAX, away_ms, next), now);
        }
        let kick = CancellationToken::new();
        for number in 0..EVICTED_AT_ONCE {
            let id = ByteString::from(format!("new {number}"));
            let claimed = sessions.claim(&id, false, &kick).await;
            assert!(claimed.is_ok(), "{number}");
            std::mem::forget(claimed);
        }
        assert_eq!(evictions.get(), EVICTED_AT_ONCE as u64);
        let over = |id: u64| sessions.map().slots[&*id.to_string()].expires.is_some_and(|at| at <= Instant::now());
        assert!((0..10).all(|id| !over(id)) && (10..10 + EVICTED_AT_ONCE as u64).all(over));
        assert!(!over(10 + EVICTED_AT_ONCE as u64));
    }

    fn restored(client_id: &str, expiry_s: u32, away_ms: Option<u64>, next: u64) -> RestoredSession {
        let will = crate::intake::SessionWill {
            message: Message {
                topic: crate::topic::TopicName::new("w").unwrap(),
                payload: bytes::Bytes::new(),
                qos: crate::message::QoS::AtLeastOnce,
                retain: false,
                client: client_id.into(),
                properties: None,
            },
            delay_s: 30,
        };
        let record = SessionRecord {
            client_id: client_id.into(),
            expiry_s,
            state: bytes::Bytes::from_static(&[1]),
            received: vec![7],
            limits: crate::intake::QueueLimits::default(),
            will: Some(will),
        };
        let id = crate::intake::SessionId(1);
        RestoredSession { id, record, away_ms, head: 1, next, sent: None }
    }

    #[test]
    fn expiry_and_will_delay_count_from_when_the_client_left() {
        let sessions = Sessions::new(Arc::new(Fanout::new(Drops::unregistered())), IntCounter::new("e", "e").unwrap());
        let now = Instant::now();
        sessions.restore(restored("left", 100, Some(25_000), 5), now);
        sessions.restore(restored("was here", 100, None, 5), now);
        sessions.restore(restored("short", 10, Some(4_000), 5), now);
        let seconds = |id: &str| {
            let map = sessions.map();
            let slot = &map.slots[id];
            let of = |at: Instant| at.duration_since(now).as_secs();
            (slot.expires.map(of), slot.will.as_ref().map(|(at, _)| of(*at)))
        };
        assert_eq!(seconds("left"), (Some(75), Some(5)));
        assert_eq!(seconds("was here"), (Some(100), Some(30)));
        assert_eq!(seconds("short"), (Some(6), Some(6)), "a will is due when the session ends");
        let kept = sessions.map().slots["left"].session.kept.clone();
        let kept = kept.try_lock().unwrap();
        assert_eq!((kept.sent, kept.resume), (4, 1), "any of them may have been sent");
    }
}
