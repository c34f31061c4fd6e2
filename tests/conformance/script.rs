//! Scripts: who sends what, and what must come back.
//!
//! | line | means |
//! | --- | --- |
//! | `a> bytes` | client `a` sends bytes (see [`notation`](super::notation)); it is connected to the gateway at first use |
//! | `a< bytes` | `a` gets exactly these bytes next, in whole packets |
//! | `a: connect` | CONNECT with client id `a` and clean start, and an accepting CONNACK |
//! | `a: stay` | CONNECT without clean start and with a session that never ends; there was none |
//! | `a: back` | the same; the session was there |
//! | `a: connect4`, `a: stay4`, `a: connect5` ... | the same in a version other than the script's |
//! | `a: subscribe FILTER OPTIONS` | SUBSCRIBE with packet id 99, and the SUBACK that grants it |
//! | `a: quiet` | PINGREQ is answered, and nothing came before the answer |
//! | `a: closed` | nothing more comes, and the gateway has closed the connection and put the session away |
//! | `a: leave` | DISCONNECT, then as `closed` |
//! | `a: gone` | the connection is cut by the client, and the gateway has noticed |
//! | `gateway: restart` | the gateway stops and starts again on the same data; all clients are gone |
//! | `gateway: crash` | a new gateway finds what this one would leave behind if it died now; all clients are gone |
//! | `time: 1100` | so many milliseconds pass |
//!
//! Empty lines and `#` comments are passed over. What is said about `a` next is about a new connection where the old one
//! is over.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    notation::{Expected, bytes},
    rig::{Client, DEADLINE, Options, Rig, until},
};

/// Plays a script in MQTT 5 against a gateway of its own.
pub(crate) fn v5(script: &str) {
    with(5, Options::default(), script);
}

/// Plays a script in MQTT 3.1.1 against a gateway of its own.
pub(crate) fn v3(script: &str) {
    with(4, Options::default(), script);
}

/// Plays a script: `version` 4 or 5, and a gateway with these options.
pub(crate) fn with(version: u8, options: Options, script: &str) {
    stage(version, options, async |stage| stage.play(script).await);
}

/// Runs a test that a script alone cannot tell.
pub(crate) fn stage(version: u8, options: Options, test: impl AsyncFnOnce(&mut Stage)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let rig = Rig::with(options).await;
        test(&mut Stage { version, rig: Some(rig), clients: HashMap::new() }).await;
    });
}

/// A gateway and its clients.
pub(crate) struct Stage {
    version: u8,
    /// Here but for the moment of a restart.
    rig: Option<Rig>,
    clients: HashMap<String, Actor>,
}

struct Actor {
    client: Client,
    version: u8,
    /// Whether the gateway has let it in.
    connected: bool,
}

impl Stage {
    /// The gateway.
    pub(crate) fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("a gateway runs")
    }

    /// The next packet for a client.
    pub(crate) async fn packet(&mut self, who: &str) -> Vec<u8> {
        self.actor(who).await.packet(who).await
    }

    /// Plays a script.
    pub(crate) async fn play(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            self.line(line).await;
        }
    }

    async fn line(&mut self, line: &str) {
        let at = line.find(['>', '<', ':']).unwrap_or_else(|| panic!("no line of a script: {line}"));
        let (who, rest) = (&line[..at], line[at + 1..].trim());
        match &line[at..=at] {
            ">" => {
                let bytes = bytes(rest);
                let written = timeout(DEADLINE, self.actor(who).await.client.stream.write_all(&bytes)).await;
                // The gateway may have closed the connection before the last byte: what it said about it is read next.
                drop(written.unwrap_or_else(|_| panic!("the gateway does not read: {line}")));
            }
            "<" => self.actor(who).await.expect(line, &Expected::read(rest)).await,
            _ => Box::pin(self.verb(who, rest, line)).await,
        }
    }

    async fn verb(&mut self, who: &str, rest: &str, line: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (who, words.as_slice()) {
            ("gateway", ["restart"]) => {
                self.clients.clear();
                self.rig = Some(self.rig.take().expect("a gateway runs").restart().await);
            }
            ("gateway", ["crash"]) => {
                self.clients.clear();
                self.rig = Some(self.rig().after_a_crash().await);
            }
            ("time", [milliseconds]) => tokio::time::sleep(Duration::from_millis(milliseconds.parse().unwrap())).await,
            (_, ["subscribe", filter, options]) => {
                let properties = if self.actor(who).await.version == 5 { "()" } else { "" };
                let granted = u8::from_str_radix(options, 16).unwrap() & 3;
                self.line(&format!("{who}> 82 (0063 {properties} ={filter} {options})")).await;
                self.line(&format!("{who}< 90 (0063 {properties} {granted:02X})")).await;
            }
            (_, ["quiet"]) => {
                self.line(&format!("{who}> C0 00")).await;
                self.line(&format!("{who}< D0 00")).await;
            }
            (_, ["closed"]) => self.over(who, async |actor| actor.client.expect_closed().await).await,
            (_, ["leave"]) => {
                self.line(&format!("{who}> E0 00")).await;
                self.over(who, async |actor| actor.client.expect_closed().await).await;
            }
            (_, ["gone"]) => self.over(who, async |_| ()).await,
            (_, [verb]) => self.connect(who, verb, line).await,
            _ => panic!("no line of a script: {line}"),
        }
    }

    async fn connect(&mut self, who: &str, verb: &str, line: &str) {
        let (verb, version) = match (verb.strip_suffix('4'), verb.strip_suffix('5')) {
            (Some(verb), _) => (verb, 4),
            (None, Some(verb)) => (verb, 5),
            (None, None) => (verb, self.version),
        };
        let (flags, present) = match verb {
            "connect" => ("02", "00"),
            "stay" => ("00", "00"),
            "back" => ("00", "01"),
            _ => panic!("no line of a script: {line}"),
        };
        let mut bytes = format!("{who}> 10 (=MQTT {version:02X} {flags} 0000");
        if version == 5 {
            bytes += if flags == "02" { "()" } else { "(11 FFFFFFFF)" };
        }
        write!(bytes, " ={who})").unwrap();
        self.clients.remove(who);
        self.line(&bytes).await;
        self.actor(who).await.version = version;
        self.line(&format!("{who}< 20 _ {present} 00 ...")).await;
    }

    /// A connection is over: waits until the gateway has put it away.
    async fn over(&mut self, who: &str, end: impl AsyncFnOnce(&mut Actor)) {
        let mut actor = self.clients.remove(who).unwrap_or_else(|| panic!("{who} is not there"));
        end(&mut actor).await;
        drop(actor);
        let left = self.clients.values().filter(|actor| actor.connected).count() as u64;
        let broker = &self.rig().broker;
        until("the gateway has put the connection away", || broker.listeners()[0].connections <= left).await;
    }

    async fn actor(&mut self, who: &str) -> &mut Actor {
        if !self.clients.contains_key(who) {
            let actor = Actor { client: self.rig().client().await, version: self.version, connected: false };
            self.clients.insert(who.to_owned(), actor);
        }
        self.clients.get_mut(who).expect("it was made")
    }
}

impl Actor {
    async fn packet(&mut self, line: &str) -> Vec<u8> {
        let read = timeout(DEADLINE, self.client.read_packet()).await;
        let packet = read.unwrap_or_else(|_| panic!("nothing comes: {line}"));
        let packet = packet.unwrap_or_else(|error| panic!("the connection is closed ({error}): {line}"));
        self.connected |= packet[0] == 0x20;
        packet
    }

    async fn expect(&mut self, line: &str, expected: &Expected) {
        let mut found = self.packet(line).await;
        while found.len() < expected.len() {
            found.extend(self.packet(line).await);
        }
        assert!(expected.matches(&found), "expected {line}\nfound    {}", shown(&found));
    }
}

fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(200)];
    format!("{start:02X?} ({} bytes, {:?})", bytes.len(), String::from_utf8_lossy(start))
}
