//! How much of everything the agent takes on at once.
//!
//! It runs in somebody else's pod and within that pod's limits: a flood, from the laptop or from a neighbour on the
//! pod's loopback, has to end in refusals and not in memory, and the app beside it must not notice.
//!
//! Invariants: every count has an end; a permit is given back when what it stands for is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Time for everything before a request is complete: hello, method, credentials, request.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a dial in all: a little more than Linux' own SYN schedule (127 s), so that the kernel says `ETIMEDOUT`.
pub const DIAL: Duration = Duration::from_secs(130);
/// A flow of datagrams without one for so long has ended.
pub const DATAGRAMS_IDLE: Duration = Duration::from_secs(300);
/// Time for open relays once the agent was told to stop; Kubernetes kills after 30 s.
pub const DRAIN: Duration = Duration::from_secs(20);
/// Bytes of a client that are read before its dial has ended.
pub const EARLY_MAX: usize = 16 * 1024;
/// Questions of one DNS stream that may be open at once.
pub const QUESTIONS_A_STREAM: usize = 128;
/// Bytes that may wait for programs in all; an ephemeral container has no limit of its own, and what it takes is the app's.
const WAITING: usize = 32 * 1024 * 1024;

/// Threads for what blocks: operations on files. They are made when they are needed.
pub const BLOCKING_THREADS: usize = 64;

/// A share of a limit, given back on drop.
pub type Permit = OwnedSemaphorePermit;

/// The limits that are shared by all clients.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that have not proved the token yet.
    pub strangers: Limit,
    /// Connections that have, each a session or a plain SOCKS5 client.
    pub clients: Limit,
    /// Conversations of all sessions and clients.
    pub conversations: Limit,
    /// Dials that have not ended.
    pub dials: Limit,
    /// Flows of datagrams that programs on laptops began.
    pub flows: Limit,
    /// TCP clients of exposed ports: whoever comes there has no part in what launchers may do.
    pub visitors: Limit,
    /// Bytes of exposed ports' clients that wait for programs on laptops: copies, and datagrams.
    pub waiting: Limit,
    /// Names being looked up.
    pub lookups: Limit,
    /// VOLUMES streams, each of which may hold some megabytes.
    pub volumes: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            strangers: Limit::new(256),
            clients: Limit::new(1024),
            conversations: Limit::new(20_000),
            dials: Limit::new(16_384),
            flows: Limit::new(4096),
            visitors: Limit::new(20_000),
            waiting: Limit::new(WAITING),
            lookups: Limit::new(2048),
            volumes: Limit::new(64),
        }
    }
}

/// One limit.
#[derive(Clone, Debug)]
pub struct Limit(Arc<Semaphore>);

impl Limit {
    /// At most so many at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// A share, or `None` at once when all are taken.
    #[must_use]
    pub fn take(&self) -> Option<Permit> {
        self.take_many(1)
    }

    /// So many shares, or `None` at once when there are not as many left.
    #[must_use]
    pub fn take_many(&self, shares: usize) -> Option<Permit> {
        self.0.clone().try_acquire_many_owned(u32::try_from(shares).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_comes_back_when_it_is_dropped() {
        let limit = Limit::new(1);
        let share = limit.take();
        assert!(share.is_some() && limit.take().is_none());
        drop(share);
        assert!(limit.take().is_some());
        let bytes = Limit::new(10);
        let some = bytes.take_many(7);
        assert!(some.is_some() && bytes.take_many(4).is_none() && bytes.take_many(3).is_some());
        drop(some);
        assert!(bytes.take_many(10).is_some());
    }
}
