//! `[gateway]` and `[store]`: who this is, and where and how it keeps messages.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::section::Section;
use crate::store::{self, Durability};

pub(super) const GATEWAY_KEYS: &[&str] = &["id", "data_dir"];
pub(super) const STORE_KEYS: &[&str] = &["durability", "commit_delay", "max_bytes", "min_free"];

/// Data folder where neither `data_dir` nor `$STATE_DIRECTORY` says one.
pub const DEFAULT_DATA_DIR: &str = "./tidegate-data";
/// Default of `store.durability`.
pub const DEFAULT_DURABILITY: Durability = Durability::Full;
/// Default of `store.commit_delay`.
pub const DEFAULT_COMMIT_DELAY: Duration = Duration::from_millis(2);
/// Default of `store.max_bytes`: 4 GiB.
pub const DEFAULT_STORE_MAX_BYTES: u64 = 4 << 30;
/// Default of `store.min_free`: 256 MiB.
pub const DEFAULT_MIN_FREE: u64 = 256 << 20;

/// Longest `store.commit_delay`: every publisher waits for it.
const MAX_COMMIT_DELAY: Duration = Duration::from_secs(1);
/// Smallest `store.max_bytes`: an empty database has some 100 KiB already.
const MIN_STORE_BYTES: u64 = 1 << 20;

/// What a name is made of.
const NAME_RULE: &str = "1 to 64 of A-Z a-z 0-9 _ . -";

/// Whether a text can be the name of a gateway, listener, uplink or stream.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Reads the `name` of an entry; empty where it is wrong.
pub(super) fn read_name(section: &Section<'_>) -> String {
    let expected = format!("a name ({NAME_RULE})");
    let Some(name) = section.required_text("name", &expected) else { return String::new() };
    if !is_name(&name.value) {
        section.refuse("name", format!("expected {expected}"));
    }
    name.value
}

/// The gateway's id: as configured, or else the host name, which must then fit (it is part of every message's id, so
/// it is not changed in silence).
pub(super) fn read_id(gateway: &Section<'_>, host_name: &str) -> String {
    if gateway.has("id") {
        let id = gateway.text("id", &format!("an id ({NAME_RULE})")).map(|id| id.value).unwrap_or_default();
        if !id.is_empty() && !is_name(&id) {
            gateway.refuse("id", format!("expected an id ({NAME_RULE})"));
        }
        return id;
    }
    if !is_name(host_name) {
        let expected =
            format!("is missing, and the host name {host_name:?} cannot take its place; expected {NAME_RULE}");
        gateway.refuse("id", expected);
    }
    host_name.to_owned()
}

/// The data folder: `data_dir`, else the first of `$STATE_DIRECTORY` (systemd), else that of the unit that runs this configuration, else
/// [`DEFAULT_DATA_DIR`].
pub(super) fn read_data_dir(gateway: &Section<'_>, state_directory: Option<&str>, of_unit: Option<&Path>) -> PathBuf {
    let by_systemd = || {
        let first = state_directory?.split(':').next()?;
        (!first.is_empty()).then(|| PathBuf::from(first))
    };
    let by_unit = || of_unit.map(Path::to_owned);
    let data_dir = gateway.path("data_dir").or_else(by_systemd).or_else(by_unit);
    let data_dir = data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    if data_dir.exists() && !data_dir.is_dir() {
        gateway.refuse("data_dir", format!("{} is not a folder", data_dir.display()));
    }
    data_dir
}

/// Reads `[store]`.
pub(super) fn read_store(section: &Section<'_>, data_dir: PathBuf) -> store::Settings {
    let durability = section.choice(
        "durability",
        DEFAULT_DURABILITY,
        &[("full", Durability::Full), ("process", Durability::Process)],
    );
    let max_bytes = section.size("max_bytes", DEFAULT_STORE_MAX_BYTES, 0..=i64::MAX.unsigned_abs());
    if (1..MIN_STORE_BYTES).contains(&max_bytes) {
        section.refuse("max_bytes", "expected at least \"1MiB\", or 0 for no limit");
    }
    store::Settings {
        data_dir,
        durability,
        commit_delay: section.duration("commit_delay", DEFAULT_COMMIT_DELAY, Duration::ZERO..=MAX_COMMIT_DELAY),
        max_bytes,
        min_free: section.size("min_free", DEFAULT_MIN_FREE, 0..=i64::MAX.unsigned_abs()),
    }
}
