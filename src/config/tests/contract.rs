//! The defaults, against the text of the contract itself (`contract.toml` holds it word for word).

use super::*;

const CONTRACT: &str = include_str!("contract.toml");

/// Keys that the contract leaves to whoever builds them, with their defaults.
const BEYOND: &str = "\
[[listener]]
max_subscriptions = 1024
max_queued_messages = 1000
max_queued_bytes = \"8MiB\"
queue_when_full = \"drop-newest\"
max_publish_rate = 0
max_keep_alive = \"0s\"
unix_mode = \"0660\"
origins = []
[admin]
hosts = []
[[uplink]]
alpn = \"x-amzn-mqtt-ca\"
";

/// Keys whose value in the contract is an example and not the default.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("gateway", &["id", "data_dir"]),
    ("listener", &["name", "bind", "anonymous", "tls", "unix_mode", "origins"]),
    ("auth", &["password_file", "acl_file"]),
    ("uplink", &["name", "url", "client_id", "username", "password_file", "ca", "cert", "key", "alpn"]),
    ("stream", &["name", "from", "except", "to", "topic", "ttl"]),
    ("downlink", &["name", "from", "filter", "topic"]),
    ("admin", &["token_file"]),
];

/// What an entry cannot do without; what the key under test is added to.
const REQUIRED: &[(&str, &str)] = &[
    ("listener", "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n"),
    ("uplink", UPLINK),
    ("stream", "[[stream]]\nname = \"all\"\nfrom = [\"#\"]\n"),
    (
        "downlink",
        concat!(
            "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://h\"\n",
            "[[downlink]]\nname = \"c\"\nfrom = \"cloud\"\nfilter = [\"#\"]\n"
        ),
    ),
];

fn among<T: Copy>(table: &[(&str, T)], section: &str) -> Option<T> {
    table.iter().find(|(name, _)| *name == section).map(|(_, value)| *value)
}

/// The keys of the contract and those beyond it: section, key, the line as it stands there.
fn keys_of_the_contract() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in CONTRACT.lines().chain(BEYOND.lines()) {
        if line.starts_with('[') {
            section = line.split_whitespace().next().unwrap().trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.push((section.clone(), key.to_owned(), line.to_owned()));
        }
    }
    keys
}

fn is_later(section: &str, key: &str) -> bool {
    LATER_KEYS.contains(&(section, key)) || LATER_KEYS.contains(&("", section))
}

#[test]
fn every_value_in_the_contract_that_is_no_example_is_the_default() {
    let mut compared = 0;
    for (section, key, line) in keys_of_the_contract() {
        if is_later(&section, &key) || among(EXAMPLES, &section).is_some_and(|keys| keys.contains(&key.as_str())) {
            continue;
        }
        let bare = among(REQUIRED, &section).map_or_else(|| format!("[{section}]\n"), str::to_owned);
        let load = |text: &str| format!("{:?}", Config { files: Vec::new(), warnings: Vec::new(), ..load(text) });
        assert_eq!(load(&bare), load(&format!("{bare}{line}\n")), "[{section}] {line}");
        compared += 1;
    }
    assert!(compared >= 31, "only {compared} keys found in the contract");
}

#[test]
fn the_keys_are_those_of_the_contract() {
    let contract = keys_of_the_contract();
    for (header, keys) in SECTIONS.iter().filter(|(header, _)| header.starts_with('[')) {
        let section = header.trim_matches(['[', ']']);
        for key in keys.iter().filter(|key| **key != "urls") {
            assert!(
                contract.iter().any(|(s, k, _)| s == section && k == key),
                "{section}.{key} is not in the contract"
            );
        }
    }
    for (section, key, _) in &contract {
        let known = SECTIONS.iter().find(|(header, _)| header.trim_matches(['[', ']']) == section);
        let known = known.is_some_and(|(_, keys)| keys.contains(&key.as_str()));
        assert!(known != is_later(section, key), "{section}.{key}: either known or later");
    }
}
