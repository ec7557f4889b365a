//! What our kernels must not answer by themselves: rules of nf_tables. In the gateway:
//!
//! ```text
//! table inet tp {
//!   chain input {
//!     type filter hook input priority filter;
//!     iif tp0 tcp flags & (fin|syn|rst|ack) == syn drop
//!     iif tp0 icmp type echo-request drop
//!     iif tp0 icmpv6 type echo-request drop
//!   }
//!   chain prerouting {
//!     type filter hook prerouting priority mangle;
//!     iif tp0 meta nfproto ipv4 meta l4proto udp tproxy ip to 127.0.0.1:PORT
//!     iif tp0 meta nfproto ipv6 meta l4proto udp tproxy ip6 to [::1]:PORT
//!   }
//! }
//! ```
//!
//! What is dropped in `input` was seen before by the sockets that watch the link. The table needs no owner: it ends with
//! its namespace.
//!
//! On the programs' loopback it is only what no socket of theirs takes:
//!
//! ```text
//! table inet tp {
//!   flags owner;
//!   chain input {
//!     type filter hook input priority filter;
//!     iif lo tcp flags & (fin|syn|rst|ack) == syn socket transparent 0 accept
//!     iif lo tcp flags & (fin|syn|rst|ack) == syn drop
//!   }
//!   chain prerouting {
//!     type filter hook prerouting priority mangle;
//!     iif lo meta l4proto udp socket exists accept
//!     iif lo meta l4proto udp tproxy ...
//!   }
//! }
//! ```
//!
//! Sockets of ours are transparent, those of programs cannot be: an old connection's does not take a new one's segment.
//! ("exists" is what nft(8) has no word for: the expression, with its value not looked at.) Programs may outlive us, and
//! must not wait for us then: the kernel removes a table whose owner's socket is closed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use tp_netfilter::netlink::LO;
use tp_netfilter::nftables::{Expressions, Hook, Priority, Table};

use super::links::LINK;

const ICMP_ECHO: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Puts the gateway's rules in place. `receivers` are the loopback ports for datagrams.
pub(super) fn install(socket: &OwnedFd, receivers: &[SocketAddr]) -> io::Result<()> {
    let mut rules = Rules::new(LINK, false);
    rules.add("input", |packet| {
        packet.opens();
        packet.discard();
    });
    for (protocol, echo) in [(libc::IPPROTO_ICMP, ICMP_ECHO), (libc::IPPROTO_ICMPV6, ICMPV6_ECHO_REQUEST)] {
        rules.add("input", |packet| {
            packet.protocol(protocol);
            packet.transport(0, &[echo]);
            packet.discard();
        });
    }
    rules.receive(receivers);
    rules.table.put(socket)
}

/// Puts the rules of the programs' loopback in place, for as long as the socket is open.
pub(super) fn install_loopback(socket: &OwnedFd, receivers: &[SocketAddr]) -> io::Result<()> {
    let mut rules = Rules::new(LO, true);
    rules.add("input", |packet| {
        packet.opens();
        packet.has_socket();
        packet.is(&[0]);
        packet.accept();
    });
    rules.add("input", |packet| {
        packet.opens();
        packet.discard();
    });
    rules.add("prerouting", |packet| {
        packet.protocol(libc::IPPROTO_UDP);
        packet.has_socket();
        packet.accept();
    });
    rules.receive(receivers);
    rules.table.put(socket)
}

/// A table that is being written: all rules are about what arrives by one link.
struct Rules {
    table: Table,
    link: u32,
}

impl Rules {
    fn new(link: u32, owned: bool) -> Self {
        let mut table = Table::new("tp", owned);
        table.chain("input", Hook::Input, Priority::Filter);
        table.chain("prerouting", Hook::Prerouting, Priority::Mangle);
        Self { table, link }
    }

    fn add(&mut self, chain: &str, fill: impl FnOnce(&mut Expressions<'_>)) {
        self.table.rule(chain, |packet| {
            packet.meta(libc::NFT_META_IIF, &self.link.to_ne_bytes());
            fill(packet);
        });
    }

    /// Datagrams go to these.
    fn receive(&mut self, receivers: &[SocketAddr]) {
        for receiver in receivers {
            self.add("prerouting", |packet| {
                packet.family_of(*receiver);
                packet.protocol(libc::IPPROTO_UDP);
                packet.tproxy(*receiver);
            });
        }
    }
}
