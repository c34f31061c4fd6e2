//! `max_publish_rate`: a client that publishes more has to wait, and loses nothing.
//!
//! A PUBLISH for which there is no allowance stays at the front of the input until there is, and with it everything
//! behind it but PINGREQs, so that a client that waits does not take the gateway for dead. What does not fit into the
//! input stays in the socket: TCP slows the client down. Acknowledgements go out as ever.
//!
//! The bucket holds what [`PUBLISH_BURST`] brings, so a device that sends ten readings at once every ten seconds is
//! within a rate of ten. A wait lasts [`PUBLISH_HOLD`] longer than needed, so that a flood costs twenty wake-ups a
//! second and not one for each message; the bucket makes good for it. A connection that ended goes on until the
//! messages that arrived are dealt with, at the same rate.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep_until};

use super::Connection;
use crate::{
    broker::{
        limits::{PUBLISH_BURST, PUBLISH_HOLD, WRITE_HIGH},
        packet::{is_publish, pingresp},
    },
    bucket::Bucket,
};

/// A client that is over its rate is told of in the log no more often than this.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The publish rate of one client.
pub(super) struct PublishRate {
    bucket: Bucket,
    /// The wait for allowance.
    wait: Option<Pin<Box<Sleep>>>,
    /// When the log said so last.
    logged: Option<Instant>,
}

impl PublishRate {
    /// `None` for a rate of 0, which is no limit.
    pub(super) fn new(messages_per_s: u32) -> Option<Box<Self>> {
        let bucket = Bucket::new(messages_per_s.into(), PUBLISH_BURST);
        (messages_per_s > 0).then(|| Box::new(Self { bucket, wait: None, logged: None }))
    }
}

/// Waits until the client may publish again. Cancel safe.
pub(super) async fn allowed(rate: &mut Option<Box<PublishRate>>) {
    let Some(PublishRate { wait: Some(wait), .. }) = rate.as_deref_mut() else { return std::future::pending().await };
    wait.as_mut().await;
}

impl Connection {
    /// Whether the client waits for its publish rate.
    pub(super) fn is_made_to_wait(&self) -> bool {
        self.publish_rate.as_ref().is_some_and(|rate| rate.wait.is_some())
    }

    /// Whether the next packet of the input is a PUBLISH for which there is no allowance; then a wait begins.
    pub(super) fn must_wait_to_publish(&mut self) -> bool {
        let Some(rate) = &mut self.publish_rate else { return false };
        if !is_publish(&self.wire.input) {
            return false;
        }
        if rate.wait.is_some() {
            return true;
        }
        let now = Instant::now();
        let Some(at) = rate.bucket.free_at(now) else { return false };
        rate.wait = Some(Box::pin(sleep_until((at + PUBLISH_HOLD).into())));
        if rate.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_AGAIN) {
            rate.logged = Some(now);
            let cause = "publishes more than max_publish_rate, and is made to wait";
            self.hub.refused(self.who(), "publish-rate", cause);
        } else {
            self.hub.metrics.refused("publish-rate");
        }
        true
    }

    /// The wait is over.
    pub(super) fn may_publish_again(&mut self) {
        if let Some(rate) = &mut self.publish_rate {
            rate.wait = None;
        }
    }

    /// A PUBLISH was taken off the input.
    pub(super) fn spend_publish(&mut self) {
        if let Some(rate) = &mut self.publish_rate {
            rate.bucket.spend(Instant::now(), 1);
        }
    }

    /// Answers PINGREQs that are stuck behind what the client has to wait for, here or for room in the store.
    pub(super) fn answer_early_pings(&mut self) {
        if (self.is_made_to_wait() || !self.inbound.held.is_empty()) && self.wire.output.len() < WRITE_HIGH {
            for _ in 0..self.wire.take_pings() {
                pingresp(&mut self.wire.output);
            }
        }
    }
}
