//! Where the apps' sockets wait: listeners on loopback that never answer.
//!
//! A listener with `IP_MINTTL` (`IPV6_MINHOPCOUNT`) of 255 has the kernel drop every SYN that loopback can send it
//! (they start at a TTL of 64), so a socket that connect()s there stays in `SYN_SENT` as if the far end were slow.
//! The listener must exist all the same: to a port without one the kernel answers RST.
//! (`SO_ATTACH_FILTER` would do too, but is refused to unprivileged users on some systems.)
//!
//! A program may raise its TTL to 255, at any time before or while it waits. For that the listener's queue holds one
//! connection and has room for no other: a SYN that the TTL lets in finds it full and is dropped too (listen(2)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tp_abi::env::GATE_V4;

use crate::sys;

/// No place to park could be made.
#[derive(Debug, thiserror::Error)]
#[error("could not open the gate's listener on {address}")]
pub struct ParkError {
    address: IpAddr,
    #[source]
    source: io::Error,
}

/// One park for each address family that this machine has on loopback.
#[derive(Debug)]
pub struct Parks {
    v4: Park,
    v6: Option<Park>,
}

#[derive(Debug)]
struct Park {
    _listener: Socket,
    /// It is connected to the listener, which never accepts it.
    _queued: Socket,
    at: SocketAddr,
}

impl Parks {
    /// Opens the parks. A machine without `::1` has none for IPv6.
    ///
    /// # Errors
    /// If there is no park for IPv4.
    pub fn open() -> Result<Self, ParkError> {
        let v4 = IpAddr::V4(Ipv4Addr::from(GATE_V4));
        let v4 = Park::open(v4).map_err(|source| ParkError { address: v4, source })?;
        let v6 = Park::open(IpAddr::V6(Ipv6Addr::LOCALHOST)).ok();
        Ok(Self { v4, v6 })
    }

    /// The ports for the shim ([`tp_abi::env::GATE`]).
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        (self.v4.at.port(), self.v6.as_ref().map_or(0, |park| park.at.port()))
    }

    /// Where a socket that asked for `asked` waits. An IPv6 socket can wait at the IPv4 park only by a v4-mapped
    /// address, which one with `IPV6_V6ONLY` cannot use; so an IPv6 target waits at the IPv6 park.
    pub(super) fn place(&self, asked: SocketAddr, v6_socket: bool) -> Option<SocketAddr> {
        match (asked, v6_socket) {
            (SocketAddr::V4(_), _) => Some(self.v4.at),
            (SocketAddr::V6(_), true) => self.v6.as_ref().map(|park| park.at),
            (SocketAddr::V6(_), false) => None,
        }
    }
}

impl Park {
    fn open(ip: IpAddr) -> io::Result<Self> {
        let listener = at_reused_port(SocketAddr::new(ip, 0))?;
        sys::socket::drop_all_packets(&listener, ip.is_ipv6())?;
        // A queue of 0 has room for one.
        listener.listen(0)?;
        let at = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let queued = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        match ip {
            IpAddr::V4(_) => queued.set_ttl_v4(u32::from(u8::MAX))?,
            IpAddr::V6(_) => queued.set_unicast_hops_v6(u32::from(u8::MAX))?,
        }
        queued.connect(&at.into())?;
        Ok(Self { _listener: listener, _queued: queued, at })
    }
}

/// A TCP socket bound to `address` that shares its port with the listener there: without both options the second
/// bind of one port is refused (socket(7)).
pub(super) fn at_reused_port(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
