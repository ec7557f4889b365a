//! One flow: the datagrams between one socket of an app and one destination, over a stream of their own.
//!
//! What the app sends is appended to a short queue as the stream's records, and whoever writes the stream takes all of
//! it at once: one lock a datagram, no allocation, and many datagrams a write when there are many.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
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
/// How old a flow that failed becomes, in which it swallows datagrams, before the next one is tried.
const DEAF: Duration = Duration::from_secs(1);

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) relay: Arc<Relay>,
    /// The socket's own address.
    pub(super) app: SocketAddr,
    pub(super) used: Used,
    queue: Mutex<Queue>,
    /// push --something to write--> carry
    more: Notify,
    /// Everybody --it is over--> carry
    end: CancellationToken,
    /// carry --it is over--> drain
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    records: BytesMut,
    finishing: bool,
    dropped: u64,
}

impl Flow {
    pub(super) fn new(relay: Arc<Relay>, app: SocketAddr) -> Self {
        Self {
            relay,
            app,
            used: Used::now(),
            queue: Mutex::default(),
            more: Notify::new(),
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Takes a datagram of the app, or drops it if the stream has stalled; `false` if the flow is over.
    pub(super) fn push(&self, datagram: &[u8]) -> bool {
        if self.has_ended() {
            return false;
        }
        self.used.touch();
        let mut queue = self.queue();
        if queue.records.len().saturating_add(datagram.len()) > QUEUE_MAX {
            queue.dropped += 1;
        } else {
            append(&mut queue.records, datagram);
            self.more.notify_one();
        }
        true
    }

    /// Ends it now.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_cancelled() || self.ended.is_cancelled()
    }

    /// Ends it when what was pushed is delivered.
    pub(super) fn finish(&self) {
        self.queue().finishing = true;
        self.more.notify_one();
    }

    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue().records.len()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records that wait; [`None`] when there will be no more.
    async fn records(&self) -> Option<BytesMut> {
        loop {
            {
                let mut queue = self.queue();
                if !queue.records.is_empty() {
                    return Some(std::mem::take(&mut queue.records));
                }
                if queue.finishing {
                    return None;
                }
            }
            self.more.notified().await;
        }
    }

    async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), DialError> {
        while let Some(records) = self.records().await {
            stream.write_all(&records).await?;
            stream.flush().await?;
        }
        Ok(stream.shutdown().await?)
    }

    async fn receive(&self, incoming: &mut Incoming) -> Result<(), DialError> {
        while let Some(arrived) = incoming.next().await? {
            self.used.touch();
            match arrived {
                Arrived::Datagram(datagram) => self.relay.send(self.app, &datagram),
                Arrived::Error(code::ECONNREFUSED) => self.relay.refuse(self.app).await,
                // Linux does not tell a UDP socket of the others, unless it asked for all (IP_RECVERR, ip(7)).
                Arrived::Error(errno) => debug!(errno, "an error that is not told"),
            }
        }
        Ok(())
    }

    /// Returns when the flow was not used for long enough.
    pub(super) async fn idle(&self) {
        let limit = if self.relay.destination.port() == DNS_PORT { DNS_IDLE } else { FLOW_IDLE };
        loop {
            let left = limit.saturating_sub(self.used.idle());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    async fn exchange(&self, flows: &Flows) -> Result<(), DialError> {
        let Datagrams { mut outgoing, mut incoming } = flows.pod.datagrams(self.relay.destination).await?;
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
}

impl Flows {
    /// Carries a flow to its end.
    pub(super) async fn carry(self: Arc<Self>, flow: Arc<Flow>) {
        let exchange = async {
            if let Err(error) = flow.exchange(&self).await {
                debug!(%error, "flow failed");
                // An app that sends on would have a stream opened for each datagram.
                tokio::time::sleep(DEAF.saturating_sub(flow.used.age())).await;
            }
        };
        tokio::select! {
            () = exchange => {}
            () = flow.end.cancelled() => {}
        }
        flow.ended.cancel();
        self.state().end_flow(&flow);
        debug!(dropped = flow.queue().dropped, "flow ended");
    }
}
