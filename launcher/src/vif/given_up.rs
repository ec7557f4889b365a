//! Notices that a program has given a connection up while the pod still dials for it, so that the dial ends too.
//!
//! A socket that is closed in `SYN_SENT` tells nobody. So while there are dials that last, the sockets of the programs'
//! namespace that are in that state are listed (sock_diag(7)): a dial whose socket is not among them has nobody left.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::Network;
use super::connections::Ends;
use crate::sys::diagnose::{self, Protocol, state};

/// How soon a dial that lasts is looked at, and how often.
const EVERY: Duration = Duration::from_millis(100);
/// Looks take at most one part in this many of the time.
const SHARE: u32 = 20;

/// Looks until the network's end. `socket` is of the programs' namespace.
pub(super) async fn watch(network: Arc<Network>, socket: OwnedFd) {
    loop {
        tokio::select! {
            () = network.dialing.notified() => {}
            () = network.end.cancelled() => return,
        }
        let mut pause = EVERY;
        loop {
            // A dial is looked at when it has lasted for a while, and its socket is known to be there.
            let waiting = network.connections.waiting();
            if waiting.is_empty() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = network.end.cancelled() => return,
            }
            let began = Instant::now();
            match diagnose::list(&socket, Protocol::Tcp, state::SYN_SENT) {
                Ok(opening) => {
                    let opening: HashSet<Ends> = opening.iter().map(|entry| (entry.own, entry.far)).collect();
                    for (ends, sequence) in waiting.into_iter().filter(|(ends, _)| !opening.contains(ends)) {
                        network.connections.give_up(ends, sequence);
                    }
                }
                Err(error) => warn!(%error, "programs that give up are not noticed"),
            }
            pause = EVERY.max(began.elapsed() * SHARE);
        }
        debug!("no dial lasts");
    }
}
