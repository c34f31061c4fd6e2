//! What passed through one connection since it was last entered in the metrics: one addition for many packets.

use prometheus::IntCounter;

use super::Connection;
use crate::{
    broker::{
        metrics::{Metrics, Traffic},
        packet::{DecodeError, Packet},
    },
    message::{Message, QoS},
};

/// Plain numbers; all connections share the metrics, so that each addition there is paid by all of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) packets_in: u64,
    pub(super) packets_out: u64,
    received: Publishes,
    sent: Publishes,
}

/// PUBLISHes of one direction.
#[derive(Debug, Default)]
struct Publishes {
    by_qos: [u64; 3],
    payload_bytes: u64,
}

impl Tally {
    /// A PUBLISH came.
    pub(super) fn received(&mut self, message: &Message) {
        self.received.add(message, message.qos);
    }

    /// A PUBLISH of this QoS went.
    pub(super) fn sent(&mut self, message: &Message, qos: QoS) {
        self.sent.add(message, qos);
    }

    /// Adds everything to the metrics.
    pub(super) fn enter(&mut self, metrics: &Metrics) {
        let Self { bytes_in, bytes_out, packets_in, packets_out, received, sent } = self;
        let both = [(&metrics.received, bytes_in, packets_in, received), (&metrics.sent, bytes_out, packets_out, sent)];
        for (traffic, bytes, packets, publishes) in both {
            add(&traffic.bytes, std::mem::take(bytes));
            add(&traffic.packets, std::mem::take(packets));
            publishes.enter(traffic);
        }
    }
}

impl Connection {
    /// Takes the next packet off the input, and counts it; `None` while it is not complete.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        let before = self.wire.input.len();
        let packet = self.decoder.decode(&mut self.wire.input);
        self.wire.was_decoded(before);
        self.tally.packets_in += u64::from(matches!(packet, Ok(Some(_))));
        if let Ok(Some(Packet::Publish(publish))) = &packet {
            self.tally.received(&publish.message);
            self.spend_publish();
        }
        packet
    }
}

impl Publishes {
    fn add(&mut self, message: &Message, qos: QoS) {
        self.by_qos[usize::from(qos.number())] += 1;
        self.payload_bytes += message.payload.len() as u64;
    }

    fn enter(&mut self, traffic: &Traffic) {
        let Self { by_qos, payload_bytes } = std::mem::take(self);
        for (metric, count) in traffic.messages.iter().zip(by_qos) {
            add(metric, count);
        }
        add(&traffic.payload_bytes, payload_bytes);
    }
}

fn add(metric: &IntCounter, count: u64) {
    if count > 0 {
        metric.inc_by(count);
    }
}
