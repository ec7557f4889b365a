//! Whether an app that says nothing more has closed its socket, or only that direction of it (shutdown(2)).
//!
//! Both are the same segment to the other end, and to half-close is to wait for an answer. But the launcher is on the app's own
//! machine, whose kernel tells of every socket whether somebody has it (sock_diag(7)). A socket that nobody has is one from
//! which nobody reads.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpStream;
use tracing::debug;

use crate::gate::unmapped;
use crate::sys::diagnose::{self, Entry};

/// Asks this machine's kernel.
pub(super) struct Left(Option<Mutex<OwnedFd>>);

impl Left {
    /// Nobody is known to have left where the kernel does not tell.
    pub(super) fn new() -> Self {
        let asked =
            diagnose::here().inspect_err(|error| debug!(%error, "sockets that are closed are not known"));
        Self(asked.ok().map(Mutex::new))
    }

    /// Whether the kernel tells: of a socket that listens at `at`, at least.
    pub(super) fn is_told(&self, at: SocketAddr) -> bool {
        let Some(asked) = &self.0 else { return false };
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        diagnose::taker(&asked, at, SocketAddr::new(at.ip(), 1)).is_ok_and(|found| found.is_some())
    }

    /// Whether nobody has the other end of a connection on loopback.
    pub(super) fn is_left(&self, ours: &TcpStream) -> bool {
        self.other_end(ours).is_ok_and(|app| !app.is_held)
    }

    /// The socket at the other end of a connection on loopback.
    pub(super) fn other_end(&self, ours: &TcpStream) -> io::Result<Entry> {
        let asked = self.0.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let (app, own) = (ours.peer_addr()?, ours.local_addr()?);
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (app, own) = (unmapped(app), unmapped(own));
        // Without a socket of these ends the kernel gives a listener of that port.
        let found = diagnose::taker(&asked, app, own)?.filter(|found| (found.own, found.far) == (app, own));
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_app_that_has_closed_is_told_from_one_that_waits_for_an_answer() {
        let left = Left::new();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).await.unwrap();
            let mut app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut ours, _) = listener.accept().await.unwrap();
            assert!(!left.is_left(&ours));
            app.shutdown().await.unwrap();
            assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
            assert!(!left.is_left(&ours));
            drop(app);
            assert!(left.is_left(&ours));
        }
    }
}
