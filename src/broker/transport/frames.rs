//! WebSocket frames of a client, taken apart; pure.
//!
//! The payloads of all binary frames are one stream of MQTT packets: "the receiver MUST NOT assume that MQTT control packets
//! are aligned on WebSocket frame boundaries" ([MQTT-6.0.0-2]). So a frame is passed on as it comes, and may be of any
//! length: nothing here grows with what the client says in its headers. What is not for a server is an error that names the
//! code to close with (RFC 6455, section 7.4.1).

use std::io::Cursor;

use bytes::{Buf as _, Bytes, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

/// Longest payload of a ping, pong or close (RFC 6455, section 5.5).
const CONTROL_MAX: u64 = 125;

/// What a client has sent, as far as it was looked at.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes that still belong to the payload of the frame, and the mask for the next of them.
    payload: u64,
    mask: [u8; 4],
    /// The last data frame was not the end of its message.
    fragmented: bool,
}

/// The next thing in the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More input is needed.
    More,
    /// Payload follows: [`Frames::payload`] says how much.
    Payload,
    /// A ping, to be answered with this.
    Ping(Bytes),
    /// A close frame, to be answered with this.
    Close(Bytes),
}

/// What a client must not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Offence {
    /// What the connection is closed with.
    pub(super) code: CloseCode,
    pub(super) cause: &'static str,
}

const fn protocol(cause: &'static str) -> Offence {
    Offence { code: CloseCode::Protocol, cause }
}

impl Frames {
    /// Bytes of payload that follow.
    pub(super) fn payload(&self) -> u64 {
        self.payload
    }

    /// Takes bytes of payload: removes the mask.
    pub(super) fn unmask(&mut self, bytes: &mut [u8]) {
        for (byte, mask) in bytes.iter_mut().zip(self.mask.into_iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(bytes.len() % 4);
        self.payload = self.payload.checked_sub(bytes.len() as u64).expect("no more is taken than there is");
    }

    /// Takes the next header off the input, and whole control frames.
    pub(super) fn step(&mut self, input: &mut BytesMut) -> Result<Step, Offence> {
        loop {
            if self.payload > 0 {
                return Ok(Step::Payload);
            }
            let mut cursor = Cursor::new(&input[..]);
            let header = FrameHeader::parse(&mut cursor).map_err(|_| protocol("a frame that cannot be read"))?;
            let Some((header, length)) = header else { return Ok(Step::More) };
            let start = usize::try_from(cursor.position()).expect("within the input");
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return Err(protocol("a frame with an extension that was not agreed on"));
            }
            let Some(mask) = header.mask else { return Err(protocol("a frame without a mask")) };
            match header.opcode {
                OpCode::Data(data) => {
                    self.data(data, header.is_final, length)?;
                    (self.payload, self.mask) = (length, mask);
                    input.advance(start);
                }
                OpCode::Control(control) => {
                    if length > CONTROL_MAX || !header.is_final {
                        return Err(protocol("a control frame that is fragmented or too long"));
                    }
                    let length = usize::try_from(length).expect("at most 125");
                    if input.len() < start + length {
                        return Ok(Step::More);
                    }
                    input.advance(start);
                    let mut payload = input.split_to(length);
                    (self.payload, self.mask) = (length as u64, mask);
                    self.unmask(&mut payload);
                    match control {
                        Control::Ping => return Ok(Step::Ping(payload.freeze())),
                        Control::Close => return close(payload.freeze()),
                        Control::Pong => {}
                        Control::Reserved(_) => return Err(protocol("a frame of an unknown kind")),
                    }
                }
            }
        }
    }

    fn data(&mut self, data: Data, is_final: bool, length: u64) -> Result<(), Offence> {
        match (data, self.fragmented) {
            (Data::Binary, false) | (Data::Continue, true) => {}
            (Data::Binary, true) => return Err(protocol("a message that begins within another")),
            (Data::Continue, false) => return Err(protocol("the continuation of no message")),
            // [MQTT-6.0.0-1]
            (Data::Text, _) => {
                return Err(Offence { code: CloseCode::Unsupported, cause: "a text frame; MQTT is in binary frames" });
            }
            (Data::Reserved(_), _) => return Err(protocol("a frame of an unknown kind")),
        }
        // The highest bit is always zero (RFC 6455, section 5.2).
        if length > i64::MAX as u64 {
            return Err(protocol("a frame that is longer than frames can be"));
        }
        self.fragmented = !is_final;
        Ok(())
    }
}

fn close(payload: Bytes) -> Result<Step, Offence> {
    if payload.is_empty() {
        return Ok(Step::Close(payload));
    }
    let code = payload.get(..2).map(|code| CloseCode::from(u16::from_be_bytes([code[0], code[1]])));
    let is_text = payload.get(2..).is_some_and(|reason| std::str::from_utf8(reason).is_ok());
    if code.is_none_or(|code| !code.is_allowed()) || !is_text {
        return Err(protocol("a close frame that cannot be read"));
    }
    // The same code back (RFC 6455, section 5.5.1); the reason was for us.
    Ok(Step::Close(payload.slice(..2)))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// All payload and the first offence, from input that comes in these pieces.
    fn read(pieces: &[&[u8]]) -> (Vec<u8>, Option<Offence>) {
        let (mut frames, mut input, mut payload) = (Frames::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match frames.step(&mut input) {
                    Ok(Step::More) => break,
                    Ok(Step::Payload) if input.is_empty() => break,
                    Ok(Step::Payload) => {
                        let length = usize::try_from(frames.payload()).unwrap_or(usize::MAX).min(input.len());
                        let mut bytes = input.split_to(length);
                        frames.unmask(&mut bytes);
                        payload.extend_from_slice(&bytes);
                    }
                    Ok(Step::Ping(_)) => {}
                    Ok(Step::Close(_)) => return (payload, None),
                    Err(offence) => return (payload, Some(offence)),
                }
            }
        }
        (payload, None)
    }

    fn cut<'b>(bytes: &'b [u8], at: &[prop::sample::Index]) -> Vec<&'b [u8]> {
        let mut at: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    fn frame(opcode: OpCode, is_final: bool, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
        let mut out = Vec::new();
        header.format(payload.len() as u64, &mut out).unwrap();
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_the_same(bytes in vec(any::<u8>(), 0..300), at in vec(any::<prop::sample::Index>(), 0..8)) {
            prop_assert_eq!(read(&cut(&bytes, &at)), read(&[&bytes]));
        }

        #[test]
        fn messages_in_any_fragments_and_pieces_come_out_as_they_went_in(
            messages in vec((vec(vec(any::<u8>(), 0..200), 1..4), any::<[u8; 4]>()), 0..6),
            at in vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (fragments, mask) in &messages {
                for (index, fragment) in fragments.iter().enumerate() {
                    let data = if index == 0 { Data::Binary } else { Data::Continue };
                    bytes.extend(frame(OpCode::Data(data), index + 1 == fragments.len(), *mask, fragment));
                    bytes.extend(frame(OpCode::Control(Control::Ping), true, *mask, &fragment[..fragment.len().min(125)]));
                    expected.extend_from_slice(fragment);
                }
            }
            prop_assert_eq!(read(&cut(&bytes, &at)), (expected, None));
        }
    }
}
