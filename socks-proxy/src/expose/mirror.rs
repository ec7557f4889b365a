//! A copy of what clients say, for programs that only listen in.
//!
//! A client waits for the app that answers it, never for the copy: what the program does not take in time is kept up to a
//! limit, and then the copy is cut off, as its program sees, and its user is told. There is a limit for each client, and one for
//! all that waits in this agent.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::limits::{Limit, Permit};
use crate::route::{Connection, Stream, Visitor};

use super::arrivals::announce;
use super::guarded::Guarded;
use super::port::{Port, Share};

/// Bytes of one client that may wait for a copy's program.
const WAITING_MAX: usize = 512 * 1024;

/// The client, with every mirroring program listening in.
pub(super) fn copied(port: &Port, client: Guarded, visitor: Visitor, limit: &Limit) -> Stream {
    let copies: Vec<_> =
        port.mirrors().iter().map(|share| Copy::start(share, visitor, limit.clone())).collect();
    if copies.is_empty() { Box::new(client) } else { Box::new(Overheard { client, copies }) }
}

/// What has been said and not been passed on yet.
#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// Its share in what may wait.
    place: Option<Permit>,
    /// Nothing more will be said.
    over: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// Cancelled when it was too much.
    cut: CancellationToken,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there, waiting for it, with its place; `None` when all was said.
    async fn next(&self) -> Option<(Vec<u8>, Option<Permit>)> {
        loop {
            let (bytes, place, over) = {
                let mut waiting = self.waiting();
                (std::mem::take(&mut waiting.bytes), waiting.place.take(), waiting.over)
            };
            if !bytes.is_empty() {
                return Some((bytes.into(), place));
            }
            if over {
                return None;
            }
            self.changed.notified().await;
        }
    }
}

/// The copy for one program; dropping it ends the copy.
#[derive(Debug)]
struct Copy {
    queue: Arc<Queue>,
    /// Of bytes that may wait.
    limit: Limit,
}

impl Copy {
    fn start(share: &Arc<Share>, visitor: Visitor, limit: Limit) -> Self {
        let queue = Arc::new(Queue::default());
        let (share, read) = (share.clone(), queue.clone());
        tokio::spawn(async move {
            let _open = share.open.token();
            tokio::select! {
                // A program that cannot be reached, or goes, has no copy; nobody else is told of it.
                _ = write(&share, visitor, &read) => {}
                () = share.lost.cancelled() => {}
                () = read.cut.cancelled() => {
                    share.note(format!("{}: the program is too slow, its copy was cut off", visitor.peer));
                }
            }
            read.cut.cancel();
        });
        Self { queue, limit }
    }

    fn said(&self, bytes: &[u8]) {
        let Self { queue, limit } = self;
        if queue.cut.is_cancelled() {
            return;
        }
        let mut waiting = queue.waiting();
        let has_room = waiting.bytes.len().saturating_add(bytes.len()) <= WAITING_MAX;
        match limit.take_many(bytes.len()).filter(|_| has_room) {
            Some(place) => {
                waiting.bytes.extend(bytes);
                waiting.over |= bytes.is_empty();
                match &mut waiting.place {
                    Some(places) => places.merge(place),
                    None => waiting.place = Some(place),
                }
                queue.changed.notify_one();
            }
            None => {
                (waiting.bytes, waiting.place) = (VecDeque::new(), None);
                queue.cut.cancel();
            }
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.said(&[]);
    }
}

async fn write(share: &Share, visitor: Visitor, queue: &Queue) -> io::Result<()> {
    let stream = announce(share, visitor).await?;
    let (mut answers, mut to_program) = tokio::io::split(stream);
    let copy = async {
        while let Some((bytes, _place)) = queue.next().await {
            to_program.write_all(&bytes).await?;
            to_program.flush().await?;
        }
        to_program.shutdown().await
    };
    let unheard = async { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await.map(drop) };
    tokio::try_join!(copy, unheard).map(drop)
}

/// A client whose every byte is copied as it is read.
#[derive(Debug)]
struct Overheard {
    client: Guarded,
    copies: Vec<Copy>,
}

impl Connection for Overheard {
    fn reset_on_drop(&mut self) {
        self.client.reset_on_drop();
    }
}

impl AsyncRead for Overheard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let room = buf.remaining();
        let read = Pin::new(&mut this.client).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read
            && room > 0
        {
            let said = buf.filled().get(before..).unwrap_or_default();
            this.copies.iter().for_each(|copy| copy.said(said));
        }
        read
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().client).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().client).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().client).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_has_one_limit_in_all() {
        let limit = Limit::new(10);
        let copy = || Copy { queue: Arc::default(), limit: limit.clone() };
        let [first, second, third] = [copy(), copy(), copy()];
        first.said(b"12345");
        first.said(b"678");
        second.said(b"123");
        assert!(!first.queue.cut.is_cancelled() && second.queue.cut.is_cancelled());
        // It counts until it was passed on.
        let (bytes, place) = first.queue.next().await.unwrap();
        assert_eq!((&bytes[..], limit.take_many(3).is_none()), (&b"12345678"[..], true));
        drop(place);
        third.said(b"1234567890");
        assert!(!third.queue.cut.is_cancelled());
        // Its program is to have what the client said last.
        let queue = third.queue.clone();
        drop(third);
        assert!(limit.take().is_none());
        drop(queue.next().await);
        assert!(limit.take_many(10).is_some());
    }
}
