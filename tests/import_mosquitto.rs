//! `tidegate import-mosquitto` with configurations as plants have them, and with what is none.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("no JSON: {}{}", self.stdout, self.stderr))
    }

    /// What became of the first line with this text.
    #[track_caller]
    fn became(&self, text: &str) -> (String, String) {
        let json = self.json();
        let mut notes = json["notes"].as_array().unwrap().iter();
        let note = notes.find(|note| note["text"].as_str().unwrap().starts_with(text));
        let note = note.unwrap_or_else(|| panic!("no note on {text}: {json:#}"));
        (note["became"].as_str().unwrap().to_owned(), note["said"].as_str().unwrap().to_owned())
    }
}

/// A folder with certificates, users and rules, and this as `m.conf`; `@` is its path.
fn folder(conf: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["gw".to_owned()]).unwrap().self_signed(&key).unwrap();
    put("gw.pem", &certificate.pem());
    put("gw.key", &key.serialize_pem());
    fs::set_permissions(folder.path().join("gw.key"), fs::Permissions::from_mode(0o600)).unwrap();
    put(
        "users",
        "# users\nplant:$7$101$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n",
    );
    put(
        "rules",
        "topic read $SYS/#\nuser plant\ntopic readwrite plant/#\ntopic deny plant/secret\npattern write dev/%c/#\n",
    );
    put("m.conf", &conf.replace('@', &folder.path().display().to_string()));
    folder
}

fn run(folder: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["import-mosquitto", "m.conf"]).args(more).current_dir(folder).env_clear().stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Imports, and has the result checked: every line has its word, and `tidegate check` takes it.
#[track_caller]
fn imported(conf: &str) -> (TempDir, Ran, toml::Table) {
    let folder = folder(conf);
    let ran = run(folder.path(), &["--json", "-o", "new"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let json = ran.json();
    let says_something = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let lines = fs::read_to_string(folder.path().join("m.conf")).unwrap().lines().filter(says_something).count();
    assert!(json["notes"].as_array().unwrap().len() >= lines, "every line has its word: {json:#}");
    let text = fs::read_to_string(folder.path().join("new/tidegate.toml")).unwrap();
    let table = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (folder, ran, table)
}

const PLANT: &str = "\
# A plant as they are found.
per_listener_settings false
persistence true
persistence_location /var/lib/mosquitto/
autosave_interval 60
log_dest file /var/log/mosquitto/mosquitto.log
log_type error
log_type warning
user mosquitto
max_queued_messages 5000
max_inflight_messages 40
max_packet_size 100000
max_keepalive 120

listener 1883
allow_anonymous false
password_file @/users
acl_file @/rules
max_connections 200

listener 9001
protocol websockets

listener 8883 0.0.0.0
certfile @/gw.pem
keyfile @/gw.key
cafile @/gw.pem
require_certificate true
use_identity_as_username true
tls_version tlsv1.2

listener 0 @/m.sock

connection cloud bridge
address mqtt.example.com:8883 backup.example.com
remote_clientid plant-7
remote_username plant-7
remote_password hunter2 with space
bridge_cafile @/gw.pem
bridge_certfile @/gw.pem
bridge_keyfile @/gw.key
bridge_alpn x-amzn-mqtt-ca
bridge_protocol_version mqttv50
keepalive_interval 45
restart_timeout 2 90
cleansession false
try_private true
notifications false
topic sensors/# out 1 \"\" site7/
topic alarms/# out 2 \"\" site7/
topic state/+/x out 0
topic cmd/# in 1 local/ site7/
";

#[test]
fn a_plant_is_carried_over_and_its_secrets_are_nobodys() {
    let (folder, ran, table) = imported(PLANT);
    let listeners = table["listener"].as_array().unwrap();
    let binds: Vec<&str> = listeners.iter().map(|listener| listener["bind"].as_str().unwrap()).collect();
    let socket = format!("unix:{}/m.sock", folder.path().display());
    assert_eq!(binds, ["0.0.0.0:1883", "0.0.0.0:9001", "0.0.0.0:8883", socket.as_str()]);
    assert!(listeners.iter().all(|listener| listener["anonymous"].as_bool() == Some(false)));
    assert_eq!(listeners[0]["max_connections"].as_integer(), Some(200));
    assert_eq!(listeners[1]["transport"].as_str(), Some("ws"));
    assert_eq!(listeners[2]["tls"]["require_client_cert"].as_bool(), Some(true));
    assert_eq!(listeners[3]["max_packet"].as_integer(), Some(100_000));
    let uplink = &table["uplink"][0];
    let urls: Vec<&str> = uplink["urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    assert_eq!(urls, ["mqtts://mqtt.example.com:8883", "mqtts://backup.example.com:1883"]);
    assert_eq!((uplink["name"].as_str(), uplink["qos"].as_integer()), (Some("cloud-bridge"), Some(2)));
    assert_eq!(uplink["alpn"].as_str(), Some("x-amzn-mqtt-ca"));
    let streams = table["stream"].as_array().unwrap();
    assert_eq!(streams.len(), 2, "what changes its topic in the same way stays in order: {streams:?}");
    assert_eq!(streams[0]["topic"].as_str(), Some("site7/{topic}"));
    assert_eq!(streams[0]["from"].as_array().unwrap().len(), 2);
    assert_eq!(table["downlink"][0]["topic"].as_str(), Some("local/cmd/{rest}"));

    let new = folder.path().join("new");
    let mode = |name: &str| fs::metadata(new.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("passwd"), mode("cloud-bridge.password"), mode("acl.toml")), (0o600, 0o600, 0o600));
    assert_eq!(fs::read_to_string(new.join("cloud-bridge.password")).unwrap(), "hunter2 with space\n");
    for text in [&ran.stdout, &fs::read_to_string(new.join("tidegate.toml")).unwrap(), &run(folder.path(), &[]).stdout]
    {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let acl = fs::read_to_string(new.join("acl.toml")).unwrap();
    assert!(
        acl.contains("user = \"cert:plant\"") && acl.find("deny = ").unwrap() < acl.find("allow = ").unwrap(),
        "{acl}"
    );
    assert_eq!(ran.became("topic state/").0, "differs");
    assert_eq!(ran.became("autosave_interval").0, "not-needed");
    assert_eq!(ran.became("listener 9001").0, "differs");
}

#[test]
fn without_a_listener_it_is_for_this_machine_only() {
    let (_folder, _, table) = imported("persistence true\n");
    assert_eq!(table["listener"][0]["bind"].as_str(), Some("127.0.0.1:1883"));
    assert_eq!(table["listener"][0]["anonymous"].as_bool(), Some(true));
    let (_folder, _, table) = imported("port 1884\nbind_address 127.0.0.1\n");
    assert_eq!(table["listener"][0]["bind"].as_str(), Some("127.0.0.1:1884"));
    assert_eq!(table["listener"][0]["anonymous"].as_bool(), Some(false));
}

#[test]
fn what_would_be_less_safe_than_it_was_is_left_out_and_said() {
    let conf = "listener 1883 127.0.0.1\nallow_anonymous true\nlistener 8883\npsk_file /x\npsk_hint h\n\
                listener 8884\ncertfile @/gw.pem\nkeyfile @/gw.key\nrequire_certificate true\n\
                listener 8885\ncertfile @/gw.pem\nclientid_prefixes dev-\nplugin /usr/lib/x.so\nplugin_opt_password hunter2\nfrobnicate 7\n";
    let (_folder, ran, table) = imported(conf);
    assert_eq!(table["listener"].as_array().unwrap().len(), 1, "{table:?}");
    for line in [
        "listener 8883",
        "psk_file",
        "listener 8884",
        "listener 8885",
        "clientid_prefixes",
        "plugin /usr",
        "frobnicate",
    ] {
        assert_eq!(ran.became(line).0, "lost", "{line}");
    }
    assert!(!ran.stdout.contains("hunter2"));
}

#[test]
fn users_of_each_listener_are_carried_over_where_they_are_the_same() {
    let conf = "per_listener_settings true\nlistener 1883\npassword_file @/users\nallow_anonymous false\n\
                listener 1884\npassword_file @/users\n listener 1885 127.0.0.1\nallow_anonymous true\n";
    let (_folder, ran, table) = imported(conf);
    assert_eq!(table["listener"].as_array().unwrap().len(), 2);
    assert!(ran.became("listener 1885").1.contains("one `[auth]` for all"));
}

#[test]
fn what_goes_both_ways_is_told_apart_by_mqtt_5() {
    let conf = "listener 1883 127.0.0.1\nallow_anonymous true\nconnection a\naddress 10.0.0.1\ntopic # both 1\n\
                connection a\naddress 10.0.0.2\nbridge_protocol_version mqttv311\ntopic x/{y} out 1 a/ b/\ntopic z out\n\
                connection none\ntopic z out\n";
    let (_folder, ran, table) = imported(conf);
    let uplinks = table["uplink"].as_array().unwrap();
    let versions: Vec<_> =
        uplinks.iter().map(|uplink| (uplink["name"].as_str().unwrap(), uplink["version"].as_str().unwrap())).collect();
    assert_eq!(versions, [("a", "5"), ("a-2", "3.1.1")]);
    assert_eq!(ran.became("topic x/{y}").0, "lost");
    assert_eq!(ran.became("connection none").0, "lost");
}

#[test]
fn bad_users_and_rules_are_left_out_one_by_one() {
    let folder = folder("listener 1883\npassword_file @/users\nacl_file @/rules\n");
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let good = fs::read_to_string(folder.path().join("users")).unwrap();
    put("users", &format!("{good}old:$6$abc$def\nplain:hunter2\nhunter3\n"));
    put("rules", "user plant\ntopic a/#/b\ntopic read ok/#\nfrob\n");
    let ran = run(folder.path(), &["--json", "-o", "new"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    let (became, said) = ran.became("password_file");
    assert!(
        became == "lost" && said.contains("old (line 3)") && said.contains("plain (line 4)") && said.contains("line 5"),
        "{said}"
    );
    let (became, said) = ran.became("acl_file");
    assert!(became == "lost" && said.contains("line 2 of ") && said.contains("line 4 of "), "{said}");
    assert!(!ran.stdout.contains("hunter"));
    let kept = fs::read_to_string(folder.path().join("new/passwd")).unwrap();
    assert!(kept.contains("plant:") && !kept.contains("hunter"), "{kept}");
    assert!(fs::read_to_string(folder.path().join("new/acl.toml")).unwrap().contains("ok/#"));
    for name in ["users", "rules"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let ran = run(folder.path(), &["--json", "-o", "gone"]);
    assert_eq!(ran.became("acl_file").0, "lost");
    assert!(
        !fs::read_to_string(folder.path().join("gone/acl.toml")).unwrap().contains("[[rule]]"),
        "nobody may anything"
    );
}

#[test]
fn nothing_is_overwritten_and_a_result_that_would_be_refused_is_a_failure() {
    let folder = folder("listener 1883\nallow_anonymous true\n");
    assert_eq!(run(folder.path(), &["-o", "new"]).code, Some(0));
    let again = run(folder.path(), &["-o", "new"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
    assert!(again.stderr.contains("new/tidegate.toml is there already"), "{}", again.stderr);
    assert_eq!(run(folder.path(), &["-o", "new", "--force"]).code, Some(0));
    fs::write(folder.path().join("m.conf"), "listener 8883\ncertfile /nowhere/a\nkeyfile /nowhere/b\n").unwrap();
    let refused = run(folder.path(), &["-o", "other"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stdout.contains("`tidegate check` refuses it") && refused.stdout.contains("/nowhere/a"));
}

#[test]
fn what_is_no_configuration_is_refused_with_its_place() {
    let folder = folder("");
    let put = |bytes: &[u8]| fs::write(folder.path().join("m.conf"), bytes).unwrap();
    let table: [(&[u8], &str); 4] = [
        (b"\x7fELF\x02\x01\x00\xff", "line 1"),
        (&vec![b'x'; 100_000], "line 1: is longer than 64 KiB"),
        (b"listener 1\ninclude_dir /nowhere/at/all\n", "/nowhere/at/all"),
        (&vec![b'\n'; 5 << 20], "larger than 4MiB"),
    ];
    for (bytes, expected) in table {
        put(bytes);
        let ran = run(folder.path(), &["-o", "new"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
        assert!(!folder.path().join("new").exists(), "nothing is written");
    }
    fs::remove_file(folder.path().join("m.conf")).unwrap();
    assert_eq!(run(folder.path(), &[]).code, Some(1));
    put(b"listener 70000\nlistener x\nlistener\nconnection\ntopic\nport x\nmax_packet_size many\nallow_anonymous perhaps\n\
          connection a\naddress\ntopic a b c d e f g\nkeepalive_interval soon\nrestart_timeout 0 0 0\n\x1b[2Jevil 1\n");
    let ran = run(folder.path(), &["--json", "-o", "new"]);
    assert!(ran.json()["notes"].as_array().unwrap().len() >= 14 && !ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
}

#[test]
fn a_secret_behind_a_misspelt_key_is_shown_nowhere() {
    let folder =
        folder("listener 1883 127.0.0.1\nallow_anonymous true\nremote_passwrd hunter4\nbridge_passphrase hunter5\n");
    let ran = run(folder.path(), &["-o", "new"]);
    let text = fs::read_to_string(folder.path().join("new/tidegate.toml")).unwrap();
    assert!(ran.stdout.contains("remote_passwrd (secret)") && text.contains("bridge_passphrase (secret)"), "{text}");
    assert!(!ran.stdout.contains("hunter") && !text.contains("hunter"), "{}{text}", ran.stdout);
}
