//! A broker with the listeners that a test wants.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use prometheus::Registry;
use tempfile::TempDir;
use tidegate::{
    broker::{self, AccessSettings, Bind, Broker, Identity, ListenerSettings, TlsSettings},
    intake::Intake,
    store::{self, Durability, Store},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::ClientConfig};

use super::{
    authority::{Authority, Issued, put},
    client::{Client, DEADLINE},
};

pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    pub(crate) broker: Broker,
    registry: Registry,
    pub(crate) address: SocketAddr,
    _store: Store,
}

/// What a test has at hand before the broker starts.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("the right authority") }
    }

    /// Writes the files of the listener.
    pub(crate) fn put(&self, issued: &Issued) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        (put(folder, "gw.pem", &issued.cert), put(folder, "gw.key", &issued.key))
    }

    /// TLS without client certificates.
    pub(crate) fn tls(&self) -> TlsSettings {
        let (cert, key) = self.put(&self.authority.server());
        TlsSettings { cert, key, client_ca: None, require_client_cert: false, identity: Identity::CommonName }
    }

    pub(crate) async fn start(self, listener: ListenerSettings) -> Rig {
        self.start_with(AccessSettings::default(), listener).await
    }

    pub(crate) async fn start_with(self, access: AccessSettings, listener: ListenerSettings) -> Rig {
        let registry = Registry::new();
        let settings = store::Settings {
            data_dir: self.folder.path().join("data"),
            durability: Durability::Process,
            commit_delay: Duration::ZERO,
            max_bytes: 0,
            min_free: 0,
        };
        let (store, handle) = store::open(&settings, &[], &registry).unwrap();
        let settings = broker::Settings { listeners: vec![listener], access };
        let broker = broker::start(settings, Intake::new(handle, vec![]), &registry).await.unwrap();
        // A unix socket has another address, which its test knows.
        let address = broker.listeners()[0].bind.parse().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
        Rig { folder: self.folder, authority: self.authority, broker, registry, address, _store: store }
    }
}

/// A listener on a free port of this machine.
pub(crate) fn local() -> ListenerSettings {
    ListenerSettings::new("test", Bind::Tcp("127.0.0.1:0".parse().unwrap()))
}

impl Rig {
    /// A gateway with TLS.
    pub(crate) async fn secure(change: impl FnOnce(&Site, &mut TlsSettings)) -> Self {
        let site = Site::new();
        let mut tls = site.tls();
        change(&site, &mut tls);
        site.start(ListenerSettings { tls: Some(tls), ..local() }).await
    }

    pub(crate) async fn tcp(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Shakes hands as a client of this kind.
    pub(crate) async fn shake(&self, config: ClientConfig) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = timeout(DEADLINE, connector.connect("localhost".try_into().unwrap(), tcp)).await;
        stream.expect("the gateway shakes hands").map(Client)
    }

    /// A connected client over TLS, with or without a certificate.
    pub(crate) async fn connected(&self, id: &str, identity: Option<&Issued>) -> Client<TlsStream<TcpStream>> {
        let config = self.authority.trusted(identity, tokio_rustls::rustls::ALL_VERSIONS);
        Client::connected(self.shake(config).await.unwrap().0, id).await
    }

    /// A counter or gauge, by name and label value.
    #[allow(clippy::cast_possible_truncation, reason = "counts and times are small")]
    pub(crate) fn metric(&self, name: &str, label: &str) -> i64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| {
            family.get_metric().iter().find(|metric| metric.get_label().iter().any(|pair| pair.value() == label))
        });
        metric.map_or(0, |metric| (metric.get_counter().get_value() + metric.get_gauge().get_value()) as i64)
    }

    pub(crate) fn refused(&self, reason: &str) -> i64 {
        self.metric("tidegate_broker_refused_total", reason)
    }

    /// Waits until so many were refused for this reason.
    pub(crate) async fn until_refused(&self, reason: &str, count: i64) {
        let waited = timeout(DEADLINE, async {
            while self.refused(reason) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("refused for {reason}: {}, not {count}", self.refused(reason)));
        assert_eq!(self.refused(reason), count, "{reason}");
    }
}
