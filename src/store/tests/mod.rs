//! Tests of the store through its doors, on real files.

mod at_rest;
mod backup;
mod basics;
mod bench;
mod configure;
mod damage;
mod dead;
mod full;
mod import;
mod kept;
mod limits;
mod log;
mod migration;
mod model;
mod opening;
mod operated;
mod queues;
mod replay;
mod settling;
mod space;
mod trouble;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use super::*;
use crate::{
    message::{Message, QoS},
    stats::StreamStats,
    topic::TopicName,
};

/// Nothing here takes that long; what does has hung.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

pub(super) const A: StreamId = StreamId(0);
pub(super) const B: StreamId = StreamId(1);

pub(super) fn settings(dir: &Path) -> Settings {
    Settings {
        data_dir: dir.to_owned(),
        durability: Durability::Process,
        commit_delay: Duration::from_millis(2),
        max_bytes: 0,
        min_free: 0,
    }
}

pub(super) fn stream(name: &str) -> StreamSettings {
    StreamSettings {
        name: name.to_owned(),
        ttl: None,
        max_messages: None,
        max_bytes: None,
        when_full: WhenFull::Reject,
        retain_sent: Duration::ZERO,
    }
}

/// An open store with a runtime of its own, so that tests read top to bottom.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) handle: Handle,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub(super) fn open(settings: &Settings, streams: &[StreamSettings]) -> Self {
        Self::try_open(settings, streams).unwrap()
    }

    pub(super) fn try_open(settings: &Settings, streams: &[StreamSettings]) -> Result<Self, OpenError> {
        let (store, handle) = open(settings, streams, &prometheus::Registry::new())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Ok(Self { store, handle, runtime })
    }

    /// Runs a future, with a deadline.
    pub(super) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("done before the deadline") })
    }

    pub(super) fn lane(&self, on_refusal: OnRefusal) -> (Lane, Returns) {
        self.handle.lane(on_refusal, Some("client".into()))
    }

    pub(super) fn submit(&self, lane: &mut Lane, entries: Vec<Entry>) {
        let bytes = entries.iter().map(entry_bytes).sum();
        self.wait(async { lane.reserve(bytes).await.unwrap().submit(entries) });
    }

    pub(super) fn outcomes(&self, lane: &mut (Lane, Returns), entries: Vec<Entry>) -> Vec<Outcome> {
        self.submit(&mut lane.0, entries);
        self.wait(lane.1.recv()).unwrap().verdicts.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Stores messages with these payloads, which all are accepted.
    pub(super) fn store(&self, stream: StreamId, payloads: impl IntoIterator<Item = u64>) {
        let mut lane = self.lane(OnRefusal::Report);
        let entries: Vec<_> = payloads.into_iter().map(|n| publish(&[stream], n)).collect();
        for outcome in self.outcomes(&mut lane, entries) {
            assert_eq!(outcome, Outcome::Accepted);
        }
    }

    pub(super) fn settle(&self, stream: StreamId, first: u64, last: u64, fate: Fate) {
        self.wait(self.handle.settle(stream, vec![Run { first, last, fate }])).unwrap();
        self.flush();
    }

    pub(super) fn flush(&self) {
        self.wait(self.handle.flush(DEADLINE)).unwrap();
    }

    /// The whole backlog of a stream.
    pub(super) fn backlog(&self, stream: StreamId) -> Vec<Stored> {
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let from = all.last().map_or(0, |last| last.seq + 1);
            let more = self.wait(self.handle.read(stream, from, 1000, 1 << 20)).unwrap();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    pub(super) fn numbers(&self, stream: StreamId) -> Vec<u64> {
        self.backlog(stream).iter().map(|stored| number_of(&stored.message)).collect()
    }

    pub(super) fn books(&self, stream: StreamId) -> StreamStats {
        let stats = self.handle.streams().swap_remove(stream.0 as usize);
        assert!(stats.balances(), "the books balance: {stats:?}");
        stats
    }

    pub(super) fn close(self) {
        self.store.close().unwrap();
    }
}

/// Submits entries, and again what is refused while a damaged database is being salvaged.
pub(super) async fn submit_until_taken(handle: &Handle, mut entries: Vec<Entry>) -> Result<(), StoreError> {
    let (mut lane, mut returns) = handle.lane(OnRefusal::Report, None);
    while !entries.is_empty() {
        lane.reserve(0).await?.submit(entries);
        let returned = returns.recv().await.ok_or(StoreError::Closed)?;
        let refused = |(entry, outcome)| match outcome {
            Outcome::Accepted => None,
            Outcome::Refused(Refusal::Suspended) => Some(entry),
            other @ (Outcome::Duplicate | Outcome::Refused(_) | Outcome::Released | Outcome::Stepped) => {
                panic!("{other:?}")
            }
        };
        entries = returned.verdicts.into_iter().filter_map(refused).collect();
        tokio::time::sleep(Duration::from_millis(if entries.is_empty() { 0 } else { 10 })).await;
    }
    Ok(())
}

pub(super) fn entry_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Publish(publish) => publish.message.payload.len() + publish.message.topic.as_str().len(),
        Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_) => 0,
    }
}

pub(super) fn message(number: u64) -> Message {
    Message {
        topic: TopicName::new(format!("t/{}", number % 7)).unwrap(),
        payload: Bytes::copy_from_slice(&number.to_be_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        client: ByteString::from_static("client"),
        properties: None,
    }
}

/// What one such message weighs: topic, payload, client.
pub(super) const MESSAGE_BYTES: u64 = 3 + 8 + 6;

pub(super) fn number_of(message: &Message) -> u64 {
    u64::from_be_bytes(message.payload[..8].try_into().unwrap())
}

pub(super) fn publish(streams: &[StreamId], number: u64) -> Entry {
    Entry::Publish(Publish {
        message: message(number),
        streams: SmallVec::from_slice(streams),
        packet_id: None,
        copies: Vec::new(),
        set_retained: false,
        retained_revision: 0,
        tag: u32::try_from(number).unwrap_or(0),
    })
}

/// A publish changed by `f`.
pub(super) fn publish_with(streams: &[StreamId], number: u64, f: impl FnOnce(&mut Publish)) -> Entry {
    match publish(streams, number) {
        Entry::Publish(mut publish) => {
            f(&mut publish);
            Entry::Publish(publish)
        }
        other @ (Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_)) => other,
    }
}
