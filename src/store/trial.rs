//! A trial of the disk: how fast this one takes messages, measured with a real store of its own beside the gateway's.
//!
//! # What it does
//!
//! In a folder `doctor-…` (mode 0700) inside the data directory a store is opened with the settings of the gateway's own, so that pragmas,
//! log, group commit and lanes are those that will be used. Three steps, each ended by its own time or number of messages, whatever comes first:
//!
//! | step | publishers | most messages | most time |
//! | --- | --- | ---: | ---: |
//! | alone | one, waits for each acknowledgement | [`ALONE_MESSAGES`] | [`ALONE_TIME`] |
//! | together | [`TOGETHER_LANES`], each waits for each of its own | [`TOGETHER_MESSAGES`] | [`TOGETHER_TIME`] |
//! | bulk | one, [`BULK_WINDOW`] unacknowledged | [`BULK_MESSAGES`] | [`BULK_TIME`] |
//!
//! # What it costs the gateway
//!
//! Nothing of the gateway's is opened. The disk is shared for at most 3 s, and for one commit more where a commit takes long; some 20 MiB
//! are written at most (what was written is in [`DiskTrial`]). Less than [`FREE_BYTES_MIN`] beyond `min_free` on the disk: it is not begun.
//!
//! # What a crash does
//!
//! The folder is removed at the end, whatever the end is. A `kill -9` or a power cut leaves it; the next trial removes it, for nobody holds
//! the lock inside. The gateway never looks at it.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::smallvec;
use tokio::{task::JoinSet, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    Durability, Entry, Handle, Lane, OnRefusal, OpenError, Outcome, Publish, Returns, Settings, Store, StoreError,
    StreamId, StreamSettings, WhenFull, lock::DirectoryLock, opening,
};
use crate::{
    message::{Message, QoS},
    topic::TopicName,
};

/// Most messages of the first step.
pub const ALONE_MESSAGES: u64 = 600;
/// Most time of the first step.
pub const ALONE_TIME: Duration = Duration::from_millis(1200);
/// Publishers of the second step.
pub const TOGETHER_LANES: u64 = 100;
/// Most messages of the second step.
pub const TOGETHER_MESSAGES: u64 = 8_000;
/// Most time of the second step.
pub const TOGETHER_TIME: Duration = Duration::from_millis(900);
/// Messages that are unacknowledged in the third step.
pub const BULK_WINDOW: u64 = 1_000;
/// Most messages of the third step.
pub const BULK_MESSAGES: u64 = 12_000;
/// Most time of the third step.
pub const BULK_TIME: Duration = Duration::from_millis(900);
/// Bytes of each message's payload.
pub const PAYLOAD_BYTES: usize = 128;
/// What must be free beyond `min_free`.
pub const FREE_BYTES_MIN: u64 = 64 << 20;

/// Beginning of the names of the folders that trials make.
pub(super) const FOLDER_PREFIX: &str = "doctor-";

/// What a trial found.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskTrial {
    /// Where it was made; the folder is gone.
    pub folder: PathBuf,
    /// As the gateway's: what an acknowledgement survives.
    pub durability: Durability,
    /// One publisher that waits for each acknowledgement.
    pub alone: Pace,
    /// Many publishers that do.
    pub together: Pace,
    /// One publisher that does not wait.
    pub bulk: Pace,
    /// Bytes given to the storage, as the kernel counts them.
    pub written_bytes: u64,
    /// How long all of it took.
    pub took: Duration,
}

/// How fast a step went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pace {
    /// Messages acknowledged.
    pub messages: u64,
    /// Messages acknowledged a second.
    pub per_s: f64,
    /// Half of them were acknowledged within this time ...
    pub p50: Duration,
    /// ... 99 of 100 within this ...
    pub p99: Duration,
    /// ... and all within this.
    pub max: Duration,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The folder could not be made, or what is left of an earlier one could not be removed.
    #[error("{step} {}: {source}", path.display())]
    Folder {
        /// What was to be done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// A store could not be opened there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store took no messages.
    #[error("the disk took no message: {0}")]
    Refused(&'static str),
    /// The trial was stopped.
    #[error("stopped")]
    Stopped,
}

/// Tries the disk of `parent`, an existing folder, with the settings of the gateway's store. Leaves nothing behind; stops early when `stop` is cancelled.
pub async fn try_disk(settings: &Settings, parent: &Path, stop: &CancellationToken) -> Result<DiskTrial, TrialError> {
    let began = Instant::now();
    let owned = parent.to_owned();
    let folder = blocking(move || {
        remove_leftovers(&owned);
        Folder::new(&owned)
    })
    .await?;
    let path = folder.0.clone();
    let result = run(settings, &path, stop).await;
    // Removing some MiB is the disk's work too; an error of it is one of the trial.
    let removed = blocking(move || folder.remove()).await;
    let (steps, written_bytes) = result?;
    removed?;
    let [alone, together, bulk] = steps;
    let durability = settings.durability;
    Ok(DiskTrial { folder: path, durability, alone, together, bulk, written_bytes, took: began.elapsed() })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TrialError> + Send + 'static,
) -> Result<T, TrialError> {
    spawn_blocking(work).await.unwrap_or(Err(TrialError::Stopped))
}

async fn run(settings: &Settings, folder: &Path, stop: &CancellationToken) -> Result<([Pace; 3], u64), TrialError> {
    let own = Settings { data_dir: folder.to_owned(), max_bytes: 0, min_free: 0, ..settings.clone() };
    let (store, handle) = blocking(move || open(&own)).await?;
    let before = handle.stats().written_bytes;
    let paces = steps(&handle, stop).await;
    let written = handle.stats().written_bytes.saturating_sub(before);
    drop(handle);
    let closed = blocking(move || Ok(store.close()?)).await;
    let paces = paces?;
    closed?;
    Ok((paces, written))
}

fn open(settings: &Settings) -> Result<(Store, Handle), TrialError> {
    let stream = StreamSettings {
        name: "trial".to_owned(),
        ttl: None,
        max_messages: None,
        max_bytes: None,
        when_full: WhenFull::Reject,
        retain_sent: Duration::ZERO,
    };
    Ok(opening::open(settings, &[stream], &prometheus::Registry::new())?)
}

async fn steps(handle: &Handle, stop: &CancellationToken) -> Result<[Pace; 3], TrialError> {
    let limit = |messages, time| Limit { messages, until: Instant::now() + time, stop: stop.clone() };
    let alone = paced(handle, 1, 1, limit(ALONE_MESSAGES, ALONE_TIME)).await?;
    let each = TOGETHER_MESSAGES / TOGETHER_LANES;
    let together = paced(handle, TOGETHER_LANES, 1, limit(each, TOGETHER_TIME)).await?;
    let bulk = paced(handle, 1, BULK_WINDOW, limit(BULK_MESSAGES, BULK_TIME)).await?;
    Ok([alone, together, bulk])
}

/// When a publisher ends.
#[derive(Debug, Clone)]
struct Limit {
    messages: u64,
    until: Instant,
    stop: CancellationToken,
}

/// So many publishers, each with at most `window` messages unacknowledged.
async fn paced(handle: &Handle, lanes: u64, window: u64, limit: Limit) -> Result<Pace, TrialError> {
    let began = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..lanes {
        publishers.spawn(publish(handle.lane(OnRefusal::Report, None), window, limit.clone()));
    }
    let mut waits = Vec::new();
    while let Some(ended) = publishers.join_next().await {
        waits.extend(ended.unwrap_or(Err(TrialError::Stopped))?);
    }
    if limit.stop.is_cancelled() {
        return Err(TrialError::Stopped);
    }
    Ok(Pace::of(waits, began.elapsed()))
}

/// Publishes until the limit is reached; gives how long each message waited for its acknowledgement.
async fn publish(lane: (Lane, Returns), window: u64, limit: Limit) -> Result<Vec<Duration>, TrialError> {
    let (mut lane, mut returns) = lane;
    // A batch is what one read of a socket brings.
    let batch = window.div_ceil(10);
    let (mut sent, mut waits, mut under_way) = (0, Vec::new(), std::collections::VecDeque::new());
    loop {
        let may_go_on = sent < limit.messages && Instant::now() < limit.until && !limit.stop.is_cancelled();
        let unanswered = sent - waits.len() as u64;
        if may_go_on && unanswered + batch <= window {
            let entries: Vec<Entry> = (0..batch).map(|_| entry()).collect();
            let bytes = entries.len() * (PAYLOAD_BYTES + TOPIC.len());
            under_way.push_back(Instant::now());
            lane.reserve(bytes).await?.submit(entries);
            sent += batch;
        } else if unanswered == 0 {
            return Ok(waits);
        } else {
            let returned = returns.recv().await.ok_or(TrialError::Refused("the store has stopped"))?;
            let since = under_way.pop_front().map_or(Duration::ZERO, |at| at.elapsed());
            for (_, outcome) in returned.verdicts {
                match outcome {
                    Outcome::Refused(refusal) => return Err(TrialError::Refused(refusal.sentence())),
                    Outcome::Accepted | Outcome::Duplicate | Outcome::Released | Outcome::Stepped => waits.push(since),
                }
            }
        }
    }
}

const TOPIC: &str = "sensors/trial/temperature";

fn entry() -> Entry {
    let mut payload = vec![0; PAYLOAD_BYTES];
    // Some storage compresses.
    fastrand::fill(&mut payload);
    Entry::Publish(Publish {
        message: Message {
            topic: TopicName::new(TOPIC).expect("a constant that is a topic name"),
            payload: Bytes::from(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            client: ByteString::from_static("trial"),
            properties: None,
        },
        streams: smallvec![StreamId(0)],
        packet_id: None,
        copies: Vec::new(),
        set_retained: false,
        retained_revision: 0,
        tag: 0,
    })
}

impl Pace {
    fn of(mut waits: Vec<Duration>, took: Duration) -> Self {
        waits.sort_unstable();
        let at = |percent: usize| waits.get((waits.len() * percent / 100).min(waits.len().saturating_sub(1))).copied();
        #[expect(clippy::cast_precision_loss, reason = "some ten thousand at most")]
        let count = waits.len() as f64;
        Self {
            messages: waits.len() as u64,
            per_s: count / took.as_secs_f64().max(1e-9),
            p50: at(50).unwrap_or_default(),
            p99: at(99).unwrap_or_default(),
            max: waits.last().copied().unwrap_or_default(),
        }
    }
}

/// The folder of a trial, removed when it is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Result<Self, TrialError> {
        let path = parent.join(format!("{FOLDER_PREFIX}{}-{:08x}", std::process::id(), fastrand::u32(..)));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| TrialError::Folder { step: "make the folder", path: path.clone(), source })?;
        Ok(Self(path))
    }

    fn remove(self) -> Result<(), TrialError> {
        let removed = fs::remove_dir_all(&self.0);
        removed.map_err(|source| TrialError::Folder { step: "remove the folder", path: self.0.clone(), source })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Also after `remove`; gone already is as good.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Folders of trials that were killed: nobody holds the lock in them.
pub(super) fn leftovers(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let is_trial = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(FOLDER_PREFIX.as_bytes());
    let folders = entries.flatten().filter(is_trial).map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.filter(|folder| is_abandoned(folder)).collect()
}

/// Whether no trial runs in it. One that has just begun has no lock yet, and is left alone for a minute.
fn is_abandoned(folder: &Path) -> bool {
    let lock = folder.join(opening::LOCK);
    if lock.exists() {
        return DirectoryLock::take(&lock).is_ok();
    }
    let age = fs::metadata(folder).and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
    age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_secs(60)))
}

fn remove_leftovers(parent: &Path) {
    for folder in leftovers(parent) {
        // What cannot be removed is shown among the leftovers.
        let _ = fs::remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            data_dir: PathBuf::from("/nowhere"),
            durability: Durability::Full,
            commit_delay: Duration::from_millis(2),
            max_bytes: 1,
            min_free: u64::MAX,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_trial_is_bounded_and_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("doctor-1-abandoned");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(opening::LOCK), "1\n").unwrap();
        let busy = parent.path().join("doctor-2-busy");
        fs::create_dir(&busy).unwrap();
        let _held = DirectoryLock::take(&busy.join(opening::LOCK)).unwrap();
        let trial = try_disk(&settings(), parent.path(), &CancellationToken::new()).await.unwrap();
        assert_eq!(names(parent.path()), ["doctor-2-busy"]);
        for pace in [&trial.alone, &trial.together, &trial.bulk] {
            assert!(pace.messages > 0 && pace.per_s > 0.0 && pace.p50 <= pace.p99 && pace.p99 <= pace.max, "{trial:?}");
        }
        assert!(trial.alone.messages <= ALONE_MESSAGES && trial.bulk.messages <= BULK_MESSAGES + BULK_WINDOW);
        // What was written is counted for the whole process, and other tests write too: its bound is held by `tests/doctor.rs`.
    }

    #[tokio::test]
    async fn a_trial_that_is_stopped_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let stopped = try_disk(&settings(), parent.path(), &stop).await;
        assert!(matches!(stopped, Err(TrialError::Stopped)), "{stopped:?}");
        assert_eq!(names(parent.path()), [""; 0]);
    }

    #[tokio::test]
    async fn where_no_folder_can_be_made_is_said() {
        let error = try_disk(&settings(), Path::new("/proc"), &CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().starts_with("make the folder /proc/doctor-"), "{error}");
    }
}
