//! The end of a connection, in order: what arrived is decided, what was decided is acknowledged, the client is told why,
//! the will is sent, the session is put away.

use std::{
    borrow::Cow,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};

use super::{Connection, Wire, submission};
use crate::{
    broker::{
        fanout::{Delivery, Orphan},
        limits::{LAST_READS, LAST_SAVE, LAST_VERDICTS, LAST_WRITE},
        packet::{DecodeError, Reason, disconnect},
        publisher::Errand,
        sessions::Receipt,
        transport,
    },
    intake::StoreError,
    message::QoS,
};

const REVOKED: &str = "its user is gone or has another password";
const SILENT: &str = "not heard within 1.5 times its keep alive";

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// DISCONNECT.
    Disconnected { with_will: bool },
    /// The socket was closed, or failed, without one.
    Lost(Option<io::Error>),
    /// The client broke the protocol.
    Decode(DecodeError),
    /// The client did what it must not do now.
    Offence(Reason, &'static str),
    /// Nothing heard for too long.
    Silent,
    /// It does not read what is sent to it.
    Stalled,
    /// A reload took its access away.
    Revoked,
    /// An operator sent it away.
    Expelled,
    /// Another connection took the session.
    TakenOver,
    /// The gateway stops.
    Stopping,
    /// A reload took its listener away.
    ListenerGone,
    /// The store takes and gives nothing any more.
    StoreGone,
}

impl From<DecodeError> for Ending {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<StoreError> for Ending {
    fn from(_: StoreError) -> Self {
        Self::StoreGone
    }
}

impl Ending {
    /// What an MQTT 5 client is told; `None` where it cannot be told or needs not.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Disconnected { .. }
            | Self::Lost(_)
            | Self::Stalled
            | Self::Decode(DecodeError::ProtocolName | DecodeError::Version { .. }) => None,
            Self::Decode(error) => Some(error.reason()),
            Self::Offence(reason, _) => Some(*reason),
            Self::Silent => Some(Reason::KEEP_ALIVE_TIMEOUT),
            Self::TakenOver => Some(Reason::TAKEN_OVER),
            Self::Revoked => Some(Reason::NOT_AUTHORIZED),
            Self::Expelled => Some(Reason::ADMINISTRATIVE),
            Self::Stopping | Self::ListenerGone => Some(Reason::SHUTTING_DOWN),
            Self::StoreGone => Some(Reason::IMPLEMENTATION),
        }
    }

    /// The reason in words.
    fn why(&self) -> Cow<'static, str> {
        match self {
            Self::Decode(error) => error.to_string().into(),
            Self::Offence(_, cause) => (*cause).into(),
            Self::Revoked => REVOKED.into(),
            Self::Expelled => "disconnected by an operator".into(),
            Self::Silent => SILENT.into(),
            Self::TakenOver => "another connection has the same client id".into(),
            Self::Stopping => "the gateway stops".into(),
            Self::ListenerGone => "this listener is no more".into(),
            Self::StoreGone => "the store takes nothing any more".into(),
            Self::Disconnected { .. } | Self::Lost(_) | Self::Stalled => "".into(),
        }
    }

    /// Whether the will is due (MQTT 5, section 3.1.2.5); also when the gateway itself stops, as Mosquitto has it: nobody
    /// hears of that client any more.
    fn wants_will(&self) -> bool {
        match self {
            Self::Disconnected { with_will } => *with_will,
            Self::StoreGone => false,
            Self::Lost(_)
            | Self::Decode(_)
            | Self::Offence(..)
            | Self::Silent
            | Self::Stalled
            | Self::TakenOver
            | Self::Revoked
            | Self::Expelled
            | Self::Stopping
            | Self::ListenerGone => true,
        }
    }

    /// Whether there may be somebody who reads what is still to be written.
    fn may_write(&self) -> bool {
        match self {
            Self::Lost(error) => error.is_none(),
            Self::Stalled => false,
            // It reads no messages any more, but the good-bye of TLS and WebSocket.
            Self::Disconnected { .. }
            | Self::Decode(_)
            | Self::Offence(..)
            | Self::Silent
            | Self::TakenOver
            | Self::Revoked
            | Self::Expelled
            | Self::Stopping
            | Self::ListenerGone
            | Self::StoreGone => true,
        }
    }
}

impl Connection {
    /// Ends the connection.
    pub(super) async fn finish(mut self, ending: Ending) {
        let ending = if matches!(ending, Ending::TakenOver) { self.last_words().await } else { ending };
        self.tally.enter(&self.hub.metrics);
        self.badge.leave();
        self.log(&ending);
        let aborted = self.hub.aborted.clone();
        tokio::select! {
            biased;
            () = aborted.cancelled() => {}
            verdicts = timeout(LAST_VERDICTS, self.last_verdicts(&ending)) => {
                if verdicts.is_err() {
                    tracing::debug!(client = %self.claim.client_id(), "ended before the store's verdict");
                }
            }
        }
        self.forget_undecided();
        if matches!(ending, Ending::Disconnected { .. }) {
            self.wire.output.clear();
        }
        if ending.may_write() {
            if let Some(reason) = ending.reason() {
                let manner = self.manner();
                disconnect(&mut self.wire.output, manner, reason, &ending.why());
            }
            let last = timeout(LAST_WRITE, self.write_all());
            tokio::select! {
                biased;
                () = aborted.cancelled() => {}
                // The connection ends anyway.
                _ = last => {}
            }
        }
        self.put_away(&ending).await;
    }

    /// The client came back on another connection. What it had said on this one before still counts, above all a
    /// DISCONNECT: without it the will would be sent of a client that took its leave and was quick to return.
    async fn last_words(&mut self) -> Ending {
        for _ in 0..LAST_READS {
            if let Err(ending) = self.work().await {
                return ending;
            }
            if self.wire.ended || !self.is_listening() {
                break;
            }
            self.wire.make_room();
            let Wire { reader, input, .. } = &mut self.wire;
            let read = tokio::select! {
                biased;
                read = reader.read_buf(input) => read,
                () = std::future::ready(()) => break,
            };
            match self.wire.was_read(read) {
                Ok(bytes) => self.tally.bytes_in += bytes,
                Err(ending) => return ending,
            }
        }
        Ending::TakenOver
    }

    async fn write_all(&mut self) -> io::Result<()> {
        self.tally.packets_out += self.wire.new_packets();
        self.tally.bytes_out += self.wire.output.len() as u64;
        self.tally.enter(&self.hub.metrics);
        self.wire.writer.write_all_buf(&mut self.wire.output).await?;
        self.wire.writer.shutdown().await
    }

    /// Messages that arrived are accepted like any others, whatever becomes of the connection.
    async fn last_verdicts(&mut self, ending: &Ending) {
        if matches!(ending, Ending::StoreGone) {
            return;
        }
        if let Some(saving) = &mut self.saving
            && saving.commit.as_mut().await.is_ok()
        {
            self.saved();
        }
        if let Some(durable) = &mut self.durable {
            durable.last_steps().await;
        }
        loop {
            // An offence among the verdicts ends nothing that has not ended already.
            while self.proceed(false).is_err() {}

            self.inbound.begin_submit();
            if self.inbound.submitting.is_some() {
                let Ok(lane) = submission(&mut self.inbound.submitting).await else { return };
                self.inbound.submitted(lane);
            }
            if self.inbound.submitted == 0 {
                return;
            }
            let Some(returns) = &mut self.inbound.returns else { return };
            let Some(returned) = returns.recv().await else { return };
            self.returned(returned);
        }
    }

    /// QoS 2 messages without a verdict: the client will send them again, and they must not pass for known then.
    fn forget_undecided(&mut self) {
        self.claim.kept.received.retain(|_, receipt| receipt.decided);
        // Releases that the store has not seen leave the packet id in use.
        for packet_id in self.inbound.unsubmitted_releases() {
            self.claim.kept.received.insert(packet_id, Receipt { decided: true, counted: false });
        }
        for receipt in self.claim.kept.received.values_mut() {
            receipt.counted = false;
        }
    }

    async fn put_away(mut self, ending: &Ending) {
        self.replay.retain(|delivery| delivery.qos != QoS::AtMostOnce);
        self.replay.append(&mut self.inbox);
        self.hub.fanout.disconnect(self.claim.subscriber(), &mut self.replay);
        self.judge_will(ending);
        let aborted = self.hub.aborted.clone();
        let stowed = tokio::select! {
            biased;
            () = aborted.cancelled() => Err(StoreError::Deadline),
            // A store that hangs must not hold up whoever waits for this connection to end.
            stowed = timeout(LAST_SAVE, self.stow()) => stowed.unwrap_or(Err(StoreError::Deadline)),
        };
        if let Err(error) = stowed {
            tracing::debug!(client = %self.claim.client_id(), %error, "session not put away");
        }
    }

    /// Decides what becomes of the will: what is left here is to be published at once, whatever happens.
    fn judge_will(&mut self, ending: &Ending) {
        let Some(will) = self.will.take().filter(|_| ending.wants_will()) else { return };
        // It was allowed when the client came, but rules may have changed since.
        if !self.badge.may_publish(&will.message.topic) {
            return self.hub.metrics.refused("acl-will");
        }
        let delay = will.delay.min(Duration::from_secs(u64::from(self.claim.expiry_s)));
        if delay.is_zero() {
            self.will = Some(will);
        } else {
            // Not sent where another connection resumes the session: then the client is back.
            self.claim.delayed_will = Some((Instant::now() + delay, will.message));
        }
    }

    /// Writes down what outlives the connection, and gives away what others are to have.
    async fn stow(&mut self) -> Result<(), StoreError> {
        let hub = Arc::clone(&self.hub);
        let is_stored = self.claim.kept.will.is_some();
        // The publisher ends after all connections, so there is always a place in the end.
        if self.will.is_some()
            && let Ok(place) = hub.publisher.reserve().await
            && let Some(will) = self.will.take()
        {
            let (done, decided) = oneshot::channel();
            place.send(Errand::Publish { message: will.message, done: Some(done) });
            if is_stored {
                // Taken off the session's record only once it is out, for a crash must not lose it in between.
                let _ = decided.await;
            }
        }
        let expiry_s = self.claim.expiry_s;
        if expiry_s == 0 {
            self.give_away_shared().await;
            return self.claim.end(&hub.intake).await;
        }
        let is_over = is_stored && self.claim.delayed_will.is_none();
        if is_over {
            self.claim.kept.will = None;
        }
        if self.claim.kept.stored != Some(expiry_s) {
            self.claim.save(&hub.intake).await?;
        } else if is_over && let Some(id) = self.claim.kept.id {
            hub.intake.forget_will(id).await?;
        }
        self.claim.leave(&hub.intake).await
    }

    /// Messages of shared subscriptions that this session had and its client has not acknowledged go to other members
    /// (MQTT 5, section 4.8.2) - but for QoS 2 messages that were sent [MQTT-4.8.2-5].
    async fn give_away_shared(&mut self) {
        let mut shared = self.claim.kept.outgoing.take_shared();
        shared.extend(self.hub.fanout.take_shared(self.claim.subscriber()));
        for Delivery { publication, share, .. } in shared {
            let Some(share) = share else { continue };
            let orphan = Orphan { publication, share: *share };
            if self.hub.publisher.send(Errand::Orphan(orphan)).await.is_err() {
                return;
            }
        }
    }

    fn log(&self, ending: &Ending) {
        let who = self.who();
        if let Ending::Lost(Some(error)) = ending
            && let Some(word) = transport::offence(error)
        {
            return self.hub.refused(who, word, error);
        }
        match ending {
            Ending::Decode(error) => self.hub.refused(who, error.word(), error),
            Ending::Offence(Reason::RECEIVE_MAXIMUM, cause) => self.hub.refused(who, "receive-maximum", cause),
            Ending::Offence(_, cause) => self.hub.refused(who, "protocol", cause),
            Ending::Stalled => self.hub.refused(who, "slow-reader", "reads nothing of what is sent to it"),
            Ending::Revoked => self.hub.refused(who, "access-revoked", REVOKED),
            Ending::Silent => self.hub.refused(who, "keep-alive", SILENT),
            Ending::Expelled => tracing::info!(
                listener = who.listener,
                address = who.address,
                client = who.client_id,
                "client disconnected by an operator"
            ),
            Ending::Disconnected { .. }
            | Ending::Lost(_)
            | Ending::TakenOver
            | Ending::Stopping
            | Ending::ListenerGone
            | Ending::StoreGone => {
                tracing::debug!(
                    listener = who.listener,
                    address = who.address,
                    client = who.client_id,
                    ?ending,
                    "client disconnected"
                );
            }
        }
    }
}
