//! The sweeper: what only time brings about - the ends of sessions, delayed wills, retained messages that expire. It looks at most once a
//! second, and not at all while nothing has a time: whoever gives something one rings its bell.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytestring::ByteString;
use tokio::{sync::OwnedMutexGuard, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Claim, Kept, Sessions, Slot};
use crate::{
    beat,
    broker::{
        hub::Hub,
        limits::{FORGOTTEN_AT_ONCE, WILLS_AT_ONCE},
    },
    message::Message,
};

/// Shortest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A delayed will whose time has come; its session is held meanwhile.
struct DueWill {
    client_id: ByteString,
    kept: OwnedMutexGuard<Kept>,
    message: Message,
}

/// Ends expired sessions, fires delayed wills and forgets expired retained messages until the broker stops.
pub(crate) async fn sweep(hub: Arc<Hub>) {
    let work = async {
        loop {
            round(&hub).await;
            until_something_is_due(&hub).await;
            beat::wait(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = hub.stopping.cancelled() => {}
    }
}

async fn until_something_is_due(hub: &Hub) {
    let due = [hub.sessions.next_due(), hub.retained.next_expiry()].into_iter().flatten().min();
    let time = async {
        match due {
            Some(at) => sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => {}
        () = hub.sessions.timed.notified() => {}
        () = hub.retained.timed.notified() => {}
    }
}

async fn round(hub: &Arc<Hub>) {
    let now = Instant::now();
    fire_wills(hub, now).await;
    for client_id in hub.sessions.expired(now) {
        let Some((mut claim, will)) = hub.sessions.claim_expired(&client_id, now) else { continue };
        if let Some(will) = will {
            hub.publish(will).await;
        }
        if let Err(error) = claim.end(&hub.intake).await {
            tracing::debug!(client = %client_id, %error, "expired session not deleted");
            return;
        }
        hub.metrics.sessions_expired.inc();
        tracing::debug!(client = %client_id, "session expired");
    }
    loop {
        let expired = hub.retained.take_expired(Instant::now(), FORGOTTEN_AT_ONCE);
        if expired.is_empty() {
            return;
        }
        if let Err(error) = hub.intake.forget_retained(expired).await {
            tracing::debug!(%error, "expired retained messages not deleted");
            return;
        }
    }
}

/// Side by side, for each waits for its commit.
async fn fire_wills(hub: &Arc<Hub>, now: Instant) {
    loop {
        let due = hub.sessions.due_wills(now, WILLS_AT_ONCE);
        if due.is_empty() {
            return;
        }
        let mut firing = JoinSet::new();
        for will in due {
            firing.spawn(fire(Arc::clone(hub), will));
        }
        while firing.join_next().await.is_some() {}
    }
}

/// Publishes a will, and then takes it off the session's record: a crash in between publishes it twice, never not at all.
async fn fire(hub: Arc<Hub>, due: DueWill) {
    let DueWill { client_id, mut kept, message } = due;
    hub.publish(message).await;
    let (Some(id), Some(_)) = (kept.id, kept.will.take()) else { return };
    if let Err(error) = hub.intake.forget_will(id).await {
        tracing::debug!(client = %client_id, %error, "the will of a session was published and not taken off its record");
    }
}

impl Sessions {
    /// When the first session or will is due.
    fn next_due(&self) -> Option<Instant> {
        let map = self.map();
        let times = map.slots.values().flat_map(|slot| [slot.expires, slot.will.as_ref().map(|(at, _)| *at)]);
        times.flatten().min()
    }

    /// Up to `most` wills whose delay has passed, of clients that are away.
    fn due_wills(&self, now: Instant, most: usize) -> Vec<DueWill> {
        let mut map = self.map();
        let is_due = |slot: &Slot| slot.kick.is_none() && slot.will.as_ref().is_some_and(|(at, _)| *at <= now);
        let due = map.slots.iter_mut().filter(|(_, slot)| is_due(slot)).filter_map(|(client_id, slot)| {
            let kept = Arc::clone(&slot.session.kept).try_lock_owned().ok()?;
            let (_, message) = slot.will.take()?;
            Some(DueWill { client_id: client_id.clone(), kept, message })
        });
        due.take(most).collect()
    }

    /// Sessions whose time is over.
    fn expired(&self, now: Instant) -> Vec<ByteString> {
        let map = self.map();
        let over = map.slots.iter().filter(|(_, slot)| slot.is_over(now));
        over.map(|(client_id, _)| client_id.clone()).collect()
    }

    /// Claims a session that has expired, with its will; `None` where its client has come back meanwhile.
    fn claim_expired(self: &Arc<Self>, client_id: &ByteString, now: Instant) -> Option<(Claim, Option<Message>)> {
        let mut map = self.map();
        map.last_claim += 1;
        let number = map.last_claim;
        let slot = map.slots.get_mut(client_id).filter(|slot| slot.is_over(now))?;
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

impl Slot {
    fn is_over(&self, now: Instant) -> bool {
        self.kick.is_none() && self.expires.is_some_and(|at| at <= now)
    }
}
