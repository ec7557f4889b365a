//! Tables of nf_tables, written as the kernel takes them: what nft(8) makes of its language is a list of expressions a rule,
//! which load a register from the packet, compare it, or do something with it.
//!
//! A table is made with its chains and rules in one batch, which the kernel takes or refuses as a whole. One with an owner
//! (Linux 5.12) is gone as soon as the socket that made it is closed, however its process ends, and nobody else may change
//! it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::SockProtocol;

use crate::netlink::{self, Attributes, Batch};

// linux/netfilter.h, linux/netfilter_ipv4.h
const NFPROTO_INET: u8 = 1;
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
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_PAYLOAD_SREG: u16 = 5;
const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;
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
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 1 << 1;
const NFTA_TPROXY_FAMILY: u16 = 1;
const NFTA_TPROXY_REG_ADDR: u16 = 2;
const NFTA_TPROXY_REG_PORT: u16 = 3;

/// Where the flags are in a TCP header, and those that tell an opening segment from all others (RFC 9293, 3.1).
const TCP_FLAGS_AT: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
/// Where the ports are in the headers of TCP and UDP, and the checksum in UDP's (RFC 768).
const SOURCE_PORT_AT: u32 = 0;
const PORT_AT: u32 = 2;
const UDP_CHECKSUM_AT: u32 = 6;

/// Where packets meet a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Those that arrive, before they are routed.
    Prerouting = 0,
    /// Those that arrive for this host.
    Input = 1,
    /// Those that programs of this host send.
    Output = 3,
}

/// When in its hook a chain has its turn (linux/netfilter_ipv4.h); connections are tracked between the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// `raw`
    Raw = -300,
    /// `mangle`
    Mangle = -150,
    /// `filter`
    Filter = 0,
}

/// Speaks to the nf_tables of the network namespace of this process.
///
/// # Errors
/// Those of socket(2): a kernel without nf_tables has no such protocol.
pub fn open() -> io::Result<OwnedFd> {
    netlink::open(SockProtocol::NetlinkNetFilter)
}

/// A table of the family `inet` that is being written.
#[derive(Debug)]
pub struct Table {
    batch: Batch,
    name: String,
}

impl Table {
    /// An empty one; with an owner, it lasts as long as the socket by which it is put in place.
    #[must_use]
    pub fn new(name: &str, owned: bool) -> Self {
        let mut batch = Batch::default();
        batch.mark(NFNL_MSG_BATCH_BEGIN, &header(0, NFNL_SUBSYS_NFTABLES));
        batch.request(message(libc::NFT_MSG_NEWTABLE), libc::NLM_F_CREATE, &inet(), |table| {
            table.name(NFTA_TABLE_NAME, name);
            let flags = if owned { NFT_TABLE_F_OWNER } else { 0 };
            table.put(NFTA_TABLE_FLAGS, &flags.to_be_bytes());
        });
        Self { batch, name: name.to_owned() }
    }

    /// Adds a chain of type `filter`.
    pub fn chain(&mut self, name: &str, hook: Hook, priority: Priority) {
        self.batch.request(message(libc::NFT_MSG_NEWCHAIN), libc::NLM_F_CREATE, &inet(), |chain| {
            chain.name(NFTA_CHAIN_TABLE, &self.name);
            chain.name(NFTA_CHAIN_NAME, name);
            chain.nest(NFTA_CHAIN_HOOK, |at| {
                at.put(NFTA_HOOK_HOOKNUM, &(hook as u32).to_be_bytes());
                at.put(NFTA_HOOK_PRIORITY, &(priority as i32).to_be_bytes());
            });
            chain.name(NFTA_CHAIN_TYPE, "filter");
        });
    }

    /// Adds a rule at a chain's end.
    pub fn rule(&mut self, chain: &str, fill: impl FnOnce(&mut Expressions<'_>)) {
        let append = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        self.batch.request(message(libc::NFT_MSG_NEWRULE), append, &inet(), |rule| {
            rule.name(NFTA_RULE_TABLE, &self.name);
            rule.name(NFTA_RULE_CHAIN, chain);
            rule.nest(NFTA_RULE_EXPRESSIONS, |list| fill(&mut Expressions(list)));
        });
    }

    /// Puts all of it in place. `socket` is one of [`open`].
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`; `ENOENT` for an expression that the kernel does not have; `EOPNOTSUPP` for a table
    /// with an owner before Linux 5.12. Nothing is in place then.
    pub fn put(mut self, socket: &impl AsFd) -> io::Result<()> {
        self.batch.mark(NFNL_MSG_BATCH_END, &header(0, NFNL_SUBSYS_NFTABLES));
        self.batch.send(socket)
    }
}

fn inet() -> [u8; 4] {
    header(NFPROTO_INET, 0)
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
#[derive(Debug)]
pub struct Expressions<'a>(&'a mut Attributes);

impl Expressions<'_> {
    /// What is known beside the packet: `key` is one of `NFT_META_*`, and `value` as wide as it.
    pub fn meta(&mut self, key: libc::c_int, value: &[u8]) {
        self.load_meta(key);
        self.is(value);
    }

    /// As [`Self::meta`], for all but one value.
    pub fn meta_is_not(&mut self, key: libc::c_int, value: &[u8]) {
        self.load_meta(key);
        self.compare(libc::NFT_CMP_NEQ, value);
    }

    fn load_meta(&mut self, key: libc::c_int) {
        self.expression("meta", |meta| {
            meta.put(NFTA_META_DREG, &register(libc::NFT_REG_1));
            meta.put(NFTA_META_KEY, &key.to_be_bytes());
        });
    }

    /// Of IPv4 or of IPv6, as that address.
    pub fn family_of(&mut self, address: SocketAddr) {
        self.meta(libc::NFT_META_NFPROTO, &[family(address)]);
    }

    /// Of that protocol above IP (`IPPROTO_*`).
    pub fn protocol(&mut self, protocol: libc::c_int) {
        self.meta(libc::NFT_META_L4PROTO, &[protocol as u8]);
    }

    /// Bytes of the transport header, which has to be of a protocol that was asked for before.
    pub fn transport(&mut self, at: u32, value: &[u8]) {
        self.load_transport(at, value.len());
        self.is(value);
    }

    fn load_transport(&mut self, at: u32, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.expression("payload", |payload| {
            payload.put(NFTA_PAYLOAD_DREG, &register(libc::NFT_REG_1));
            payload.put(NFTA_PAYLOAD_BASE, &libc::NFT_PAYLOAD_TRANSPORT_HEADER.to_be_bytes());
            payload.put(NFTA_PAYLOAD_OFFSET, &at.to_be_bytes());
            payload.put(NFTA_PAYLOAD_LEN, &length.to_be_bytes());
        });
    }

    /// The destination's port, of TCP or UDP.
    pub fn port(&mut self, port: u16) {
        self.transport(PORT_AT, &port.to_be_bytes());
    }

    /// The source's port, of TCP or UDP.
    pub fn source_port(&mut self, port: u16) {
        self.transport(SOURCE_PORT_AT, &port.to_be_bytes());
    }

    /// Gives a datagram another source port. Nothing is remembered of it, and nothing done to its answers.
    pub fn set_source_port(&mut self, port: u16) {
        self.load(libc::NFT_REG_1, &port.to_be_bytes());
        self.expression("payload", |payload| {
            payload.put(NFTA_PAYLOAD_SREG, &register(libc::NFT_REG_1));
            payload.put(NFTA_PAYLOAD_BASE, &libc::NFT_PAYLOAD_TRANSPORT_HEADER.to_be_bytes());
            payload.put(NFTA_PAYLOAD_OFFSET, &SOURCE_PORT_AT.to_be_bytes());
            payload.put(NFTA_PAYLOAD_LEN, &2_u32.to_be_bytes());
            payload.put(NFTA_PAYLOAD_CSUM_TYPE, &libc::NFT_PAYLOAD_CSUM_INET.to_be_bytes());
            payload.put(NFTA_PAYLOAD_CSUM_OFFSET, &UDP_CHECKSUM_AT.to_be_bytes());
        });
    }

    /// The register has this value.
    pub fn is(&mut self, value: &[u8]) {
        self.compare(libc::NFT_CMP_EQ, value);
    }

    fn compare(&mut self, how: libc::c_int, value: &[u8]) {
        self.expression("cmp", |cmp| {
            cmp.put(NFTA_CMP_SREG, &register(libc::NFT_REG_1));
            cmp.put(NFTA_CMP_OP, &how.to_be_bytes());
            cmp.nest(NFTA_CMP_DATA, |data| data.put(NFTA_DATA_VALUE, value));
        });
    }

    /// The first segment of a TCP connection.
    pub fn opens(&mut self) {
        self.protocol(libc::IPPROTO_TCP);
        self.load_transport(TCP_FLAGS_AT, 1);
        self.expression("bitwise", |bitwise| {
            bitwise.put(NFTA_BITWISE_SREG, &register(libc::NFT_REG_1));
            bitwise.put(NFTA_BITWISE_DREG, &register(libc::NFT_REG_1));
            bitwise.put(NFTA_BITWISE_LEN, &1_u32.to_be_bytes());
            bitwise.nest(NFTA_BITWISE_MASK, |data| data.put(NFTA_DATA_VALUE, &[FIN_SYN_RST_ACK]));
            bitwise.nest(NFTA_BITWISE_XOR, |data| data.put(NFTA_DATA_VALUE, &[0]));
        });
        self.is(&[SYN]);
    }

    /// The destination is an address of this host.
    pub fn is_for_this_host(&mut self) {
        self.expression("fib", |fib| {
            fib.put(NFTA_FIB_DREG, &register(libc::NFT_REG_1));
            fib.put(NFTA_FIB_RESULT, &NFT_FIB_RESULT_ADDRTYPE.to_be_bytes());
            fib.put(NFTA_FIB_FLAGS, &NFTA_FIB_F_DADDR.to_be_bytes());
        });
        self.is(&u32::from(libc::RTN_LOCAL).to_ne_bytes());
    }

    /// There is a socket that takes it; the register then says whether it is transparent.
    pub fn has_socket(&mut self) {
        self.expression("socket", |socket| {
            socket.put(NFTA_SOCKET_KEY, &NFT_SOCKET_TRANSPARENT.to_be_bytes());
            socket.put(NFTA_SOCKET_DREG, &register(libc::NFT_REG_1));
        });
    }

    /// It goes on its way.
    pub fn accept(&mut self) {
        self.verdict(NF_ACCEPT);
    }

    /// It is gone.
    pub fn discard(&mut self) {
        self.verdict(NF_DROP);
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

    /// It is for the transparent socket that is bound to this address, unless an open one takes it.
    pub fn tproxy(&mut self, to: SocketAddr) {
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
