//! Clients that others wrote: mosquitto_pub and mosquitto_sub, which must be installed.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_and_sub_work() {
    let rig = Rig::new().await;
    let port = rig.address.port().to_string();
    for version in ["311", "5"] {
        let port = port.clone();
        tokio::task::spawn_blocking(move || mosquitto(&port, version)).await.unwrap();
    }
    until("all are gone", || rig.broker.listeners()[0].connections == 0).await;
}

fn mosquitto(port: &str, version: &str) {
    let common = ["-h", "127.0.0.1", "-p", port, "-V", version, "-q", "2", "-t", "s/m"];
    let publish = |more: &[&str]| {
        let status = Command::new("mosquitto_pub").args(common).args(more).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
    };
    publish(&["-m", "1", "-r"]);
    let mut sub = Command::new("mosquitto_sub");
    let mut sub = sub.args(common).args(["-C", "3", "-W", "20"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(sub.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The retained message says that the subscription is there.
    assert_eq!(lines.next().as_deref(), Some("1"));
    publish(&["-m", "2"]);
    publish(&["-m", "3"]);
    assert_eq!((lines.next().as_deref(), lines.next().as_deref()), (Some("2"), Some("3")));
    assert!(sub.wait().unwrap().success());
    publish(&["-r", "-n"]);
}
