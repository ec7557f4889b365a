//! Takes a port's clients from the app that listens there, without the app's help and with nothing left behind.
//!
//! ```text
//! table inet tp-tcp-8080-1f2e3d4c {
//!   flags owner;
//!   chain prerouting {
//!     type filter hook prerouting priority mangle;
//!     iif != lo ip tcp dport 8080 tcp flags & (fin|syn|rst|ack) == syn fib daddr type local tproxy to 127.0.0.1:P
//!     (and for ip6)
//!   }
//! }
//! table inet tp-udp-53-5a6b7c8d {
//!   flags owner;
//!   chain prerouting { ... iif != lo ip udp dport 53 fib daddr type local tproxy to 127.0.0.1:P }
//!   chain output {
//!     type filter hook output priority raw;
//!     ip udp sport P udp sport set 53
//!   }
//! }
//! ```
//!
//! Only a connection's first segment is led astray; the kernel then knows the connection by both its addresses, as any
//! other. So those that were open before stay the app's, those that were taken stay ours when the table is gone, and no
//! connection is tracked. Of a datagram there is no such thing: each is led, and each answer, which must come from the
//! port that somebody else is bound to, leaves from ours and gets the right number on its way out. The app's own connected
//! sockets keep their datagrams (`tproxy` takes no socket that is not transparent).
//!
//! `iif != lo`: what the pod sends to itself never meets the rule, so the agent reaches the app at the pod's address.
//!
//! The table goes with the socket that made it, however its process ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol as Layer, Socket, Type};
use tp_netfilter::netlink::LO;
use tp_netfilter::nftables::{self, Expressions, Hook, Priority, Table};

use super::intake::{Refused, step};
use super::wire::Protocol;

/// Clients that may wait to be accepted: more than any app's, which has fewer to take over.
const BACKLOG: i32 = 4096;

/// Rules that are in place as long as this is kept.
#[derive(Debug)]
pub(super) struct Rules(#[expect(dead_code, reason = "the table's owner")] OwnedFd);

/// Sockets on loopback that take what is led to them, of the families that the pod has.
pub(super) fn sockets(protocol: Protocol) -> Result<Vec<Socket>, Refused> {
    let mut sockets = Vec::new();
    for ip in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        match socket(protocol, ip) {
            Ok(socket) => sockets.push(socket),
            // A pod without IPv6 has no such address, or no such family.
            Err(error) if ip.is_ipv6() && no_such_family(&error.source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

pub(super) fn no_such_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

fn socket(protocol: Protocol, at: SocketAddr) -> Result<Socket, Refused> {
    let made = make(protocol, at).map_err(step("make a socket"))?;
    let transparent =
        if at.is_ipv4() { made.set_ip_transparent_v4(true) } else { made.set_ip_transparent_v6(true) };
    transparent.map_err(step("make a socket transparent, for which the agent needs NET_ADMIN"))?;
    made.bind(&at.into()).map_err(step("bind a socket on loopback"))?;
    if protocol == Protocol::Tcp {
        made.listen(BACKLOG).map_err(step("listen on loopback"))?;
    }
    Ok(made)
}

/// A socket that is not bound yet.
pub(super) fn make(protocol: Protocol, at: SocketAddr) -> io::Result<Socket> {
    let (kind, layer) = match protocol {
        Protocol::Tcp => (Type::STREAM, Layer::TCP),
        Protocol::Udp => (Type::DGRAM, Layer::UDP),
    };
    let made = Socket::new(Domain::for_address(at), kind, Some(layer))?;
    if at.is_ipv6() {
        made.set_only_v6(true)?;
    }
    made.set_nonblocking(true)?;
    Ok(made)
}

/// Leads what arrives at the port to the sockets.
pub(super) fn lead(protocol: Protocol, port: u16, to: &[SocketAddr]) -> Result<Rules, Refused> {
    const STEP: &str = "put rules of nf_tables in place (tproxy, fib, a table with an owner)";
    let owner = nftables::open().map_err(step("speak to nf_tables"))?;
    let table = table(protocol, port, to).map_err(step("name a table"))?;
    table.put(&owner).map_err(step(STEP))?;
    Ok(Rules(owner))
}

fn table(protocol: Protocol, port: u16, to: &[SocketAddr]) -> io::Result<Table> {
    let (word, number) = match protocol {
        Protocol::Tcp => ("tcp", libc::IPPROTO_TCP),
        Protocol::Udp => ("udp", libc::IPPROTO_UDP),
    };
    // One that is on its way out may still be there; numbers of processes are one container's own.
    let unique = getrandom::u32().map_err(io::Error::other)?;
    let mut table = Table::new(&format!("tp-{word}-{port}-{unique:08x}"), true);
    table.chain("prerouting", Hook::Prerouting, Priority::Mangle);
    let arrives = |packet: &mut Expressions<'_>, at: SocketAddr| {
        packet.meta_is_not(libc::NFT_META_IIF, &LO.to_ne_bytes());
        packet.family_of(at);
        match protocol {
            Protocol::Tcp => packet.opens(),
            Protocol::Udp => packet.protocol(number),
        }
        packet.port(port);
        packet.is_for_this_host();
        packet.tproxy(at);
    };
    for at in to {
        table.rule("prerouting", |packet| arrives(packet, *at));
    }
    if protocol == Protocol::Udp {
        table.chain("output", Hook::Output, Priority::Raw);
        for at in to {
            table.rule("output", |packet| {
                packet.family_of(*at);
                packet.protocol(number);
                packet.source_port(at.port());
                packet.set_source_port(port);
            });
        }
    }
    Ok(table)
}
