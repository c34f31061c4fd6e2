//! Sessions: who owns which client id, and what outlives a connection.
//!
//! - A session's state ([`Kept`]) is owned by one connection at a time, through an async lock that it holds for its whole
//!   life. A client that connects again kicks the owner, which finishes what it had submitted to the store and lets go;
//!   so no two connections ever work on one session (MQTT 5, section 3.1.4).
//! - What must survive a crash (subscriptions, expiry, QoS 2 ids) is in the store; the queue and the window of outgoing
//!   messages are in memory and bounded. Sessions are restored at start, and their expiry counts from then.
//! - The sweeper ends expired sessions and fires delayed wills, once a second. It claims a session like a connection
//!   does, so a client that comes back at that moment waits until the end is committed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::{
    connection::Outgoing,
    fanout::{Fanout, Options, Subscriber},
    hub::Hub,
    limits::{SESSIONS_MAX, TAKEOVER},
    packet::SubscribeOptions,
};
use crate::{
    intake::{Intake, QueueLimits, SessionRecord, StoreError},
    message::Message,
    topic::TopicFilter,
};

/// What a session remembers between connections.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) subscriptions: HashMap<TopicFilter, Subscription>,
    pub(crate) outgoing: Outgoing,
    /// Bytes of `outgoing` that count in the bound over all sessions.
    pub(crate) counted: usize,
    /// QoS 2 packet ids that arrived and are not released.
    pub(crate) received: HashMap<u16, Receipt>,
    /// The session expiry in the store's record; `None` where there is no record.
    pub(crate) stored: Option<u32>,
    /// Whether there is a session to resume.
    pub(crate) present: bool,
}

/// One subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: SubscribeOptions,
    pub(crate) id: Option<u32>,
}

/// A QoS 2 message between PUBLISH and PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Whether the message is safe; until then the id must not come again.
    pub(crate) decided: bool,
    /// Whether it counts in the Receive Maximum of this connection.
    pub(crate) counted: bool,
}

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
}

#[derive(Debug, Default)]
struct Map {
    slots: HashMap<ByteString, Slot>,
    last_claim: u64,
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

impl Kept {
    /// Ends the session in memory.
    fn reset(&mut self, fanout: &Fanout, subscriber: &Arc<Subscriber>) {
        for filter in self.subscriptions.keys() {
            fanout.unsubscribe(subscriber, filter);
        }
        fanout.clear(subscriber);
        fanout.recount(&mut self.counted, 0);
        *self = Self { stored: self.stored, ..Self::default() };
    }

    /// What the store remembers of the session, beside its QoS 2 ids.
    pub(crate) fn record(&self, client_id: &ByteString, expiry_s: u32) -> SessionRecord {
        let mut state = BytesMut::new();
        state.put_u8(STATE_VERSION);
        for (filter, subscription) in &self.subscriptions {
            state.put_u8(subscription.options.bits());
            state.put_u32(subscription.id.unwrap_or(0));
            state.put_u16(u16::try_from(filter.as_str().len()).expect("a filter has at most 65 535 bytes"));
            state.put_slice(filter.as_str().as_bytes());
        }
        SessionRecord {
            client_id: client_id.clone(),
            expiry_s,
            state: state.freeze(),
            received: Vec::new(),
            limits: QueueLimits::default(),
            will: None,
        }
    }
}

const STATE_VERSION: u8 = 1;

fn decode_state(mut state: Bytes) -> Option<HashMap<TopicFilter, Subscription>> {
    if state.try_get_u8().ok()? != STATE_VERSION {
        return None;
    }
    let mut subscriptions = HashMap::new();
    while state.has_remaining() {
        let options = SubscribeOptions::from_bits(state.try_get_u8().ok()?)?;
        let id = Some(state.try_get_u32().ok()?).filter(|id| *id != 0);
        let len = usize::from(state.try_get_u16().ok()?);
        if state.remaining() < len {
            return None;
        }
        let text = ByteString::from(std::str::from_utf8(&state.split_to(len)).ok()?);
        subscriptions.insert(TopicFilter::new(text).ok()?, Subscription { options, id });
    }
    Some(subscriptions)
}

impl Subscription {
    pub(crate) fn fanout_options(self) -> Options {
        Options {
            qos: self.options.qos,
            no_local: self.options.no_local,
            retain_as_published: self.options.retain_as_published,
            id: self.id,
        }
    }
}

impl Sessions {
    pub(crate) fn new(fanout: Arc<Fanout>) -> Arc<Self> {
        Arc::new(Self { map: Mutex::default(), fanout })
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings back a session that the store remembered.
    pub(crate) fn restore(&self, record: SessionRecord, now: Instant) {
        let SessionRecord { client_id, expiry_s, state, received, limits: _, will: _ } = record;
        let subscriptions = decode_state(state).unwrap_or_else(|| {
            tracing::warn!(%client_id, "the subscriptions of a session could not be read back; it starts without");
            HashMap::new()
        });
        let subscriber = Subscriber::new(client_id.clone());
        for (filter, subscription) in &subscriptions {
            self.fanout.subscribe(&subscriber, filter, subscription.fanout_options());
        }
        let receipt = Receipt { decided: true, counted: false };
        let kept = Kept {
            subscriptions,
            received: received.into_iter().map(|id| (id, receipt)).collect(),
            stored: Some(expiry_s),
            present: true,
            ..Kept::default()
        };
        let session = Arc::new(Session { subscriber, kept: Arc::new(tokio::sync::Mutex::new(kept)) });
        let slot = Slot { session, claim: 0, kick: None, expires: expires(now, expiry_s), will: None };
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
            return Err(ClaimError::Full);
        }
        let session = Arc::new(Session { subscriber: Subscriber::new(client_id.clone()), kept: Arc::default() });
        let slot =
            Slot { session: Arc::clone(&session), claim: number, kick: Some(kick.clone()), expires: None, will: None };
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

    /// Wills whose delay has passed, of clients that are away.
    fn due_wills(&self, now: Instant) -> Vec<Message> {
        let mut map = self.map();
        let is_due = |slot: &&mut Slot| slot.kick.is_none() && slot.will.as_ref().is_some_and(|(at, _)| *at <= now);
        let due = map.slots.values_mut().filter(is_due);
        due.filter_map(|slot| slot.will.take()).map(|(_, message)| message).collect()
    }

    /// Claims one session that has expired, with its will.
    fn claim_expired(self: &Arc<Self>, now: Instant) -> Option<(Claim, Option<Message>)> {
        let mut map = self.map();
        map.last_claim += 1;
        let number = map.last_claim;
        let over = |slot: &Slot| slot.kick.is_none() && slot.expires.is_some_and(|at| at <= now);
        let (client_id, slot) = map.slots.iter_mut().find(|(_, slot)| over(slot))?;
        let kept = Arc::clone(&slot.session.kept).try_lock_owned().ok()?;
        slot.claim = number;
        slot.kick = Some(CancellationToken::new());
        let will = slot.will.take().map(|(_, message)| message);
        let claim = Claim {
            sessions: Arc::clone(self),
            session: Arc::clone(&slot.session),
            number,
            client_id: client_id.clone(),
            kept,
            expiry_s: 0,
            delayed_will: None,
        };
        Some((claim, will))
    }
}

impl Claim {
    pub(crate) fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    pub(crate) fn subscriber(&self) -> &Arc<Subscriber> {
        &self.session.subscriber
    }

    /// Ends the session, in memory and in the store; a new one begins under the same claim.
    pub(crate) async fn end(&mut self, intake: &Intake) -> Result<(), StoreError> {
        self.kept.reset(&self.sessions.fanout, &self.session.subscriber);
        if self.kept.stored.is_some() {
            intake.delete_session(self.client_id.clone()).await?;
            self.kept.stored = None;
        }
        Ok(())
    }

    /// Writes the session into the store.
    pub(crate) async fn save(&mut self, intake: &Intake) -> Result<(), StoreError> {
        intake.save_session(self.kept.record(&self.client_id, self.expiry_s)).await?;
        self.kept.stored = Some(self.expiry_s);
        Ok(())
    }
}

impl Drop for Claim {
    /// Also what a panic of the connection leaves behind: the session is away, or gone.
    fn drop(&mut self) {
        let Self { sessions, session, number, client_id, kept, expiry_s, delayed_will } = self;
        sessions.fanout.disconnect(&session.subscriber, &mut std::collections::VecDeque::new());
        // What is still in the store is ended by the sweeper, for that takes a commit.
        let over = *expiry_s == 0 && kept.stored.is_none();
        if over {
            kept.reset(&sessions.fanout, &session.subscriber);
        }
        let mut map = sessions.map();
        let Some(slot) = map.slots.get_mut(client_id) else { return };
        if slot.claim != *number && slot.kick.is_some() {
            // The successor decides: a clean start ends the session, and then the will is due (MQTT 5, section 3.1.3.2.2).
            slot.will = delayed_will.take();
            return;
        }
        if over {
            map.slots.remove(client_id);
        } else {
            slot.kick = None;
            slot.expires = expires(Instant::now(), *expiry_s);
            slot.will = delayed_will.take();
        }
    }
}

fn expires(now: Instant, expiry_s: u32) -> Option<Instant> {
    (expiry_s != u32::MAX).then(|| now + Duration::from_secs(u64::from(expiry_s)))
}

/// Ends expired sessions and fires delayed wills until the broker stops.
pub(crate) async fn sweep(hub: Arc<Hub>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = hub.stopping.cancelled() => return,
        }
        let now = Instant::now();
        for will in hub.sessions.due_wills(now) {
            // The publisher ends only when the broker stops, and then no wills are sent.
            let _ = hub.publisher.send(will).await;
        }
        while let Some((mut claim, will)) = hub.sessions.claim_expired(now) {
            if let Some(will) = will {
                let _ = hub.publisher.send(will).await;
            }
            if let Err(error) = claim.end(&hub.intake).await {
                tracing::debug!(client_id = %claim.client_id, %error, "expired session not deleted");
                break;
            }
            hub.metrics.sessions_expired.inc();
            tracing::debug!(client_id = %claim.client_id, "session expired");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::metrics::Drops;

    #[test]
    fn subscriptions_come_back_as_they_were_stored() {
        let mut kept = Kept::default();
        for (text, bits, id) in [("a/+/#", 0b0010_1101, Some(7)), ("b", 0, None)] {
            let options = SubscribeOptions::from_bits(bits).unwrap();
            kept.subscriptions.insert(TopicFilter::new(text).unwrap(), Subscription { options, id });
        }
        let record = kept.record(&"c".into(), 5);
        assert_eq!(decode_state(record.state.clone()), Some(kept.subscriptions));
        for len in 1..record.state.len() {
            let _ = decode_state(record.state.slice(..len));
        }
        assert_eq!(decode_state(Bytes::new()), None);
    }

    #[tokio::test]
    async fn a_second_claim_waits_for_the_first_to_let_go() {
        let sessions = Sessions::new(Arc::new(Fanout::new(Drops::unregistered())));
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
        let sessions = Sessions::new(Arc::new(Fanout::new(Drops::unregistered())));
        let id = ByteString::from("c");
        let owner = sessions.claim(&id, false, &CancellationToken::new()).await.unwrap().0;
        let kick = CancellationToken::new();
        kick.cancel();
        assert_eq!(sessions.claim(&id, false, &kick).await.map(|_| ()), Err(ClaimError::TakenOver));
        drop(owner);
        assert!(!sessions.is_connected("c"));
    }
}
