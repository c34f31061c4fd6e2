//! The checks of `tidegate doctor`: is this device fit for the gateway, and if it is silent, why?
//!
//! Every check gives [`Finding`]s: what it looked at, what it found, how bad that is ([`Grade`]), what to do about it. It runs as the operator or as the user of
//! the service, beside a running gateway or without one.
//!
//! # What it never does
//!
//! It changes nothing that the gateway uses and takes nothing away from it: no lock is taken, no database opened, nothing published or subscribed.
//!
//! | check | what a running gateway could notice | bound |
//! | --- | --- | --- |
//! | disk | a slower disk, for [`store::try_disk`] writes a database of its own in a folder of its own | 3 s, some 20 MiB; not begun where space is short; nothing later than [`DISK_PATIENCE`] is waited for |
//! | gateway | four requests on `[admin]` | as any client of it |
//! | uplinks | nothing; the upstream sees one more login, under a client id of its own (see [`uplink::probe`](fn@uplink::probe)) | one connection for each address, `connect_timeout` |
//! | listeners | nothing; while no gateway runs, each address is bound for a moment without listening | |
//!
//! All else is read from files. Programs that are asked (`systemctl`, `timedatectl`) get 3 s each.
//!
//! # Without a configuration that holds
//!
//! Its problems are the findings; clock and system are looked at all the same, the rest hangs on what the configuration would say.
//!
//! Words are made apart from what they are about: what decides (`suspicion`, `advice`, `may_read`, ...) is plain code with tests.

mod certificates;
mod clock;
mod configuration;
mod data;
mod device;
mod disk;
mod finding;
mod gateway;
mod listeners;
mod mounts;
mod ports;
mod programs;
mod system;
mod uplinks;
mod upstream;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use self::finding::{Check, Finding, Grade};
use self::{finding::Notebook, gateway::Running};
use crate::config::Config;
#[cfg(doc)]
use crate::{store, uplink};

/// How long the trial of the disk may take in all, its last commit included, before it is left behind.
pub const DISK_PATIENCE: Duration = Duration::from_secs(30);

/// Asks the running gateway: a path, and the status and JSON of the answer. The error is for people. Blocks.
pub type Ask = Arc<dyn Fn(&Config, &str) -> Result<(u16, Value), String> + Send + Sync>;

/// What is to be looked at, and how.
#[derive(Clone)]
pub struct Options {
    /// Configuration file that was asked for.
    pub file: Option<PathBuf>,
    /// What is looked at.
    pub only: Vec<Check>,
    /// How long each address of an uplink may take; `None`: the uplink's `connect_timeout`.
    pub limit: Option<Duration>,
    /// Whether uplinks are logged in to under their own client ids, which is refused while the gateway runs.
    pub own_client_id: bool,
    /// How the gateway is asked.
    pub ask: Ask,
}

/// How an examination ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was looked at.
    Whole,
    /// The configuration is refused.
    Refused,
    /// It was stopped.
    Stopped,
}

/// Looks at everything that `options` want, and hands over the findings of each check when it is done.
pub async fn examine(options: &Options, stop: &CancellationToken, tell: &mut dyn FnMut(Vec<Finding>)) -> Ended {
    let tellable = |notebook: Notebook| {
        let wanted = |finding: &Finding| options.only.contains(&finding.check);
        notebook.findings.into_iter().filter(wanted).collect::<Vec<_>>()
    };
    let file = options.file.clone();
    let (loaded, found) = on_thread(Check::Configuration, move || configuration::look(file.as_deref())).await;
    tell(tellable(found));
    let Some(Some(config)) = loaded else {
        let rest = [Check::Clock, Check::System];
        for check in rest.into_iter().filter(|check| options.only.contains(check) && !stop.is_cancelled()) {
            let (_, found) = on_thread(check, move || look_without(check)).await;
            tell(tellable(found));
        }
        return Ended::Refused;
    };
    let config = Arc::new(config);
    let (asked, ask) = (Arc::clone(&config), Arc::clone(&options.ask));
    // Looked at also where nobody wants to read it, for other checks hang on it.
    let (running, found) = on_thread(Check::Gateway, move || gateway::look(&asked, &ask)).await;
    tell(tellable(found));
    let running = Arc::new(running.unwrap_or_default());
    let rest = Check::ALL.into_iter().filter(|check| !matches!(check, Check::Configuration | Check::Gateway));
    for check in rest.filter(|check| options.only.contains(check)) {
        let found = tokio::select! {
            found = look(check, &config, &running, options, stop) => found,
            () = stop.cancelled(), if check != Check::Disk => return Ended::Stopped,
        };
        if stop.is_cancelled() {
            return Ended::Stopped;
        }
        tell(tellable(found));
    }
    Ended::Whole
}

async fn look(
    check: Check,
    config: &Arc<Config>,
    running: &Arc<Running>,
    options: &Options,
    stop: &CancellationToken,
) -> Notebook {
    match check {
        Check::Disk => return disk::look(config, running, stop).await,
        Check::Uplinks => return uplinks::look(config, running, options).await,
        Check::Configuration
        | Check::Gateway
        | Check::Data
        | Check::Listeners
        | Check::Tls
        | Check::Clock
        | Check::System => {}
    }
    let (config, running) = (Arc::clone(config), Arc::clone(running));
    let look = move || {
        let found = match check {
            Check::Data => data::look(&config, &running),
            Check::Listeners => listeners::look(&config, &running),
            Check::Tls => certificates::look(&config),
            Check::System => system::look(Some((&config, &running))),
            Check::Clock => clock::look(),
            Check::Configuration | Check::Gateway | Check::Disk | Check::Uplinks => Notebook::new(check),
        };
        ((), found)
    };
    on_thread(check, look).await.1
}

fn look_without(check: Check) -> ((), Notebook) {
    ((), if check == Check::Clock { clock::look() } else { system::look(None) })
}

/// Files and programs may take long: not on the threads that watch for a signal.
async fn on_thread<T: Send + 'static>(
    check: Check,
    look: impl FnOnce() -> (T, Notebook) + Send + 'static,
) -> (Option<T>, Notebook) {
    match spawn_blocking(look).await {
        Ok((made, found)) => (Some(made), found),
        Err(error) => {
            let mut found = Notebook::new(check);
            found.fail("this check", format!("it broke off: {error}"), "tell those who make Tidegate");
            (None, found)
        }
    }
}
