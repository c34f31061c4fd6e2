//! Writes that are done when they are said to be done.
//!
//! TLS and WebSocket turn what is written into something else and may keep that: a write then counts as done while its bytes
//! still wait for the client, and nobody would send them on. The connection judges a client by what it takes
//! (`limits::WRITE_STALL`), so here a write is not done before all of it has left the process.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one write; as much as fits into one TLS record. A client that takes this much in
/// [`WRITE_STALL`](crate::broker::limits::WRITE_STALL) is slow and no more.
const CHUNK: usize = 16 << 10;

/// A stream whose writes are done when they are said to be done. Whoever starts a write and does not wait for its end must
/// go on with the same bytes, as the connection's loop does.
#[derive(Debug)]
pub(super) struct WholeWrites<S> {
    inner: S,
    /// Bytes that `inner` has taken, not flushed yet.
    taken: usize,
}

impl<S> WholeWrites<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, taken: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WholeWrites<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WholeWrites<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.taken == 0 {
            this.taken = ready!(Pin::new(&mut this.inner).poll_write(cx, &buf[..buf.len().min(CHUNK)]))?;
        }
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut this.taken)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex, split},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn a_write_is_done_when_the_other_side_can_have_it() {
        let (near, mut far) = duplex(10);
        // A buffer like that of TLS: it takes everything at once.
        let (_, mut writer) = split(WholeWrites::new(BufWriter::with_capacity(100, near)));
        let moment = Duration::from_millis(20);
        assert_eq!(writer.write(b"0123456789").await.unwrap(), 10);
        assert!(timeout(moment, writer.write(b"abcdefgh")).await.is_err(), "the other side reads nothing");
        let mut read = [0; 10];
        far.read_exact(&mut read).await.unwrap();
        // More may have been added behind what is under way.
        assert_eq!(writer.write(b"abcdefghXYZ").await.unwrap(), 8);
        far.read_exact(&mut read[..8]).await.unwrap();
        assert_eq!(&read[..8], b"abcdefgh");
    }
}
