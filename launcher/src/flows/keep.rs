//! Takes away the relays that nobody can use any more.
//!
//! A connected socket may be silent for hours and send then, so its relay stays for as long as the kernel lists a UDP
//! socket whose peer it is (`/proc/net/udp`, proc_net(5)). Shared ones end when no shim can believe in them any more.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::debug;

use super::{Flows, RELAY_KEPT, Relay};
use crate::gate::unmapped;

const EVERY: Duration = Duration::from_secs(10);
/// An app has the answer to its question, and has not called connect() yet.
const CONNECTING: Duration = Duration::from_secs(30);

/// Looks after the relays until `flows` is gone.
pub(super) async fn keep(flows: Weak<Flows>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(flows) = flows.upgrade() else { return };
        let connected = tokio::task::spawn_blocking(connected);
        let connected = connected.await.ok().flatten();
        flows.sweep(connected.as_ref(), Duration::ZERO);
    }
}

impl Flows {
    /// Ends what has no use, or would have none in a while if nothing happened. `connected` are the peers of this
    /// machine's UDP sockets, if they are known.
    pub(super) fn sweep(&self, connected: Option<&HashSet<SocketAddr>>, in_a_while: Duration) {
        let mut state = self.state();
        let flowing: HashSet<SocketAddr> = state.flows.keys().map(|(relay, _)| *relay).collect();
        let useless = |relay: &&Arc<Relay>| match relay.owner {
            None => relay.used.idle() + in_a_while > RELAY_KEPT && !flowing.contains(&relay.at),
            Some(_) => {
                relay.used.age() + in_a_while > CONNECTING
                    && connected.is_some_and(|peers| !peers.contains(&relay.at))
            }
        };
        let useless: Vec<_> = state.relays.values().filter(useless).cloned().collect();
        for relay in &useless {
            state.end_relay(relay);
        }
        if !useless.is_empty() {
            debug!(ended = useless.len(), left = state.relays.len(), "relays");
        }
    }
}

pub(super) fn connected() -> Option<HashSet<SocketAddr>> {
    let v4 = procfs::net::udp().ok()?;
    // A machine without IPv6 has no such file.
    let v6 = procfs::net::udp6().unwrap_or_default();
    Some(v4.into_iter().chain(v6).map(|socket| unmapped(socket.remote_address)).collect())
}
