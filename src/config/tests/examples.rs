//! The files in `edge-config/`: each is accepted as it is, without so much as a warning.

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// Every configuration, and how many listeners, uplinks, streams and downlinks it has.
const EXAMPLES: &[(&str, [usize; 4])] = &[
    ("aws-iot-core.toml", [1, 1, 1, 1]),
    ("azure-event-grid.toml", [1, 1, 1, 1]),
    ("azure-iot-hub.toml", [1, 1, 1, 1]),
    ("hivemq-emqx.toml", [1, 1, 1, 1]),
    ("home-assistant.toml", [1, 1, 3, 2]),
    ("hub-and-spoke/hub.toml", [1, 1, 1, 1]),
    ("hub-and-spoke/spoke.toml", [1, 1, 1, 1]),
    ("metered-link.toml", [1, 1, 2, 0]),
    ("minimal.toml", [1, 1, 1, 0]),
    ("mosquitto.toml", [1, 1, 1, 1]),
    ("sd-card.toml", [1, 1, 1, 0]),
    ("tls-and-websocket.toml", [3, 1, 1, 0]),
    ("two-upstreams.toml", [1, 2, 4, 0]),
];

/// What is tested elsewhere.
const OTHERS: &[(&str, &str)] = &[
    ("README.md", "the_index_has_every_example"),
    ("acl.toml", "the_rules_are_accepted_with_the_users_in_them"),
    ("azure-sas-token", "tests/interop/97_examples.py"),
    ("conf.d-example/conf.d/10-site.toml", "a_folder_of_files_is_one_configuration"),
    ("conf.d-example/conf.d/20-field-bus.toml", "a_folder_of_files_is_one_configuration"),
    ("conf.d-example/tidegate.toml", "a_folder_of_files_is_one_configuration"),
    ("hub-and-spoke/acl.toml", "the_rules_are_accepted_with_the_users_in_them"),
    ("monitoring/README.md", "tests/interop/92_monitoring.py"),
    ("monitoring/grafana-dashboard.json", "tests/interop/92_monitoring.py"),
    ("monitoring/prometheus.yml", "tests/interop/92_monitoring.py"),
    ("monitoring/tidegate.rules.test.yml", "tests/interop/92_monitoring.py"),
    ("monitoring/tidegate.rules.yml", "tests/interop/92_monitoring.py"),
    ("tidegate.toml", "every_key.rs"),
    ("tls/make", "tests/interop/97_examples.py"),
];

/// Files that the examples name.
const CERTIFICATES: &[&str] = &[
    "AmazonRootCA1.pem",
    "plant-7.pem.crt",
    "tls/ca.pem",
    "tls/gw.pem",
    "tls/hub.pem",
    "tls/plant-7.pem",
    "tls/plant-7-press.pem",
];
const KEYS: &[&str] =
    &["plant-7.private.pem.key", "tls/gw.key", "tls/hub.key", "tls/plant-7.key", "tls/plant-7-press.key"];
const PASSWORDS: &[&str] = &["admin-token", "azure-sas", "cloud-password", "home-password"];

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("edge-config").join(name)).unwrap()
}

/// A folder with everything that the examples name: certificates, keys, passwords, users, rules.
pub(super) struct Secrets(Folder);

impl Secrets {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["plant-7".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let users = format!("control-room:{}\n", access::HASH);
        let (key, rules) = (key.serialize_pem(), file("acl.toml"));
        let mut files = vec![("passwd", users.as_str()), ("acl.toml", rules.as_str())];
        files.extend(CERTIFICATES.iter().map(|name| (*name, certificate.as_str())));
        files.extend(KEYS.iter().map(|name| (*name, key.as_str())));
        files.extend(PASSWORDS.iter().map(|name| (*name, "secret\n")));
        Self(folder(&files))
    }

    pub(super) fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    fn put(&self, files: &[(&str, &str)]) -> &Folder {
        for (name, text) in files {
            fs::write(self.folder().join(name), text).unwrap();
        }
        &self.0
    }

    #[track_caller]
    pub(super) fn accepted(&self, files: &[(&str, &str)]) -> Config {
        let config = self.put(files).load().unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        config
    }
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    let secrets = Secrets::new();
    for (name, expected) in EXAMPLES {
        let text = file(name);
        let folder = secrets.put(&[("tidegate.toml", &text)]);
        // What a user of the add-on without certificates has to know, and the file says too.
        let known: &[&str] = match *name {
            "home-assistant.toml" => &["an address is `mqtt://`, so the password travels where others can read it"],
            _ => &[],
        };
        let config = folder.load().unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        assert_eq!(
            config.warnings.iter().map(|warning| warning.expected.as_str()).collect::<Vec<_>>(),
            known,
            "{name}"
        );
        let counts =
            [config.broker.listeners.len(), config.uplinks.len(), config.streams.len(), config.downlinks.len()];
        assert_eq!(counts, *expected, "{name}");
    }
}

#[test]
fn what_the_examples_are_for_is_in_them() {
    let secrets = Secrets::new();
    let load = |name: &str| secrets.accepted(&[("tidegate.toml", &file(name))]);
    assert_eq!(load("sd-card.toml").streams[0].when_full, WhenFull::DropOldest);
    let aws = &load("aws-iot-core.toml").uplinks[0];
    assert!(aws.identity.is_some() && aws.urls[0].tls && aws.qos == QoS::AtLeastOnce && aws.max_inflight <= 100);
    assert!((1..100).contains(&aws.messages_per_s) && aws.backoff.min >= Duration::from_secs(1));
    let hub = &load("azure-iot-hub.toml").uplinks[0];
    assert_eq!((hub.version, hub.qos), (Version::V311, QoS::AtLeastOnce));
    let [sensors, dashboard, local] = &load("tls-and-websocket.toml").broker.listeners[..] else {
        panic!("three listeners")
    };
    assert!(sensors.tls.as_ref().is_some_and(|tls| tls.require_client_cert && tls.client_ca.is_some()));
    assert!(dashboard.tls.is_some() && dashboard.transport == crate::broker::Transport::WebSocket);
    assert_eq!((local.unix_mode, local.anonymous), (0o660, true));
}

#[test]
fn a_folder_of_files_is_one_configuration() {
    let names = ["tidegate.toml", "conf.d/10-site.toml", "conf.d/20-field-bus.toml"];
    let texts = names.map(|name| file(&format!("conf.d-example/{name}")));
    let files: Vec<(&str, &str)> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
    let config = folder(&files).load().unwrap();
    assert!(config.warnings.is_empty());
    assert_eq!((config.gateway_id.as_str(), config.uplinks.len(), config.streams.len()), ("plant-7", 2, 2));
}

#[test]
fn the_rules_are_accepted_with_the_users_in_them() {
    let auth = "[auth]\npassword_file = \"passwd\"\nacl_file = \"acl.toml\"\n";
    for (name, rules) in [("acl.toml", 7), ("hub-and-spoke/acl.toml", 2)] {
        let config = Secrets::new().accepted(&[("tidegate.toml", auth), ("acl.toml", &file(name))]);
        assert_eq!(config.broker.access.rules.unwrap().len(), rules, "{name}");
    }
}

#[test]
fn the_example_in_the_readme_is_accepted() {
    let readme = include_str!("../../../README.md");
    let (_, example) = readme.split_once("```toml\n").unwrap();
    let (example, rest) = example.split_once("```").unwrap();
    assert!(!rest.contains("```toml"), "another example that is not tested");
    assert_eq!(Secrets::new().accepted(&[("tidegate.toml", example)]).streams.len(), 2);
}

#[test]
fn the_folder_has_nothing_that_is_not_tested() {
    fn walk(folder: &Path, root: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, names);
            } else {
                names.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge-config");
    let mut names = Vec::new();
    walk(&root, &root, &mut names);
    names.sort();
    let mut tested: Vec<&str> =
        EXAMPLES.iter().map(|(name, _)| *name).chain(OTHERS.iter().map(|(name, _)| *name)).collect();
    tested.sort_unstable();
    assert_eq!(names, tested);
}

#[test]
fn the_index_has_every_example() {
    let index = file("README.md");
    for (name, _) in EXAMPLES.iter().chain(&[("acl.toml", [0; 4]), ("tidegate.toml", [0; 4])]) {
        assert!(index.contains(&format!("]({name})")), "{name} is missing in edge-config/README.md");
    }
    for name in ["azure-sas-token", "tls/make", "conf.d-example", "monitoring"] {
        assert!(index.contains(&format!("]({name})")), "{name} is missing in edge-config/README.md");
    }
}
