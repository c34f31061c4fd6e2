//! What the configuration accepts, and what it says of the rest.

use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use proptest::prelude::*;
use tempfile::TempDir;

mod access;
mod client_limits;
mod contract;
mod every_key;
mod examples;
mod layers;
mod tls;
mod units;
mod values;

use super::*;
use crate::{
    broker::Bind,
    message::QoS,
    store::{Durability, WhenFull},
    uplink::{Backoff, Url, Version},
};

/// A folder with files, and what is read from it.
struct Folder {
    folder: TempDir,
    inputs: Inputs,
}

fn folder(files: &[(&str, &str)]) -> Folder {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let default_file = Some(folder.path().join("tidegate.toml"));
    let inputs = Inputs { default_file, host_name: "plant-7".to_owned(), ..Inputs::default() };
    Folder { folder, inputs }
}

impl Folder {
    fn with_environment(mut self, environment: &[(&str, &str)]) -> Self {
        self.inputs.environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        self
    }

    fn load(&self) -> Result<Config, Refused> {
        load_from(&self.inputs)
    }

    /// The problems as people see them, without the folder's name.
    fn problems(&self) -> Vec<String> {
        let problems = match self.load() {
            Ok(config) => config.warnings,
            Err(Refused(problems)) => problems,
        };
        let folder = format!("{}/", self.folder.path().display());
        problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }
}

/// Reads one file; gives the problems.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(folder(&[("tidegate.toml", text)]).problems(), expected, "{text}");
}

fn load(text: &str) -> Config {
    folder(&[("tidegate.toml", text)]).load().unwrap()
}

const UPLINK: &str = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://broker\"\n";
const STREAM: &str = "[[stream]]\nname = \"all\"\nfrom = [\"#\"]\nto = \"cloud\"\n";

#[test]
fn without_any_file_it_is_a_loopback_broker_that_stores_nothing() {
    let config = folder(&[]).load().unwrap();
    assert_eq!(config.gateway_id, "plant-7");
    assert_eq!(config.broker.listeners.len(), 1);
    assert_eq!(config.broker.listeners[0].bind, Bind::Tcp("127.0.0.1:1883".parse().unwrap()));
    assert!(config.broker.listeners[0].anonymous);
    assert!(config.streams.is_empty() && config.uplinks.is_empty() && config.files.is_empty());
    assert_eq!(config.store.data_dir, PathBuf::from("./tidegate-data"));
    assert!(config.warnings.is_empty());
}

#[test]
fn every_default_is_that_of_the_contract() {
    let config = load(&format!("{UPLINK}{STREAM}[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n"));
    let (store, uplink, stream) = (&config.store, &config.uplinks[0], &config.streams[0]);
    assert_eq!(store.durability, Durability::Full);
    assert_eq!(store.commit_delay, Duration::from_millis(2));
    assert_eq!((store.max_bytes, store.min_free), (4 << 30, 256 << 20));
    let listener = &config.broker.listeners[0];
    assert_eq!((listener.max_connections, listener.max_packet, listener.max_inflight), (1000, 256 << 10, 1000));
    assert_eq!(uplink.urls, [Url { tls: false, host: "broker".to_owned(), port: 1883 }]);
    assert_eq!((uplink.version, uplink.qos, uplink.max_inflight), (Version::V5, QoS::AtLeastOnce, 256));
    assert_eq!(uplink.client_id, "plant-7");
    let timeouts = [uplink.keep_alive, uplink.connect_timeout, uplink.progress_timeout];
    assert_eq!(timeouts, [30, 20, 30].map(Duration::from_secs));
    assert_eq!(uplink.backoff, Backoff { min: Duration::from_millis(500), max: Duration::from_secs(60) });
    assert_eq!((uplink.messages_per_s, uplink.bytes_per_s), (0, 0));
    assert!(stream.topic.is_identity());
    assert_eq!((stream.priority, stream.ttl, stream.max_messages, stream.max_bytes), (0, None, None, Some(1 << 30)));
    assert_eq!((stream.when_full, stream.qos0, stream.to), (WhenFull::Reject, Qos0::Store, Some(0)));
    assert_eq!(config.admin.bind, Some("127.0.0.1:9883".parse().unwrap()));
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", log::Format::Auto));
}

#[test]
fn problems_are_told_all_at_once_with_file_line_key_and_hint() {
    let text = "\
[gateway]
id = \"plant 7\"
[stroe]
[store]
durabilty = \"full\"
durability = \"ful\"
commit_delay = 5
max_bytes = \"4G\"
client_id = 1
[[uplink]]
name = \"cloud\"
url = \"mqtt://broker\"
version = 5
[[stream]]
name = \"a\"
from = [\"a/#b\"]
to = \"clod\"
when_full = \"rejekt\"
";
    check(
        text,
        &[
            "error: tidegate.toml:2: gateway.id: \"plant 7\": expected an id (1 to 64 of A-Z a-z 0-9 _ . -)",
            "error: tidegate.toml:3: stroe: unknown key; did you mean `store`?",
            "error: tidegate.toml:5: store.durabilty: unknown key; did you mean `durability`?",
            "error: tidegate.toml:6: store.durability: \"ful\": expected \"full\" or \"process\"; did you mean \"full\"?",
            "error: tidegate.toml:7: store.commit_delay: 5: expected a duration with its unit, such as \"5s\" or \"5ms\"",
            "error: tidegate.toml:8: store.max_bytes: \"4G\": has the unit `G`, which can mean two things: \
             write `GiB` (1024) or `GB` (1000)",
            "error: tidegate.toml:9: store.client_id: unknown key; `client_id` is a key of `[[uplink]]`",
            "warning: tidegate.toml:11: uplink[0].name (cloud): no stream goes to this uplink, and no downlink comes from it: it will connect and send nothing",
            "error: tidegate.toml:13: uplink[0].version (cloud): 5: expected \"5\" or \"3.1.1\"; did you mean \"5\"?",
            "error: tidegate.toml:16: stream[0].from[0] (a): \"a/#b\": has a `#` that is not alone in the last level (right: `a/#`)",
            "error: tidegate.toml:17: stream[0].to (a): \"clod\": there is no uplink of this name; did you mean \"cloud\"?",
            "error: tidegate.toml:18: stream[0].when_full (a): \"rejekt\": \
             expected \"reject\" or \"drop-oldest\" or \"drop-newest\"; did you mean \"reject\"?",
        ],
    );
}

#[test]
fn a_host_name_that_cannot_be_an_id_is_refused_rather_than_changed() {
    let mut folder = folder(&[]);
    folder.inputs.host_name = "plänt".to_owned();
    let missing = "error: gateway.id: is missing, and the host name \"plänt\" cannot take its place; \
                   expected 1 to 64 of A-Z a-z 0-9 _ . -";
    assert_eq!(folder.problems(), [missing]);
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "\\PC{0,200}") {
        let _ = folder(&[("tidegate.toml", &text)]).load();
    }

    /// Any value at any known key: told or taken, never a panic.
    #[test]
    fn no_value_makes_checking_panic(
        section in proptest::sample::select(SECTIONS),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..6),
        values in proptest::collection::vec(
            proptest::sample::select(&[
                "0", "-1", "99999999999", "1.5", "nan", "true", "\"\"", "\"x\"", "\"0s\"", "\"#\"", "\"::\"", "\"/dev/null\"",
                "\"\\u0000\"", "[]", "[1]", "[[]]", "[\"a/#\"]", "{}", "{ min = 1 }", "{ name = {} }", "2020-01-01",
            ][..]), 6),
    ) {
        let (header, keys) = section;
        let mut keys: Vec<&str> = picks.iter().map(|pick| keys[pick.index(keys.len())]).collect();
        keys.sort_unstable();
        keys.dedup();
        let header = if header.starts_with('[') { (*header).to_owned() } else { format!("[[uplink]]\n[uplink.{header}]") };
        let lines: Vec<String> = keys.iter().zip(&values).map(|(key, value)| format!("{key} = {value}")).collect();
        let _ = folder(&[("tidegate.toml", &format!("{header}\n{}\n", lines.join("\n")))]).load();
    }
}
