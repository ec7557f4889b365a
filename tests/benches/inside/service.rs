//! The service of `bulk`, in memory: where a stream ends when nothing is to be carried any further.
//!
//! It reads and makes bytes without touching them, as the other one does, so that what is measured is the way up to
//! whoever owns it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tp::pod::Duplex;

/// `struct wish` of bulk.c.
const WISH: usize = 5;
const MIB: u64 = 1 << 20;

/// One connection to it.
#[derive(Default)]
pub(crate) struct Service {
    wish: Vec<u8>,
    /// Bytes that the program has yet to send, and to get.
    awaited: u64,
    owed: u64,
    ended: bool,
    reader: Option<Waker>,
}

impl Service {
    /// Takes all of it.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let missing = WISH - self.wish.len();
        self.wish.extend(bytes.iter().take(missing));
        let mut rest = bytes.len().saturating_sub(missing) as u64;
        if missing > 0
            && let &[up, a, b, c, d] = &self.wish[..]
        {
            let length = u64::from(u32::from_be_bytes([a, b, c, d])) * MIB;
            if up == 1 {
                self.awaited = length;
            } else {
                self.owed = length;
            }
        }
        rest = rest.min(self.awaited);
        if rest > 0 {
            self.awaited -= rest;
            // Its last word.
            self.owed = u64::from(self.awaited == 0);
        }
        if self.owed > 0
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
        bytes.len()
    }

    /// How much of such a room it fills; `None` if it has nothing to say yet, 0 at its end.
    pub(crate) fn give(&mut self, room: usize) -> Option<usize> {
        if self.owed == 0 {
            self.ended |= self.wish.len() == WISH && self.awaited == 0;
            return self.ended.then_some(0);
        }
        let length = self.owed.min(room as u64);
        self.owed -= length;
        Some(usize::try_from(length).unwrap_or(room))
    }
}

impl Duplex for Service {
    fn reset_on_close(&self) {}
}

impl AsyncRead for Service {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.give(buf.remaining()) {
            Some(length) => {
                buf.initialize_unfilled_to(length);
                buf.advance(length);
                Poll::Ready(Ok(()))
            }
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Service {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.take(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
