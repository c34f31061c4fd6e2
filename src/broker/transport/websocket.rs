//! WebSocket as a stream of bytes (MQTT 5, section 6; RFC 6455).
//!
//! Reading: what comes is taken apart by [`Frames`]; payload goes straight into the caller's buffer. Nothing is kept but the
//! rest of one read, at most 4 KiB, and that only until the caller has taken it: an idle connection has no buffer at all, and
//! a client that sends a message of a gigabyte fills nothing. That is why tungstenite's own message layer is not
//! used: it keeps a message until it is whole, so a limit on its size would be needed; and a client that was away makes one
//! message of all that it has to say, which no limit near `max_packet` would let pass.
//!
//! Writing: one write becomes one frame. A pong waits for the frame before it; of several pings only the last that is
//! not answered yet gets its pong, as RFC 6455 allows, so that pings fill nothing either.
//!
//! The end: the client's close frame is answered and is then the end of the stream. Shutting down sends one first.
//! What the client must not send ends the connection with a close frame and its code.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use super::frames::{Frames, Offence, Step};

/// Bytes of one read while frames are small.
const READ: usize = 4 << 10;

/// A WebSocket that carries bytes in binary frames.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    stream: S,
    frames: Frames,
    /// Read and not taken.
    input: BytesMut,
    /// Frames that the client has not taken: one write, a pong, a close.
    output: BytesMut,
    /// A ping whose pong waits for `output`.
    ping: Option<Bytes>,
    /// A close frame has been sent or is in `output`: nothing comes after it.
    closing: bool,
    /// What the client must not have sent; it is told once all before it has been taken.
    offence: Option<Offence>,
    /// Nothing more is read.
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A WebSocket after its upgrade; `input` is what has come behind the request.
    pub(super) fn new(stream: S, input: BytesMut) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            input,
            output: BytesMut::new(),
            ping: None,
            closing: false,
            offence: None,
            ended: false,
        }
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8]) {
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        let length = payload.len() as u64;
        self.output.reserve(header.len(length) + payload.len());
        header.format(length, &mut (&mut self.output).writer()).expect("memory takes everything");
        self.output.put_slice(payload);
    }

    fn close(&mut self, payload: &[u8]) {
        if !self.closing {
            self.closing = true;
            self.ping = None;
            self.frame(OpCode::Control(Control::Close), payload);
        }
    }

    /// Writes what waits.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.output.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.output.advance(written);
            }
            // An idle connection keeps no buffer.
            self.output = BytesMut::new();
            let Some(ping) = self.ping.take() else { break };
            self.frame(OpCode::Control(Control::Pong), &ping);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Fills `buf` with payload from `input`, as far as both go.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> Result<(), Offence> {
        while buf.remaining() > 0 && !self.ended {
            match self.frames.step(&mut self.input)? {
                Step::More => break,
                Step::Payload if self.input.is_empty() => break,
                Step::Payload => {
                    let length = self.payload_within(self.input.len().min(buf.remaining()));
                    let mut bytes = self.input.split_to(length);
                    self.frames.unmask(&mut bytes);
                    buf.put_slice(&bytes);
                }
                Step::Ping(payload) => self.ping = Some(payload).filter(|_| !self.closing),
                Step::Close(payload) => {
                    self.close(&payload);
                    self.ended = true;
                }
            }
        }
        Ok(())
    }

    fn payload_within(&self, length: usize) -> usize {
        usize::try_from(self.frames.payload()).map_or(length, |payload| payload.min(length))
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.offence.is_none() {
                self.offence = self.take(buf).err();
            }
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            // What came before an offence counts.
            if self.ended || buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(offence) = self.offence {
                self.close(&u16::from(offence.code).to_be_bytes());
                self.ended = true;
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, offence)));
            }
            let direct = self.payload_within(buf.remaining());
            let count = if self.input.is_empty() && direct >= READ {
                let mut read = ReadBuf::new(buf.initialize_unfilled_to(direct));
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                self.frames.unmask(read.filled_mut());
                let count = read.filled().len();
                buf.advance(count);
                count
            } else {
                let mut bytes = [0; READ];
                let mut read = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
                self.input.extend_from_slice(read.filled());
                read.filled().len()
            };
            self.ended = count == 0;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let payload = if this.ended { Poll::Ready(Ok(())) } else { this.poll_payload(cx, buf) };
        if this.ping.is_some() || !this.output.is_empty() {
            // As far as it goes: a client that takes nothing must not keep us from hearing it. What fails here fails
            // again at the next write.
            let _ = this.poll_output(cx);
        }
        payload
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_output(cx))?;
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.frame(OpCode::Data(Data::Binary), buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_output(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(&u16::from(CloseCode::Normal).to_be_bytes());
        ready!(self.poll_output(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
