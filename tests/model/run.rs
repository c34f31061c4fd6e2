//! A run: the steps of a tape, one after the other, and the reckoning at the end.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    session::{FILTERS, Number, Outgoing, Publication, SHARED, Subscription, TOPICS},
    tape::{self, Farewell, Op},
    wire::{self, V5},
    world::{Peer, World},
};

/// Most steps of one run.
pub(crate) const STEPS: usize = 150;
/// Receive Maximum that clients choose from.
const WINDOWS: [u16; 4] = [1, 2, 5, u16::MAX];
/// Bytes of payloads; the largest is shared with the read buffer, not copied.
const SIZES: [usize; 4] = [4, 5, 200, 20_000];

/// Panics anywhere in the process, also where a task of the broker swallows them.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics from now on, besides what is done about them.
pub(crate) fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            report(panic);
        }));
    });
}

/// What went wrong, after which steps.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) complaint: String,
    pub(crate) steps: Vec<Op>,
}

/// Does what the bytes say; the first one chooses the protocol version of the third client.
pub(crate) async fn run(bytes: &[u8]) -> Result<(), Failure> {
    count_panics();
    let panics = PANICS.load(Ordering::SeqCst);
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let ops = tape::read(rest, STEPS);
    let mut world = World::new(if first & 1 == 0 { 4 } else { V5 }).await;
    let mut done = Vec::new();
    let mut result = Ok(());
    for op in ops {
        done.push(op);
        result = world.step(op).await;
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = world.reckon().await.map_err(|complaint| format!("at the end: {complaint}"));
    }
    world.peers.clear();
    if let Some(rig) = world.rig.take() {
        rig.stop().await;
    }
    if PANICS.load(Ordering::SeqCst) > panics {
        result = Err(format!("something panicked; {result:?}"));
    }
    result.map_err(|complaint| Failure { complaint, steps: done })
}

impl World {
    async fn step(&mut self, op: Op) -> Result<(), String> {
        let at = |client: u8| usize::from(client) % 3;
        match op {
            Op::Connect { client, clean, stays, will, window } => {
                self.connect(at(client), clean, stays, will, WINDOWS[usize::from(window) % 4]).await?;
            }
            Op::Leave { client, how } => self.leave(at(client), how).await?,
            Op::Subscribe { client, filter, options } => {
                self.subscribe(at(client), usize::from(filter) % FILTERS.len(), options).await?;
            }
            Op::Unsubscribe { client, filter } => {
                self.unsubscribe(at(client), usize::from(filter) % FILTERS.len()).await?;
            }
            Op::Publish { client, topic, qos, retain, size } => {
                self.publish(at(client), usize::from(topic) % TOPICS.len(), qos % 3, retain, size).await?;
            }
            Op::Repeat { client, which } => self.repeat(at(client), which.into()).await,
            Op::Answer { client, which } => self.peers[at(client)].answer(which.into()).await,
            Op::AnswerAll { client } => self.peers[at(client)].answer_all().await,
            Op::Ping { client } => self.ping(at(client)).await?,
            Op::Restart { crash } => self.restart(crash).await?,
        }
        self.until("", |_| true).await
    }

    async fn connect(&mut self, at: usize, clean: bool, stays: bool, will: bool, window: u16) -> Result<(), String> {
        let mut will = will.then(|| self.note(at, 2, 1, false, SIZES[0], false));
        let before = self.lost(at, true);
        let mut conn = self.dial(window.into(), will.take()).await?;
        let Peer { id, version, .. } = &self.peers[at];
        let stays = if *version == V5 { stays } else { !clean };
        let message = conn.will.map(|number| (TOPICS[2], self.publications[number as usize].payload.as_slice()));
        let connect = wire::Connect { version: *version, id, clean, stays, window, will: message };
        if *version != V5 {
            conn.window = usize::from(u16::MAX);
        }
        let (bytes, expected) = (connect.bytes(), !clean && self.peers[at].exists);
        if !expected {
            self.end_session(at);
        }
        let peer = &mut self.peers[at];
        (peer.exists, peer.stays) = (true, stays);
        conn.resumed = expected;
        peer.conn = Some(conn);
        peer.send(&bytes).await;
        let connack = self.connack(at).await?;
        if connack != (expected, 0) {
            return Err(format!("client {at}: CONNACK {connack:?}, session present should be {expected}"));
        }
        if let Some(mut before) = before {
            Self::until_closed(&mut before).await?;
        }
        self.send_again(at).await;
        Ok(())
    }

    async fn leave(&mut self, at: usize, how: Farewell) -> Result<(), String> {
        if self.peers[at].conn.is_none() {
            return Ok(());
        }
        match how {
            Farewell::Proper => self.peers[at].send(&[0xE0, 0]).await,
            Farewell::Dropped => {}
            Farewell::Offence(number) => {
                let offences = offences(self.peers[at].version);
                let offence = &offences[usize::from(number) % offences.len()];
                self.peers[at].send(offence).await;
            }
        }
        let mut conn = self.lost(at, how != Farewell::Proper).expect("it is connected");
        if how == Farewell::Dropped { Ok(()) } else { Self::until_closed(&mut conn).await }
    }

    async fn subscribe(&mut self, at: usize, filter: usize, options: u8) -> Result<(), String> {
        let Some((id, version)) = self.ready(at) else { return Ok(()) };
        let mut bits = options % 3;
        if version == V5 {
            // No Local is a protocol error on a shared subscription.
            let no_local = if filter == SHARED { 0 } else { options & 0x04 };
            bits |= no_local | (options & 0x08) | (((options >> 4) % 3) << 4);
        }
        let subscription = Subscription { filter, qos: bits & 3, no_local: bits & 4 != 0 };
        let peer = &mut self.peers[at];
        peer.session.history.push(subscription);
        if peer.session.subscriptions.contains_key(&filter) {
            peer.session.excuse(filter, &self.publications, false);
            self.generation += u32::from(filter == SHARED);
        }
        let subscription_id = u8::try_from(filter + 1).expect("few filters");
        peer.send(&wire::subscribe(version, id, FILTERS[filter], bits, subscription_id)).await;
        match self.suback(at, id).await? {
            code if code == subscription.qos => {
                self.peers[at].session.subscriptions.insert(filter, subscription);
                Ok(())
            }
            code => Err(format!("client {at}: SUBACK 0x{code:02X} for `{}` at QoS {}", FILTERS[filter], bits & 3)),
        }
    }

    async fn unsubscribe(&mut self, at: usize, filter: usize) -> Result<(), String> {
        let Some((id, version)) = self.ready(at) else { return Ok(()) };
        let session = &mut self.peers[at].session;
        if session.subscriptions.remove(&filter).is_some() {
            session.excuse(filter, &self.publications, true);
            self.generation += u32::from(filter == SHARED);
        }
        self.peers[at].send(&wire::unsubscribe(version, id, FILTERS[filter])).await;
        self.unsuback(at, id).await
    }

    /// A free packet id and the version of a client that is connected.
    fn ready(&mut self, at: usize) -> Option<(u16, u8)> {
        let peer = &mut self.peers[at];
        peer.conn.as_ref()?;
        Some((peer.free_id()?, peer.version))
    }

    /// Writes a message down, and gives it its number.
    fn note(&mut self, at: usize, topic: usize, qos: u8, retain: bool, size: usize, may_arrive: bool) -> Number {
        let number = Number::try_from(self.publications.len()).expect("few messages");
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(size, 7);
        self.publications.push(Publication {
            publisher: at,
            topic,
            qos,
            retain,
            payload,
            sends: 1,
            acknowledged: false,
            is_will: !may_arrive,
            may_arrive,
            group: None,
        });
        number
    }

    async fn publish(&mut self, at: usize, topic: usize, qos: u8, retain: bool, size: u8) -> Result<(), String> {
        let Some((id, version)) = self.ready(at) else { return Ok(()) };
        // Only an acknowledgement says that a retained message is there.
        let qos = if retain { qos.max(1) } else { qos };
        let clears = retain && size == 7;
        let number = self.note(at, topic, qos, retain, SIZES[usize::from(size) % 4], true);
        if clears {
            self.publications[number as usize].payload.clear();
        } else {
            self.want(at, number);
        }
        let peer = &mut self.peers[at];
        let conn = peer.conn.as_mut().expect("it is connected");
        let (mut name, mut alias) = (TOPICS[topic], None);
        if version == V5 && number.is_multiple_of(3) {
            alias = Some(u16::try_from(topic + 1).expect("few topics"));
            if conn.aliases[topic].replace(topic).is_some() {
                name = "";
            }
        }
        if qos > 0 {
            peer.session.outgoing.push(Outgoing { number, id, due: 1, received: false, released: false });
        }
        let payload = self.publications[number as usize].payload.clone();
        peer.send(&wire::publish(version, qos << 1 | u8::from(retain), name, id, alias, &payload)).await;
        if retain {
            self.until("the retained message is acknowledged", |world| {
                world.publications[number as usize].acknowledged
            })
            .await?;
            self.retained[topic] = (!clears).then_some(number);
        }
        Ok(())
    }

    /// Who must get the message, if it is acknowledged.
    fn want(&mut self, from: usize, number: Number) {
        let Publication { topic, qos, .. } = self.publications[number as usize];
        let mut group = Vec::new();
        for (at, peer) in self.peers.iter_mut().enumerate().filter(|(_, peer)| peer.exists) {
            let takes = |s: &&Subscription| s.takes(topic, at == from);
            let granted = peer.session.subscriptions.values().filter(takes).map(|s| s.qos).max();
            if topic == TOPICS.len() - 1 {
                group.extend(granted);
            } else if qos > 0 && granted.is_some_and(|granted| granted > 0) {
                peer.session.wanted.insert(number);
            }
        }
        if qos > 0 && group.iter().min().is_some_and(|least| *least > 0) {
            self.publications[number as usize].group = Some(self.generation);
        }
    }

    async fn repeat(&mut self, at: usize, which: usize) {
        let Peer { version: 4, conn: Some(_), session, .. } = &mut self.peers[at] else { return };
        let mut pending: Vec<_> = session.outgoing.iter_mut().filter(|outgoing| !outgoing.released).collect();
        pending.retain(|outgoing| self.publications[outgoing.number as usize].qos == 2);
        if pending.is_empty() {
            return;
        }
        let at_most = pending.len();
        let outgoing = &mut *pending[which % at_most];
        outgoing.due += 1;
        let publication = &self.publications[outgoing.number as usize];
        let flags = 8 | 4 | u8::from(publication.retain);
        let bytes = wire::publish(4, flags, TOPICS[publication.topic], outgoing.id, None, &publication.payload);
        self.peers[at].send(&bytes).await;
    }

    async fn restart(&mut self, crash: bool) -> Result<(), String> {
        for peer in self.peers.iter().filter(|_| crash) {
            if let Some(will) = peer.last_will {
                self.publications[will as usize].may_arrive = true;
            }
        }
        // Between publishing a will and forgetting it: once more is better than never.
        self.publications.iter_mut().filter(|publication| publication.is_will).for_each(|will| will.sends += 1);
        // Sockets stay open until the broker is gone, and nobody listens to them any more.
        let _conns: Vec<_> = (0..self.peers.len()).map(|at| self.lost(at, true)).collect();
        let rig = self.rig.take().expect("the broker runs");
        self.rig = Some(if crash { rig.crash().await } else { rig.restart().await });
        Ok(())
    }

    /// Everybody whose session is still there comes back and takes everything; then nothing may be missing.
    async fn reckon(&mut self) -> Result<(), String> {
        for at in 0..self.peers.len() {
            if self.peers[at].exists && self.peers[at].conn.is_none() {
                self.connect(at, false, true, false, 5).await?;
            }
        }
        let began = std::time::Instant::now();
        loop {
            self.until("", |_| true).await?;
            for peer in &mut self.peers {
                peer.answer_all().await;
            }
            let Some(missing) = self.missing() else { break };
            if began.elapsed() > super::world::deadline() {
                return Err(missing);
            }
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        for at in 0..self.peers.len() {
            self.ping(at).await?;
        }
        self.check_group()?;
        self.probe().await
    }

    /// What has still to come.
    fn missing(&self) -> Option<String> {
        for (at, peer) in self.peers.iter().enumerate() {
            if let Some(number) = peer.session.missing(&self.publications).next() {
                return Some(format!("client {at} never got {number}: {:?}", self.publications[number as usize]));
            }
            if peer.conn.is_some() && !peer.session.outgoing.is_empty() {
                return Some(format!("client {at}: never acknowledged: {:?}", peer.session.outgoing));
            }
        }
        let unshared = self.shared().find(|(_, times)| *times == 0);
        unshared.map(|(publication, _)| format!("nobody of the group got {publication:?}"))
    }

    /// Messages that the group as it is must have got, and how often its members did.
    fn shared(&self) -> impl Iterator<Item = (&Publication, u32)> {
        let due = |p: &Publication| p.acknowledged && p.group == Some(self.generation);
        self.publications.iter().enumerate().filter(move |(_, p)| due(p)).map(|(number, publication)| {
            let number = Number::try_from(number).expect("few messages");
            let times = self.peers.iter().filter_map(|peer| peer.session.got.get(&number)).sum();
            (publication, times)
        })
    }

    fn check_group(&self) -> Result<(), String> {
        let most = |publication: &Publication| if publication.qos == 2 { 1 } else { publication.sends };
        match self.shared().find(|(publication, times)| !publication.retain && *times > most(publication)) {
            Some((publication, times)) => Err(format!("{times} members of the group got {publication:?}")),
            None => Ok(()),
        }
    }

    /// Somebody who was never there finds a broker that works, and the retained messages that there must be.
    async fn probe(&mut self) -> Result<(), String> {
        let at = self.peers.len();
        self.peers.push(Peer::new(at, V5));
        self.connect(at, true, false, false, u16::MAX).await?;
        for filter in [1, 2, 3, 5] {
            self.subscribe(at, filter, 2).await?;
        }
        self.publish(at, 3, 1, false, 1).await?;
        let expected: Vec<_> = self.retained.iter().flatten().copied().filter(|n| self.is_probed(*n)).collect();
        let own = Number::try_from(self.publications.len() - 1).expect("few messages");
        self.until("the probe has its own message and all retained ones", |world| {
            let got = &world.peers[at].session.got;
            got.contains_key(&own) && expected.iter().all(|number| got.contains_key(number))
        })
        .await?;
        self.ping(at).await?;
        let got = self.peers[at].session.got.keys();
        match got.copied().find(|number| *number != own && !expected.contains(number)) {
            Some(other) if self.publications[other as usize].retain => {
                Err(format!("{:?} is retained no more", self.publications[other as usize]))
            }
            // A will may come at any time.
            _ => Ok(()),
        }
    }

    fn is_probed(&self, number: Number) -> bool {
        self.publications[number as usize].topic != TOPICS.len() - 1
    }
}

/// Packets that break a rule of the protocol.
fn offences(version: u8) -> Vec<Vec<u8>> {
    let mut all = vec![
        wire::Connect { version, id: "x", clean: true, stays: false, window: 9, will: None }.bytes(),
        vec![0x00, 0x00],
        vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        wire::publish(version, 6, "a", 1, None, b""),
        wire::publish(version, 2, "a", 0, None, b""),
        wire::publish(version, 0, "a/+", 0, None, b""),
        wire::packet(0x30, b"\0\x01\xFF\0"),
        wire::packet(0x80, b"\0\x01\0\0\x01a\0"),
        wire::packet(0x82, b"\0\x01"),
        wire::packet(0x82, b"\0\0\0\0\x01a\0"),
        wire::packet(0xA2, b"\0\x01"),
        wire::packet(0x60, b"\0\x01"),
        wire::packet(0x20, b"\0\0"),
        wire::packet(0x40, b"\0\0"),
        wire::packet(0xC1, b""),
        wire::packet(0xE1, b""),
    ];
    if version == V5 {
        all.push(wire::publish(version, 0, "a", 0, Some(0), b""));
        all.push(wire::publish(version, 0, "a", 0, Some(65_535), b""));
        all.push(wire::publish(version, 0, "", 0, Some(32), b""));
        all.push(wire::packet(0xF0, b"\x18\0"));
    }
    all
}
