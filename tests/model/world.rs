//! The clients, the broker between them, and what must be true of both.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::net::UnixStream;

use super::{
    rig::Rig,
    session::{Number, Outgoing, Publication, Session, Step},
    wire::{self, Heard, V5},
};

/// What happens at all happens soon; this is for machines with other work.
const DEADLINE: Duration = Duration::from_secs(30);
/// While a run is being made shorter, what does not happen is waited for again and again.
const SHORT_DEADLINE: Duration = Duration::from_secs(3);

static SHRINKING: AtomicBool = AtomicBool::new(false);

/// From now on, waits less for what does not happen.
#[allow(dead_code, reason = "the fuzzer makes inputs shorter itself")]
pub(crate) fn be_impatient() {
    SHRINKING.store(true, Ordering::Relaxed);
}

pub(crate) fn deadline() -> Duration {
    if SHRINKING.load(Ordering::Relaxed) { SHORT_DEADLINE } else { DEADLINE }
}

/// A connection, as the client sees it.
pub(crate) struct Conn {
    stream: UnixStream,
    input: Vec<u8>,
    /// The broker had the session already.
    pub(crate) resumed: bool,
    /// Receive Maximum.
    pub(crate) window: usize,
    /// Topics behind aliases, by alias less one.
    pub(crate) aliases: Vec<Option<usize>>,
    pub(crate) will: Option<Number>,
    connack: Option<(bool, u8)>,
    subacks: Vec<(u16, Vec<u8>)>,
    unsubacks: Vec<u16>,
    pub(crate) pongs: u32,
    /// The broker has closed it.
    pub(crate) ended: bool,
}

/// One client.
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) version: u8,
    pub(crate) conn: Option<Conn>,
    pub(crate) session: Session,
    /// The broker has a session of this client.
    pub(crate) exists: bool,
    /// It outlives the connection.
    pub(crate) stays: bool,
    next_id: u16,
    /// The will of its last connection, of which it took its leave: a crash may come before the broker has forgotten it.
    pub(crate) last_will: Option<Number>,
}

/// All there is.
pub(crate) struct World {
    pub(crate) rig: Option<Rig>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) publications: Vec<Publication>,
    /// The retained message of each topic.
    pub(crate) retained: [Option<Number>; super::session::TOPICS.len()],
    /// Changes whenever a member leaves the shared group for good.
    pub(crate) generation: u32,
}

impl Peer {
    pub(crate) fn new(number: usize, version: u8) -> Self {
        Self {
            id: format!("client-{number}"),
            version,
            conn: None,
            session: Session::default(),
            exists: false,
            stays: false,
            next_id: 1,
            last_will: None,
        }
    }

    /// A packet id that is free, of few, so that they are used again and again.
    pub(crate) fn free_id(&mut self) -> Option<u16> {
        for _ in 0..8 {
            self.next_id = self.next_id % 8 + 1;
            if self.session.outgoing.iter().all(|outgoing| outgoing.id != self.next_id) {
                return Some(self.next_id);
            }
        }
        None
    }

    /// Writes to the broker, which may have closed the connection: that is found when reading.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let Some(conn) = &mut self.conn else { return };
        let mut rest = bytes;
        while !rest.is_empty() {
            match conn.stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // What the broker sends meanwhile stays in the socket; there is less of it than fits.
                    let _ = tokio::time::timeout(deadline(), conn.stream.writable()).await;
                }
                Err(_) => return,
            }
        }
    }

    /// Gives one answer that is owed.
    pub(crate) async fn answer(&mut self, which: usize) {
        if self.conn.is_none() || self.session.steps.is_empty() {
            return;
        }
        let step = self.session.steps.remove(which % self.session.steps.len());
        self.session.answered(step);
        let (first, id) = match step {
            Step::PubAck(id) => (0x40, id),
            Step::PubRec(id) => (0x50, id),
            Step::PubComp(id) => (0x70, id),
            Step::PubRel(id) => (0x62, id),
        };
        self.send(&wire::answer(first, id)).await;
    }

    pub(crate) async fn answer_all(&mut self) {
        while self.conn.is_some() && !self.session.steps.is_empty() {
            self.answer(0).await;
        }
    }
}

impl World {
    pub(crate) async fn new(last_version: u8) -> Self {
        let peers = [4, V5, last_version].into_iter().enumerate().map(|(at, version)| Peer::new(at, version)).collect();
        Self {
            rig: Some(Rig::new().await),
            peers,
            publications: Vec::new(),
            retained: Default::default(),
            generation: 0,
        }
    }

    /// Opens a socket; the CONNACK comes later.
    pub(crate) async fn dial(&self, window: usize, will: Option<Number>) -> Result<Conn, String> {
        let socket = self.rig.as_ref().expect("the broker runs").socket();
        let stream = UnixStream::connect(socket).await.map_err(|error| format!("connecting: {error}"))?;
        let aliases = vec![None; super::session::TOPICS.len()];
        Ok(Conn {
            stream,
            input: Vec::new(),
            resumed: false,
            window,
            aliases,
            will,
            connack: None,
            subacks: Vec::new(),
            unsubacks: Vec::new(),
            pongs: 0,
            ended: false,
        })
    }

    /// Takes in whatever the broker has sent to anybody.
    pub(crate) fn listen(&mut self) -> Result<(), String> {
        for at in 0..self.peers.len() {
            self.listen_to(at).map_err(|complaint| format!("client {at}: {complaint}"))?;
        }
        Ok(())
    }

    fn listen_to(&mut self, at: usize) -> Result<(), String> {
        let Some(conn) = &mut self.peers[at].conn else { return Ok(()) };
        loop {
            match conn.stream.try_read_buf(&mut conn.input) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => {
                    conn.ended = true;
                    break;
                }
            }
        }
        let version = self.peers[at].version;
        while let Some(conn) = &mut self.peers[at].conn
            && let Some(heard) = wire::take(&mut conn.input, version)?
        {
            self.heard(at, heard.clone()).map_err(|complaint| format!("{heard:?}: {complaint}"))?;
        }
        Ok(())
    }

    fn heard(&mut self, at: usize, heard: Heard) -> Result<(), String> {
        let Peer { conn: Some(conn), session, .. } = &mut self.peers[at] else { return Ok(()) };
        if conn.connack.is_none() != matches!(heard, Heard::ConnAck { .. }) {
            return Err("CONNACK is the first packet, and comes once".into());
        }
        match heard {
            Heard::ConnAck { present, code } => conn.connack = Some((present, code)),
            Heard::Publish(delivery) => {
                session.delivered(at, &delivery, &self.publications, conn.resumed)?;
                if session.open.len() > conn.window {
                    return Err(format!("Receive Maximum is {}, in flight are {:?}", conn.window, session.open));
                }
            }
            Heard::Answer(0x62, id, _) => session.released(id),
            Heard::Answer(first, id, reason) => {
                let number = session.acknowledged(first, id, reason)?;
                if first != 0x70 {
                    let publication = &mut self.publications[number as usize];
                    publication.acknowledged |= reason < 0x80;
                    publication.may_arrive &= reason < 0x80;
                }
            }
            Heard::SubAck { id, codes } => conn.subacks.push((id, codes)),
            Heard::UnsubAck { id } => conn.unsubacks.push(id),
            Heard::Pong => conn.pongs += 1,
            Heard::Disconnect(reason) => return Err(format!("DISCONNECT 0x{reason:02X}, and nothing was wrong")),
        }
        Ok(())
    }

    /// Takes in what comes until something is so.
    pub(crate) async fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        let began = std::time::Instant::now();
        loop {
            self.listen()?;
            if let Some(at) = self.peers.iter().position(|peer| peer.conn.as_ref().is_some_and(|conn| conn.ended)) {
                return Err(format!("client {at}: the broker closed the connection"));
            }
            if so(self) {
                return Ok(());
            }
            if began.elapsed() > deadline() {
                return Err(format!("never came true: {what}"));
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// CONNACK: whether the session was there, and the code.
    pub(crate) async fn connack(&mut self, at: usize) -> Result<(bool, u8), String> {
        let connack = |world: &Self| world.peers[at].conn.as_ref().and_then(|conn| conn.connack);
        self.until("CONNACK", |world| connack(world).is_some()).await?;
        Ok(connack(self).expect("it is there"))
    }

    /// The code of a SUBACK.
    pub(crate) async fn suback(&mut self, at: usize, id: u16) -> Result<u8, String> {
        self.until("SUBACK", |world| world.peers[at].conn.as_ref().is_some_and(|conn| !conn.subacks.is_empty()))
            .await?;
        let conn = self.peers[at].conn.as_mut().expect("it is there");
        match conn.subacks.remove(0) {
            (found, codes) if found == id && codes.len() == 1 => Ok(codes[0]),
            other => Err(format!("SUBACK {other:?} for packet id {id}")),
        }
    }

    pub(crate) async fn unsuback(&mut self, at: usize, id: u16) -> Result<(), String> {
        self.until("UNSUBACK", |world| world.peers[at].conn.as_ref().is_some_and(|conn| !conn.unsubacks.is_empty()))
            .await?;
        let found = self.peers[at].conn.as_mut().expect("it is there").unsubacks.remove(0);
        if found == id { Ok(()) } else { Err(format!("UNSUBACK of {found} for packet id {id}")) }
    }

    pub(crate) async fn ping(&mut self, at: usize) -> Result<(), String> {
        let Some(conn) = &self.peers[at].conn else { return Ok(()) };
        let pongs = conn.pongs;
        self.peers[at].send(&[0xC0, 0]).await;
        self.until("PINGRESP", |world| world.peers[at].conn.as_ref().is_some_and(|conn| conn.pongs > pongs)).await
    }

    /// The client's connection is over: what that means for its session and its will.
    pub(crate) fn lost(&mut self, at: usize, fires_will: bool) -> Option<Conn> {
        let conn = self.peers[at].conn.take()?;
        if let Some(will) = conn.will.filter(|_| fires_will) {
            self.publications[will as usize].may_arrive = true;
        }
        self.peers[at].last_will = conn.will.filter(|_| self.peers[at].stays);
        self.peers[at].session.interrupted();
        if !self.peers[at].stays {
            self.end_session(at);
        }
        Some(conn)
    }

    pub(crate) fn end_session(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.exists = false;
        if peer.session.history.iter().any(|subscription| subscription.filter == super::session::SHARED) {
            self.generation += 1;
        }
        peer.session = Session::default();
    }

    /// Reads until the broker closes the connection, as it must.
    pub(crate) async fn until_closed(conn: &mut Conn) -> Result<(), String> {
        let closed = async {
            loop {
                let _ = conn.stream.readable().await;
                match conn.stream.try_read_buf(&mut conn.input) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => return,
                    Ok(_) => conn.input.clear(),
                }
            }
        };
        let waited = tokio::time::timeout(deadline(), closed).await;
        waited.map_err(|_| "the broker does not close the connection".to_owned())
    }

    /// What a resumed session sends first: all that is not acknowledged, in the order in which it was sent.
    pub(crate) async fn send_again(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let mut bytes = Vec::new();
        for Outgoing { number, id, due, received, released } in &mut peer.session.outgoing {
            if *received {
                (*due, *released) = (0, true);
                bytes.extend(wire::answer(0x62, *id));
            } else {
                *due = 1;
                let publication = &mut self.publications[*number as usize];
                publication.sends += 1;
                let flags = 8 | publication.qos << 1 | u8::from(publication.retain);
                let topic = super::session::TOPICS[publication.topic];
                bytes.extend(wire::publish(peer.version, flags, topic, *id, None, &publication.payload));
            }
        }
        peer.send(&bytes).await;
    }
}
