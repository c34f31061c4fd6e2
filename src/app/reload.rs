//! Reload: the configuration read again on SIGHUP, and the files of access as soon as they change.
//!
//! A configuration with an error in it is refused whole: every problem is logged and everything stays as it was. Of a good one,
//! access (users, rules, `anonymous` of the listeners) and certificates are applied, to connected clients too; whatever else has
//! changed is named in the log and waits for a restart.
//!
//! The password and ACL files are looked at every [`LOOK_INTERVAL`]. A change is taken up when it has stood still from one look to
//! the next, so that a file that somebody is writing to at the moment is not taken for whole.
//!
//! Reading happens on a thread of its own (files may be on a slow card), applying in between; a stop does not wait for
//! either. A crash loses nothing: the next start reads the same files.

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, task::spawn_blocking, time::MissedTickBehavior};

use crate::{
    broker::{self, Broker, ListenerSettings},
    config::{self, Config, Problem, Refused, Severity},
    systemd::Systemd,
};

/// How often the files of access are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Reads again and applies.
#[derive(Debug)]
pub(super) struct Reload {
    /// The configuration file that was asked for.
    file: Option<PathBuf>,
    /// What holds at the moment.
    running: Config,
    broker: Arc<Broker>,
    systemd: Systemd,
    watch: Watch,
}

impl Reload {
    pub(super) fn new(file: Option<&Path>, running: Config, broker: Arc<Broker>, systemd: Systemd) -> Self {
        Self { file: file.map(Path::to_owned), running, broker, systemd, watch: Watch::default() }
    }

    /// Reloads whenever it is `wanted`, or files have changed; never ends.
    pub(super) async fn run(mut self, wanted: &Notify) -> Infallible {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = wanted.notified() => self.everything().await,
                _ = look.tick() => self.changed_files().await,
            }
        }
    }

    /// The whole configuration.
    async fn everything(&mut self) {
        self.systemd.reloading();
        let file = self.file.clone();
        let loaded = spawn_blocking(move || config::load(file.as_deref())).await;
        match loaded {
            Ok(Ok(new)) => {
                tell(&new.warnings);
                let restart = differences(&self.running, &new);
                self.apply_access(new.broker.clone()).await;
                // Refusals are logged there; a file that was good a moment ago is rarely bad now.
                let _ = self.broker.reload_tls().await;
                if !restart.is_empty() {
                    let changed = restart.join(", ");
                    tracing::warn!(changed, "reload: this has changed too, and takes a restart");
                }
            }
            Ok(Err(refused)) => refuse(&refused),
            Err(error) => tracing::error!(%error, "reload: reading the configuration failed"),
        }
        self.systemd.ready();
    }

    /// The files of access, where they have changed.
    async fn changed_files(&mut self) {
        let access = self.running.broker.access.clone();
        let paths: Vec<PathBuf> = [&access.password_file, &access.acl_file].into_iter().flatten().cloned().collect();
        if paths.is_empty() {
            return;
        }
        let Ok(seen) = spawn_blocking(move || paths.iter().map(|path| Mark::of(path)).collect()).await else { return };
        if !self.watch.look(seen) {
            return;
        }
        match spawn_blocking(move || config::reread_access(&access)).await {
            Ok(Ok((access, _))) if access == self.running.broker.access => {}
            Ok(Ok((access, warnings))) => {
                tell(&warnings);
                self.apply_access(broker::Settings { access, ..self.running.broker.clone() }).await;
            }
            Ok(Err(refused)) => refuse(&refused),
            Err(error) => tracing::error!(%error, "reload: reading the files of access failed"),
        }
    }

    /// Makes users, rules and `anonymous` of these settings hold.
    async fn apply_access(&mut self, new: broker::Settings) {
        let running = &mut self.running.broker;
        running.access = new.access.clone();
        for listener in &mut running.listeners {
            if let Some(new) = new.listeners.iter().find(|new| new.name == listener.name) {
                listener.anonymous = new.anonymous;
            }
        }
        let (broker, settings) = (Arc::clone(&self.broker), running.clone());
        // Judging every client takes a while where there are many.
        let applied = spawn_blocking(move || broker.apply_access(&settings)).await;
        let Ok(applied) = applied else { return };
        let users = new.access.users.map_or(0, |users| users.len());
        let rules = new.access.rules.map_or(0, |rules| rules.len());
        tracing::info!(users, rules, disconnected = applied.disconnected, "access reloaded");
    }
}

fn tell(warnings: &[Problem]) {
    for warning in warnings {
        tracing::warn!(problem = %warning, "configuration: surely not meant");
    }
}

fn refuse(refused: &Refused) {
    for problem in &refused.0 {
        match problem.severity {
            Severity::Error => tracing::error!(%problem, "reload"),
            Severity::Warning => tracing::warn!(%problem, "reload"),
        }
    }
    tracing::error!("reload refused: everything stays as it was");
}

/// What differs beside that which a reload applies, in the words of the configuration.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |differs: bool, section: &str| {
        if differs {
            found.push(section.to_owned());
        }
    };
    note(old.gateway_id != new.gateway_id || old.store.data_dir != new.store.data_dir, "[gateway]");
    // Where the data are belongs to [gateway].
    let data_dir = || old.store.data_dir.clone();
    note(crate::store::Settings { data_dir: data_dir(), ..new.store.clone() } != old.store, "[store]");
    note(old.admin != new.admin, "[admin]");
    note(old.log != new.log, "[log]");
    let closed = |listeners: &[ListenerSettings]| -> Vec<ListenerSettings> {
        listeners.iter().map(|listener| ListenerSettings { anonymous: false, ..listener.clone() }).collect()
    };
    let listeners = (closed(&old.broker.listeners), closed(&new.broker.listeners));
    found.extend(by_name("listener", &listeners.0, &listeners.1, |listener| &listener.name));
    found.extend(by_name("uplink", &old.uplinks, &new.uplinks, |uplink| &uplink.name));
    found.extend(by_name("stream", &old.streams, &new.streams, |stream| &stream.name));
    found.extend(by_name("downlink", &old.downlinks, &new.downlinks, |downlink| &downlink.name));
    found
}

/// Entries that are gone, new or different, each once; "order" where nothing else has changed.
fn by_name<T: PartialEq>(kind: &str, old: &[T], new: &[T], name: impl Fn(&T) -> &str) -> Vec<String> {
    let is_in = |entry: &T, list: &[T]| list.contains(entry);
    let changed = old.iter().filter(|entry| !is_in(entry, new)).chain(new.iter().filter(|entry| !is_in(entry, old)));
    let mut names: Vec<String> = Vec::new();
    for entry in changed {
        let said = format!("{kind} {}", name(entry));
        if !names.contains(&said) {
            names.push(said);
        }
    }
    if names.is_empty() && old != new {
        names.push(format!("the order of [[{kind}]]"));
    }
    names
}

/// What tells that a file is another one than before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// File system, inode, length, and time of the last change.
    File([u64; 3], (i64, i64)),
    /// It is not there, or cannot be looked at.
    Nothing,
}

impl Mark {
    fn of(path: &Path) -> Self {
        fs::metadata(path).map_or(Self::Nothing, |file| {
            Self::File([file.dev(), file.ino(), file.len()], (file.ctime(), file.ctime_nsec()))
        })
    }
}

/// Says when files have changed and stand still again.
#[derive(Debug, Default)]
struct Watch {
    /// What was taken up; nothing at first, so that a change between the start and the first look is seen.
    taken: Vec<Mark>,
    last: Vec<Mark>,
}

impl Watch {
    fn look(&mut self, seen: Vec<Mark>) -> bool {
        let stands_still = seen == self.last;
        let is_new = stands_still && seen != self.taken;
        if is_new {
            self.taken.clone_from(&seen);
        }
        self.last = seen;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Inputs;

    fn load(toml: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        fs::write(&file, format!("[gateway]\nid = \"g\"\ndata_dir = \"/nonexistent/data\"\n{toml}")).unwrap();
        config::load_from(&Inputs { file: Some(file), ..Inputs::default() }).unwrap()
    }

    #[test]
    fn what_takes_a_restart_is_told_by_name() {
        let listener = "[[listener]]\nname = \"field\"\nbind = \"127.0.0.1:0\"\n";
        let stream = |name: &str, ttl: u8| format!("[[stream]]\nname = \"{name}\"\nfrom = [\"#\"]\nttl = \"{ttl}s\"\n");
        let old = load(&format!("{listener}{}{}", stream("a", 1), stream("b", 1)));
        let table = [
            (format!("{listener}{}{}", stream("a", 1), stream("b", 1)), ""),
            (format!("{listener}anonymous = false\n{}{}", stream("a", 1), stream("b", 1)), ""),
            (
                format!("{listener}max_connections = 7\n{}{}", stream("a", 1), stream("b", 2)),
                "listener field, stream b",
            ),
            (format!("{listener}{}{}", stream("b", 1), stream("a", 1)), "the order of [[stream]]"),
            (
                format!("{}{}[log]\nlevel = \"warn\"\n", stream("a", 1), stream("c", 1)),
                "[log], listener field, listener local, stream b, stream c",
            ),
            (
                format!(
                    "{listener}{}{}[store]\nmin_free = 1\n[admin]\nbind = \"off\"\n",
                    stream("a", 1),
                    stream("b", 1)
                ),
                "[store], [admin]",
            ),
        ];
        for (toml, expected) in table {
            assert_eq!(differences(&old, &load(&toml)).join(", "), expected, "{toml}");
        }
    }

    #[test]
    fn a_change_is_taken_up_once_and_only_when_it_stands_still() {
        let mark = |number| vec![Mark::File([1, 2, number], (0, 0)), Mark::Nothing];
        let mut watch = Watch::default();
        assert!(!watch.look(mark(1)));
        assert!(watch.look(mark(1)), "once after the start, for what changed before the first look");
        assert!(!watch.look(mark(1)));
        assert!(!watch.look(mark(2)));
        assert!(!watch.look(mark(3)), "somebody is writing");
        assert!(watch.look(mark(3)));
        assert!(!watch.look(mark(3)));
        assert!(!watch.look(vec![Mark::Nothing, Mark::Nothing]) && watch.look(vec![Mark::Nothing, Mark::Nothing]));
    }
}
