//! Makes sockets in either network namespace.
//!
//! A socket belongs to the namespace in which its maker is, so the holder moves between the two (setns(2)).

use std::cell::Cell;
use std::io;
use std::mem::size_of_val;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket,
    sockopt,
};
use tp_netfilter::netlink::LO;

use super::links::LINK;
use super::watch;
use crate::orders::{Kind, Place};

/// Bytes that may wait for the launcher at sockets that many connections share; a burst of thousands must not be lost.
const BUFFER: usize = 16 << 20;

/// The two namespaces, and which of them this process is in.
pub(super) struct Factory {
    app: OwnedFd,
    gateway: OwnedFd,
    here: Cell<Place>,
}

impl Factory {
    /// This process is in the gateway's.
    pub(super) fn new(app: OwnedFd, gateway: OwnedFd) -> Self {
        Self { app, gateway, here: Cell::new(Place::Gateway) }
    }

    /// The programs' network namespace.
    pub(super) fn app(&self) -> &OwnedFd {
        &self.app
    }

    /// A new socket.
    ///
    /// # Errors
    /// Those of setns(2), socket(2), bind(2) and setsockopt(2).
    pub(super) fn socket(&self, place: Place, kind: Kind) -> io::Result<OwnedFd> {
        self.go(place)?;
        match kind {
            Kind::Tcp4 => anywhere(AddressFamily::Inet, SockType::Stream),
            Kind::Tcp6 => anywhere(AddressFamily::Inet6, SockType::Stream),
            Kind::Udp4 => anywhere(AddressFamily::Inet, SockType::Datagram),
            Kind::Udp6 => anywhere(AddressFamily::Inet6, SockType::Datagram),
            Kind::Watch4 | Kind::Watch6 => {
                let link = if place == Place::Gateway { LINK } else { LO };
                let watching = watch::open(kind == Kind::Watch6, link)?;
                enlarge(&watching)?;
                Ok(watching)
            }
            Kind::Receive4 => receiver((Ipv4Addr::LOCALHOST, 0).into()),
            Kind::Receive6 => receiver((Ipv6Addr::LOCALHOST, 0).into()),
            Kind::Raw4 => raw(AddressFamily::Inet),
            Kind::Raw6 => raw(AddressFamily::Inet6),
            Kind::Diagnose => Ok(socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::NetlinkSockDiag,
            )?),
            Kind::UnixStream => unix(SockType::Stream),
            Kind::UnixSeqPacket => unix(SockType::SeqPacket),
        }
    }

    /// Moves this process.
    pub(super) fn go(&self, place: Place) -> io::Result<()> {
        if self.here.get() != place {
            let namespace = match place {
                Place::App => &self.app,
                Place::Gateway => &self.gateway,
            };
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            self.here.set(place);
        }
        Ok(())
    }
}

/// The address that a socket is bound to.
pub(super) fn bound(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()));
    v4.or(v6).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn anywhere(family: AddressFamily, kind: SockType) -> io::Result<OwnedFd> {
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    transparent(&made, family)?;
    // Thousands of connections to one service are bound to its one address.
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    Ok(made)
}

fn receiver(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    transparent(&made, family)?;
    if at.is_ipv4() {
        setsockopt(&made, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(&made, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    enlarge(&made)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(made)
}

fn raw(family: AddressFamily) -> io::Result<OwnedFd> {
    // IPPROTO_RAW is IP_HDRINCL (raw(7)); it receives nothing.
    let made =
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, SockProtocol::Raw)?;
    setsockopt(&made, sockopt::SndBuf, &BUFFER)?;
    Ok(made)
}

fn unix(kind: SockType) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

fn transparent(socket: &OwnedFd, family: AddressFamily) -> io::Result<()> {
    match family {
        AddressFamily::Inet => Ok(setsockopt(socket, sockopt::IpTransparent, &true)?),
        // nix knows this one of IPv4 only.
        _ => set(socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// As far as the system allows: more than net.core.rmem_max takes rights in the namespace, which some kernels want of the
/// whole system.
fn enlarge(socket: &OwnedFd) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &BUFFER)?;
    }
    Ok(())
}

/// Sets an option that nix has no name for.
pub(super) fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is readable for `length` bytes and outlives the call.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
