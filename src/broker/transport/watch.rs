//! Notices by itself when the files of TLS change, and that a certificate ends soon.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    tls::{Tls, unix_now},
    tls_files::{EXPIRY_WARNING_S, date_words},
};
use crate::beat;

/// Time between two looks at the files: one `stat` each.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time between two warnings of a certificate that ends soon.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Looks at the files of all that `listeners` gives until the gateway stops. Reading the configuration has warned already.
pub(crate) async fn watch(listeners: impl Fn() -> Vec<Arc<Tls>> + Send + 'static, stopping: CancellationToken) {
    let mut warned = Instant::now();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = beat::wait(LOOK_EVERY) => {}
        }
        let looking = listeners();
        if warned.elapsed() >= WARN_EVERY {
            warned = Instant::now();
            warn(&looking);
        }
        if !looking.is_empty() {
            // A file system that hangs must not hold a worker thread. The task fails only when the runtime ends.
            let _ = tokio::task::spawn_blocking(move || looking.iter().for_each(|tls| tls.look())).await;
        }
    }
}

fn warn(listeners: &[Arc<Tls>]) {
    let mut told = BTreeSet::new();
    for tls in listeners {
        for (file, not_after) in tls.dates().into_iter().filter(|(_, end)| end - unix_now() < EXPIRY_WARNING_S) {
            if told.insert(file.clone()) {
                let words = date_words(i64::MIN, not_after, unix_now()).unwrap_or_default();
                tracing::warn!(listener = tls.listener(), file, not_after, error = words, "a certificate ends soon");
            }
        }
    }
}
