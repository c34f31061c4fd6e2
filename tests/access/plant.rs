//! A broker with users and rules, and clients with names and passwords.

use std::{fs, sync::OnceLock};

use tempfile::TempDir;
use tidegate::{
    broker::{self, AccessSettings, Bind, ListenerSettings, access::Applied, access::Credential},
    config::{self, Inputs},
};

use super::rig::{Client, Options, Rig, packet, text};

/// Users whose password is their name backwards.
pub(crate) const USERS: [&str; 3] = ["anne", "bert", "carl"];

/// What is in the files of a test.
#[derive(Clone, Default)]
pub(crate) struct Files<'f> {
    /// Name and password.
    pub(crate) users: Option<Vec<(&'f str, &'f str)>>,
    /// The rules, as `acl.toml` has them.
    pub(crate) rules: Option<&'f str>,
}

/// The passwords of [`USERS`].
pub(crate) const PASSWORDS: [(&str, &str); 3] = [("anne", "enna"), ("bert", "treb"), ("carl", "lrac")];

/// The line of a user; each pair has one hash for all tests, so that a user who stays the same really does.
fn line(name: &str, password: &str) -> String {
    static HASHES: OnceLock<Vec<Credential>> = OnceLock::new();
    let known = HASHES
        .get_or_init(|| PASSWORDS.iter().map(|(_, password)| Credential::of(password.as_bytes()).unwrap()).collect());
    let at = PASSWORDS.iter().position(|pair| *pair == (name, password));
    let credential = at.map_or_else(|| Credential::of(password.as_bytes()).unwrap(), |at| known[at].clone());
    format!("{name}:{}\n", credential.as_str())
}

/// Reads files as the gateway does.
pub(crate) fn access(files: &Files<'_>) -> AccessSettings {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let mut toml = "[auth]\n".to_owned();
    if let Some(users) = &files.users {
        let lines: String = users.iter().map(|(name, password)| line(name, password)).collect();
        fs::write(folder.path().join("passwd"), lines).unwrap();
        toml.push_str("password_file = \"passwd\"\n");
    }
    if let Some(rules) = files.rules {
        fs::write(folder.path().join("acl.toml"), rules).unwrap();
        toml.push_str("acl_file = \"acl.toml\"\n");
    }
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, toml).unwrap();
    let inputs = Inputs { file: Some(file), host_name: "test".to_owned(), ..Inputs::default() };
    config::load_from(&inputs).unwrap().broker.access
}

/// A broker with these files, open to anonymous clients or not.
pub(crate) async fn plant(anonymous: bool, files: &Files<'_>) -> Rig {
    Rig::with(Options { anonymous, access: access(files), ..Options::default() }).await
}

/// What SIGHUP does once the files are read.
pub(crate) fn reload(rig: &Rig, anonymous: bool, files: &Files<'_>) -> Applied {
    let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
    let listeners = vec![ListenerSettings { anonymous, ..ListenerSettings::new("test", bind) }];
    rig.broker.apply_access(&broker::Settings { listeners, access: access(files) })
}

/// A CONNECT with what is given.
#[derive(Clone, Copy, Default)]
pub(crate) struct Login<'l> {
    pub(crate) id: &'l str,
    pub(crate) user: Option<&'l str>,
    pub(crate) password: Option<&'l str>,
    /// Topic of a will with QoS 0.
    pub(crate) will: Option<&'l str>,
    /// Keep the session.
    pub(crate) keep: bool,
}

impl<'l> Login<'l> {
    pub(crate) fn of(id: &'l str, user: &'l str, password: &'l str) -> Self {
        Self { id, user: Some(user), password: Some(password), ..Self::default() }
    }

    pub(crate) fn bytes(&self, version: u8) -> Vec<u8> {
        let flags = u8::from(!self.keep) << 1
            | u8::from(self.will.is_some()) << 2
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.user.is_some()) << 7;
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend([version, flags, 0, 0]);
        if version == 5 {
            // Session Expiry Interval: for ever.
            let properties: &[u8] = if self.keep { &[5, 0x11, 0xFF, 0xFF, 0xFF, 0xFF] } else { &[0] };
            body.extend(properties);
        }
        text(&mut body, self.id);
        if let Some(topic) = self.will {
            body.extend(if version == 5 { &[0][..] } else { &[] });
            text(&mut body, topic);
            text(&mut body, "gone");
        }
        for part in [self.user, self.password].into_iter().flatten() {
            text(&mut body, part);
        }
        packet(0x10, &body)
    }

    /// A client that has said this.
    pub(crate) async fn say(&self, rig: &Rig, version: u8) -> Client {
        let mut client = rig.client().await;
        client.send_bytes(&self.bytes(version)).await;
        client
    }

    /// A client that was let in.
    pub(crate) async fn enter(&self, rig: &Rig, version: u8) -> Client {
        let mut client = self.say(rig, version).await;
        client.expect_connack(version, false).await;
        client
    }

    /// The client is refused with these codes (MQTT 3.1.1, MQTT 5).
    pub(crate) async fn is_refused(&self, rig: &Rig, codes: (u8, u8)) {
        for version in [4, 5] {
            let mut client = self.say(rig, version).await;
            let connack = client.packet().await;
            let code = if version == 4 { codes.0 } else { codes.1 };
            assert_eq!(connack[..4], [0x20, connack[1], 0, code], "version {version}: {connack:02X?}");
            client.expect_closed().await;
        }
    }
}

/// Rules as `acl.toml` has them, from lines such as `allow anne publish,subscribe a/#`.
pub(crate) fn rules(lines: &[&str]) -> String {
    let mut toml = String::new();
    for line in lines {
        let [verdict, user, actions, topic] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let actions: Vec<String> = actions.split(',').map(|action| format!("{action:?}")).collect();
        let rule = format!("[[rule]]\nuser = {user:?}\n{verdict} = [{}]\ntopic = {topic:?}\n", actions.join(", "));
        toml.push_str(&rule);
    }
    toml
}
