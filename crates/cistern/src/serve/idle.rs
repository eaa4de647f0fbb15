//! A connection that fails when no byte has moved in either direction for a while, so that nobody can hold a socket
//! (and the upload or download behind it) by doing nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Wraps a stream.
pub struct IdleIo<S> {
    inner: S,
    limit: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> IdleIo<S> {
    /// Fails after `limit` without progress.
    pub fn new(inner: S, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            last: Instant::now(),
            timer: Box::pin(sleep(limit)),
        }
    }

    /// The timer is set anew only when it fires, not at every byte.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = self.last + self.limit;
            if deadline <= Instant::now() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection moved no byte for too long",
                ));
            }
            self.timer.as_mut().reset(deadline);
        }
        Ok(())
    }

    fn moved(&mut self) {
        self.last = Instant::now();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(cx, buf) {
            self.moved();
            return Poll::Ready(result);
        }
        self.check(cx)?;
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_write(cx, buf) {
            self.moved();
            return Poll::Ready(result);
        }
        self.check(cx)?;
        Poll::Pending
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs) {
            self.moved();
            return Poll::Ready(result);
        }
        self.check(cx)?;
        Poll::Pending
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn silence_ends_the_connection() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut io = IdleIo::new(ours, Duration::from_millis(20));
        let error = io.read_u8().await.expect_err("times out");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn writing_keeps_a_reader_alive() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let limit = Duration::from_millis(400);
        let mut io = IdleIo::new(ours, limit);
        let start = Instant::now();
        let mut ticks = tokio::time::interval(limit / 8);
        while start.elapsed() < limit * 2 {
            ticks.tick().await;
            io.write_all(b"x").await.expect("writes");
            theirs.read_u8().await.expect("arrives");
            io.check(&mut Context::from_waker(std::task::Waker::noop()))
                .expect("not idle");
        }
    }
}
