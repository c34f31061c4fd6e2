//! What must hold for any bytes that a client sends: the judge of the fuzzer (see `tests/fuzz/`) and of its corpus.
//!
//! Here rather than in `tests/`, for the decoder is private to the broker; built for tests and with the feature
//! `fuzzing` only. One input is a mode, a seed and a stream (see [`Input`]). Of every stream holds:
//!
//! 1. Nothing panics, and every packet that is taken is at least its two bytes and at most the limit long.
//! 2. Bytes in pieces, cut anywhere, give the same packets and the same error as all at once, and an unfinished packet
//!    leaves the buffer as it was.
//! 3. What is decoded is no larger than what was sent: no length is believed before its bytes are there.
//! 4. A message that is taken is encoded into a packet that is taken again, of the length said, and gives the message.
//! 5. A codec that others wrote reads the same out of every packet that we take (`opinion`).
//! 6. A refusal has a reason code that a DISCONNECT or CONNACK may carry.

mod opinion;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};

use super::{Connect, DecodeError, Decoder, Packet, PublishOut, Version, decode::Publish, decode_connect, version_of};
use crate::message::QoS;

/// Limits of packets that an input can choose: so small that fuzzing meets them, as large as pieces that are shared.
const LIMITS: [u32; 4] = [64, 4 << 10, 64 << 10, 1 << 20];
/// Topic Alias Maximum.
const ALIASES: u16 = 4;

/// One input of the fuzzer.
///
/// Byte 0: bit 0 = MQTT 5, bit 1 = the stream begins with a CONNECT (which then names the version), bits 2 and 3 = the
/// limit of a packet. Byte 1: where the stream is cut into pieces. The rest is the stream.
struct Input<'a> {
    version: Version,
    greets: bool,
    limit: u32,
    cuts: u8,
    stream: &'a [u8],
}

impl<'a> Input<'a> {
    fn new(data: &'a [u8]) -> Option<Self> {
        let (&[mode, cuts], stream) = data.split_first_chunk::<2>()?;
        let version = if mode & 1 == 0 { Version::V311 } else { Version::V5 };
        Some(Self { version, greets: mode & 2 != 0, limit: LIMITS[usize::from(mode >> 2 & 3)], cuts, stream })
    }
}

/// What one stream gave.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    connect: Option<Connect>,
    packets: Vec<Packet>,
    error: Option<DecodeError>,
    /// Bytes of an unfinished packet; nothing after an error, for then the stream is lost.
    left: usize,
}

/// The reader of one stream, as a connection has it.
struct Stream {
    limit: u32,
    decoder: Option<Decoder>,
    buffer: BytesMut,
}

enum Taken {
    Connect(Connect),
    Packet(Packet),
}

impl Stream {
    fn new(input: &Input<'_>) -> Self {
        let mut stream = Self { limit: input.limit, decoder: None, buffer: BytesMut::new() };
        if !input.greets {
            stream.begin(input.version);
        }
        stream
    }

    fn begin(&mut self, version: Version) {
        self.decoder = Some(Decoder::new(version, self.limit, "c".into(), ALIASES));
    }

    fn take(&mut self) -> Result<Option<Taken>, DecodeError> {
        if let Some(decoder) = &mut self.decoder {
            return decoder.decode(&mut self.buffer).map(|packet| packet.map(Taken::Packet));
        }
        let named = version_of(&self.buffer);
        let connect = decode_connect(&mut self.buffer, self.limit)?;
        if let Some(connect) = &connect {
            assert_eq!(named, Some(connect.version), "the answer to a bad CONNECT is in the version that it names");
            self.begin(connect.version);
        }
        Ok(connect.map(Taken::Connect))
    }

    /// Takes everything that is complete; false after an error.
    fn drain(&mut self, outcome: &mut Outcome) -> bool {
        loop {
            let before = self.buffer.clone();
            match self.take() {
                Ok(Some(taken)) => {
                    let used = before.len() - self.buffer.len();
                    assert!(used >= 2 && used <= self.limit as usize, "a packet of {used} bytes, limit {}", self.limit);
                    match taken {
                        Taken::Connect(connect) => outcome.connect = Some(connect),
                        Taken::Packet(packet) => {
                            let version = self.decoder.as_ref().expect("packets come from a decoder").version();
                            judge(version, &packet, &before[..used]);
                            outcome.packets.push(packet);
                        }
                    }
                }
                Ok(None) => {
                    assert_eq!(self.buffer, before, "an unfinished packet leaves the buffer as it was");
                    outcome.left = before.len();
                    return true;
                }
                Err(error) => {
                    assert!(error.reason().is_error(), "{error} has no reason code");
                    outcome.left = 0;
                    outcome.error = Some(error);
                    return false;
                }
            }
        }
    }
}

/// Decodes a stream once, as one connection would, and keeps nothing: for measuring what that takes.
pub fn decode(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let mut stream = Stream::new(&input);
    stream.buffer = BytesMut::from(input.stream);
    while let Ok(Some(_)) = stream.take() {}
}

/// Panics unless everything holds that this module says.
pub fn check(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    let (mut at_once, mut whole) = (Stream::new(&input), Outcome::default());
    at_once.buffer = BytesMut::from(input.stream);
    at_once.drain(&mut whole);

    let (mut in_pieces, mut parts) = (Stream::new(&input), Outcome::default());
    for piece in pieces(input.stream, input.cuts) {
        in_pieces.buffer.extend_from_slice(piece);
        if !in_pieces.drain(&mut parts) {
            break;
        }
    }
    assert_eq!(parts, whole, "in pieces and at once");
}

/// The stream in pieces of 1 byte to some tens of thousand, by a number.
fn pieces(stream: &[u8], cuts: u8) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(cuts) * 2 + 1;
    let mut rest = stream;
    std::iter::from_fn(move || {
        // A linear congruential generator; its upper bits are the better ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let magnitude = state >> 28;
        let len = 1 + ((state >> 8) & ((1 << magnitude) - 1)) as usize;
        let (piece, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn judge(version: Version, packet: &Packet, bytes: &[u8]) {
    opinion::compare(version, packet, bytes);
    if let Packet::Publish(publish) = packet {
        let sent = publish.message.payload.len() + publish.message.properties.as_ref().map_or(0, |p| p.encoded_len());
        assert!(sent <= bytes.len(), "{sent} bytes of a message in a packet of {}", bytes.len());
        again(version, publish);
    }
}

/// A message that came in goes out, and comes in as the same.
fn again(version: Version, publish: &Publish) {
    let Publish { message, packet_id, .. } = publish;
    assert_eq!(*packet_id == 0, message.qos == QoS::AtMostOnce, "{publish:?}");
    let expiry_s = message.properties.as_ref().and_then(|properties| properties.message_expiry_s);
    let out = PublishOut {
        message,
        qos: message.qos,
        dup: false,
        retain: message.retain,
        packet_id: *packet_id,
        subscription_ids: &[],
        expiry_s,
        alias: None,
    };
    let mut bytes = BytesMut::new();
    out.encode(&mut bytes, version);
    assert_eq!(bytes.len(), out.len(version));
    // An alias makes the packet shorter than its message.
    let mut decoder = Decoder::new(version, u32::MAX, message.client.clone(), 0);
    match decoder.decode(&mut bytes) {
        Ok(Some(Packet::Publish(found))) => assert_eq!(&found, publish),
        other => panic!("{publish:?} became {other:?}"),
    }
    assert_eq!(Bytes::from(bytes), Bytes::new(), "nothing is left over");
}
