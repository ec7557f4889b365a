//! What comes from the pod to a program's port: connections and datagrams into the programs' network.
//!
//! In the gateway every address is local, so a socket there is bound to the true peer's, and the program's kernel and the
//! program see whom the pod saw. A program that listens on loopback alone is reached there, by a peer that is loopback, too:
//! in a pod it would be reached by nobody.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use tp_inside::orders::{Kind, Place};

use super::{Vif, addresses};
use crate::sys::diagnose::{self, Protocol, state};

/// A round trip between two namespaces of one machine.
const LIMIT: Duration = Duration::from_secs(5);

impl Vif {
    /// Connects to the program that listens on `port`, as `peer` where that can be.
    ///
    /// # Errors
    /// If none does.
    pub async fn connect(&self, peer: SocketAddr, port: u16) -> io::Result<TcpStream> {
        let mut refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (at, ends) in self.ways(peer, port) {
            let network = if at == Place::Gateway { &self.network } else { &self.loopback };
            // The peer's port can be in use: by what it says to another pod of the same workload.
            for from in [ends.0, SocketAddr::new(ends.0.ip(), 0)] {
                let socket = Socket::from(network.tcp(ends.1.is_ipv6()).await?);
                if socket.bind(&from.into()).is_err() {
                    continue;
                }
                let connect = TcpSocket::from_std_stream(socket.into()).connect(ends.1);
                match timeout(LIMIT, connect).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => return Ok(stream),
                    Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                    Err(error) => {
                        refused = error;
                        break;
                    }
                }
            }
        }
        Err(refused)
    }

    /// A socket for datagrams to the program that has `port`, as `peer` where that can be; [`None`] if no program has it.
    pub async fn datagrams(&self, peer: SocketAddr, port: u16) -> Option<UdpSocket> {
        let bound = self.bound(Protocol::Udp, port).await.ok()?;
        for (at, (from, to)) in self.ways(peer, port) {
            let takes = |ip: IpAddr| ip == to.ip() || ip.is_unspecified();
            let family = |entry: &diagnose::Entry| entry.is_dual || entry.own.is_ipv6() == to.is_ipv6();
            if !bound.iter().any(|entry| takes(entry.own.ip()) && family(entry)) {
                continue;
            }
            let kind = if to.is_ipv6() { Kind::Udp6 } else { Kind::Udp4 };
            let made = self.network.holder.sockets(at, kind, 1).await.ok()?.pop()?;
            if let Ok(socket) = connected(made, from, to) {
                return Some(socket);
            }
        }
        None
    }

    /// Whether a program has the port: listens there, or is bound to it.
    pub async fn has(&self, udp: bool, port: u16) -> bool {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        self.bound(protocol, port).await.is_ok_and(|bound| !bound.is_empty())
    }

    async fn bound(&self, protocol: Protocol, port: u16) -> io::Result<Vec<diagnose::Entry>> {
        let state = if protocol == Protocol::Tcp { state::LISTEN } else { state::CLOSE };
        let made = self.network.holder.sockets(Place::App, Kind::Diagnose, 1).await?.pop();
        let bound = diagnose::list(&made.ok_or(io::ErrorKind::InvalidData)?, protocol, state)?;
        Ok(bound.into_iter().filter(|entry| entry.own.port() == port).collect())
    }

    /// From where and to where, best first.
    fn ways(&self, peer: SocketAddr, port: u16) -> impl Iterator<Item = (Place, (SocketAddr, SocketAddr))> {
        let own =
            addresses(&self.network.services).into_iter().filter(move |own| own.is_ipv6() == peer.is_ipv6());
        let outside = own.map(move |own| (Place::Gateway, (peer, SocketAddr::new(own, port))));
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let inside = loopback.map(|ip| (Place::App, (SocketAddr::new(ip, 0), SocketAddr::new(ip, port))));
        outside.chain(inside)
    }
}

fn connected(made: OwnedFd, from: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::from(made);
    socket.bind(&from.into()).or_else(|_| socket.bind(&SocketAddr::new(from.ip(), 0).into()))?;
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}
