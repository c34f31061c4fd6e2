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
