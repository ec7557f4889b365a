//! What our kernels must not answer by themselves: nf_tables, spoken to directly (nft(8) may not be installed). In the
//! gateway:
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
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use super::links::{LINK, LO};
use super::netlink::{Attributes, Batch};

const TABLE: &str = "tp";

// linux/netfilter.h, linux/netfilter_ipv4.h
const NFPROTO_INET: u8 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_IN: u32 = 1;
const NF_IP_PRI_MANGLE: i32 = -150;
const NF_IP_PRI_FILTER: i32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

// linux/netfilter/nfnetlink.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

// linux/netfilter/nf_tables.h
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFT_CMP_EQ: u32 = 0;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_SOCKET_KEY: u16 = 1;
const NFTA_SOCKET_DREG: u16 = 2;
const NFT_SOCKET_TRANSPARENT: u32 = 0;
const NFTA_TPROXY_FAMILY: u16 = 1;
const NFTA_TPROXY_REG_ADDR: u16 = 2;
const NFTA_TPROXY_REG_PORT: u16 = 3;

/// Where the flags are in a TCP header, and those that tell an opening segment from all others (RFC 9293, 3.1).
const TCP_FLAGS_AT: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const ICMP_ECHO: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Puts the gateway's rules in place. `receivers` are the loopback ports for datagrams.
pub(super) fn install(socket: &OwnedFd, receivers: &[SocketAddr]) -> io::Result<()> {
    let mut rules = Rules::new(LINK, 0);
    rules.add("input", |packet| {
        packet.opens();
        packet.verdict(NF_DROP);
    });
    for (protocol, echo) in [(libc::IPPROTO_ICMP, ICMP_ECHO), (libc::IPPROTO_ICMPV6, ICMPV6_ECHO_REQUEST)] {
        rules.add("input", |packet| {
            packet.meta(libc::NFT_META_L4PROTO, &[protocol as u8]);
            packet.transport(0, None, echo);
            packet.verdict(NF_DROP);
        });
    }
    rules.receive(receivers);
    rules.send(socket)
}

/// Puts the rules of the programs' loopback in place, for as long as the socket is open.
pub(super) fn install_loopback(socket: &OwnedFd, receivers: &[SocketAddr]) -> io::Result<()> {
    let mut rules = Rules::new(LO, NFT_TABLE_F_OWNER);
    rules.add("input", |packet| {
        packet.opens();
        packet.has_socket();
        packet.is(&[0]);
        packet.verdict(NF_ACCEPT);
    });
    rules.add("input", |packet| {
        packet.opens();
        packet.verdict(NF_DROP);
    });
    rules.add("prerouting", |packet| {
        packet.meta(libc::NFT_META_L4PROTO, &[libc::IPPROTO_UDP as u8]);
        packet.has_socket();
        packet.verdict(NF_ACCEPT);
    });
    rules.receive(receivers);
    rules.send(socket)
}

/// A table that is being written: all rules are about what arrives by one link.
struct Rules {
    batch: Batch,
    link: u32,
}

impl Rules {
    fn new(link: u32, flags: u32) -> Self {
        let mut batch = Batch::default();
        batch.mark(NFNL_MSG_BATCH_BEGIN, &header(0, NFNL_SUBSYS_NFTABLES));
        let create = libc::NLM_F_CREATE;
        let inet = header(NFPROTO_INET, 0);
        batch.request(message(libc::NFT_MSG_NEWTABLE), create, &inet, |table| {
            table.name(NFTA_TABLE_NAME, TABLE);
            table.put(NFTA_TABLE_FLAGS, &flags.to_be_bytes());
        });
        for (name, hook, priority) in [
            ("input", NF_INET_LOCAL_IN, NF_IP_PRI_FILTER),
            ("prerouting", NF_INET_PRE_ROUTING, NF_IP_PRI_MANGLE),
        ] {
            batch.request(message(libc::NFT_MSG_NEWCHAIN), create, &inet, |chain| {
                chain.name(NFTA_CHAIN_TABLE, TABLE);
                chain.name(NFTA_CHAIN_NAME, name);
                chain.nest(NFTA_CHAIN_HOOK, |at| {
                    at.put(NFTA_HOOK_HOOKNUM, &hook.to_be_bytes());
                    at.put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
                });
                chain.name(NFTA_CHAIN_TYPE, "filter");
            });
        }
        Self { batch, link }
    }

    fn add(&mut self, chain: &str, fill: impl FnOnce(&mut Expressions<'_>)) {
        let append = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        self.batch.request(message(libc::NFT_MSG_NEWRULE), append, &header(NFPROTO_INET, 0), |rule| {
            rule.name(NFTA_RULE_TABLE, TABLE);
            rule.name(NFTA_RULE_CHAIN, chain);
            rule.nest(NFTA_RULE_EXPRESSIONS, |list| {
                let mut expressions = Expressions(list);
                expressions.meta(libc::NFT_META_IIF, &self.link.to_ne_bytes());
                fill(&mut expressions);
            });
        });
    }

    /// Datagrams go to these.
    fn receive(&mut self, receivers: &[SocketAddr]) {
        for receiver in receivers {
            self.add("prerouting", |packet| {
                packet.meta(libc::NFT_META_NFPROTO, &[family(*receiver)]);
                packet.meta(libc::NFT_META_L4PROTO, &[libc::IPPROTO_UDP as u8]);
                packet.tproxy(*receiver);
            });
        }
    }

    fn send(mut self, socket: &OwnedFd) -> io::Result<()> {
        self.batch.mark(NFNL_MSG_BATCH_END, &header(0, NFNL_SUBSYS_NFTABLES));
        self.batch.send(socket)
    }
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(kind: libc::c_int) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind as u16
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` are the families' numbers.
fn family(address: SocketAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// The expressions of one rule. Each comparison breaks the rule off where it fails.
struct Expressions<'a>(&'a mut Attributes);

impl Expressions<'_> {
    fn meta(&mut self, key: libc::c_int, value: &[u8]) {
        self.expression("meta", |meta| {
            meta.put(NFTA_META_DREG, &register(libc::NFT_REG_1));
            meta.put(NFTA_META_KEY, &key.to_be_bytes());
        });
        self.is(value);
    }

    /// One byte of the transport header, under a mask.
    fn transport(&mut self, at: u32, mask: Option<u8>, value: u8) {
        self.expression("payload", |payload| {
            payload.put(NFTA_PAYLOAD_DREG, &register(libc::NFT_REG_1));
            payload.put(NFTA_PAYLOAD_BASE, &libc::NFT_PAYLOAD_TRANSPORT_HEADER.to_be_bytes());
            payload.put(NFTA_PAYLOAD_OFFSET, &at.to_be_bytes());
            payload.put(NFTA_PAYLOAD_LEN, &1_u32.to_be_bytes());
        });
        if let Some(mask) = mask {
            self.expression("bitwise", |bitwise| {
                bitwise.put(NFTA_BITWISE_SREG, &register(libc::NFT_REG_1));
                bitwise.put(NFTA_BITWISE_DREG, &register(libc::NFT_REG_1));
                bitwise.put(NFTA_BITWISE_LEN, &1_u32.to_be_bytes());
                bitwise.nest(NFTA_BITWISE_MASK, |data| data.put(NFTA_DATA_VALUE, &[mask]));
                bitwise.nest(NFTA_BITWISE_XOR, |data| data.put(NFTA_DATA_VALUE, &[0]));
            });
        }
        self.is(&[value]);
    }

    fn is(&mut self, value: &[u8]) {
        self.expression("cmp", |cmp| {
            cmp.put(NFTA_CMP_SREG, &register(libc::NFT_REG_1));
            cmp.put(NFTA_CMP_OP, &NFT_CMP_EQ.to_be_bytes());
            cmp.nest(NFTA_CMP_DATA, |data| data.put(NFTA_DATA_VALUE, value));
        });
    }

    /// The first segment of a TCP connection.
    fn opens(&mut self) {
        self.meta(libc::NFT_META_L4PROTO, &[libc::IPPROTO_TCP as u8]);
        self.transport(TCP_FLAGS_AT, Some(FIN_SYN_RST_ACK), SYN);
    }

    /// There is a socket that takes it; the register then says whether it is transparent.
    fn has_socket(&mut self) {
        self.expression("socket", |socket| {
            socket.put(NFTA_SOCKET_KEY, &NFT_SOCKET_TRANSPARENT.to_be_bytes());
            socket.put(NFTA_SOCKET_DREG, &register(libc::NFT_REG_1));
        });
    }

    fn verdict(&mut self, verdict: u32) {
        self.expression("immediate", |immediate| {
            immediate.put(NFTA_IMMEDIATE_DREG, &register(libc::NFT_REG_VERDICT));
            immediate.nest(NFTA_IMMEDIATE_DATA, |data| {
                data.nest(NFTA_DATA_VERDICT, |code| code.put(NFTA_VERDICT_CODE, &verdict.to_be_bytes()));
            });
        });
    }

    fn load(&mut self, into: libc::c_int, value: &[u8]) {
        self.expression("immediate", |immediate| {
            immediate.put(NFTA_IMMEDIATE_DREG, &register(into));
            immediate.nest(NFTA_IMMEDIATE_DATA, |data| data.put(NFTA_DATA_VALUE, value));
        });
    }

    fn tproxy(&mut self, to: SocketAddr) {
        match to.ip() {
            IpAddr::V4(ip) => self.load(libc::NFT_REG_1, &ip.octets()),
            IpAddr::V6(ip) => self.load(libc::NFT_REG_1, &ip.octets()),
        }
        self.load(libc::NFT_REG_2, &to.port().to_be_bytes());
        self.expression("tproxy", |tproxy| {
            tproxy.put(NFTA_TPROXY_FAMILY, &u32::from(family(to)).to_be_bytes());
            tproxy.put(NFTA_TPROXY_REG_ADDR, &register(libc::NFT_REG_1));
            tproxy.put(NFTA_TPROXY_REG_PORT, &register(libc::NFT_REG_2));
        });
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes)) {
        self.0.nest(NFTA_LIST_ELEM, |element| {
            element.name(NFTA_EXPR_NAME, name);
            element.nest(NFTA_EXPR_DATA, fill);
        });
    }
}

fn register(number: libc::c_int) -> [u8; 4] {
    number.to_be_bytes()
}
