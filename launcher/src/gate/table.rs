//! The sockets that the gate knows, by their cookies, and how far each has come.
//!
//! An app can connect one socket many times, and what the pod says about an earlier attempt can come late. So whatever
//! changes an entry names the attempt that it means, and what is not that one's turn any more changes nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::app_end::AppEnd;
use super::watch::Watched;

/// One connect() of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) cookie: u64,
    pub(super) number: u64,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) sockets: HashMap<u64, Socket>,
    pub(super) attempts: u64,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) attempt: Attempt,
    pub(super) asked: SocketAddr,
    pub(super) progress: Progress,
}

#[derive(Debug)]
pub(super) enum Progress {
    Waiting(Waiting),
    Open(AppEnd),
}

/// The pod dials, or has connected and the sockets are about to meet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// Our copy of the app's socket. It goes when the socket is open: then the app's close is a close.
    pub(super) socket: Arc<OwnedFd>,
    pub(super) given_up: CancellationToken,
    /// The pod has connected. The app may have written and ended before the gate learns that both sockets met.
    pub(super) meeting: bool,
    pub(super) watched: Watched,
}

impl Progress {
    /// Whether something that an app wrote before it closed its socket may be on its way.
    pub(super) fn may_have_last_words(&self) -> bool {
        match self {
            Self::Waiting(waiting) => waiting.meeting,
            Self::Open(end) => end.is_closed_by_app(),
        }
    }
}

impl Table {
    /// The number of a new attempt.
    pub(super) fn next(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    pub(super) fn current(&mut self, attempt: Attempt) -> Option<&mut Socket> {
        self.sockets.get_mut(&attempt.cookie).filter(|known| known.attempt == attempt)
    }

    pub(super) fn waiting(&mut self, attempt: Attempt) -> Option<&mut Waiting> {
        match &mut self.current(attempt)?.progress {
            Progress::Waiting(waiting) => Some(waiting),
            Progress::Open(_) => None,
        }
    }

    /// Forgets an attempt, if it is not another one's turn already; whether it was this one's.
    pub(super) fn forget(&mut self, attempt: Attempt) -> bool {
        self.current(attempt).is_some() && self.sockets.remove(&attempt.cookie).is_some()
    }

    /// Forgets an attempt and ends its dial.
    pub(super) fn give_up(&mut self, attempt: Attempt) {
        if let Some(waiting) = self.waiting(attempt) {
            waiting.given_up.cancel();
            self.forget(attempt);
        }
    }
}
