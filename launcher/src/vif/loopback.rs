//! The programs' loopback, as far as it is the laptop's.
//!
//! # Theory of operation
//! A developer's services listen on 127.0.0.1 and ::1 of the laptop, and their programs are in another network. So
//! loopback is one where it matters:
//!
//! | from | to | is |
//! |---|---|---|
//! | a program | a port of 127.0.0.0/8 or ::1 at which a program listens | the kernel's own business, and we see at most the SYN |
//! | a program | such a port at which none does | dialled on the laptop's loopback, and opened or refused as all else is ([`connections`](super::connections)) |
//! | a program | a port of the pod's address at which no program listens | dialled in the pod |
//! | the laptop | a port of its loopback at which a program listens in here | a connection to that program ([`mirror`]) |
//!
//! Abstract names of `AF_UNIX` likewise ([`unix`](super::unix)), and datagrams. nftables keeps the kernel from answering what no socket takes, and a packet socket shows all SYNs of
//! the link; which of them nobody took the kernel is asked ([`Loopback::is_left`]). In the worst case, a listener that came
//! or went in that moment, a SYN is passed over that was meant for us, and the program's kernel repeats it.
//!
//! Invariant: what a program's listener was there for is not carried anywhere.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tp_abi::errno::code;
use tp_inside::orders::{Kind, Place};
use tracing::{debug, warn};

use super::connections::Ends;
use super::holder::{Family, Holder};
use super::mirror::{self, Mirrors};
use super::unix::Names;
use super::{Network, given_up};
use crate::pod::DialError;
use crate::sys::diagnose::{self, Protocol, state};

/// What is special about the programs' loopback.
pub(super) struct Loopback {
    diagnose: OwnedFd,
    pub(super) mirrors: Mirrors,
}

/// Where something goes that no program takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Pods,
    Laptops,
    Nobodys,
}

/// A netlink socket for each of those who look at the sockets of the programs' namespace.
pub(super) struct Lookers {
    given_up: OwnedFd,
    mirror: OwnedFd,
    names: OwnedFd,
}

impl Loopback {
    /// Gets ready what a [`Network`] on loopback needs. `families` are that network's.
    pub(super) async fn new(holder: &Holder, families: &[Family]) -> io::Result<(Self, Lookers)> {
        let diagnoses = holder.sockets(Place::App, Kind::Diagnose, 4).await?;
        let [diagnose, given_up, mirror, names] =
            diagnoses.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mirrors = Mirrors::new(families.iter().filter_map(Family::receives_at).collect());
        Ok((Self { diagnose, mirrors }, Lookers { given_up, mirror, names }))
    }

    /// Whether the SYN was for no program's socket, and the one that sent it still waits.
    pub(super) fn is_left(&self, (app, asked): Ends) -> bool {
        let state_of = |own, far| {
            let taker = diagnose::taker(&self.diagnose, own, far).unwrap_or_else(|error| {
                debug!(%error, "the programs' sockets");
                None
            });
            taker.map(|entry| entry.state)
        };
        state_of(app, asked) == Some(state::SYN_SENT)
            && !matches!(
                state_of(asked, app),
                // The last three are of programs that connect two sockets to each other.
                Some(state::LISTEN | state::NEW_SYN_RECV | state::SYN_RECV | state::SYN_SENT)
            )
    }
}

impl Lookers {
    /// Starts what looks for what comes and goes on loopback. What the laptop has already is there when this returns.
    pub(super) async fn start(self, network: &Arc<Network>) -> io::Result<()> {
        network.tasks.spawn(given_up::watch(Arc::clone(network), self.given_up));
        network.tasks.spawn(mirror::watch(Arc::clone(network), self.mirror));
        let mut names = Names::new(self.names)?;
        match names.look(network).await {
            Ok(()) => drop(network.tasks.spawn(names.watch(Arc::clone(network)))),
            Err(error) => warn!(%error, "abstract names of sockets are not seen (sock_diag of AF_UNIX)"),
        }
        Ok(())
    }
}

impl Network {
    /// Whom to ask for what a program sent to this address.
    pub(super) fn whose(&self, protocol: Protocol, asked: SocketAddr) -> Whose {
        let ip = asked.ip();
        match &self.loopback {
            // A nameserver in a container of the pod, which its resolv.conf names.
            Some(_) if self.services.resolver.as_ref().is_some_and(|resolver| resolver.is_pods(asked)) => {
                Whose::Pods
            }
            // A listener that has just gone, and whose mirror goes in a moment.
            Some(loopback) if ip.is_loopback() && loopback.mirrors.is_open(protocol, asked) => Whose::Nobodys,
            Some(_) if ip.is_loopback() => Whose::Laptops,
            // The programs' own address, but not the pod's: nobody knows that.
            Some(_) if self.services.pod.own_address(ip.is_ipv6()) != Some(ip) => Whose::Nobodys,
            _ if self.is_pods(asked) => Whose::Pods,
            _ => Whose::Laptops,
        }
    }

    /// A new TCP socket on the side of the programs' link that is ours.
    pub(super) async fn tcp(&self, v6: bool) -> io::Result<OwnedFd> {
        match self.loopback {
            Some(_) => self.inside(if v6 { Kind::Tcp6 } else { Kind::Tcp4 }).await,
            None => self.holder.tcp(v6).await,
        }
    }

    /// A new socket where the programs are.
    pub(super) async fn inside(&self, kind: Kind) -> io::Result<OwnedFd> {
        let mut made = self.holder.sockets(Place::App, kind, 1).await?;
        made.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// What is said of a port at which nobody listens.
pub(super) fn refused() -> DialError {
    DialError { errno: code::ECONNREFUSED, reason: "nobody listens there".to_owned() }
}
