//! Building the rooms and joining them.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task;

use super::{
    facts::{Facts, Heartbeat},
    meters::Meters,
    scratch::Scratch,
    sys,
};
use crate::{
    admin::{self, Admin},
    broker::{self, Broker},
    config::{Config, Qos0, Stream},
    downlink::{self, Downlinks},
    forward::{self, Forwarder},
    intake::{Intake, Rule},
    store::{self, Handle, Store, StreamId},
    systemd::{Pulse, Systemd},
};

/// How much longer a start may take while the store is opened: salvaging a damaged one reads all of it.
const OPEN_EXTENSION: Duration = Duration::from_secs(60);

/// All running parts.
pub(super) struct Assembly {
    pub(super) store: Store,
    pub(super) handle: Handle,
    pub(super) forwarders: Vec<Forwarder>,
    pub(super) downlinks: Downlinks,
    pub(super) broker: Arc<Broker>,
    pub(super) admin: Admin,
    /// The data directory of a gateway without a configuration.
    pub(super) scratch: Option<Scratch>,
    facts: Arc<Facts>,
}

impl Assembly {
    /// Builds and starts every part. On failure what was started is dropped, which stops it.
    pub(super) async fn start(config: &Config, systemd: &Systemd) -> anyhow::Result<Self> {
        let registry = prometheus::Registry::new();
        let (scratch, store, handle) = open_store(config, &registry, systemd).await?;
        let (inbound, arrivals) = downlink::connect(&config.downlinks, config.uplinks.len());
        let forwarders = start_forwarders(config, &handle, &registry, inbound)?;
        let intake = Intake::new(handle.clone(), rules(config, &forwarders));
        let broker = broker::start(config.broker.clone(), intake, &registry).await?;
        let broker = Arc::new(broker);
        let uplinks: Vec<String> = config.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        let downlinks = downlink::start(&config.downlinks, &uplinks, arrivals, &handle, &broker, &registry)?;
        let facts = Arc::new(Facts {
            gateway_id: config.gateway_id.clone(),
            started: Instant::now(),
            store: handle.clone(),
            destinations: config.streams.iter().map(|stream| Some(config.uplinks[stream.to?].name.clone())).collect(),
            uplinks: forwarders.iter().map(|forwarder| Box::new(forwarder.watcher()) as _).collect(),
            downlinks: Box::new(downlinks.watcher()),
            broker: Arc::clone(&broker),
            heartbeats: heartbeats(&handle, &forwarders),
            stopping: AtomicBool::new(false),
        });
        Meters::register(config, &facts, &registry)?;
        broker.tell_sys(sys::facts(Arc::downgrade(&facts)));
        let admin = admin::start(&config.admin, Arc::clone(&facts) as _, registry)?;
        Ok(Self { store, handle, forwarders, downlinks, broker, admin, scratch, facts })
    }

    /// The figures of all parts.
    pub(super) fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    /// What must move for the gateway to be alive: the store's writer and every uplink's loop.
    pub(super) fn pulses(&self) -> Vec<Pulse> {
        let names = std::iter::once("the store").chain(std::iter::repeat("an uplink"));
        self.facts.heartbeats.iter().zip(names).map(|(heartbeat, name)| heartbeat.pulse(name)).collect()
    }

    /// Waits for the unexpected end of any part, and says which and why. Cancel safe.
    pub(super) async fn failed(&mut self) -> String {
        let Self { handle, forwarders, downlinks, broker, admin, .. } = self;
        tokio::select! {
            cause = handle.failed() => format!("the store: {cause}"),
            cause = broker.failed() => format!("the broker: {cause}"),
            cause = forwarder_ended(forwarders) => cause,
            cause = downlinks.ended() => format!("the downlinks: {cause}"),
            () = admin.ended() => "the admin room has ended".to_owned(),
        }
    }
}

/// Waits for the first forwarder that ends of itself.
async fn forwarder_ended(forwarders: &mut [Forwarder]) -> String {
    let mut names = forwarders.iter().map(|forwarder| forwarder.name().to_owned()).collect::<Vec<_>>();
    let mut ends: Vec<_> = forwarders.iter_mut().map(|forwarder| Box::pin(forwarder.ended())).collect();
    std::future::poll_fn(move |context| {
        for (index, end) in ends.iter_mut().enumerate() {
            if let std::task::Poll::Ready(result) = end.as_mut().poll(context) {
                let cause = result.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
                return std::task::Poll::Ready(format!("the uplink {}: {cause}", names.swap_remove(index)));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

async fn open_store(
    config: &Config,
    registry: &prometheus::Registry,
    systemd: &Systemd,
) -> anyhow::Result<(Option<Scratch>, Store, Handle)> {
    let mut settings = config.store.clone();
    let mut scratch = None;
    if config.files.is_empty() && config.streams.is_empty() {
        let made = Scratch::new().context("cannot make a temporary data directory")?;
        made.path().clone_into(&mut settings.data_dir);
        scratch = Some(made);
        tracing::info!("no configuration file: a broker on loopback that stores nothing");
    }
    systemd.still_starting("opening the store", OPEN_EXTENSION);
    let (streams, registry) = (config.stream_settings(), registry.clone());
    let opened = task::spawn_blocking(move || store::open(&settings, &streams, &registry)).await?;
    let (store, handle) = opened.context("cannot open the store")?;
    Ok((scratch, store, handle))
}

fn start_forwarders(
    config: &Config,
    handle: &Handle,
    registry: &prometheus::Registry,
    inbound: Vec<crate::uplink::Inbound>,
) -> anyhow::Result<Vec<Forwarder>> {
    let start = |((index, uplink), inbound): ((usize, &crate::uplink::Settings), crate::uplink::Inbound)| {
        let routes = streams(config)
            .filter(|(_, stream)| stream.to == Some(index))
            .map(|(id, stream)| stream.route(id))
            .collect();
        forward::start_both_ways(uplink.clone(), routes, &config.gateway_id, handle.clone(), registry, inbound)
    };
    Ok(config.uplinks.iter().enumerate().zip(inbound).map(start).collect::<Result<_, _>>()?)
}

fn heartbeats(handle: &Handle, forwarders: &[Forwarder]) -> Vec<Heartbeat> {
    let uplink =
        |forwarder: &Forwarder| Heartbeat::new(format!("the uplink {}", forwarder.name()), forwarder.heartbeat());
    let store = Heartbeat::patient("the store".to_owned(), handle.pulse());
    std::iter::once(store).chain(forwarders.iter().map(uplink)).collect()
}

fn rules(config: &Config, forwarders: &[Forwarder]) -> Vec<Rule> {
    let rule = |(id, stream): (StreamId, &Stream)| {
        let uplink = stream.to.and_then(|index| forwarders.get(index));
        let live_only = uplink.filter(|_| stream.qos0 == Qos0::LiveOnly).map(Forwarder::connected);
        Rule { stream: id, from: stream.from.clone(), except: stream.except.clone(), live_only }
    };
    streams(config).map(rule).collect()
}

/// The streams with their ids, which are their places in the configuration.
fn streams(config: &Config) -> impl Iterator<Item = (StreamId, &Stream)> {
    (0..).map(StreamId).zip(&config.streams)
}
