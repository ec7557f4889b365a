//! One flow: the datagrams between one socket of an app and one destination, over a stream of their own.
//!
//! How answers get back to the app's socket is the interceptor's business ([`Back`]).
//!
//! What the app sends is appended to a short queue as the stream's records, and whoever writes the stream takes all of
//! it at once: one lock a datagram, no allocation, and many datagrams a write when there are many.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use socks_proxy::proto::DATAGRAM_MAX;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tp_abi::errno::code;
use tracing::debug;

use super::{DNS_IDLE, DNS_PORT, FLOW_IDLE, Flows, Relay, Used};
use crate::pod::DialError;
use crate::pod::datagrams::{Arrived, Datagrams, Incoming, append};

/// Bytes that wait for a flow's stream, as many as a kernel would hold for a socket (net.core.wmem_default) and a
/// bit; further datagrams are dropped.
const QUEUE_MAX: usize = 256 * 1024;
/// Bytes behind which no datagram is dropped yet, however long it is.
const QUEUE_FULL: usize = QUEUE_MAX - DATAGRAM_MAX;
/// How old a flow that failed becomes, in which it swallows datagrams, before the next one is tried.
const DEAF: Duration = Duration::from_secs(1);

/// What became of a datagram of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the stream, or was dropped because that has stalled.
    Taken,
    /// The same, and a next one may be dropped.
    Full,
    /// The flow is over.
    Over,
}

/// The way back to the apps.
pub(crate) trait Back: Send + Sync {
    /// Has the socket at `app` receive a datagram of `from`. One that it has no room for is lost.
    fn send(&self, app: SocketAddr, from: SocketAddr, datagram: &[u8]);

    /// Has the socket at `app` learn what ICMP said of its datagrams to `to`.
    fn tell(&self, app: SocketAddr, to: SocketAddr, errno: i32) -> impl Future<Output = ()> + Send;
}

/// A stream for a flow, when it is open.
pub(crate) trait Opened: Future<Output = Result<Datagrams, DialError>> {}
impl<T: Future<Output = Result<Datagrams, DialError>>> Opened for T {}

/// A flow.
#[derive(Debug)]
pub(crate) struct Flow<B> {
    pub(super) back: Arc<B>,
    /// The socket's own address.
    pub(crate) app: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) used: Used,
    queue: Mutex<Queue>,
    /// push --something to write--> carry
    more: Notify,
    /// carry --what waited is being written--> whoever waits for room
    room: Notify,
    /// Everybody --it is over--> carry
    end: CancellationToken,
    /// carry --it is over--> drain
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    records: BytesMut,
    finishing: bool,
    /// Nobody takes anything any more.
    deaf: bool,
    dropped: u64,
}

impl Queue {
    fn is_full(&self) -> bool {
        !self.deaf && self.records.len() >= QUEUE_FULL
    }
}

impl<B: Back> Flow<B> {
    pub(crate) fn new(back: Arc<B>, app: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            back,
            app,
            destination,
            used: Used::now(),
            queue: Mutex::default(),
            more: Notify::new(),
            room: Notify::new(),
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Takes a datagram of the app, or drops it if the stream has stalled.
    pub(crate) fn push(&self, datagram: &[u8]) -> Pushed {
        if self.has_ended() {
            return Pushed::Over;
        }
        self.used.touch();
        let mut queue = self.queue();
        if queue.deaf || queue.records.len().saturating_add(datagram.len()) > QUEUE_MAX {
            queue.dropped += 1;
        } else {
            if queue.records.is_empty() {
                self.more.notify_one();
            }
            append(&mut queue.records, datagram);
        }
        if queue.is_full() { Pushed::Full } else { Pushed::Taken }
    }

    /// Waits until no datagram would be dropped, or the flow is over.
    pub(super) async fn room(&self) {
        while self.queue().is_full() && !self.has_ended() {
            tokio::select! {
                () = self.room.notified() => {}
                () = self.end.cancelled() => {}
                () = self.ended.cancelled() => {}
            }
        }
    }

    /// Ends it now.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_cancelled() || self.ended.is_cancelled()
    }

    /// Ends it when what was pushed is delivered.
    pub(crate) fn finish(&self) {
        self.queue().finishing = true;
        self.more.notify_one();
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue().records.len()
    }

    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.queue().dropped
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges what was written for the records that wait; `false` when there will be no more.
    async fn records(&self, written: &mut BytesMut) -> bool {
        written.clear();
        loop {
            {
                let mut queue = self.queue();
                if !queue.records.is_empty() {
                    // Either room is used again while there is much to write.
                    std::mem::swap(&mut queue.records, written);
                    self.room.notify_one();
                    return true;
                }
                if queue.finishing {
                    return false;
                }
                // An idle flow keeps no room.
                queue.records = BytesMut::new();
                *written = BytesMut::new();
            }
            self.more.notified().await;
        }
    }

    async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), DialError> {
        let mut records = BytesMut::new();
        while self.records(&mut records).await {
            stream.write_all(&records).await?;
            stream.flush().await?;
        }
        Ok(stream.shutdown().await?)
    }

    async fn receive(&self, incoming: &mut Incoming) -> Result<(), DialError> {
        while let Some(arrived) = incoming.next().await? {
            self.used.touch();
            match arrived {
                Arrived::Datagram(datagram) => self.back.send(self.app, self.destination, &datagram),
                Arrived::Error(errno) => self.back.tell(self.app, self.destination, errno).await,
            }
        }
        Ok(())
    }

    /// Returns when the flow was not used for long enough.
    pub(super) async fn idle(&self) {
        let limit = if self.destination.port() == DNS_PORT { DNS_IDLE } else { FLOW_IDLE };
        loop {
            let left = limit.saturating_sub(self.used.idle());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    async fn exchange(&self, opened: impl Opened) -> Result<(), DialError> {
        let Datagrams { mut outgoing, mut incoming } = opened.await?;
        let sending = async {
            self.send(&mut outgoing).await?;
            // What was sent last may be answered.
            std::future::pending().await
        };
        tokio::select! {
            ended = self.receive(&mut incoming) => ended,
            failed = sending => failed,
            () = self.idle() => Ok(()),
        }
    }

    /// Carries it to its end, by the stream that is `opened` for it.
    pub(crate) async fn carry(&self, opened: impl Opened) {
        let exchange = async {
            if let Err(error) = self.exchange(opened).await {
                debug!(%error, "flow failed");
                self.queue().deaf = true;
                self.room.notify_one();
                // An app that sends on would have a stream opened for each datagram.
                tokio::time::sleep(DEAF.saturating_sub(self.used.age())).await;
            }
        };
        tokio::select! {
            () = exchange => {}
            () = self.end.cancelled() => {}
        }
        self.ended.cancel();
        debug!(dropped = self.queue().dropped, "flow ended");
    }
}

impl Back for Relay {
    fn send(&self, app: SocketAddr, _: SocketAddr, datagram: &[u8]) {
        Self::send(self, app, datagram);
    }

    async fn tell(&self, app: SocketAddr, _: SocketAddr, errno: i32) {
        match errno {
            code::ECONNREFUSED => self.refuse(app).await,
            // Linux does not tell a UDP socket of the others, unless it asked for all (IP_RECVERR, ip(7)).
            errno => debug!(errno, "an error that is not told"),
        }
    }
}

impl Flows {
    /// Carries a flow to its end.
    pub(super) async fn carry(self: Arc<Self>, flow: Arc<Flow<Relay>>) {
        flow.carry(self.pod.datagrams(flow.destination)).await;
        self.state().end_flow(&flow);
    }
}
