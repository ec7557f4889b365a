//! Where the program is, for what comes to its ports.
//!
//! Programs under the shim or a filter listen on this machine as any other. Those in a private network listen there, and
//! are reached there, with the peer's true address where their own allows it. Which of them it is shows by trying: a run
//! may have both, and a private network can come late.
//!
//! A program needs a while until it listens, and whoever comes meanwhile waits, as for a server that is slow to accept. One
//! that has listened before and does not now is gone, or starts anew: that is waited for less long.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socks_proxy::expose::wire::Protocol;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::taken;
use crate::vif::Vif;

/// How long a program may take to begin to listen, and to do so again.
const START: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(1);
/// How often that is tried.
const EVERY: Duration = Duration::from_millis(25);
const LOOPBACK: (IpAddr, IpAddr) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));

type FindVif = Box<dyn Fn() -> Option<Arc<Vif>> + Send + Sync>;

/// The program of a run.
#[derive(Default)]
pub struct Program {
    vif: OnceLock<FindVif>,
    /// run --there is no program any more--> whoever waits for it
    ended: CancellationToken,
}

/// Why the program was not reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreached {
    /// There is none any more.
    Ended,
    /// It does not listen.
    Refused,
}

/// One of its ports.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    has_listened: AtomicBool,
}

impl Port {
    pub(super) fn new(number: u16) -> Self {
        Self { number, has_listened: AtomicBool::new(false) }
    }
}

impl Program {
    /// Where private networks of this run are found.
    pub fn may_be_inside(&self, vif: impl Fn() -> Option<Arc<Vif>> + Send + Sync + 'static) {
        drop(self.vif.set(Box::new(vif)));
    }

    /// It has ended: whoever still comes is not for it.
    pub fn has_ended(&self) {
        self.ended.cancel();
    }

    fn vif(&self) -> Option<Arc<Vif>> {
        self.vif.get().and_then(|find| find())
    }

    /// Whether it listens there, without a connection that it would see.
    pub(super) async fn listens(&self, protocol: Protocol, port: u16) -> bool {
        if let Some(vif) = self.vif()
            && vif.has(protocol == Protocol::Udp, port).await
        {
            return true;
        }
        taken::holder(protocol, port).is_some()
    }

    /// A connection to the program, for `peer`.
    pub(super) async fn connect(&self, peer: SocketAddr, port: &Port) -> Result<TcpStream, Unreached> {
        let limit = if port.has_listened.load(Ordering::Relaxed) { AGAIN } else { START };
        let until = Instant::now() + limit;
        loop {
            let error = match self.try_connect(peer, port.number).await {
                Ok(stream) => {
                    port.has_listened.store(true, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => error,
            };
            tokio::select! {
                biased;
                () = self.ended.cancelled() => return Err(Unreached::Ended),
                () = sleep(EVERY), if Instant::now() < until => {}
                else => {
                    debug!(%error, port = port.number, "the program does not listen");
                    return Err(Unreached::Refused);
                }
            }
        }
    }

    async fn try_connect(&self, peer: SocketAddr, port: u16) -> io::Result<TcpStream> {
        if let Some(vif) = self.vif()
            && let Ok(stream) = vif.connect(peer, port).await
        {
            return Ok(stream);
        }
        match TcpStream::connect((LOOPBACK.0, port)).await {
            Err(error) => TcpStream::connect((LOOPBACK.1, port)).await.map_err(|_| error),
            stream => stream,
        }
    }

    /// A socket that exchanges datagrams with the program, for `peer`.
    pub(super) async fn datagrams(&self, peer: SocketAddr, port: &Port) -> io::Result<UdpSocket> {
        if let Some(vif) = self.vif()
            && let Some(socket) = vif.datagrams(peer, port.number).await
        {
            return Ok(socket);
        }
        // A socket that nobody is bound to does not show before something is sent; which family it is the kernel knows.
        let is_v6 = is_bound(port.number, true) && !is_bound(port.number, false);
        let loopback = if is_v6 { LOOPBACK.1 } else { LOOPBACK.0 };
        let socket = UdpSocket::bind((loopback, 0)).await?;
        socket.connect((loopback, port.number)).await?;
        Ok(socket)
    }
}

/// Whether some socket of this machine receives what is sent to the port on the loopback address of a family.
fn is_bound(port: u16, v6: bool) -> bool {
    let known = if v6 { procfs::net::udp6() } else { procfs::net::udp() };
    let takes = |at: SocketAddr| at.port() == port && (at.ip().is_unspecified() || at.ip().is_loopback());
    known.is_ok_and(|known| known.iter().any(|entry| takes(entry.local_address)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000);

    async fn free() -> u16 {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn whoever_comes_waits_for_the_program_to_listen() {
        let program = Arc::new(Program::default());
        let number = free().await;
        let port = Arc::new(Port::new(number));
        let coming = {
            let (program, port) = (Arc::clone(&program), Arc::clone(&port));
            tokio::spawn(async move { program.connect(PEER, &port).await.map(drop) })
        };
        sleep(EVERY * 3).await;
        assert!(!coming.is_finished());
        let _listener = TcpListener::bind(("127.0.0.1", number)).await.unwrap();
        assert_eq!(coming.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_program_that_listens_on_the_other_family_is_found() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port());
        assert!(Program::default().connect(PEER, &port).await.is_ok());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_program_that_has_ended() {
        let program = Program::default();
        program.has_ended();
        let connected = program.connect(PEER, &Port::new(free().await)).await;
        assert_eq!(connected.map(drop), Err(Unreached::Ended));
    }
}
