//! A client's stream to a launcher: reset when that is lost, and counted until it has ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::mux::MuxStream;
use crate::route::Connection;

use super::port::Share;

pub(super) struct Carried {
    stream: MuxStream,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    #[expect(dead_code, reason = "counts until it is dropped")]
    open: TaskTrackerToken,
}

impl Carried {
    pub(super) fn new(stream: MuxStream, share: &Share) -> Self {
        Self { stream, lost: Box::pin(share.lost.clone().cancelled_owned()), open: share.open.token() }
    }

    fn poll_lost(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.lost.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connection for Carried {
    fn reset_on_drop(&mut self) {
        // A stream that is dropped is reset as it is.
    }
}

impl AsyncRead for Carried {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_lost(cx)?;
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Carried {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_lost(cx)?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
