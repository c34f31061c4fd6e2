//! The files in `edge-config/`: each is accepted as it is, without so much as a warning.

use rcgen::{CertificateParams, KeyPair};

use super::*;

const MINIMAL: &str = include_str!("../../../edge-config/minimal.toml");
const FULL: &str = include_str!("../../../edge-config/full.toml");
const CERTIFICATE: &str = include_str!("../../../edge-config/mqtts-client-certificate.toml");
const SEVERAL: &str = include_str!("../../../edge-config/several-uplinks.toml");
const TLS: &str = include_str!("../../../edge-config/tls-and-websocket.toml");
const SD_CARD: &str = include_str!("../../../edge-config/sd-card.toml");
const ACL: &str = include_str!("../../../edge-config/acl.toml");
const CONF_D: [&str; 3] = [
    include_str!("../../../edge-config/conf.d-example/tidegate.toml"),
    include_str!("../../../edge-config/conf.d-example/conf.d/10-site.toml"),
    include_str!("../../../edge-config/conf.d-example/conf.d/20-field-bus.toml"),
];

#[track_caller]
fn accepted(files: &[(&str, &str)]) -> Config {
    let config = folder(files).load().unwrap();
    assert!(config.warnings.is_empty());
    config
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    assert_eq!(accepted(&[("tidegate.toml", MINIMAL)]).streams.len(), 1);
    let several = accepted(&[("tidegate.toml", SEVERAL), ("cloud-password", "secret\n")]);
    assert_eq!((several.uplinks.len(), several.streams.len()), (2, 4));
    let sd_card = accepted(&[("tidegate.toml", SD_CARD)]);
    assert_eq!(sd_card.streams[0].when_full, WhenFull::DropOldest);
    let conf_d = accepted(&[
        ("tidegate.toml", CONF_D[0]),
        ("conf.d/10-site.toml", CONF_D[1]),
        ("conf.d/20-field-bus.toml", CONF_D[2]),
    ]);
    assert_eq!((conf_d.gateway_id.as_str(), conf_d.uplinks.len(), conf_d.streams.len()), ("plant-7", 2, 2));
}

#[test]
fn the_example_with_a_client_certificate_is_accepted_with_real_certificates() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["plant-7".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let config = accepted(&[
        ("tidegate.toml", CERTIFICATE),
        ("certs/ca.pem", &certificate),
        ("certs/plant-7.pem", &certificate),
        ("certs/plant-7.key", &key.serialize_pem()),
    ]);
    assert!(config.uplinks[0].identity.is_some() && config.uplinks[0].urls[0].tls);
}

#[test]
fn the_example_of_access_rules_is_accepted_with_the_users_in_it() {
    let auth = "[auth]\npassword_file = \"passwd\"\nacl_file = \"acl.toml\"\n";
    let users = format!("control-room:{}\n", access::HASH);
    let config = accepted(&[("tidegate.toml", auth), ("acl.toml", ACL), ("passwd", &users)]);
    assert_eq!(config.broker.access.rules.unwrap().len(), 7);
}

#[test]
fn the_example_with_tls_and_web_socket_is_accepted_with_real_certificates() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["plant-7".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let config = accepted(&[
        ("tidegate.toml", TLS),
        ("tls/ca.pem", &certificate),
        ("tls/gw.pem", &certificate),
        ("tls/gw.key", &key.serialize_pem()),
    ]);
    let [sensors, dashboard, local] = config.broker.listeners.as_slice() else { panic!("three listeners") };
    assert!(sensors.tls.as_ref().is_some_and(|tls| tls.require_client_cert && tls.client_ca.is_some()));
    assert!(dashboard.tls.is_some() && dashboard.transport == crate::broker::Transport::WebSocket);
    assert_eq!((local.unix_mode, local.anonymous), (0o660, true));
}

#[test]
fn the_full_example_has_every_key_and_every_key_at_its_default() {
    let plain = |text: &str| format!("{:?}", Config { files: Vec::new(), ..accepted(&[("tidegate.toml", text)]) });
    let whole = plain(FULL);
    let mut left_out = 0;
    for line in
        FULL.lines().filter(|line| line.contains(" = ") && !line.starts_with('#') && !line.contains("# example"))
    {
        let without = FULL.replacen(&format!("\n{line}\n"), "\n", 1);
        assert_eq!(plain(&without), whole, "not the default: {line}");
        left_out += 1;
    }
    assert!(left_out >= 25, "only {left_out} keys");
    for (header, keys) in SECTIONS {
        for key in *keys {
            let is_there =
                [format!("\n{key} = "), format!("\n#{key} = "), format!("{{ {key} = "), format!(", {key} = ")];
            assert!(is_there.iter().any(|form| FULL.contains(form.as_str())), "{header} {key} is missing");
        }
    }
}

#[test]
fn the_example_in_the_readme_is_accepted() {
    let readme = include_str!("../../../README.md");
    let (_, example) = readme.split_once("```toml\n").unwrap();
    let (example, rest) = example.split_once("```").unwrap();
    assert!(!rest.contains("```toml"), "another example that is not tested");
    assert_eq!(accepted(&[("tidegate.toml", example)]).streams.len(), 2);
}

#[test]
fn the_folder_has_no_example_that_is_not_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge-config");
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let tested = [
        "acl.toml",
        "conf.d-example",
        "full.toml",
        "minimal.toml",
        // Not for us but for Prometheus and Grafana: `tests/interop/92_monitoring.py`.
        "monitoring",
        "mqtts-client-certificate.toml",
        "sd-card.toml",
        "several-uplinks.toml",
        "tls-and-websocket.toml",
    ];
    assert_eq!(names, tested);
}
