//! What a run does, read from bytes: any bytes are a run, so that a fuzzer can write them and a seed can stand for them.

/// How a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// DISCONNECT.
    Proper,
    /// The socket closes without a word.
    Dropped,
    /// Bytes that break the protocol, by number; the broker must close the connection.
    Offence(u8),
}

/// One step of a run. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Connects; where the client is connected, it takes itself over.
    Connect { client: u8, clean: bool, stays: bool, will: bool, window: u8 },
    /// Ends the connection.
    Leave { client: u8, how: Farewell },
    /// Subscribes to one filter.
    Subscribe { client: u8, filter: u8, options: u8 },
    /// Unsubscribes from one filter.
    Unsubscribe { client: u8, filter: u8 },
    /// Publishes one message.
    Publish { client: u8, topic: u8, qos: u8, retain: bool, size: u8 },
    /// Sends a QoS 2 message, or its PUBREL, again (3.1.1 only: MQTT 5 forbids it).
    Repeat { client: u8, which: u8 },
    /// Answers one of the broker's packets.
    Answer { client: u8, which: u8 },
    /// Answers all of them.
    AnswerAll { client: u8 },
    /// Waits until the broker has dealt with what the client sent.
    Ping { client: u8 },
    /// The broker and its store stop and start again on their data; a crash leaves them no time to do anything.
    Restart { crash: bool },
}

/// Bytes of one step.
pub(crate) const OP_BYTES: usize = 3;

impl Op {
    fn read(bytes: [u8; OP_BYTES]) -> Self {
        let [kind, a, b] = bytes;
        let (client, a) = (a & 3, a >> 2);
        match kind % 32 {
            0..=3 => Self::Connect {
                client,
                clean: a.is_multiple_of(4),
                stays: a & 0xC != 0,
                will: a & 0x10 != 0,
                window: b,
            },
            4 => Self::Leave { client, how: Farewell::Proper },
            5 => Self::Leave { client, how: Farewell::Dropped },
            6 if b & 1 == 0 => Self::Leave { client, how: Farewell::Offence(b >> 1) },
            6 => Self::Restart { crash: a & 1 == 0 },
            7..=10 => Self::Subscribe { client, filter: a, options: b },
            11 => Self::Unsubscribe { client, filter: a },
            12..=20 => Self::Publish { client, topic: a, qos: b & 3, retain: b & 0x1C == 0, size: b >> 5 },
            21 => Self::Repeat { client, which: b },
            22..=27 => Self::Answer { client, which: b },
            28..=29 => Self::AnswerAll { client },
            _ => Self::Ping { client },
        }
    }
}

/// The steps of a run, at most so many.
pub(crate) fn read(bytes: &[u8], most: usize) -> Vec<Op> {
    bytes.as_chunks::<OP_BYTES>().0.iter().take(most).map(|bytes| Op::read(*bytes)).collect()
}
