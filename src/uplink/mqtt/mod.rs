//! MQTT upstreams: choosing an address, logging in, honouring what CONNACK says.
//!
//! Addresses are tried in order, each with the whole `connect_timeout`. While a later one is in use, the forwarder asks
//! [`Upstream::first_is_back`] now and then (see `forward::failback` for when) (DNS, TCP and TLS only, for a second CONNECT under the same client id
//! would throw out the session in use) and reconnects, from the first address on, when the answer is yes.
//!
//! # Sessions
//!
//! *With subscriptions* (downlinks) the upstream's session is what holds the messages for us while we are away: no connection
//! ever starts clean, none ends it, and it is to be kept [`DOWNLINK_EXPIRY_S`] seconds. At QoS 2 ids that a former process left behind
//! are released before they are used. What follows is without subscriptions.
//!
//! At QoS 0 and 1 every connection starts clean: the stream on disk is the session. At QoS 2 the upstream remembers packet ids, so a
//! message can be taken exactly once across a reconnect, but only within one session. Hence:
//!
//! - the first connection of a process, and every one to an address other than the last, starts clean: ids left behind by
//!   somebody else would make the upstream take a new message for an old one, and lose it;
//! - a reconnect to the same address asks for the session (kept [`SESSION_EXPIRY_S`] seconds); where it is gone, messages not completed are sent again;
//! - MQTT 3.1.1 cannot start clean *and* keep the session afterwards, so there the first login is followed by a second one.
//!   The session stays behind on a 3.1.1 upstream when the gateway stops.
//!
//! Duplicates are therefore possible at QoS 2 when the gateway's process ends without a graceful stop, or the upstream loses the session;
//! with MQTT 5 they are recognisable by `tg-id`.

mod codec;
mod inbound;
pub(in crate::uplink) mod meaning;
mod session;

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::BytesMut;
use rumqttc::{
    mqttbytes::{Protocol, v4},
    v5::mqttbytes::v5,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(super) use self::codec::write_disconnect;
use self::{
    codec::{ConnAck, Incoming, MAX_INCOMING_BYTES, MAX_MESSAGE_BYTES, MAX_PACKET_BYTES},
    inbound::Asking,
};
pub use self::{meaning::publish as meaning_of_publish_code, session::MqttSession};
use super::{
    Error, Greeting, Settings, Step, Subscription, Upstream, Url, Version,
    dial::{Patience, Resolver, Wire, dial},
    inbound::RECEIVE_MAXIMUM,
};
use crate::{message::QoS, topic::TopicFilter};

/// How long an upstream is asked to remember a QoS 2 session without a connection.
pub const SESSION_EXPIRY_S: u32 = 24 * 60 * 60;

/// How long an upstream is asked to keep messages for us without a connection: longer than most outages of a gateway.
pub const DOWNLINK_EXPIRY_S: u32 = 7 * 24 * 60 * 60;

/// Most QoS 2 messages in flight to an MQTT 3.1.1 upstream, which cannot say its limit.
///
/// Mosquitto's is 20 by default, and beyond it version 2.0.11 answers later messages before earlier ones, and some never.
const V311_QOS2_WINDOW: u16 = 20;

/// An MQTT broker.
#[derive(Debug)]
pub struct Mqtt {
    settings: Settings,
    /// The address of the last session, if there was one: only there can it be resumed.
    last: Option<usize>,
    /// Client id that the upstream gave where ours was empty.
    assigned_client_id: Option<String>,
    resolver: Resolver,
    /// What is asked of every upstream.
    subscriptions: Arc<[Subscription]>,
    /// What the upstream may still think that it is asked for.
    unwanted: Arc<[TopicFilter]>,
    /// One more than the place of the address that has granted it all, 0 for none.
    granted: Arc<AtomicUsize>,
}

/// A connection that has said hello.
struct Login {
    wire: Box<dyn Wire>,
    answered: Answered,
}

/// The upstream's yes, and what came behind it.
pub(super) struct Answered {
    pub(super) connack: ConnAck,
    rest: BytesMut,
}

impl Mqtt {
    /// An upstream with these settings; nothing is connected yet.
    pub fn new(settings: Settings) -> Self {
        let (subscriptions, unwanted, granted) = (Arc::default(), Arc::default(), Arc::default());
        let (last, assigned_client_id, resolver) = (None, None, Resolver::new());
        Self { settings, last, assigned_client_id, resolver, subscriptions, unwanted, granted }
    }

    /// The same with these subscriptions.
    #[must_use]
    pub fn subscribing(self, subscriptions: &[Subscription]) -> Self {
        Self { subscriptions: subscriptions.into(), ..self }
    }

    /// The same; an upstream that still knows us is told that these are not wanted any more.
    #[must_use]
    pub fn without(self, unwanted: &[TopicFilter]) -> Self {
        Self { unwanted: unwanted.into(), ..self }
    }

    fn is_subscribing(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    async fn connect_to(&mut self, index: usize, resume: bool) -> Result<MqttSession, Error> {
        let settings = &self.settings;
        let url = &settings.urls[index];
        let patience = Patience::new(settings.connect_timeout);
        let is_subscribing = self.is_subscribing();
        let keeps_session = settings.qos == QoS::ExactlyOnce;
        let resume = resume && keeps_session && self.last == Some(index);
        if keeps_session && !is_subscribing && !resume && settings.version == Version::V311 {
            let mut login = self.log_in(url, true, patience).await?;
            let mut bye = BytesMut::new();
            codec::write_disconnect(settings.version, false, &mut bye);
            // Failing to say good-bye to the throw-away session is no failure: the next CONNECT replaces it.
            let _ = login.wire.write_all(&bye).await;
            let _ = login.wire.shutdown().await;
        }
        let clean = !is_subscribing && (!keeps_session || (!resume && settings.version == Version::V5));
        let login = self.log_in(url, clean, patience).await?;
        let Answered { connack, rest } = login.answered;
        if connack.session_present && keeps_session && !resume && !is_subscribing {
            let cause = "the upstream offers an old session although a new one was asked for".to_owned();
            return Err(Error::Protocol { url: url.to_string(), step: Step::Connect, cause });
        }
        let unsaid = match (settings.version, keeps_session) {
            (Version::V311, true) => V311_QOS2_WINDOW,
            (Version::V311, false) | (Version::V5, _) => u16::MAX,
        };
        let greeting = Greeting {
            url: url.to_string(),
            address: index + 1,
            resumed: resume && connack.session_present,
            session_present: connack.session_present,
            window: connack.receive_maximum.unwrap_or(unsaid),
            qos: connack.maximum_qos.and_then(QoS::from_number).map_or(settings.qos, |most| most.min(settings.qos)),
            retain_available: connack.retain_available != Some(0),
        };
        let keep_alive =
            connack.keep_alive_s.map_or(settings.keep_alive, |seconds| Duration::from_secs(seconds.into()));
        let max_packet = connack.maximum_packet_bytes.map_or(MAX_PACKET_BYTES, |bytes| bytes as usize);
        self.assigned_client_id = connack.client_id.clone().or(self.assigned_client_id.take());
        self.last = Some(index);
        let present = greeting.session_present;
        let session = MqttSession::new(login.wire, rest, settings.version, greeting, keep_alive, max_packet);
        let asking = is_subscribing
            .then(|| Asking::new(Arc::clone(&self.subscriptions), Arc::clone(&self.granted), index, present))
            .map(|asking| if present { asking.without(Arc::clone(&self.unwanted)) } else { asking });
        Ok(session.asking(asking))
    }

    async fn log_in(&self, url: &Url, clean: bool, patience: Patience) -> Result<Login, Error> {
        let hello = self.connect_packet(url, clean).await?;
        let mut wire = dial(&self.settings, url, &self.resolver, patience).await?;
        let answered = say_hello(self.settings.version, wire.as_mut(), url, &hello, patience).await?;
        Ok(Login { wire, answered })
    }

    /// Its settings.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The CONNECT that it would send.
    pub(super) async fn connect_packet(&self, url: &Url, clean: bool) -> Result<BytesMut, Error> {
        let settings = &self.settings;
        let username = settings.username.clone().unwrap_or_default();
        let password = self.password(url).await?;
        let keep_alive = u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let client_id = match &self.assigned_client_id {
            Some(assigned) if settings.client_id.is_empty() => assigned.clone(),
            Some(_) | None => settings.client_id.clone(),
        };
        let mut out = BytesMut::new();
        let written = match settings.version {
            Version::V311 => {
                let mut connect = v4::Connect::new(client_id);
                connect.protocol = Protocol::V4;
                connect.keep_alive = keep_alive;
                connect.clean_session = clean;
                if !username.is_empty() {
                    connect.set_login(username, password);
                }
                connect.write(&mut out).is_ok()
            }
            Version::V5 => {
                let mut properties = v5::ConnectProperties::new();
                properties.max_packet_size = Some(MAX_INCOMING_BYTES);
                properties.session_expiry_interval = (settings.qos == QoS::ExactlyOnce).then_some(SESSION_EXPIRY_S);
                if self.is_subscribing() {
                    properties.max_packet_size = Some(MAX_MESSAGE_BYTES);
                    properties.session_expiry_interval = Some(DOWNLINK_EXPIRY_S);
                    properties.receive_maximum = Some(RECEIVE_MAXIMUM);
                }
                let connect = v5::Connect { keep_alive, client_id, clean_start: clean, properties: Some(properties) };
                let login = v5::Login::new(username, password);
                let has_login = !(login.username.is_empty() && login.password.is_empty());
                connect.write(&None, &has_login.then_some(login), &mut out).is_ok()
            }
        };
        debug_assert!(written, "a CONNECT is far smaller than the largest packet");
        Ok(out)
    }

    async fn password(&self, url: &Url) -> Result<String, Error> {
        let Some(path) = &self.settings.password_file else { return Ok(String::new()) };
        let failed =
            |cause: String| Error::File { url: url.to_string(), what: "password file", path: path.clone(), cause };
        let text = tokio::fs::read_to_string(path).await.map_err(|error| failed(error.to_string()))?;
        match text.lines().next() {
            Some(line) if line.len() > usize::from(u16::MAX) => Err(failed("the first line is too long".to_owned())),
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            Some(_) | None => Err(failed("the first line is empty".to_owned())),
        }
    }
}

impl Upstream for Mqtt {
    type Session = MqttSession;

    async fn connect(&mut self, resume: bool) -> Result<MqttSession, Vec<Error>> {
        let mut errors = Vec::new();
        for index in 0..self.settings.urls.len() {
            match self.connect_to(index, resume).await {
                Ok(session) => return Ok(session),
                Err(error) => errors.push(error),
            }
        }
        Err(errors)
    }

    fn first_is_back(&self) -> impl Future<Output = bool> + Send + 'static {
        let (settings, resolver) = (self.settings.clone(), self.resolver.clone());
        async move {
            let patience = Patience::new(settings.connect_timeout);
            match settings.urls.first() {
                Some(url) => dial(&settings, url, &resolver, patience).await.is_ok(),
                None => false,
            }
        }
    }
}

/// Sends CONNECT and waits for the upstream's yes; its no is an error.
pub(super) async fn say_hello(
    version: Version,
    wire: &mut dyn Wire,
    url: &Url,
    hello: &[u8],
    patience: Patience,
) -> Result<Answered, Error> {
    let (connack, rest) = patience
        .wait(url, Step::Connect, async {
            wire.write_all(hello).await.map_err(|cause| io_error(url, cause))?;
            wire.flush().await.map_err(|cause| io_error(url, cause))?;
            read_connack(version, wire, url).await
        })
        .await?;
    if connack.code != 0 {
        return Err(Error::Refused { url: url.to_string(), code: connack.code, v5: connack.v5, text: connack.text });
    }
    Ok(Answered { connack, rest })
}

async fn read_connack(version: Version, wire: &mut dyn Wire, url: &Url) -> Result<(ConnAck, BytesMut), Error> {
    let protocol = |cause: String| Error::Protocol { url: url.to_string(), step: Step::Connect, cause };
    let mut buffer = BytesMut::with_capacity(1024);
    loop {
        if let Some(frame) = codec::take_frame(&mut buffer, MAX_MESSAGE_BYTES).map_err(protocol)? {
            return match codec::read(version, frame).map_err(protocol)? {
                Incoming::Greeting(connack) => Ok((*connack, buffer)),
                Incoming::Disconnect(code, text) => Err(Error::Disconnected { url: url.to_string(), code, text }),
                Incoming::Event(_) | Incoming::Pong | Incoming::Subscribed(..) | Incoming::Other(_) => {
                    Err(protocol("the first packet is not a CONNACK".to_owned()))
                }
            };
        }
        if wire.read_buf(&mut buffer).await.map_err(|cause| io_error(url, cause))? == 0 {
            return Err(Error::Closed { url: url.to_string(), step: Step::Connect });
        }
    }
}

fn io_error(url: &Url, cause: std::io::Error) -> Error {
    Error::Io { url: url.to_string(), step: Step::Connect, cause }
}
