//! Building the rooms and joining them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::task;

use super::{
    change::Unwanted,
    facts::{Facts, Heartbeat, Parts},
    meters::Meters,
    reload::{Reloads, Requests},
    scratch::Scratch,
    sys,
};
use crate::{
    admin::{self, Admin},
    broker::{self, Broker},
    config::{Config, Qos0, Stream},
    downlink::{self, Downlinks},
    forward::{self, Figures, Forwarder, Route},
    intake::{Intake, Rule},
    store::{self, Handle, Store, StreamId},
    systemd::Systemd,
    uplink,
};

/// How much longer a start may take while the store is opened: salvaging a damaged one reads all of it.
const OPEN_EXTENSION: Duration = Duration::from_secs(60);

/// All running parts, and what they run by.
pub(super) struct Assembly {
    pub(super) store: Store,
    pub(super) handle: Handle,
    pub(super) forwarders: Vec<Forwarder>,
    pub(super) downlinks: Downlinks,
    pub(super) broker: Arc<Broker>,
    pub(super) admin: Admin,
    /// The data directory of a gateway without a configuration.
    pub(super) scratch: Option<Scratch>,
    /// What runs, whatever the files say by now.
    pub(super) config: Config,
    pub(super) intake: Intake,
    pub(super) registry: prometheus::Registry,
    pub(super) facts: Arc<Facts>,
    pub(super) meters: Meters,
    pub(super) reloads: Reloads,
    /// What upstreams were asked for once and are not any more.
    pub(super) unwanted: Unwanted,
}

/// The places of the configured streams in the store, in configuration order.
pub(super) struct Places<'c> {
    config: &'c Config,
    ids: Vec<StreamId>,
}

impl Assembly {
    /// Builds and starts every part. On failure what was started is dropped, which stops it.
    pub(super) async fn start(config: &Config, systemd: &Systemd, requests: Requests) -> anyhow::Result<Self> {
        let registry = prometheus::Registry::new();
        let (scratch, store, handle) = open_store(config, &registry, systemd).await?;
        let places = Places::new(config, (0..).map(StreamId).take(config.streams.len()).collect());
        let (inbound, arrivals) = downlink::connect(&config.downlinks, config.uplinks.len());
        let mut forwarders = Vec::with_capacity(config.uplinks.len());
        for (place, (settings, inbound)) in config.uplinks.iter().zip(inbound).enumerate() {
            let figures = Figures::register(&settings.name, &registry)?;
            forwarders.push(places.forward(figures, place, &handle, inbound));
        }
        let intake = Intake::new(handle.clone(), places.rules(&by_name(forwarders.iter().map(Forwarder::figures))));
        let broker = broker::start(config.broker.clone(), intake.clone(), &registry).await?;
        let broker = Arc::new(broker);
        let uplinks = names(config);
        let downlinks = downlink::start(&config.downlinks, &uplinks, arrivals, &handle, &broker, &registry)?;
        let parts = places.parts(&forwarders, &downlinks, Vec::new());
        let facts = Facts::new(config.gateway_id.clone(), handle.clone(), Arc::clone(&broker), requests, parts);
        let facts = Arc::new(facts);
        let meters = Meters::register(config, &facts, &registry)?;
        broker.tell_sys(sys::facts(Arc::downgrade(&facts)));
        let admin = admin::start(&config.admin, Arc::clone(&facts) as _, registry.clone())?;
        let config = config.clone();
        let reloads = Reloads::register(&registry)?;
        let unwanted = Unwanted::default();
        Ok(Self {
            store,
            handle,
            forwarders,
            downlinks,
            broker,
            admin,
            scratch,
            config,
            intake,
            registry,
            facts,
            meters,
            reloads,
            unwanted,
        })
    }

    /// The figures of all parts.
    pub(super) fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
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

/// The names of all uplinks, in configuration order.
pub(super) fn names(config: &Config) -> Vec<String> {
    config.uplinks.iter().map(|uplink| uplink.name.clone()).collect()
}

/// Figures by the names of their uplinks.
pub(super) fn by_name(figures: impl Iterator<Item = Figures>) -> HashMap<String, Figures> {
    figures.map(|figures| (figures.name().to_owned(), figures)).collect()
}

impl<'c> Places<'c> {
    pub(super) fn new(config: &'c Config, ids: Vec<StreamId>) -> Self {
        Self { config, ids }
    }

    /// The streams with their ids.
    fn streams(&self) -> impl Iterator<Item = (StreamId, &'c Stream)> {
        self.ids.iter().copied().zip(&self.config.streams)
    }

    fn uplink_of(&self, stream: &Stream) -> Option<&'c str> {
        stream.to.map(|place| &*self.config.uplinks[place].name)
    }

    fn routes(&self, uplink: usize) -> Vec<Route> {
        self.streams().filter(|(_, stream)| stream.to == Some(uplink)).map(|(id, stream)| stream.route(id)).collect()
    }

    /// Starts the forwarder of the uplink at this place.
    pub(super) fn forward(
        &self,
        figures: Figures,
        uplink: usize,
        store: &Handle,
        inbound: uplink::Inbound,
    ) -> Forwarder {
        let settings = self.config.uplinks[uplink].clone();
        forward::start_again(figures, settings, self.routes(uplink), &self.config.gateway_id, store.clone(), inbound)
    }

    /// What the streams take.
    pub(super) fn rules(&self, uplinks: &HashMap<String, Figures>) -> Vec<Rule> {
        let rule = |(id, stream): (StreamId, &Stream)| {
            let uplink = self.uplink_of(stream).and_then(|name| uplinks.get(name));
            let live_only = uplink.filter(|_| stream.qos0 == Qos0::LiveOnly).map(Figures::connected);
            Rule { stream: id, from: stream.from.clone(), except: stream.except.clone(), live_only }
        };
        self.streams().map(rule).collect()
    }

    /// What is shown of all this.
    pub(super) fn parts(&self, forwarders: &[Forwarder], downlinks: &Downlinks, waiting: Vec<String>) -> Parts {
        let to = |stream: &Stream| Some((stream.name.clone(), self.uplink_of(stream)?.to_owned()));
        let beat = |it: &Forwarder| Arc::new(Heartbeat::new(format!("the uplink {}", it.name()), it.pulse()));
        Parts {
            destinations: self.config.streams.iter().filter_map(to).collect(),
            uplinks: forwarders.iter().map(|forwarder| Box::new(forwarder.watcher()) as _).collect(),
            downlinks: Box::new(downlinks.watcher()),
            heartbeats: forwarders.iter().map(beat).collect(),
            restart_required: waiting,
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
