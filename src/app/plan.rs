//! What a reload has to do: the running configuration beside the new one. Pure.
//!
//! Things are the same when they have the same name. A forwarder is *renewed* (stopped in order, then started again) when its uplink
//! or anything of what it forwards has changed, or what its upstream is asked for. So whenever a stream moves, both of its forwarders
//! are stopped before either goes on: nothing is in flight at two.
//!
//! What only a restart can change is named ([`Plan::restart_required`]), and stays as it is ([`keep`]) while all the rest is applied.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    admin::Changed,
    config::{Config, Stream},
    downlink,
    forward::Envelope,
    topic::{TopicFilter, TopicTemplate},
};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) listeners: Changed,
    pub(super) streams: Changed,
    pub(super) uplinks: Changed,
    pub(super) downlinks: Changed,
    /// Other sections that can change and have.
    pub(super) settings: Vec<String>,
    /// Keys that have changed and cannot.
    pub(super) restart_required: Vec<String>,
    /// Uplinks, in both configurations, whose forwarder is stopped and started again.
    pub(super) renewed: BTreeSet<String>,
    /// All downlinks are stopped and started again, with other ways for what comes down.
    pub(super) renews_downlinks: bool,
}

impl Plan {
    /// From `running` to `new`, which is as it was read.
    pub(super) fn new(running: &Config, new: &Config) -> Self {
        let mut plan = Self {
            listeners: compare(&running.broker.listeners, &new.broker.listeners, |it| &it.name, |old, new| old == new),
            streams: compare(
                &running.streams,
                &new.streams,
                |it| &it.name,
                |old, other| same_stream((running, old), (new, other)),
            ),
            uplinks: compare(&running.uplinks, &new.uplinks, |it| &it.name, |old, new| old == new),
            downlinks: compare(
                &running.downlinks,
                &new.downlinks,
                |it| &it.name,
                |old, other| same_downlink((running, old), (new, other)),
            ),
            restart_required: waiting(running, new),
            ..Self::default()
        };
        plan.note_settings(running, new);
        plan.renews_downlinks = wants_other_downlinks(running, new);
        for name in kept_names(running, new) {
            let is_changed = !is_only_tuned(running, new, name);
            let subscribes = subscribes(running, name) || subscribes(new, name);
            let others_come_down = plan.renews_downlinks && subscribes;
            if is_changed || others_come_down || goings(running, name) != goings(new, name) {
                plan.renewed.insert(name.to_owned());
            }
        }
        plan
    }

    fn note_settings(&mut self, running: &Config, new: &Config) {
        let mut note = |differs: bool, section: &str| {
            if differs {
                self.settings.push(section.to_owned());
            }
        };
        note(running.broker.access != new.broker.access, "[auth]");
        let live = |config: &Config| (config.store.commit_delay, config.store.max_bytes, config.store.min_free);
        note(live(running) != live(new), "[store]");
        note(running.log.level != new.log.level, "[log]");
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        let kinds = [&self.listeners, &self.streams, &self.uplinks, &self.downlinks];
        kinds.iter().all(|kind| kind.is_empty()) && self.settings.is_empty()
    }
}

/// The new configuration with all that only a restart can change as it is now.
pub(super) fn keep(running: &Config, new: Config) -> Config {
    let mut kept = new;
    kept.gateway_id.clone_from(&running.gateway_id);
    kept.store.data_dir.clone_from(&running.store.data_dir);
    kept.store.durability = running.store.durability;
    kept.admin = running.admin.clone();
    kept.log.format = running.log.format;
    kept
}

/// Keys that differ and take a restart.
fn waiting(running: &Config, new: &Config) -> Vec<String> {
    let keys = [
        (running.gateway_id != new.gateway_id, "gateway.id"),
        (running.store.data_dir != new.store.data_dir, "gateway.data_dir"),
        (running.store.durability != new.store.durability, "store.durability"),
        (running.admin.bind != new.admin.bind, "admin.bind"),
        (running.admin.token_file != new.admin.token_file, "admin.token_file"),
        (running.admin.hosts != new.admin.hosts, "admin.hosts"),
        (running.log.format != new.log.format, "log.format"),
    ];
    keys.into_iter().filter(|(differs, _)| *differs).map(|(_, key)| key.to_owned()).collect()
}

/// What came, went and changed, each in the order of its configuration.
fn compare<T>(old: &[T], new: &[T], name: impl Fn(&T) -> &String, same: impl Fn(&T, &T) -> bool) -> Changed {
    let find = |list: &'_ [T], wanted: &T| list.iter().position(|it| name(it) == name(wanted));
    let mut changed = Changed::default();
    for it in new {
        match find(old, it) {
            None => changed.added.push(name(it).clone()),
            Some(at) if !same(&old[at], it) => changed.changed.push(name(it).clone()),
            Some(_) => {}
        }
    }
    changed.removed = old.iter().filter(|it| find(new, it).is_none()).map(|it| name(it).clone()).collect();
    changed
}

/// Names of the uplinks that are in both.
fn kept_names<'c>(running: &'c Config, new: &'c Config) -> impl Iterator<Item = &'c str> {
    let is_kept = |name: &&str| new.uplinks.iter().any(|uplink| uplink.name == *name);
    running.uplinks.iter().map(|uplink| &*uplink.name).filter(is_kept)
}

/// Whether an uplink that is in both is the same but for what can change on a connection.
fn is_only_tuned(running: &Config, new: &Config, name: &str) -> bool {
    let of = |config: &'_ Config| config.uplinks.iter().find(|uplink| uplink.name == name).cloned();
    of(running).zip(of(new)).is_some_and(|(old, other)| old.is_only_tuned(&other))
}

fn uplink_at(config: &Config, place: Option<usize>) -> Option<&str> {
    config.uplinks.get(place?).map(|uplink| &*uplink.name)
}

fn same_stream((running, old): (&Config, &Stream), (new, other): (&Config, &Stream)) -> bool {
    let bare = |stream: &Stream| Stream { to: None, ..stream.clone() };
    bare(old) == bare(other) && uplink_at(running, old.to) == uplink_at(new, other.to)
}

fn same_downlink((running, old): (&Config, &downlink::Settings), (new, other): (&Config, &downlink::Settings)) -> bool {
    let bare = |it: &downlink::Settings| downlink::Settings { from: 0, ..it.clone() };
    bare(old) == bare(other) && uplink_at(running, Some(old.from)) == uplink_at(new, Some(other.from))
}

/// Also their order says what they do: the first that matches takes a message.
fn wants_other_downlinks(running: &Config, new: &Config) -> bool {
    let (old, other) = (&running.downlinks, &new.downlinks);
    old.len() != other.len() || !old.iter().zip(other).all(|(old, other)| same_downlink((running, old), (new, other)))
}

/// What of a stream its forwarder goes by.
type Going<'c> = (&'c str, &'c [TopicFilter], &'c TopicTemplate, i8, Envelope, Option<Duration>);

/// What an uplink forwards, whatever the order of the configuration.
fn goings<'c>(config: &'c Config, uplink: &str) -> Vec<Going<'c>> {
    let ours = config.streams.iter().filter(|stream| uplink_at(config, stream.to) == Some(uplink));
    let going = |it: &'c Stream| (&*it.name, &*it.from, &it.topic, it.priority, it.envelope, it.ttl);
    let mut goings: Vec<_> = ours.map(going).collect();
    goings.sort_unstable_by_key(|going| going.0);
    goings
}

/// Whether anything comes down an uplink.
fn subscribes(config: &Config, uplink: &str) -> bool {
    config.downlinks.iter().any(|downlink| uplink_at(config, Some(downlink.from)) == Some(uplink))
}

#[cfg(test)]
mod tests;
