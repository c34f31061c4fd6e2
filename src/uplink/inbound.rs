//! What comes down an uplink: subscriptions, the messages that they bring, and our answers to them.
//!
//! Two ends of bounded channels. The forwarder holds an [`Inbound`] for as long as it lives, for it owns the connection; the
//! station `crate::downlink` holds the [`Arrivals`], for it owns the commits. Neither waits for the other:
//!
//! - What arrives is put into a queue of [`INBOX_MESSAGES`] and [`INBOX_BYTES`]. An upstream of MQTT 5 is told to have no more than
//!   [`RECEIVE_MAXIMUM`] messages unacknowledged, so it never fills that. One of MQTT 3.1.1 cannot be told: what does not fit is left
//!   unacknowledged, with everything that comes after it on this connection, and when the queue is empty the connection is made
//!   anew, whereupon the upstream sends it again. QoS 0 has no such second chance, and is counted as lost.
//! - Answers go back through a queue of as many places. Each arrival and each answer carries the *epoch* of its connection: an
//!   answer to a connection that is gone is dropped, for the upstream sends the message again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Greeting;
use crate::{
    message::{Message, QoS},
    topic::TopicFilter,
};

/// Most messages that an upstream of MQTT 5 may send before the first is acknowledged.
pub const RECEIVE_MAXIMUM: u16 = 64;

/// Messages and releases that may wait for the station.
pub const INBOX_MESSAGES: usize = 256;

/// Bytes of messages that may wait for the station.
pub const INBOX_BYTES: usize = 16 << 20;

/// What is asked of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// What to send.
    pub filter: TopicFilter,
    /// Highest QoS of it.
    pub qos: QoS,
}

/// What came down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrived {
    /// A message, under this id (0 at QoS 0). `Err` with the reason where its topic is none, or it is larger than we take.
    Message {
        /// The packet id.
        id: u16,
        /// Its QoS, also where there is no message.
        qos: QoS,
        /// The message, with the topic that it has upstream, and without a client.
        message: Result<Message, &'static str>,
    },
    /// The upstream will not send the message of this id again (MQTT: PUBREL).
    Released(u16),
}

/// The kinds of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// It is ours now (MQTT: PUBACK).
    Acknowledged,
    /// It is ours now, and its id is remembered until it is released (MQTT: PUBREC).
    Received,
    /// Its id is forgotten (MQTT: PUBCOMP).
    Completed,
}

/// An answer to what arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The connection that it is for.
    pub epoch: u64,
    /// Which.
    pub kind: AnswerKind,
    /// To which message.
    pub id: u16,
    /// MQTT 5 reason code.
    pub code: u8,
}

/// The connection that messages come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number; 0 before the first.
    pub epoch: u64,
    /// Where to.
    pub url: String,
    /// The connection that the upstream's session began with; 0 where that was before the first. The ids of messages that were received in
    /// an earlier session mean nothing any more.
    pub session_since: u64,
}

/// Something that arrived, with its share of the queue.
#[derive(Debug)]
pub struct Arrival {
    /// The connection that brought it.
    pub epoch: u64,
    /// What it is.
    pub what: Arrived,
    _room: Option<OwnedSemaphorePermit>,
}

/// The forwarder's end.
#[derive(Debug)]
pub struct Inbound {
    subscriptions: Vec<Subscription>,
    /// What may have been asked for before, and is not any more.
    unwanted: Vec<TopicFilter>,
    link: watch::Sender<Link>,
    /// For each address, the connection that its session began with.
    sessions: HashMap<String, u64>,
    arrivals: mpsc::Sender<Arrival>,
    room: Arc<Semaphore>,
    answers: mpsc::Receiver<Answer>,
    lost: Arc<AtomicU64>,
    /// Something of this connection was left unacknowledged for want of room.
    overflowed: bool,
}

/// The station's end.
#[derive(Debug)]
pub struct Arrivals {
    /// The present connection.
    pub link: watch::Receiver<Link>,
    /// What arrives.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// The way back.
    pub answers: mpsc::Sender<Answer>,
    /// QoS 0 messages that found no room.
    pub lost: Arc<AtomicU64>,
}

/// Both ends of one uplink.
pub fn inbound(subscriptions: Vec<Subscription>) -> (Inbound, Arrivals) {
    let (link, connection) = watch::channel(Link::default());
    let (arrivals, arriving) = mpsc::channel(INBOX_MESSAGES);
    let (answers, answering) = mpsc::channel(INBOX_MESSAGES);
    let (room, lost) = (Arc::new(Semaphore::new(INBOX_BYTES)), Arc::<AtomicU64>::default());
    let theirs = Arrivals { link: connection, arrivals: arriving, answers, lost: Arc::clone(&lost) };
    let sessions = HashMap::new();
    (
        Inbound {
            subscriptions,
            unwanted: Vec::new(),
            link,
            sessions,
            arrivals,
            room,
            answers: answering,
            lost,
            overflowed: false,
        },
        theirs,
    )
}

impl Inbound {
    /// What is to be asked of the upstream.
    pub fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// What the upstream is to be told that it is not asked for any more, where it still knows us.
    pub fn unwanted(&self) -> &[TopicFilter] {
        &self.unwanted
    }

    /// The same, and these are not asked for any more.
    #[must_use]
    pub fn without(self, unwanted: Vec<TopicFilter>) -> Self {
        Self { unwanted, ..self }
    }

    /// A connection begins.
    pub fn connected(&mut self, greeting: &Greeting) {
        self.overflowed = false;
        let (epoch, url) = (self.link.borrow().epoch + 1, greeting.url.clone());
        if !greeting.session_present {
            self.sessions.insert(url.clone(), epoch);
        }
        let session_since = self.sessions.get(&url).copied().unwrap_or(0);
        self.link.send_replace(Link { epoch, url, session_since });
    }

    /// Something arrived on it.
    pub fn arrived(&mut self, what: Arrived) {
        let is_expendable = matches!(what, Arrived::Message { qos: QoS::AtMostOnce, .. });
        if self.overflowed && !is_expendable {
            return;
        }
        let bytes = match &what {
            Arrived::Message { message: Ok(message), .. } => message.footprint().min(INBOX_BYTES),
            Arrived::Message { .. } | Arrived::Released(_) => 0,
        };
        let room =
            u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(&self.room).try_acquire_many_owned(bytes).ok());
        let epoch = self.link.borrow().epoch;
        let has_room = room.is_some() && self.arrivals.try_send(Arrival { epoch, what, _room: room }).is_ok();
        if !has_room && is_expendable {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if !has_room {
            self.overflowed = true;
        }
    }

    /// Whether something was left unacknowledged on the connection.
    pub const fn has_left_behind(&self) -> bool {
        self.overflowed
    }

    /// Whether the connection is to be made anew, for what was left unacknowledged on it.
    pub fn wants_again(&self) -> bool {
        self.overflowed && self.arrivals.capacity() == self.arrivals.max_capacity()
    }

    /// The next answer for the present connection; never where nobody answers. Cancel safe.
    pub async fn answer(&mut self) -> Answer {
        let epoch = self.link.borrow().epoch;
        loop {
            match self.answers.recv().await {
                Some(answer) if answer.epoch == epoch => return answer,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;

    fn greeting(session_present: bool) -> Greeting {
        Greeting {
            url: "mqtt://up".to_owned(),
            address: 1,
            resumed: false,
            session_present,
            window: 1,
            qos: QoS::AtLeastOnce,
            retain_available: true,
        }
    }

    fn message(qos: QoS, id: u16) -> Arrived {
        let topic = TopicName::new("t").unwrap();
        let (payload, client) = (bytes::Bytes::from_static(b"p"), "".into());
        let message = Message { topic, payload, qos, retain: false, client, properties: None };
        Arrived::Message { id, qos, message: Ok(message) }
    }

    #[test]
    fn what_finds_no_room_is_left_with_everything_after_it_until_the_next_connection() {
        let (mut ours, mut theirs) = inbound(Vec::new());
        ours.connected(&greeting(false));
        let most = u16::try_from(INBOX_MESSAGES).unwrap();
        for id in 1..=most + 5 {
            ours.arrived(message(QoS::AtLeastOnce, id));
        }
        ours.arrived(message(QoS::AtMostOnce, 0));
        assert!(!ours.wants_again(), "not before what is here has gone");
        assert_eq!(theirs.lost.load(Ordering::Relaxed), 1);
        let first = theirs.arrivals.try_recv().unwrap();
        assert!(matches!(first.what, Arrived::Message { id: 1, .. }) && first.epoch == 1);
        ours.arrived(message(QoS::AtLeastOnce, 900));
        ours.arrived(message(QoS::AtMostOnce, 0));
        let rest: Vec<_> = std::iter::from_fn(|| theirs.arrivals.try_recv().ok()).map(|it| it.what).collect();
        let numbers = |it: &Arrived| matches!(it, Arrived::Message { id, .. } if *id > 0 && *id <= most);
        assert_eq!(rest.iter().filter(|it| numbers(it)).count(), INBOX_MESSAGES - 1, "in order, and none from behind");
        assert_eq!(rest.last(), Some(&message(QoS::AtMostOnce, 0)));
        assert!(ours.wants_again());
        ours.connected(&greeting(true));
        assert!(!ours.wants_again());
        ours.arrived(message(QoS::AtLeastOnce, 7));
        assert_eq!(theirs.arrivals.try_recv().unwrap().epoch, 2);
    }

    #[test]
    fn a_session_that_began_unseen_is_known() {
        let (mut ours, theirs) = inbound(Vec::new());
        let since = || (theirs.link.borrow().epoch, theirs.link.borrow().session_since);
        let other = Greeting { url: "mqtt://other".to_owned(), ..greeting(true) };
        ours.connected(&greeting(true));
        assert_eq!(since(), (1, 0), "it may be older than this process");
        // Nobody looks at the second.
        ours.connected(&greeting(false));
        ours.connected(&greeting(true));
        assert_eq!(since(), (3, 2));
        ours.connected(&other);
        assert_eq!(since(), (4, 0), "each address has its own");
    }

    #[tokio::test]
    async fn answers_to_connections_that_are_gone_are_dropped() {
        let (mut ours, theirs) = inbound(Vec::new());
        ours.connected(&greeting(false));
        ours.connected(&greeting(false));
        for epoch in [1, 2] {
            let answer = Answer { epoch, kind: AnswerKind::Acknowledged, id: u16::try_from(epoch).unwrap(), code: 0 };
            theirs.answers.try_send(answer).unwrap();
        }
        assert_eq!(ours.answer().await.id, 2);
    }
}
