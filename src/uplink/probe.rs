//! A probe of one upstream address: the steps of a connection one by one, with what each found, for somebody who looks for a fault.
//!
//! The way is the uplink's own ([`dial`](super::dial), [`tls`](super::tls), the CONNECT of [`Mqtt`]), so what works here works there. Three things differ:
//! every address of the host that was tried is told of; the server's certificates are kept, whether they are accepted or not; and the
//! connection ends with DISCONNECT as soon as the upstream has answered. Nothing is published and nothing subscribed.
//!
//! # Who it says it is
//!
//! An upstream ends a session when another connection takes over its client id. So a probe has an id of its own ([`ProbeId::Guest`]:
//! the uplink's with `-doctor-` and some chance behind it) and starts clean: it throws nobody out and leaves nothing behind. Where an
//! upstream lets in the one client id only, [`ProbeId::Own`] uses that, which is for a gateway that is stopped: it then asks
//! for the session in the way the uplink would, so that what waits there for the gateway goes on waiting.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::{
    Error, Settings, Step, Subscription, Url, Version,
    dial::{Patience, Resolver, Wire, dial_tcp},
    mqtt::{Answered, Mqtt, say_hello},
    tls,
};
use crate::message::QoS;

/// How long the good-bye may take; the upstream has answered already, and nothing hangs on it.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Who a probe says it is.
#[derive(Debug, Clone)]
pub enum ProbeId {
    /// A client id of its own, made of the uplink's.
    Guest,
    /// The uplink's own, with what it would subscribe to.
    Own(Vec<Subscription>),
}

/// What a probe found. What comes after the step that failed is empty.
#[derive(Debug)]
pub struct Probe {
    /// The address.
    pub url: Url,
    /// The client id that it used.
    pub client_id: String,
    /// The addresses of the host and how long the look-up took.
    pub resolved: Option<(Vec<SocketAddr>, Duration)>,
    /// The addresses that were tried, up to the one that answered; how long that took, or why not.
    pub tried: Vec<(SocketAddr, Result<Duration, String>)>,
    /// The certificates that the server showed (DER), its own first, accepted or not.
    pub shown: Vec<Vec<u8>>,
    /// The TLS session.
    pub tls: Option<Handshake>,
    /// The answer to CONNECT, where it was yes.
    pub login: Option<Login>,
    /// Why it ended before that.
    pub failed: Option<Error>,
}

/// A TLS session that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Such as `TLSv1_3`.
    pub version: String,
    /// How long it took.
    pub took: Duration,
}

/// What an upstream said to CONNECT. `None` in a limit: it did not say one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Between CONNECT and CONNACK.
    pub took: Duration,
    /// It still holds a session under this client id.
    pub session_present: bool,
    /// Most unacknowledged messages that it takes.
    pub receive_maximum: Option<u16>,
    /// Highest QoS that it takes.
    pub maximum_qos: Option<QoS>,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
    /// Largest packet that it takes, in bytes.
    pub maximum_packet_bytes: Option<u32>,
    /// The keep alive that it wants instead of ours, in seconds.
    pub keep_alive_s: Option<u16>,
    /// The client id that it gave where we had none.
    pub client_id: Option<String>,
}

/// Goes through the steps of a connection to `url`, which all together may take `limit`. Cancel safe.
pub async fn probe(settings: &Settings, url: &Url, id: ProbeId, limit: Duration) -> Probe {
    let (upstream, clean) = guise(settings, id);
    let mut probe = Probe {
        url: url.clone(),
        client_id: upstream.settings().client_id.clone(),
        resolved: None,
        tried: Vec::new(),
        shown: Vec::new(),
        tls: None,
        login: None,
        failed: None,
    };
    probe.failed = probe.go(&upstream, clean, Patience::new(limit)).await.err();
    probe
}

/// The uplink as the probe plays it, and whether it starts clean.
fn guise(settings: &Settings, id: ProbeId) -> (Mqtt, bool) {
    match id {
        ProbeId::Guest => {
            let client_id = match &*settings.client_id {
                // The upstream is to give one.
                "" => String::new(),
                own => format!("{own}-doctor-{:04x}", fastrand::u16(..)),
            };
            // At QoS 2 it would ask for a session that outlives the connection.
            (Mqtt::new(Settings { client_id, qos: QoS::AtLeastOnce, ..settings.clone() }), true)
        }
        ProbeId::Own(subscriptions) => {
            let lasts = !subscriptions.is_empty() || settings.qos == QoS::ExactlyOnce;
            (Mqtt::new(settings.clone()).subscribing(&subscriptions), !lasts)
        }
    }
}

impl Probe {
    async fn go(&mut self, upstream: &Mqtt, clean: bool, patience: Patience) -> Result<(), Error> {
        let (settings, url) = (upstream.settings().clone(), self.url.clone());
        // Files first, as the uplink does: they are ours to mend.
        let tls = if url.tls {
            Some(patience.wait(&url, Step::Tls, tls::prepare_watched(&settings, &url)).await?)
        } else {
            None
        };
        let hello = upstream.connect_packet(&url, clean).await?;
        let (resolved, tried) = (&mut self.resolved, &mut self.tried);
        let tcp = dial_tcp(&url, &Resolver::new(), patience, &mut |seen| match seen {
            Seen::Resolved(addresses, took) => *resolved = Some((addresses.to_vec(), took)),
            Seen::Tried(address, result) => tried.push((address, result.map_err(ToString::to_string))),
        })
        .await?;
        let mut wire: Box<dyn Wire> = match tls {
            None => Box::new(tcp),
            Some((tls, shown)) => {
                let began = Instant::now();
                let shaken = patience.wait(&url, Step::Tls, tls.handshake(tcp, &url)).await;
                self.shown = shown.take();
                let stream = shaken?;
                let version = stream.get_ref().1.protocol_version().map_or_else(String::new, |v| format!("{v:?}"));
                self.tls = Some(Handshake { version, took: began.elapsed() });
                Box::new(stream)
            }
        };
        let began = Instant::now();
        let answered = say_hello(settings.version, wire.as_mut(), &url, &hello, patience).await?;
        self.login = Some(Login::of(answered, began.elapsed()));
        say_good_bye(settings.version, wire).await;
        Ok(())
    }
}

impl Login {
    fn of(answered: Answered, took: Duration) -> Self {
        let connack = answered.connack;
        Self {
            took,
            session_present: connack.session_present,
            receive_maximum: connack.receive_maximum,
            maximum_qos: connack.maximum_qos.and_then(QoS::from_number),
            retain_available: connack.retain_available != Some(0),
            maximum_packet_bytes: connack.maximum_packet_bytes,
            keep_alive_s: connack.keep_alive_s,
            client_id: connack.client_id,
        }
    }
}

async fn say_good_bye(version: Version, mut wire: Box<dyn Wire>) {
    let mut bye = BytesMut::new();
    super::mqtt::write_disconnect(version, false, &mut bye);
    let bye = async {
        wire.write_all(&bye).await?;
        wire.flush().await?;
        wire.shutdown().await
    };
    // Whether it arrives is all the same to what was found.
    let _ = tokio::time::timeout(CLOSE_LIMIT, bye).await;
}

/// What dialling tells of on the way.
pub(super) enum Seen<'a> {
    /// The host has these addresses; the look-up took so long.
    Resolved(&'a [SocketAddr], Duration),
    /// An address was tried.
    Tried(SocketAddr, Result<Duration, &'a Error>),
}

/// Reads the files that an uplink names for TLS as a connection would, and makes nothing of them. The error names the file.
pub fn check_files(settings: &Settings) -> Result<(), Error> {
    match settings.urls.iter().find(|url| url.tls) {
        Some(url) => tls::check(settings, &url.to_string()),
        None => Ok(()),
    }
}
