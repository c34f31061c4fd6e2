//! The whole gateway: SIGHUP, a broken configuration, files that change by themselves.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tidegate::broker::access::{Credential, set_password};
use tokio::net::TcpStream;

use super::{plant::Login, rig::*};

const CONFIG: &str = "\
[gateway]
id = \"lab\"
data_dir = \"data\"
[[listener]]
name = \"field\"
bind = \"127.0.0.1:0\"
anonymous = false
[auth]
password_file = \"passwd\"
acl_file = \"acl.toml\"
[admin]
bind = \"off\"
[log]
format = \"json\"
";
const RULES: &str = "[[rule]]\nuser = \"*\"\nallow = [\"publish\"]\ntopic = \"a/#\"\n";

/// A running gateway and its log.
struct Gateway {
    folder: TempDir,
    child: Child,
    log: mpsc::Receiver<String>,
    address: SocketAddr,
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("tidegate.toml"), CONFIG).unwrap();
        fs::write(file("acl.toml"), RULES).unwrap();
        set_password(&file("passwd"), "anne", &Credential::of(b"enna").unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["run", "-c"]).arg(file("tidegate.toml")).env_clear().stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (say, log) = mpsc::sync_channel(1000);
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { folder, child, log, address: unknown };
        gateway.address = gateway.logged("listening")["bind"].as_str().unwrap().parse().unwrap();
        gateway.logged("gateway ready");
        gateway
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The fields of the next line with this message.
    #[track_caller]
    fn logged(&self, message: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(DEADLINE * 3).unwrap_or_else(|_| panic!("never logged: {message}"));
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = if line["fields"].is_object() { line["fields"].clone() } else { line };
            if fields["message"] == message {
                return fields;
            }
        }
    }

    fn hangup(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }

    async fn login(&self, user: &str, password: &str) -> (Client, u8) {
        let mut client = Client { stream: TcpStream::connect(self.address).await.unwrap() };
        client.send_bytes(&Login::of("c", user, password).bytes(5)).await;
        let code = client.packet().await[3];
        (client, code)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_applies_access_and_names_what_takes_a_restart() {
    let gateway = Gateway::start();
    let (mut anne, code) = gateway.login("anne", "enna").await;
    assert_eq!(code, 0);
    set_password(&gateway.file("passwd"), "bert", &Credential::of(b"treb").unwrap()).unwrap();
    fs::write(gateway.file("acl.toml"), RULES.replace("a/#", "b/#")).unwrap();
    fs::write(gateway.file("tidegate.toml"), format!("{CONFIG}[store]\ndurability = \"process\"\n")).unwrap();
    gateway.hangup();
    let applied = gateway.logged("access reloaded");
    assert_eq!((&applied["users"], &applied["rules"], &applied["disconnected"]), (&2.into(), &1.into(), &0.into()));
    assert_eq!(gateway.logged("reload: this has changed too, and takes a restart")["keys"], "store.durability");
    anne.send_bytes(&publish(5, 2, "a/x", 1, b"x")).await;
    anne.expect("40 03 0001 87").await;
    anne.send_bytes(&publish(5, 2, "b/x", 1, b"x")).await;
    // No matching subscribers is a success, too.
    assert!([0x40, 0].contains(&anne.packet().await[0]));
    let (mut bert, code) = gateway.login("bert", "treb").await;
    assert_eq!(code, 0);
    // The same client id: anne was taken over.
    assert_eq!(anne.packet().await[..3], [0xE0, 1, 0x8E]);
    bert.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_is_refused_whole_with_every_problem() {
    let gateway = Gateway::start();
    let (mut anne, _) = gateway.login("anne", "enna").await;
    fs::write(gateway.file("passwd"), "bert:hunter2\n").unwrap();
    fs::write(gateway.file("acl.toml"), "[[rule]]\nuser = \"*\"\n").unwrap();
    fs::write(gateway.file("tidegate.toml"), format!("{CONFIG}[store]\ndurabilty = \"full\"\n")).unwrap();
    gateway.hangup();
    let mut problems = Vec::new();
    for _ in 0..4 {
        problems.push(gateway.logged("reload")["problem"].as_str().unwrap().to_owned());
    }
    gateway.logged("reload refused: everything stays as it was");
    for part in ["passwd:1: what follows the name is no hash", "`durability`", "rule[0].topic", "rule[0].allow"] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:#?}");
    }
    anne.expect_quiet().await;
    anne.send_bytes(&publish(5, 2, "a/x", 1, b"x")).await;
    assert_eq!(anne.packet().await[..2], [0x40, 2]);
    assert_eq!(gateway.login("anne", "enna").await.1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_noticed_without_a_signal() {
    let gateway = Gateway::start();
    let (mut anne, _) = gateway.login("anne", "enna").await;
    set_password(&gateway.file("passwd"), "anne", &Credential::of(b"new").unwrap()).unwrap();
    assert_eq!(fs::metadata(gateway.file("passwd")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(gateway.logged("access reloaded")["disconnected"], 1);
    anne.expect("E0 01 87").await;
    anne.expect_closed().await;
    assert_eq!(gateway.login("anne", "enna").await.1, 0x86);
    assert_eq!(gateway.login("anne", "new").await.1, 0);
}
