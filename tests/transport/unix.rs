//! Unix sockets: who may open them, and what a crash leaves behind.

use std::{
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use tidegate::broker::{Bind, ListenerSettings};
use tokio::net::UnixStream;

use super::{
    client::Client,
    rig::{Rig, Site},
};

async fn start(path: &Path, unix_mode: Option<u32>) -> Rig {
    let settings = ListenerSettings::new("test", Bind::Unix(path.to_owned()));
    let unix_mode = unix_mode.unwrap_or(settings.unix_mode);
    Site::new().start(ListenerSettings { unix_mode, ..settings }).await
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_has_exactly_the_mode_it_should_and_goes_with_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    for (wanted, found) in [(None, 0o660), (Some(0o600), 0o600), (Some(0o777), 0o777)] {
        let rig = start(&path, wanted).await;
        assert_eq!(mode(&path), found, "whatever the umask");
        Client::connected(UnixStream::connect(&path).await.unwrap(), "c").await.ping().await;
        rig.broker.drain(Duration::ZERO).await;
        assert!(!path.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_replaced_and_what_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let rig = start(&path, None).await;
    Client::connected(UnixStream::connect(&path).await.unwrap(), "c").await.ping().await;
    // Somebody puts a socket of their own in its place.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rig.broker.drain(Duration::ZERO).await;
    assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(other);
}
