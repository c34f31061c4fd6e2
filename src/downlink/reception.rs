//! Reception: from an uplink into the store, and the acknowledgement back when that is committed.
//!
//! Batch by batch: what has arrived is decided by the store in one go, answered in the order of its arrival, and then the next is
//! taken. While the store holds something back nothing more is taken, and the upstream sends no more; when the connection is
//! lost meanwhile, what was held is forgotten, for the upstream sends it again.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Queue, Settings, ids_of, metrics::Refused};
use crate::{
    broker::Locals,
    message::{Message, QoS},
    store::{self, Entry, Lane, OnRefusal, Outcome, Publish, Returns, SessionCopy, StoreError},
    uplink::{Answer, AnswerKind, Arrival, Arrivals, Arrived, Link},
};

/// Most arrivals that are committed together.
const BATCH: usize = 128;

/// What an entry takes in the store's queue beside topic and payload.
const ENTRY_BYTES: usize = 128;

/// Reason codes of MQTT 5 (section 2.4).
const SUCCESS: u8 = 0x00;
const TOPIC_INVALID: u8 = 0x90;
const TOO_LARGE: u8 = 0x95;

/// A downlink, and where its messages wait.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) settings: Settings,
    pub(super) queue: Arc<Queue>,
    /// Rings when a message has come.
    pub(super) news: Arc<Notify>,
}

/// What comes down one uplink.
pub(super) struct Reception {
    uplink: String,
    places: Vec<Place>,
    arrivals: Arrivals,
    store: store::Handle,
    refused: Refused,
    stop: CancellationToken,
    link: Link,
    /// For each address, its last connection that was ours.
    followed: HashMap<String, u64>,
    lane: (Lane, Returns),
}

/// An answer that is due once its turn comes.
#[derive(Debug, Clone, Copy)]
struct Due {
    answer: Option<(AnswerKind, u16)>,
    code: u8,
    /// Waits for the store's verdict on an entry, and tells this place.
    stored: bool,
    place: Option<usize>,
}

impl Reception {
    pub(super) fn new(
        uplink: String,
        places: Vec<Place>,
        arrivals: Arrivals,
        store: store::Handle,
        refused: Refused,
        stop: CancellationToken,
    ) -> Self {
        let lane = store.lane(OnRefusal::Hold, None);
        refused.show(&uplink);
        let (link, followed) = (Link::default(), HashMap::new());
        Self { uplink, places, arrivals, store, refused, stop, link, followed, lane }
    }

    /// Takes what comes until it is stopped or the store has failed.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                count = self.arrivals.arrivals.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        // The forwarder has gone, and says itself why.
                        self.stop.cancelled().await;
                        return Ok(());
                    }
                }
            }
            let stop = self.stop.clone();
            tokio::select! {
                followed = self.follow_link() => followed?,
                // A full disk makes that wait.
                () = stop.cancelled() => return Ok(()),
            }
            let (entries, due) = self.prepare(batch.drain(..));
            self.commit(entries, due).await?;
        }
    }

    /// Makes the present connection ours: where the upstream has no session any more, packet ids mean nothing any more.
    async fn follow_link(&mut self) -> Result<(), StoreError> {
        let link = self.arrivals.link.borrow_and_update().clone();
        if link.epoch == self.link.epoch {
            return Ok(());
        }
        let ids = ids_of(&self.uplink, &link.url);
        // Also where the session began with a connection that brought nothing, and so was not seen here.
        if link.session_since > self.followed.get(&link.url).copied().unwrap_or(0) {
            self.store.delete_session(ids.clone()).await?;
        }
        self.followed.insert(link.url.clone(), link.epoch);
        self.lane = self.store.lane(OnRefusal::Hold, Some(ids));
        self.link = link;
        Ok(())
    }

    /// What goes into the store, and what is to be answered, both in order of arrival.
    fn prepare(&self, batch: impl Iterator<Item = Arrival>) -> (Vec<Entry>, Vec<Due>) {
        let (mut entries, mut due) = (Vec::new(), Vec::new());
        for Arrival { epoch, what, .. } in batch {
            let is_of_old = epoch != self.link.epoch;
            match what {
                // Whoever sent it sends it again.
                Arrived::Message { qos: QoS::AtLeastOnce | QoS::ExactlyOnce, .. } | Arrived::Released(_)
                    if is_of_old => {}
                Arrived::Released(packet_id) => {
                    entries.push(Entry::Release { packet_id });
                    let answer = Some((AnswerKind::Completed, packet_id));
                    due.push(Due { answer, code: SUCCESS, stored: true, place: None });
                }
                Arrived::Message { id, qos, message } => {
                    let answer = match qos {
                        QoS::AtMostOnce => None,
                        QoS::AtLeastOnce => Some((AnswerKind::Acknowledged, id)),
                        QoS::ExactlyOnce => Some((AnswerKind::Received, id)),
                    };
                    match message.and_then(|message| self.entry(id, message)) {
                        Ok((place, entry)) => {
                            entries.push(entry);
                            due.push(Due { answer, code: SUCCESS, stored: true, place: Some(place) });
                        }
                        Err(reason) => {
                            let code = self.refuse(reason);
                            due.push(Due { answer, code, stored: false, place: None });
                        }
                    }
                }
            }
        }
        (entries, due)
    }

    /// The message as it waits here: in the first downlink that takes it, under its topic here.
    fn entry(&self, id: u16, mut message: Message) -> Result<(usize, Entry), &'static str> {
        let takes = |place: &Place| place.settings.filters.iter().any(|filter| filter.matches(&message.topic));
        // Subscriptions of an earlier configuration live on in the upstream's session.
        let place = self.places.iter().position(takes).ok_or("unmatched")?;
        let Place { settings, queue, .. } = &self.places[place];
        message.topic = settings.topic.render(&message.topic, &settings.filters, "").map_err(|_| "topic")?;
        if !Locals::may_publish(&message.topic) {
            return Err("topic");
        }
        let packet_id = (message.qos == QoS::ExactlyOnce).then_some(id);
        let copy = SessionCopy {
            session: queue.id(),
            qos: message.qos,
            retain: message.retain,
            subscription_ids: None,
            seq: None,
        };
        let (streams, copies) = (SmallVec::new(), vec![copy]);
        let publish =
            Publish { message, streams, packet_id, copies, set_retained: false, retained_revision: 0, tag: 0 };
        Ok((place, Entry::Publish(publish)))
    }

    /// Counts a message that is not taken; gives the reason code for the upstream.
    fn refuse(&self, reason: &'static str) -> u8 {
        self.refused.count(&self.uplink, reason);
        tracing::debug!(uplink = self.uplink, reason, "a message of the upstream is refused");
        match reason {
            "topic" => TOPIC_INVALID,
            "too-large" => TOO_LARGE,
            _ => SUCCESS,
        }
    }

    /// Has entries committed, and answers. What the store holds back waits until there is room or the connection is gone.
    async fn commit(&mut self, mut entries: Vec<Entry>, due: Vec<Due>) -> Result<(), StoreError> {
        let mut due = due.into_iter().peekable();
        loop {
            while let Some(plain) = due.next_if(|due| !due.stored) {
                self.answer(plain).await;
            }
            if entries.is_empty() {
                return Ok(());
            }
            let (lane, returns) = &mut self.lane;
            let bytes = entries.iter().map(bytes_of).sum();
            lane.reserve(bytes).await?.submit(std::mem::take(&mut entries));
            // Not given up when stopping: what is committed is to be acknowledged.
            let returned = returns.recv().await.ok_or(StoreError::Closed)?;
            let mut homeless = Vec::new();
            for (entry, outcome) in returned.verdicts {
                while let Some(plain) = due.next_if(|due| !due.stored) {
                    self.answer(plain).await;
                }
                let Some(decided) = due.next() else { continue };
                match self.homeless(entry, outcome) {
                    Some(publish) => homeless.push((publish, decided)),
                    None => self.decided(decided, outcome).await,
                }
            }
            if !homeless.is_empty() {
                self.house(homeless).await?;
            }
            entries = returned.held;
            if !entries.is_empty() && !self.waited_for_room().await? {
                return Ok(());
            }
        }
    }

    /// A message that was accepted into a queue which is not there any more, so not at all.
    fn homeless(&self, entry: Entry, outcome: Outcome) -> Option<Publish> {
        let (Entry::Publish(publish), Outcome::Accepted) = (entry, outcome) else { return None };
        let copy = publish.copies.first().filter(|copy| copy.seq.is_none())?;
        // It may also be larger than all the queue may hold, and was counted.
        self.store.queue(copy.session).is_none().then_some(publish)
    }

    /// Makes the queues anew that damage took away, and puts messages there. Their packet ids are remembered already.
    async fn house(&mut self, homeless: Vec<(Publish, Due)>) -> Result<(), StoreError> {
        for (mut publish, due) in homeless {
            let Some(place) = due.place.map(|place| &self.places[place]) else { continue };
            place.queue.renew(&self.store).await?;
            publish.packet_id = None;
            publish.copies.iter_mut().for_each(|copy| copy.session = place.queue.id());
            let (mut lane, mut returns) = self.store.lane(OnRefusal::Report, None);
            let entry = Entry::Publish(publish);
            lane.reserve(bytes_of(&entry)).await?.submit(vec![entry]);
            let returned = returns.recv().await.ok_or(StoreError::Closed)?;
            for (_, outcome) in returned.verdicts {
                match outcome {
                    // Not acknowledged, so it comes again.
                    Outcome::Refused(_) => {}
                    Outcome::Accepted | Outcome::Duplicate | Outcome::Released | Outcome::Stepped => {
                        self.decided(due, outcome).await;
                    }
                }
            }
        }
        Ok(())
    }

    async fn decided(&self, due: Due, outcome: Outcome) {
        match outcome {
            Outcome::Accepted => {
                if let Some(place) = due.place {
                    self.places[place].news.notify_one();
                }
            }
            Outcome::Refused(refusal) => {
                // At QoS 0; everything else would have been held.
                self.refuse(refusal.reason());
            }
            Outcome::Duplicate | Outcome::Released | Outcome::Stepped => {}
        }
        self.answer(due).await;
    }

    /// Waits until what is held may fit; false where nobody wants it answered any more.
    async fn waited_for_room(&mut self) -> Result<bool, StoreError> {
        let (lane, _) = &mut self.lane;
        tokio::select! {
            () = self.stop.cancelled() => Ok(false),
            changed = self.arrivals.link.changed() => {
                if changed.is_err() {
                    self.stop.cancelled().await;
                }
                // Seen again by `follow_link`.
                self.arrivals.link.mark_changed();
                Ok(false)
            }
            room = lane.room() => room.map(|()| true),
        }
    }

    async fn answer(&self, due: Due) {
        let Some((kind, id)) = due.answer else { return };
        let answer = Answer { epoch: self.link.epoch, kind, id, code: due.code };
        tokio::select! {
            // A forwarder that has gone needs no answer.
            _ = self.arrivals.answers.send(answer) => {}
            () = self.stop.cancelled() => { let _ = self.arrivals.answers.try_send(answer); }
        }
    }
}

fn bytes_of(entry: &Entry) -> usize {
    match entry {
        Entry::Publish(publish) => ENTRY_BYTES + publish.message.footprint(),
        Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_) => ENTRY_BYTES,
    }
}
