//! Looking at sessions from outside, as operators do.

use std::{sync::Arc, time::Instant};

use bytestring::ByteString;

use super::{Sessions, Slot};
use crate::{
    broker::clients::{Chosen, Presence},
    stats::ClientQuestion,
};

/// Where a client is.
#[derive(Debug)]
pub(crate) enum Whereabouts {
    /// It is connected.
    Here(Arc<Presence>),
    /// It has a session.
    Away,
}

impl Sessions {
    /// Whether a client is connected; `None` where nobody has this id.
    pub(crate) fn whereabouts(&self, client_id: &str) -> Option<Whereabouts> {
        let map = self.map();
        map.slots.get(client_id).map(|slot| slot.presence.clone().map_or(Whereabouts::Away, Whereabouts::Here))
    }

    /// The sessions of a page, in the order of their client ids; how many clients are connected, and away; whether more follow.
    pub(crate) fn choose(&self, question: &ClientQuestion, now: Instant) -> (Vec<Chosen>, u64, u64, bool) {
        let map = self.map();
        let (mut connected, mut away) = (0, 0);
        let mut found: Vec<(&ByteString, &Slot)> = Vec::new();
        for (client_id, slot) in &map.slots {
            let is_connected = slot.presence.is_some();
            if !is_connected && !slot.is_away(now) {
                continue;
            }
            *(if is_connected { &mut connected } else { &mut away }) += 1;
            let is_wanted = if is_connected { question.connected } else { question.away };
            if is_wanted && question.after.as_deref().is_none_or(|after| &**client_id > after) {
                found.push((client_id, slot));
            }
        }
        let more = found.len() > question.limit;
        if more {
            found.select_nth_unstable_by_key(question.limit, |(client_id, _)| *client_id);
            found.truncate(question.limit);
        }
        found.sort_unstable_by_key(|(client_id, _)| *client_id);
        (found.into_iter().map(|(client_id, slot)| slot.chosen(client_id)).collect(), connected, away, more)
    }
}

impl Slot {
    /// Whether the client is away and has a session that is not over. One that is being let in is neither away nor connected.
    fn is_away(&self, now: Instant) -> bool {
        self.kick.is_none() && self.expires.is_none_or(|at| at > now)
    }

    fn chosen(&self, client_id: &ByteString) -> Chosen {
        let subscriber = &self.session.subscriber;
        Chosen {
            client_id: client_id.to_string(),
            presence: self.presence.clone(),
            left: self.left,
            ends: self.expires,
            queue: subscriber.session(),
            mailbox: subscriber.waiting_in_memory(),
            // Nobody holds what belongs to a client that is away, but for a moment when its time is over.
            subscriptions: self.session.kept.try_lock().map_or(0, |kept| kept.subscriptions.len()),
        }
    }
}
