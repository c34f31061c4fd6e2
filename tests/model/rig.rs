//! A broker on a real store, reached through a unix socket: thousands of connections use up no ports.

use std::{path::PathBuf, time::Duration};

use prometheus::Registry;
use tempfile::TempDir;
use tidegate::{
    broker::{self, Bind, Broker, ListenerSettings},
    intake::{Intake, Rule},
    store::{self, Durability, Store, StreamId, StreamSettings, WhenFull},
    topic::TopicFilter,
};

/// The broker under test.
pub(crate) struct Rig {
    dir: TempDir,
    store: Store,
    broker: Broker,
}

/// A new folder; in memory where there is one, for a run makes hundreds of small files.
fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let built = tempfile::Builder::new().prefix("tidegate-model-").tempdir_in(memory);
    built.or_else(|_| tempfile::tempdir()).expect("a folder for the store")
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let dir = folder();
        let data = dir.path().join("data");
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&data).expect("a folder");
        Self::open(dir).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("mqtt.sock")
    }

    async fn open(dir: TempDir) -> Self {
        let registry = Registry::new();
        let settings = store::Settings {
            data_dir: dir.path().join("data"),
            durability: Durability::Process,
            commit_delay: Duration::ZERO,
            max_bytes: 0,
            min_free: 0,
        };
        let stream = StreamSettings {
            name: "stored".into(),
            ttl: None,
            max_messages: None,
            max_bytes: None,
            when_full: WhenFull::Reject,
            retain_sent: Duration::ZERO,
        };
        let (store, handle) = store::open(&settings, &[stream], &registry).expect("the store opens");
        let from = vec![TopicFilter::new("s/#").expect("a filter")];
        let intake = Intake::new(handle, vec![Rule { stream: StreamId(0), from, except: vec![], live_only: None }]);
        let listener = ListenerSettings::new("model", Bind::Unix(dir.path().join("mqtt.sock")));
        let settings = broker::Settings { listeners: vec![listener], ..Default::default() };
        let broker = broker::start(settings, intake, &registry).await.expect("the broker starts");
        Self { dir, store, broker }
    }

    /// Cuts all connections, closes the store, and starts again on the same data.
    pub(crate) async fn restart(self) -> Self {
        let dir = self.stop().await;
        Self::open(dir).await
    }

    /// Starts on what this one would leave behind if it died now.
    pub(crate) async fn crash(self) -> Self {
        let after = folder();
        let (from, to) = (self.dir.path().join("data"), after.path().join("data"));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&to).expect("a folder");
        for name in ["tidegate.db", "tidegate.db-wal"] {
            // The log may not be there yet; its index is rebuilt from it.
            let _ = std::fs::copy(from.join(name), to.join(name));
        }
        self.stop().await;
        Self::open(after).await
    }

    /// Stops in order; connections have no time to end by themselves.
    pub(crate) async fn stop(self) -> TempDir {
        self.broker.drain(Duration::ZERO).await;
        self.store.close().expect("the store closes");
        self.dir
    }
}
