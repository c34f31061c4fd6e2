//! Another configuration for the running parts: all that can fail first, then all of it.
//!
//! # The steps
//!
//! 1. *Prepared*, with everything running as before: ports bound, certificates read, new metrics registered. Whatever is wrong is told, all at
//!    once, and given back.
//! 2. *The store learns* of the streams. It is the last that can fail (a full disk has no place for a new one).
//! 3. *Nothing fails any more.* The intake goes by the new rules; access; listeners; then, side by side, the forwarders and downlinks that
//!    are changed or gone are stopped in order, and when all of them have ended, those that are new or changed begin.
//!
//! # Order, and what is in flight
//!
//! A stream has one forwarder at a time. The old one sends nothing new from before the rules change (it knows only its own filters, and what
//! does not match them has no topic upstream), waits up to [`GRACE`] for the upstream's acknowledgements, and settles:
//! when it has ended that is committed. What was not acknowledged until then is sent again by the next, oldest first, under the same ids. A message
//! that was matched by the rules before goes where they said, and waits there; nobody is asked twice. What the old
//! forwarder knew of messages that its upstream does not take is forgotten: they are tried again from the beginning.
//!
//! While forwarders change hands, messages are accepted as ever. Streams of `qos0 = "live-only"` drop what comes at QoS 0 until their uplink is
//! connected again, as on any other loss of the connection.
//!
//! # A crash
//!
//! Before 2: nothing has happened. After it: the next start reads the new file anyway. There is nothing on disk that belongs to a reload but new streams.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::task::{JoinSet, spawn_blocking};

use super::{
    assembly::{Assembly, Places, by_name, names},
    plan::{self, Plan},
};
use crate::{
    broker,
    config::Config,
    downlink,
    forward::{Figures, Forwarder},
    store,
    topic::TopicFilter,
    uplink,
};

/// How long upstreams get to acknowledge what is in flight when their uplink is changed.
const GRACE: Duration = Duration::from_secs(5);

/// How long the downlinks get to have committed what they were given.
const DOWNLINK_GRACE: Duration = Duration::from_secs(5);

/// How long the store may take to learn of other streams: its disk may be slow.
const STORE_PATIENCE: Duration = Duration::from_secs(20);

/// Most filters that one upstream is told that it is not asked for any more.
const UNWANTED_MAX: usize = 1000;

/// Filters by uplink.
pub(super) type Unwanted = HashMap<String, BTreeSet<TopicFilter>>;

/// Something that keeps a configuration from being used; `key` and `name` as in a problem of the configuration.
#[derive(Debug)]
pub(super) struct Obstacle {
    pub(super) key: &'static str,
    pub(super) name: Option<String>,
    pub(super) story: String,
}

/// All that is needed for another configuration. Dropping it gives everything back.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    config: Config,
    listeners: broker::Prepared,
    /// Of uplinks that are new.
    figures: Vec<Figures>,
    registry: prometheus::Registry,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for figures in &self.figures {
            figures.unregister(&self.registry);
        }
    }
}

impl Assembly {
    /// Gets everything that a configuration needs. Changes nothing; cancel safe.
    pub(super) async fn prepare(&self, new: Config) -> Result<Prepared, Vec<Obstacle>> {
        let plan = Plan::new(&self.config, &new);
        if self.scratch.is_some() && !new.streams.is_empty() {
            let story =
                "this gateway was started without a configuration and keeps nothing beyond its end: start it again";
            return Err(vec![Obstacle { key: "stream", name: None, story: story.to_owned() }]);
        }
        let config = plan::keep(&self.config, new);
        let mut obstacles = Vec::new();
        let touched = |name: &String| plan.uplinks.added.contains(name) || plan.uplinks.changed.contains(name);
        let uplinks: Vec<_> = config.uplinks.iter().filter(|uplink| touched(&uplink.name)).cloned().collect();
        let (broker, settings) = (Arc::clone(&self.broker), config.broker.clone());
        let looked = spawn_blocking(move || (broker.prepare(&settings), wrong_files(&uplinks))).await;
        let (listeners, wrong) = looked.map_err(|error| vec![Obstacle::new("", None, &error)])?;
        obstacles.extend(wrong);
        let listeners = match listeners {
            Ok(listeners) => Some(listeners),
            Err(errors) => {
                obstacles.extend(errors.iter().map(|error| Obstacle::new("listener", error.listener(), error)));
                None
            }
        };
        let mut figures = Vec::new();
        for name in &plan.uplinks.added {
            match Figures::register(name, &self.registry) {
                Ok(registered) => figures.push(registered),
                Err(error) => obstacles.push(Obstacle::new("uplink", Some(name), &error)),
            }
        }
        let registry = self.registry.clone();
        match listeners {
            Some(listeners) if obstacles.is_empty() => Ok(Prepared { plan, config, listeners, figures, registry }),
            Some(_) | None => {
                for figures in figures {
                    figures.unregister(&registry);
                }
                Err(obstacles)
            }
        }
    }

    /// Makes it hold. Not cancel safe. The inner error is a part that has failed, which ends the program.
    pub(super) async fn apply(&mut self, mut prepared: Prepared) -> Result<Result<Plan, Vec<Obstacle>>, String> {
        let ids = match self.learn(&prepared.config).await {
            Ok(ids) => ids,
            Err(obstacle) => return Ok(Err(vec![obstacle])),
        };
        let (new, plan) = (prepared.config.clone(), prepared.plan.clone());
        let added = by_name(std::mem::take(&mut prepared.figures).into_iter());
        let mut figures = by_name(self.forwarders.iter().map(Forwarder::figures));
        figures.extend(added);
        let places = Places::new(&new, ids);
        // Before anything is accepted that does not fit the topics as they know them, and would be a dead letter.
        self.forwarders.iter().filter(|it| is_leaving(&plan, it)).for_each(Forwarder::hush);
        self.intake.replace(places.rules(&figures));
        self.apply_access(new.broker.clone()).await;
        let empty = broker::Prepared::default();
        self.broker.apply(std::mem::replace(&mut prepared.listeners, empty)).await;
        drop(prepared);

        self.change_hands(&places, &new, &plan, &figures).await?;
        for gone in &plan.uplinks.removed {
            if let Some(figures) = figures.get(gone) {
                figures.unregister(&self.registry);
            }
        }
        self.facts.replace(places.parts(&self.forwarders, &self.downlinks, plan.restart_required.clone()));
        self.meters.configure(&new);
        self.config = new;
        Ok(Ok(plan))
    }

    /// Makes users, rules and `anonymous` of these settings hold, and says how many clients had to go.
    pub(super) async fn apply_access(&self, settings: broker::Settings) {
        let users = settings.access.users.as_ref().map_or(0, |users| users.len());
        let rules = settings.access.rules.as_ref().map_or(0, |rules| rules.len());
        let broker = Arc::clone(&self.broker);
        // Judging every client takes a while where there are many. The task fails only when the runtime ends.
        let applied = spawn_blocking(move || broker.apply_access(&settings)).await;
        let disconnected = applied.map_or(0, |applied| applied.disconnected);
        tracing::info!(users, rules, disconnected, "access reloaded");
    }

    async fn learn(&self, config: &Config) -> Result<Vec<store::StreamId>, Obstacle> {
        let store::Settings { commit_delay, max_bytes, min_free, .. } = config.store;
        let changes = store::Changes { streams: config.stream_settings(), commit_delay, max_bytes, min_free };
        match tokio::time::timeout(STORE_PATIENCE, self.handle.configure(changes)).await {
            Ok(Ok(ids)) => Ok(ids),
            Ok(Err(error)) => Err(Obstacle::new("stream", None, &error)),
            Err(_elapsed) => {
                let story = format!("the disk has not answered within {} s", STORE_PATIENCE.as_secs());
                Err(Obstacle { key: "stream", name: None, story })
            }
        }
    }

    /// Stops what is changed or gone, and then starts what is changed or new.
    async fn change_hands(
        &mut self,
        places: &Places<'_>,
        new: &Config,
        plan: &Plan,
        figures: &HashMap<String, Figures>,
    ) -> Result<(), String> {
        let (leaving, mut staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.forwarders).into_iter().partition(|it| is_leaving(plan, it));
        let downlinks = self.downlinks.figures();
        if plan.renews_downlinks {
            // What is not committed by then is not acknowledged either, and comes again.
            match tokio::time::timeout(DOWNLINK_GRACE, self.downlinks.end()).await {
                Ok(ended) => ended.map_err(|error| format!("the downlinks: {error}"))?,
                Err(_elapsed) => {
                    tracing::warn!("the store did not take in time what was delivered last; it may be delivered again");
                }
            }
        }
        let mut inbound = stop_all(leaving).await?;
        let mut arrivals = Vec::new();
        if plan.renews_downlinks {
            self.unwanted = unwanted(&self.unwanted, &self.config, new);
            let (ours, theirs) = downlink::connect(&new.downlinks, new.uplinks.len());
            let forget = |name: &String| self.unwanted.get(name).cloned().unwrap_or_default().into_iter().collect();
            let ours = names(new).into_iter().zip(ours);
            inbound = ours.map(|(name, ours)| (name.clone(), ours.without(forget(&name)))).collect();
            arrivals = theirs;
        }
        for (place, settings) in new.uplinks.iter().enumerate() {
            let name = &settings.name;
            if let Some(at) = staying.iter().position(|forwarder| forwarder.name() == name) {
                let forwarder = staying.swap_remove(at);
                forwarder.tune(settings.clone());
                self.forwarders.push(forwarder);
                continue;
            }
            let Some(figures) = figures.get(name) else { continue };
            let inbound = inbound.remove(name).unwrap_or_else(|| uplink::inbound(Vec::new()).0);
            self.forwarders.push(places.forward(figures.clone(), place, &self.handle, inbound));
        }
        if plan.renews_downlinks {
            let uplinks = names(new);
            let started =
                downlink::start_again(downlinks, &new.downlinks, &uplinks, arrivals, &self.handle, &self.broker);
            self.downlinks = started;
        }
        Ok(())
    }
}

/// Whether a forwarder is to be stopped.
fn is_leaving(plan: &Plan, it: &Forwarder) -> bool {
    plan.renewed.contains(it.name()) || plan.uplinks.removed.iter().any(|name| name == it.name())
}

/// Stops forwarders side by side; gives the ways for what comes down, by uplink.
async fn stop_all(forwarders: Vec<Forwarder>) -> Result<HashMap<String, uplink::Inbound>, String> {
    let mut stopping = JoinSet::new();
    for forwarder in forwarders {
        stopping.spawn(async move { (forwarder.name().to_owned(), forwarder.stop(GRACE).await) });
    }
    let stopped = stopping.join_all().await;
    stopped
        .into_iter()
        .map(|(name, stopped)| match stopped {
            Ok(inbound) => Ok((name, inbound)),
            Err(error) => Err(format!("the uplink {name}: {error}")),
        })
        .collect()
}

/// Filters that upstreams may have been asked for since the start, and are not any more, by uplink: those with a session of ours go on sending
/// until they are told.
fn unwanted(before: &Unwanted, old: &Config, new: &Config) -> Unwanted {
    let asked = |config: &Config, name: &str| -> BTreeSet<TopicFilter> {
        let ours = config.downlinks.iter().filter(|downlink| config.uplinks[downlink.from].name == name);
        ours.flat_map(|downlink| downlink.filters.clone()).collect()
    };
    let of = |name: String| {
        let mut filters = before.get(&name).cloned().unwrap_or_default();
        filters.append(&mut asked(old, &name));
        let wanted = asked(new, &name);
        filters.retain(|filter| !wanted.contains(filter));
        while filters.len() > UNWANTED_MAX {
            filters.pop_first();
        }
        (name, filters)
    };
    names(new).into_iter().map(of).filter(|(_, filters)| !filters.is_empty()).collect()
}

fn wrong_files(uplinks: &[uplink::Settings]) -> Vec<Obstacle> {
    let wrong = |settings: &uplink::Settings| {
        let error = uplink::check_tls(settings).err()?;
        Some(Obstacle::new("uplink", Some(&settings.name), &error))
    };
    uplinks.iter().filter_map(wrong).collect()
}

impl Obstacle {
    fn new(key: &'static str, name: Option<&str>, error: &impl ToString) -> Self {
        Self { key, name: name.map(str::to_owned), story: error.to_string() }
    }
}
