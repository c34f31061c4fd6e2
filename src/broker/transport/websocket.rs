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
    task::{Context, Poll, Waker, ready},
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
    /// Who waits for `output` to be taken: the reading side, which sends pongs, may be the one to see it go.
    writer: Option<Waker>,
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
            writer: None,
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

    /// Writes what waits, for somebody who wants to write more.
    fn poll_writer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.poll_output(cx);
        self.writer = written.is_pending().then(|| cx.waker().clone());
        written
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
            let written = this.poll_output(cx);
            if let Some(writer) = this.writer.take_if(|_| written.is_ready()) {
                writer.wake();
            }
        }
        payload
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_writer(cx))?;
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.frame(OpCode::Data(Data::Binary), buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writer(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close(&u16::from(CloseCode::Normal).to_be_bytes());
        ready!(self.poll_writer(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::Wake,
    };

    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_writes_is_woken_when_the_reading_side_sees_the_output_go() {
        let (near, mut far) = duplex(10);
        let mut socket = pin!(WebSocket::new(near, BytesMut::new()));
        let (writer, reader) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let (writing, reading) = (Waker::from(Arc::clone(&writer)), Waker::from(Arc::clone(&reader)));
        let (mut writing, mut reading) = (Context::from_waker(&writing), Context::from_waker(&reading));
        assert!(socket.as_mut().poll_write(&mut writing, b"0123456789").is_ready());
        assert!(socket.as_mut().poll_flush(&mut writing).is_pending());
        let (mut bytes, mut taken) = ([0; 10], [0; 10]);
        assert!(socket.as_mut().poll_read(&mut reading, &mut ReadBuf::new(&mut bytes)).is_pending());
        far.read_exact(&mut taken).await.unwrap();
        assert!(reader.0.load(Ordering::Relaxed) && !writer.0.load(Ordering::Relaxed));
        assert!(socket.as_mut().poll_read(&mut reading, &mut ReadBuf::new(&mut bytes)).is_pending());
        assert!(writer.0.load(Ordering::Relaxed));
    }

    #[test]
    fn an_idle_web_socket_is_small() {
        assert!(size_of::<WebSocket<()>>() <= 256, "{}", size_of::<WebSocket<()>>());
    }
}
