//! How an app's socket hears that the far end's port is closed.
//!
//! # Theory of operation
//! The kernel gives `ECONNREFUSED` to a connected UDP socket when an ICMP "port unreachable" comes back for what it
//! sent; sends, receives and polls all show it (udp(7)). To write such a packet takes rights that we have not, but the
//! kernel writes one itself when a datagram meets a closed port. So the relay is made deaf to the app (connected to
//! itself, a UDP socket takes datagrams of its peer alone), an empty datagram is sent from a copy of the app's own
//! socket, and the relay listens again: the error is on the app's socket when that send returns, since loopback
//! delivers at once.
//!
//! Where no copy can be had, the relay stays deaf for a while, and the app's next datagram is refused in the same way.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::MsgFlags;
use tracing::debug;

use super::Relay;

/// How long a relay stays deaf for want of a copy of the app's socket: a common time between two tries.
const DEAF: Duration = Duration::from_secs(1);
/// A pending error is reported instead of sending.
const TRIES: usize = 3;

impl Relay {
    /// Has the kernel tell the app's socket that its datagram was refused. Sockets that are not connected are not
    /// told, as anywhere.
    pub(super) async fn refuse(&self, app: SocketAddr) {
        let Some(owner) = self.owner else { return };
        let copy = tokio::task::spawn_blocking(move || owner.copy()).await.ok().flatten();
        if let Err(error) = self.shut() {
            debug!(%error, "a refusal cannot be told");
            return;
        }
        match copy {
            Some(copy) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                let sent = (0..TRIES).any(|_| nix::sys::socket::send(copy.as_raw_fd(), &[], flags).is_ok());
                debug!(sent, "refused");
            }
            None => {
                debug!("refused for a while: the app's socket is out of reach");
                tokio::time::sleep(DEAF).await;
            }
        }
        if let Err(error) = self.connect(app) {
            debug!(%error, "a relay does not listen again");
        }
    }
}
