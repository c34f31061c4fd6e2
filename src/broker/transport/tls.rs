//! TLS of one listener: the handshake, and certificates that are read again while connections live on.
//!
//! A handshake runs in the connection's own task, with the files as they were last read. A reload makes a new configuration
//! for the handshakes to come; connections keep the one they began with. Files that cannot be used leave everything as it
//! is. With a new configuration goes a new cache of sessions, so nobody comes in by a session of before.
//!
//! | when | what is read |
//! | --- | --- |
//! | start | the files; if they cannot be used the gateway does not start |
//! | [`Tls::reload`] (SIGHUP) | the files; what is wrong is said at once |
//! | every [`LOOK_EVERY`](super::watch::LOOK_EVERY) | a `stat` of each file; the files if one has changed, or could not be used last time |
//!
//! Certificate and key are two files and cannot be replaced in one step: what does not fit together at one look may at the
//! next. So a look says that files cannot be used when it has found them so twice.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytestring::ByteString;
use prometheus::IntGaugeVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{ServerConfig, server::Acceptor},
    server::TlsStream,
};

use super::{
    certificate::Certificate,
    tls_files::{self, Loaded, TlsProblem},
    tls_words::explain,
    turns::Turns,
};
use crate::broker::{ListenerSettings, TlsSettings, Transport};

/// TLS of one listener.
#[derive(Debug)]
pub(crate) struct Tls {
    listener: String,
    settings: TlsSettings,
    transport: Transport,
    turns: Arc<Turns>,
    not_after: IntGaugeVec,
    current: Mutex<Loaded>,
    /// Held while the files are read, so that two reloads never cross.
    seen: Mutex<Seen>,
}

/// What was last seen of the files.
#[derive(Debug)]
struct Seen {
    marks: Vec<Option<Mark>>,
    /// Looks in a row that found the files of no use.
    failures: u32,
}

/// What tells one state of a file from another: device, inode, size, time of change.
type Mark = (u64, u64, u64, i64, i64);

/// Files that cannot be used; those before them stay in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("listener `{listener}`: tls: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct TlsRefused {
    /// The listener's name.
    pub listener: String,
    /// What is wrong.
    pub problems: Vec<TlsProblem>,
}

impl Tls {
    /// Reads the files for the first time.
    pub(crate) fn open(
        listener: &ListenerSettings,
        settings: &TlsSettings,
        turns: &Arc<Turns>,
        not_after: &IntGaugeVec,
    ) -> Result<Self, TlsRefused> {
        let marks = marks(settings);
        let (loaded, mut problems) = tls_files::load(settings, listener.transport, unix_now());
        problems.retain(|problem| !problem.is_warning);
        let current = loaded.ok_or_else(|| TlsRefused { listener: listener.name.clone(), problems })?;
        let tls = Self {
            listener: listener.name.clone(),
            settings: settings.clone(),
            transport: listener.transport,
            turns: Arc::clone(turns),
            not_after: not_after.clone(),
            current: Mutex::new(current),
            seen: Mutex::new(Seen { marks, failures: 0 }),
        };
        tls.show_dates();
        Ok(tls)
    }

    /// Reads the files again, whether they have changed or not. Blocks on files. What is only surely not meant is not said:
    /// who reloads has read the configuration, which says it.
    pub(crate) fn reload(&self) -> Result<(), TlsRefused> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_again(&mut seen).map(drop).inspect_err(|refused| self.complain(refused))
    }

    /// Reads the files again if they have changed, or could not be used last time. Blocks on files.
    pub(super) fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = marks(&self.settings) != seen.marks;
        if !has_changed && seen.failures == 0 {
            return;
        }
        match self.read_again(&mut seen) {
            Ok(warnings) => {
                for warning in warnings {
                    tracing::warn!(listener = self.listener, problem = %warning, "new TLS files: surely not meant");
                }
            }
            Err(refused) if seen.failures == 2 => self.complain(&refused),
            Err(_) => {}
        }
    }

    /// Gives what is surely not meant, though the files are in use now.
    fn read_again(&self, seen: &mut Seen) -> Result<Vec<TlsProblem>, TlsRefused> {
        // Before the files are read: what changes meanwhile is seen at the next look.
        let marks = marks(&self.settings);
        if marks != seen.marks {
            *seen = Seen { marks, failures: 0 };
        }
        let (loaded, mut problems) = tls_files::load(&self.settings, self.transport, unix_now());
        let Some(loaded) = loaded else {
            seen.failures = seen.failures.saturating_add(1);
            problems.retain(|problem| !problem.is_warning);
            return Err(TlsRefused { listener: self.listener.clone(), problems });
        };
        seen.failures = 0;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        self.show_dates();
        tracing::info!(listener = self.listener, "TLS files read again");
        Ok(problems)
    }

    fn complain(&self, refused: &TlsRefused) {
        tracing::error!(listener = self.listener, error = %refused, "TLS files cannot be used: those before stay in use");
    }

    fn show_dates(&self) {
        for (path, not_after) in self.dates() {
            self.not_after.with_label_values(&[&path]).set(not_after);
        }
    }

    /// For every file of certificates, when the first of them ends: seconds since 1970.
    pub(crate) fn dates(&self) -> Vec<(String, i64)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.not_after.iter().map(|(path, not_after)| (path.display().to_string(), *not_after)).collect()
    }

    pub(super) fn listener(&self) -> &str {
        &self.listener
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// Shakes hands with a client. Also gives the name in its certificate, where it has shown one. `Err(None)` where the
    /// client went without a word.
    pub(super) async fn handshake<S>(&self, stream: S) -> Result<(TlsStream<S>, Option<ByteString>), Option<String>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let is_failure = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let hello = hello.map_err(|error| is_failure(&error).then(|| explain(&error)))?;
        let shaken = self.turns.work(hello.into_stream(self.config())).await;
        let stream = shaken.map_err(|error| Some(explain(&error)))?;
        let name = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
            None => None,
            Some(der) => {
                let certificate =
                    Certificate::read(der).map_err(|error| Some(format!("the client's certificate {error}")))?;
                // rustls looks at the dates only when it sees a certificate for the first time, and sessions are resumed.
                if certificate.validity().1 < unix_now() {
                    return Err(Some("the client's certificate has expired".to_owned()));
                }
                certificate.name(self.settings.identity)
            }
        };
        Ok((stream, name))
    }
}

fn marks(settings: &TlsSettings) -> Vec<Option<Mark>> {
    let mark = |path: &Path| {
        let it = fs::metadata(path).ok()?;
        Some((it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec()))
    };
    let files = [Some(&settings.cert), Some(&settings.key), settings.client_ca.as_ref()];
    files.into_iter().flatten().map(|path| mark(path)).collect()
}

/// Seconds since 1970.
pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;
    use crate::broker::{Bind, Identity};

    fn issue() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["gw".to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// Replaces a file in one step, as every tool that renews certificates does.
    fn put(folder: &TempDir, name: &str, text: &str) {
        fs::write(folder.path().join("new"), text).unwrap();
        fs::rename(folder.path().join("new"), folder.path().join(name)).unwrap();
    }

    fn open(folder: &TempDir) -> Tls {
        let path = |name: &str| folder.path().join(name);
        let settings = TlsSettings {
            cert: path("cert"),
            key: path("key"),
            client_ca: None,
            require_client_cert: false,
            identity: Identity::CommonName,
        };
        let listener = ListenerSettings::new("test", Bind::Tcp(([127, 0, 0, 1], 0).into()));
        let metric = IntGaugeVec::new(Opts::new("test", "test"), &["file"]).unwrap();
        Tls::open(&listener, &settings, &Arc::default(), &metric).unwrap()
    }

    #[test]
    fn a_look_takes_new_files_once_they_fit_together() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (issue(), issue());
        put(&folder, "cert", &before.0);
        put(&folder, "key", &before.1);
        let tls = open(&folder);
        let first = tls.config();
        tls.look();
        assert!(Arc::ptr_eq(&first, &tls.config()), "nothing has changed");
        put(&folder, "cert", &after.0);
        for _ in 0..3 {
            tls.look();
            assert!(Arc::ptr_eq(&first, &tls.config()), "the key is still the old one");
        }
        put(&folder, "key", &after.1);
        tls.look();
        let second = tls.config();
        assert!(!Arc::ptr_eq(&first, &second));
        fs::remove_file(folder.path().join("key")).unwrap();
        tls.look();
        assert!(Arc::ptr_eq(&second, &tls.config()), "without its key nothing can be read");
        put(&folder, "key", &after.1);
        tls.look();
        assert_eq!(tls.seen.lock().unwrap().failures, 0);
    }
}
