//! Notices that an app has given a socket up while the pod still dials for it, so that the dial ends too.
//!
//! The kernel tells nobody of either way in which that happens, so both are looked for, only while there are dials and
//! never in their way. An app that called connect(`AF_UNSPEC`) or shutdown() shows as a socket that was on its way to
//! the park and is not any more. One that closed its socket, or ended, shows as a socket that nobody holds
//! ([`holders`]).
//!
//! Invariant: whatever was seen is decided under the gate's lock and only for the attempt that it was seen of. A socket is
//! taken for closed when two looks in a row found no holder: while it passes from one process to another, one look can
//! miss it in both.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tokio::sync::Notify;
use tracing::debug;

use super::holders::{self, Held};
use super::{Attempt, Gate, Progress};
use crate::sys::socket::{self, Stage};

/// How soon a dial that lasts is looked at, and how often.
const EVERY: Duration = Duration::from_millis(100);
/// Looks take at most one part in this many of the time: thousands of sockets are looked at less often.
const SHARE: u32 = 20;

/// What the watch knows of a socket that waits.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// The process that asked.
    pub(super) asker: Pid,
    /// It was seen on its way to the park.
    pub(super) parked: bool,
    /// At the last look nobody held it.
    pub(super) unheld: bool,
}

impl Watched {
    pub(super) fn new(asker: Pid) -> Self {
        Self { asker, parked: false, unheld: false }
    }
}

/// A socket as one look finds it.
struct Seen {
    attempt: Attempt,
    socket: Weak<OwnedFd>,
    watched: Watched,
    inode: u64,
    stage: Stage,
}

/// What a look found.
enum Look {
    /// No socket waits.
    Nothing,
    /// Those that wait are held.
    Waiting,
    /// There is one that nobody seems to hold, to be looked at again soon.
    Unheld,
}

/// Looks at the sockets that wait, for as long as there is a gate. `dialing` is told of each new one.
pub(super) async fn watch(gate: Weak<Gate>, dialing: Arc<Notify>) {
    loop {
        dialing.notified().await;
        let mut pause = EVERY;
        loop {
            tokio::time::sleep(pause).await;
            let Some(gate) = gate.upgrade() else { return };
            let began = Instant::now();
            // A look reads many small files, and none of the tasks here should wait for that.
            let looked = tokio::task::spawn_blocking(move || gate.look()).await;
            pause = match looked {
                Ok(Look::Nothing) | Err(_) => break,
                Ok(Look::Unheld) => EVERY,
                Ok(Look::Waiting) => EVERY.max(began.elapsed() * SHARE),
            };
        }
    }
}

impl Gate {
    /// Remembers when an app is on its way, which is soon: one that takes its socket back before the first look would
    /// seem never to have begun. Does not return.
    pub(super) async fn notice(&self, attempt: Attempt, app: &OwnedFd) -> Infallible {
        let mut pause = Duration::from_millis(1);
        loop {
            tokio::time::sleep(pause).await;
            if socket::stage(app).is_ok_and(|stage| stage == Stage::Busy) {
                break;
            }
            pause = EVERY.min(pause * 2);
        }
        if let Some(waiting) = self.table().waiting(attempt) {
            waiting.watched.parked = true;
        }
        std::future::pending().await
    }

    /// One look at all sockets that wait.
    fn look(&self) -> Look {
        let seen = self.see();
        if seen.is_empty() {
            return Look::Nothing;
        }
        let still: Vec<Held> = seen
            .iter()
            .filter(|seen| !seen.is_given_up())
            .map(|seen| Held { inode: seen.inode, by: seen.watched.asker })
            .collect();
        let unheld = holders::unheld(&still);
        for seen in &seen {
            self.judge(seen, unheld.contains(&seen.inode));
        }
        if unheld.is_empty() { Look::Waiting } else { Look::Unheld }
    }

    fn see(&self) -> Vec<Seen> {
        let waiting: Vec<_> = self
            .table()
            .sockets
            .values()
            .filter_map(|known| match &known.progress {
                Progress::Waiting(waiting) => {
                    Some((known.attempt, Arc::downgrade(&waiting.socket), waiting.watched.clone()))
                }
                Progress::Open(_) => None,
            })
            .collect();
        let see = |(attempt, socket, watched): (Attempt, Weak<OwnedFd>, Watched)| {
            // Not kept for the whole look: an app's close is none as long as there is a copy.
            let held = socket.upgrade()?;
            let inode = nix::sys::stat::fstat(held.as_fd()).ok()?.st_ino;
            let stage = socket::stage(&held).ok()?;
            Some(Seen { attempt, socket, watched, inode, stage })
        };
        waiting.into_iter().filter_map(see).collect()
    }

    fn judge(&self, seen: &Seen, unheld: bool) {
        let mut table = self.table();
        let Some(waiting) = table.waiting(seen.attempt) else { return };
        if seen.is_given_up() && waiting.watched.parked {
            // The app may have asked anew since; then the socket is not what it was, and this is no end.
            let stage = socket::stage(&waiting.socket);
            if stage.is_ok_and(|stage| stage != Stage::Busy) {
                debug!(cookie = seen.attempt.cookie, "the app took its socket back");
                table.give_up(seen.attempt);
            }
            return;
        }
        if unheld && waiting.watched.unheld {
            debug!(cookie = seen.attempt.cookie, "nobody holds the socket any more");
            table.give_up(seen.attempt);
            drop(table);
            // A thread may still block in connect() on a descriptor that another one has closed.
            if let Some(socket) = seen.socket.upgrade() {
                let _ = socket::disconnect(&socket);
            }
            return;
        }
        waiting.watched.unheld = unheld;
    }
}

impl Seen {
    fn is_given_up(&self) -> bool {
        self.watched.parked && self.stage != Stage::Busy
    }
}
