//! What systemd is told: ready, stopping, status, watchdog (sd_notify(3)). Without `NOTIFY_SOCKET` all of it does nothing.
//!
//! The watchdog is fed by progress, not by a timer (guarantee G6): every [`Pulse`] is a number that a loop of the gateway
//! moves whenever it has gone round, also when there was nothing to do. Twice in each interval all pulses are taken, of the parts that
//! there are then, and systemd hears `WATCHDOG=1` only if none of them is where it was before. One that stands still for a whole interval
//! makes systemd restart the gateway; its name is in the log and in the status before that.
//!
//! A notification that cannot be sent is not worth stopping for: it is dropped, and the next one tried.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::beat;

/// How often the status line is brought up to date.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The service manager, or nobody.
#[derive(Debug, Clone)]
pub struct Systemd {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
    last_status: String,
}

/// A part of the gateway, and a number that has moved since the last time if it is alive: the loop it watches moves it with every round,
/// idle rounds too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// Which part.
    pub name: String,
    /// The number now.
    pub count: u64,
}

impl Systemd {
    /// The service manager that started this process, if one did.
    pub fn of_process() -> Self {
        let address = env::var_os("NOTIFY_SOCKET");
        let socket = address.and_then(|address| match open(&address) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used, systemd will hear nothing");
                None
            }
        });
        Self { socket, watchdog: sd_notify::watchdog_enabled(), last_status: String::new() }
    }

    /// A service manager that listens at this address, with this `WatchdogSec`.
    pub fn at(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        Ok(Self { socket: Some(Arc::new(open(address)?)), watchdog, last_status: String::new() })
    }

    /// The gateway is up: listeners are open.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// The start takes longer (a damaged store is being salvaged): asks for this much more time from now on.
    pub fn still_starting(&self, status: &str, more: Duration) {
        let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::Status(&one_line(status)), NotifyState::ExtendTimeoutUsec(more)]);
    }

    /// The configuration is being read again; [`Systemd::ready`] ends it. With the time, which `Type=notify-reload` asks for.
    pub fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        self.send(&std::iter::once(NotifyState::Reloading).chain(now.ok()).collect::<Vec<_>>());
    }

    /// The gateway has begun to stop.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// What `systemctl status` shows; sent only when it has changed.
    pub fn status(&mut self, status: &str) {
        let status = one_line(status);
        if self.last_status != status {
            self.send(&[NotifyState::Status(&status)]);
            self.last_status = status;
        }
    }

    /// Keeps status and watchdog up to date until `stop`. `status` and `pulses` are called every few seconds.
    pub async fn watch(
        &mut self,
        pulses: impl Fn() -> Vec<Pulse>,
        status: impl Fn() -> String,
        stop: CancellationToken,
    ) {
        if self.socket.is_none() {
            return stop.cancelled().await;
        }
        // Without a watchdog, an interval that is never waited for; never zero, which tokio refuses.
        let interval = self.watchdog.map_or(STATUS_INTERVAL, |interval| (interval / 2).max(Duration::from_millis(1)));
        let mut watchdog_tick = tokio::time::interval(interval);
        watchdog_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Vec::new();
        self.status(&status());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = watchdog_tick.tick(), if self.watchdog.is_some() => self.feed(&mut last, pulses()),
                () = beat::wait(STATUS_INTERVAL) => self.status(&status()),
            }
        }
    }

    /// Feeds the watchdog if none of the pulses is what it was the last time; says which are.
    fn feed(&mut self, last: &mut Vec<Pulse>, now: Vec<Pulse>) {
        let stuck: Vec<&str> = now.iter().filter(|pulse| last.contains(pulse)).map(|pulse| &*pulse.name).collect();
        if stuck.is_empty() {
            self.send(&[NotifyState::Watchdog]);
        } else {
            let stuck = stuck.join(", ");
            tracing::error!(stuck, "no progress: the watchdog is not fed");
            self.status(&format!("no progress in {stuck}"));
        }
        *last = now;
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some((socket, address)) = self.socket.as_deref() else { return };
        let message: Vec<String> = states.iter().map(ToString::to_string).collect();
        let message = message.join("\n") + "\n";
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, "systemd could not be told");
        }
    }
}

/// The crate's own sender knows no abstract addresses (`@...`) and waits for a full queue; ours never waits.
fn open(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// A line end in a status would begin another assignment.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Manager {
        _folder: tempfile::TempDir,
        socket: UnixDatagram,
        systemd: Systemd,
    }

    fn manager(watchdog: Option<Duration>) -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let systemd = Systemd::at(path.as_os_str(), watchdog).unwrap();
        Manager { _folder: folder, socket, systemd }
    }

    impl Manager {
        fn heard(&self) -> String {
            let mut buffer = [0; 1024];
            let len = self.socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        }

        fn heard_nothing(&self) -> bool {
            self.socket.set_nonblocking(true).unwrap();
            let nothing = self.socket.recv(&mut [0; 16]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            self.socket.set_nonblocking(false).unwrap();
            nothing
        }
    }

    #[test]
    fn systemd_hears_of_every_step_of_life_and_of_a_status_once() {
        let mut manager = manager(None);
        manager.systemd.still_starting("salvaging", Duration::from_secs(2));
        assert_eq!(manager.heard(), "STATUS=salvaging\nEXTEND_TIMEOUT_USEC=2000000\n");
        manager.systemd.ready();
        assert_eq!(manager.heard(), "READY=1\n");
        manager.systemd.clone().reloading();
        let reloading = manager.heard();
        let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.strip_suffix('\n'));
        assert!(since.is_some_and(|since| since.parse::<u64>().is_ok_and(|since| since > 0)), "{reloading:?}");
        manager.systemd.status("cloud connected\nREADY=0");
        assert_eq!(manager.heard(), "STATUS=cloud connected READY=0\n");
        manager.systemd.status("cloud connected\nREADY=0");
        manager.systemd.stopping();
        assert_eq!(manager.heard(), "STOPPING=1\n");
    }

    #[test]
    fn abstract_addresses_are_understood() {
        let name = format!("tidegate-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Systemd::at(OsStr::new(&format!("@{name}")), None).unwrap().ready();
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1\n");
    }

    #[test]
    fn the_watchdog_is_fed_only_when_every_pulse_has_moved() {
        let mut manager = manager(Some(Duration::from_secs(60)));
        let pulse = |name: &str, count| Pulse { name: name.to_owned(), count };
        let mut last = Vec::new();
        manager.systemd.feed(&mut last, vec![pulse("store", 0), pulse("uplink", 0)]);
        assert_eq!(manager.heard(), "WATCHDOG=1\n");
        manager.systemd.feed(&mut last, vec![pulse("store", 1), pulse("uplink", 0)]);
        assert_eq!(manager.heard(), "STATUS=no progress in uplink\n");
        assert!(manager.heard_nothing());
        manager.systemd.feed(&mut last, vec![pulse("store", 2), pulse("uplink", 1)]);
        assert_eq!(manager.heard(), "WATCHDOG=1\n");
        // One has gone, another has come that begins where it stood.
        manager.systemd.feed(&mut last, vec![pulse("store", 3), pulse("other", 1)]);
        assert_eq!(manager.heard(), "WATCHDOG=1\n");
    }

    #[tokio::test]
    async fn watching_tells_the_status_and_feeds_until_it_is_stopped() {
        let Manager { _folder, socket, mut systemd } = manager(Some(Duration::from_millis(20)));
        let stop = CancellationToken::new();
        let listen = stop.clone();
        let listener = tokio::task::spawn_blocking(move || {
            let (mut fed, mut status, mut buffer) = (0, false, [0; 64]);
            while fed < 3 || !status {
                let len = socket.recv(&mut buffer).unwrap();
                fed += u32::from(&buffer[..len] == b"WATCHDOG=1\n");
                status |= &buffer[..len] == b"STATUS=up\n";
            }
            listen.cancel();
        });
        let rounds = AtomicU64::new(0);
        let pulse = || vec![Pulse { name: "loop".to_owned(), count: rounds.fetch_add(1, Ordering::Relaxed) }];
        systemd.watch(pulse, || "up".to_owned(), stop).await;
        listener.await.unwrap();
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        let mut nobody = Systemd { socket: None, watchdog: None, last_status: String::new() };
        nobody.ready();
        nobody.status("up");
        nobody.stopping();
    }
}
