//! Who a client with a certificate is, and what it may.

use std::sync::Arc;

use tidegate::broker::{
    AccessSettings, Identity, ListenerSettings,
    access::{Credential, Principal, Rule, Rules, TopicPattern, Users, Verdict, Who},
};

use super::{
    authority::put,
    client::{publish, subscribe},
    rig::{Site, local},
};

fn rule(name: &str, topic: &str) -> Rule {
    let who = Who::Only(Principal::Certificate(name.into()));
    let topic = TopicPattern::parse(topic).unwrap();
    Rule { who, verdict: Verdict::Allow, publish: true, subscribe: true, topic }
}

/// A CONNECT of MQTT 3.1.1 with a user name and password.
fn login(id: &str, user: &str, password: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\xC2\0\0".to_vec();
    for part in [id, user, password] {
        body.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        body.extend(part.as_bytes());
    }
    [vec![0x10, u8::try_from(body.len()).unwrap()], body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_the_certificate_decides_and_a_user_name_beside_it_means_nothing() {
    let site = Site::new();
    let users = Users::parse(&format!("plc:{}\n", Credential::of(b"secret").unwrap().as_str())).unwrap();
    let rules = Rules::new(vec![rule("plc", "plc/%u/#"), rule("other", "other/#")]);
    let access =
        AccessSettings { users: Some(Arc::new(users)), rules: Some(Arc::new(rules)), ..AccessSettings::default() };
    let mut tls = site.tls();
    tls.client_ca = Some(put(site.folder.path(), "ca.pem", &site.authority.pem()));
    tls.identity = Identity::CommonName;
    let rig = site.start_with(access, ListenerSettings { tls: Some(tls), anonymous: false, ..local() }).await;

    let mut watcher = rig.connected("w", Some(&rig.authority.client("plc"))).await;
    watcher.subscribe("#").await;
    // No password is needed, and a wrong one does not matter.
    let certificate = rig.authority.client("plc");
    let config = rig.authority.trusted(Some(&certificate), tokio_rustls::rustls::ALL_VERSIONS);
    let mut client = rig.shake(config).await.unwrap();
    client.send(&login("c", "plc", "wrong")).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    for topic in ["other/x", "plc/other/x", "plc/plc/x"] {
        client.send(&publish(topic, b"x")).await;
    }
    client.send(&subscribe("other/#")).await;
    client.expect(&[0x90, 3, 0, 1, 0x80]).await;
    watcher.expect(&publish("plc/plc/x", b"x")).await;

    // Without a certificate a password is needed; the user of the same name is somebody else, for whom there are no rules.
    let config = || rig.authority.trusted(None, tokio_rustls::rustls::ALL_VERSIONS);
    let mut stranger = rig.shake(config()).await.unwrap();
    stranger.send(&login("s", "plc", "wrong")).await;
    stranger.expect(&[0x20, 2, 0, 4]).await;
    let mut user = rig.shake(config()).await.unwrap();
    user.send(&login("u", "plc", "secret")).await;
    user.expect(&[0x20, 2, 0, 0]).await;
    user.send(&subscribe("plc/plc/#")).await;
    user.expect(&[0x90, 3, 0, 1, 0x80]).await;
}
