//! Messages between the shim and the launcher: one question, one answer, each a single datagram of an `AF_UNIX`
//! `SOCK_SEQPACKET` socket (unix(7)), then both ends close.
//!
//! Layout: an 8-byte header (`magic`, `kind`, `length` of the body) and a body, in the machine's own byte order,
//! since both ends run on one machine; `include/tp_wire.h` says the same in C. A question that is about a socket or
//! a program file carries its descriptor as `SCM_RIGHTS`. Decoding takes any bytes and never panics: what does not
//! parse is [`None`].

mod codec;
#[cfg(test)]
mod tests;

use core::ffi::CStr;

use codec::{Reader, Writer};

pub use codec::put_address;

/// First four bytes of every message. It changes with the layout, so that a shim of another version is refused
/// instead of misread.
pub const MAGIC: u32 = u32::from_be_bytes(*b"tp\x00\x05");

/// No message is longer than this many bytes.
pub const MESSAGE_MAX: usize = 4096;

/// Bytes before a message's body.
pub const HEADER_LEN: usize = 8;

/// Bytes of one encoded [`Address`].
pub const ADDRESS_LEN: usize = 24;

/// Longest name that is carried (RFC 1035: 255 octets on the wire, 253 characters in text).
pub const NAME_MAX: usize = 255;

/// Most addresses one answer carries: `(MESSAGE_MAX - header - name) / ADDRESS_LEN`, rounded down to a round number.
pub const ADDRESSES_MAX: usize = 128;

/// Want IPv4 addresses (A records).
pub const WANT_V4: u8 = 1;
/// Want IPv6 addresses (AAAA records).
pub const WANT_V6: u8 = 2;
/// Only families that the pod itself has an address of (`AI_ADDRCONFIG`).
pub const WANT_CONFIGURED: u8 = 4;
/// In the nameserver's order: gethostbyname(3) does not sort as getaddrinfo(3) does.
pub const WANT_AS_TOLD: u8 = 8;

/// An internet address and port as a program gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address itself.
    pub ip: Ip,
    /// Port in the machine's own byte order; 0 where none is meant.
    pub port: u16,
    /// `sin6_scope_id`; 0 for IPv4.
    pub scope: u32,
}

/// An IP address; a v4-mapped IPv6 address is [`Ip::V4`] here, and the socket's family is told beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ip {
    /// IPv4, in network order.
    V4([u8; 4]),
    /// IPv6, in network order.
    V6([u8; 16]),
}

/// What the shim asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// The socket that comes along wants to go to `asked`. Answered by [`Answer::Park`], [`Answer::Pass`] or
    /// [`Answer::Errno`].
    Connect {
        /// `SO_COOKIE` of the socket: its name in later questions, whatever its descriptor becomes.
        cookie: u64,
        /// Where the program wants to go.
        asked: Address,
        /// The socket is `AF_INET6`, so the park must be spelled as IPv6 (v4-mapped if `asked` is IPv4).
        v6_socket: bool,
    },
    /// The socket with this cookie is connected to `asked` by the SOCKS5 server. Not answered.
    Opened {
        /// `SO_COOKIE` of the socket.
        cookie: u64,
        /// Where it is connected to.
        asked: Address,
    },
    /// Where did the socket with this cookie ask to go? Answered by [`Answer::Peer`] or [`Answer::Pass`].
    Peer {
        /// `SO_COOKIE` of the socket.
        cookie: u64,
    },
    /// Why did the connect of the socket with this cookie fail? Answered by [`Answer::Errno`], or [`Answer::Pass`]
    /// if it did not fail for the far end's sake.
    Why {
        /// `SO_COOKIE` of the socket.
        cookie: u64,
    },
    /// Addresses of a name. Answered by [`Answer::Addresses`], [`Answer::Failed`] or [`Answer::Pass`].
    Lookup {
        /// `WANT_*` bits.
        want: u8,
        /// The name as the program spelled it, without a terminating NUL.
        name: &'a [u8],
    },
    /// The name of an address. Answered by [`Answer::Name`], [`Answer::Failed`] or [`Answer::Pass`].
    Reverse {
        /// The address; its port is 0.
        address: Address,
    },
    /// May the program file that comes along be started? Answered by [`Answer::Pass`] (yes), [`Answer::Enter`] or
    /// [`Answer::Errno`].
    Exec,
    /// What does the pod's resolv.conf say? Answered by [`Answer::Resolver`], or [`Answer::Pass`] if nobody knows.
    Resolver,
    /// Where can this nameserver be asked from here? Answered by [`Answer::Nameserver`], by [`Answer::Pass`] if the
    /// machine itself reaches it, or by [`Answer::Errno`].
    Nameserver {
        /// The nameserver as the program knows it.
        address: Address,
    },
    /// What is this machine's own address, seen from the pod? Answered by [`Answer::Local`], or [`Answer::Pass`] if it
    /// has no other than the kernel knows.
    Local {
        /// The pod's IPv6 address, not its IPv4 one.
        v6: bool,
    },
    /// Where do datagrams to `asked` go? Answered by [`Answer::Relay`] or [`Answer::Errno`].
    Flow {
        /// Where the program sends.
        asked: Address,
    },
    /// The datagram socket that comes along is about to be connected to `asked`. Answered by [`Answer::Relay`], with a
    /// relay of this socket's own, or [`Answer::Errno`].
    Connected {
        /// `SO_COOKIE` of the socket.
        cookie: u64,
        /// Its number in the program that asks.
        fd: i32,
        /// Where the program wants to be connected.
        asked: Address,
    },
    /// For whom does this address relay? Answered by [`Answer::Peer`], or [`Answer::Pass`] if it is no relay.
    Relayed {
        /// The source of a datagram, as the kernel told it.
        relay: Address,
    },
    /// A process in which the shim is not, and which is about to start a program that cannot have it, asks what keeps
    /// that program under the launcher. Answered by [`Answer::Namespaces`], [`Answer::Trap`] or [`Answer::Errno`].
    Enter,
    /// The process that asks has put the filter of [`Answer::Trap`] on itself. Answered by [`Answer::Pass`] when the
    /// launcher listens, or by [`Answer::Errno`].
    Trapped {
        /// The number of the filter's listener in that process, whose own sendmsg(2) would wait for the launcher.
        listener: i32,
    },
}

/// What the launcher answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The call is not tp's: make it as it is.
    Pass,
    /// Fail the call with this errno.
    Errno(i32),
    /// Connect the socket to this address and let the kernel wait (the gate).
    Park(Address),
    /// The address that the program asked for.
    Peer(Address),
    /// A lookup's result.
    Addresses {
        /// Seconds for which the answer is good, from now on.
        seconds: u32,
        /// Canonical name; empty where there is none.
        canonical: &'a [u8],
        /// The names that led there, each with a NUL after it.
        aliases: &'a [u8],
        /// The addresses, most preferred first.
        addresses: AddressList<'a>,
    },
    /// A lookup failed with this `EAI_*` value.
    Failed(i32),
    /// The name of an address.
    Name(&'a [u8]),
    /// Send datagrams here; what comes from here is the far end's.
    Relay {
        /// A loopback address of the launcher.
        relay: Address,
        /// Some socket is connected to the same far end by a relay of its own ([`Question::Connected`]).
        connected: bool,
    },
    /// The pod's resolver settings.
    Resolver(Resolver<'a>),
    /// An address on this machine that speaks for the nameserver, by UDP and TCP.
    Nameserver(Address),
    /// The pod's address; its port is 0.
    Local(Address),
    /// Start this program instead, with the one that was meant in [`crate::env::PROGRAM`] and the same arguments.
    Enter(&'a CStr),
    /// Enter the namespaces that come along by `SCM_RIGHTS`: user, network, mount, in this order.
    Namespaces,
    /// Put a seccomp filter on yourself that notifies of the calls that name an address.
    Trap,
}

/// What a resolv.conf says, in the terms of glibc's `struct __res_state` (resolv.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolver<'a> {
    /// `RES_*` bits of the file's options.
    pub options: u32,
    /// Seconds to wait for the first nameserver.
    pub timeout: u8,
    /// Rounds through the nameservers.
    pub attempts: u8,
    /// Dots that make a name be tried as it is first.
    pub ndots: u8,
    /// The nameservers, in order; at most 3.
    pub nameservers: AddressList<'a>,
    /// Domains to search, each with a NUL after it.
    pub search: &'a [u8],
}

/// Encoded addresses, read one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressList<'a>(&'a [u8]);

impl<'a> AddressList<'a> {
    /// Reads `bytes` as back-to-back addresses; what is not a whole address at the end is not read.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Iterator for AddressList<'_> {
    type Item = Address;

    fn next(&mut self) -> Option<Address> {
        let mut reader = Reader(self.0);
        let address = reader.address()?;
        self.0 = reader.0;
        Some(address)
    }
}

mod kind {
    pub(super) const CONNECT: u16 = 1;
    pub(super) const PEER: u16 = 2;
    pub(super) const WHY: u16 = 3;
    pub(super) const LOOKUP: u16 = 4;
    pub(super) const REVERSE: u16 = 5;
    pub(super) const EXEC: u16 = 6;
    pub(super) const OPENED: u16 = 7;
    pub(super) const RESOLVER: u16 = 0x10;
    pub(super) const NAMESERVER: u16 = 0x11;
    pub(super) const LOCAL: u16 = 0x20;
    pub(super) const FLOW: u16 = 0x30;
    pub(super) const CONNECTED: u16 = 0x31;
    pub(super) const RELAYED: u16 = 0x32;
    pub(super) const ENTER: u16 = 0x40;
    pub(super) const TRAPPED: u16 = 0x41;
    pub(super) const PASS: u16 = 0x80;
    pub(super) const ERRNO: u16 = 0x81;
    pub(super) const PARK: u16 = 0x82;
    pub(super) const PEER_IS: u16 = 0x83;
    pub(super) const ADDRESSES: u16 = 0x84;
    pub(super) const FAILED: u16 = 0x85;
    pub(super) const NAME: u16 = 0x86;
    pub(super) const RESOLVER_IS: u16 = 0x90;
    pub(super) const NAMESERVER_IS: u16 = 0x91;
    pub(super) const LOCAL_IS: u16 = 0xa0;
    pub(super) const RELAY: u16 = 0xb0;
    pub(super) const ENTER_BY: u16 = 0xc0;
    pub(super) const NAMESPACES: u16 = 0xc1;
    pub(super) const TRAP: u16 = 0xc2;
}

impl<'a> Question<'a> {
    /// Writes the message into `buffer` and says how long it is; [`None`] if it does not fit.
    #[must_use]
    pub fn encode(&self, buffer: &mut [u8]) -> Option<usize> {
        let (kind, mut writer) = match self {
            Question::Connect { .. } => (kind::CONNECT, Writer::new(buffer)?),
            Question::Opened { .. } => (kind::OPENED, Writer::new(buffer)?),
            Question::Peer { .. } => (kind::PEER, Writer::new(buffer)?),
            Question::Why { .. } => (kind::WHY, Writer::new(buffer)?),
            Question::Lookup { .. } => (kind::LOOKUP, Writer::new(buffer)?),
            Question::Reverse { .. } => (kind::REVERSE, Writer::new(buffer)?),
            Question::Exec => (kind::EXEC, Writer::new(buffer)?),
            Question::Resolver => (kind::RESOLVER, Writer::new(buffer)?),
            Question::Nameserver { .. } => (kind::NAMESERVER, Writer::new(buffer)?),
            Question::Local { .. } => (kind::LOCAL, Writer::new(buffer)?),
            Question::Flow { .. } => (kind::FLOW, Writer::new(buffer)?),
            Question::Connected { .. } => (kind::CONNECTED, Writer::new(buffer)?),
            Question::Relayed { .. } => (kind::RELAYED, Writer::new(buffer)?),
            Question::Enter => (kind::ENTER, Writer::new(buffer)?),
            Question::Trapped { .. } => (kind::TRAPPED, Writer::new(buffer)?),
        };
        match *self {
            Question::Connect { cookie, asked, v6_socket } => {
                writer.bytes(&cookie.to_ne_bytes())?;
                writer.address(asked)?;
                writer.bytes(&[u8::from(v6_socket)])?;
            }
            Question::Opened { cookie, asked } => {
                writer.bytes(&cookie.to_ne_bytes())?;
                writer.address(asked)?;
            }
            Question::Peer { cookie } | Question::Why { cookie } => writer.bytes(&cookie.to_ne_bytes())?,
            Question::Lookup { want, name } => {
                writer.bytes(&[want])?;
                writer.bytes(name)?;
            }
            Question::Reverse { address } | Question::Nameserver { address } => writer.address(address)?,
            Question::Local { v6 } => writer.bytes(&[u8::from(v6)])?,
            Question::Exec | Question::Resolver | Question::Enter => {}
            Question::Flow { asked } => writer.address(asked)?,
            Question::Connected { cookie, fd, asked } => {
                writer.bytes(&cookie.to_ne_bytes())?;
                writer.address(asked)?;
                writer.bytes(&fd.to_ne_bytes())?;
            }
            Question::Relayed { relay } => writer.address(relay)?,
            Question::Trapped { listener } => writer.bytes(&listener.to_ne_bytes())?,
        }
        writer.finish(kind)
    }

    /// Reads a message; [`None`] if it is not one.
    #[must_use]
    pub fn decode(message: &'a [u8]) -> Option<Self> {
        let (kind, mut body) = Reader::message(message)?;
        let question = match kind {
            kind::CONNECT => {
                Question::Connect { cookie: body.u64()?, asked: body.address()?, v6_socket: body.bool()? }
            }
            kind::OPENED => Question::Opened { cookie: body.u64()?, asked: body.address()? },
            kind::PEER => Question::Peer { cookie: body.u64()? },
            kind::WHY => Question::Why { cookie: body.u64()? },
            kind::LOOKUP => Question::Lookup { want: body.u8()?, name: body.name()? },
            kind::REVERSE => Question::Reverse { address: body.address()? },
            kind::EXEC => Question::Exec,
            kind::RESOLVER => Question::Resolver,
            kind::NAMESERVER => Question::Nameserver { address: body.address()? },
            kind::LOCAL => Question::Local { v6: body.bool()? },
            kind::FLOW => Question::Flow { asked: body.address()? },
            kind::CONNECTED => {
                Question::Connected { cookie: body.u64()?, asked: body.address()?, fd: body.i32()? }
            }
            kind::RELAYED => Question::Relayed { relay: body.address()? },
            kind::ENTER => Question::Enter,
            kind::TRAPPED => Question::Trapped { listener: body.i32()? },
            _ => return None,
        };
        body.end()?;
        Some(question)
    }
}

impl<'a> Answer<'a> {
    /// Writes the message into `buffer` and says how long it is; [`None`] if it does not fit.
    #[must_use]
    pub fn encode(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(buffer)?;
        let kind = match *self {
            Answer::Pass => kind::PASS,
            Answer::Errno(errno) => {
                writer.bytes(&errno.to_ne_bytes())?;
                kind::ERRNO
            }
            Answer::Park(address) => {
                writer.address(address)?;
                kind::PARK
            }
            Answer::Peer(address) => {
                writer.address(address)?;
                kind::PEER_IS
            }
            Answer::Addresses { seconds, canonical, aliases, addresses } => {
                writer.bytes(&seconds.to_ne_bytes())?;
                writer.short_name(canonical)?;
                writer.bytes(&u16::try_from(aliases.len()).ok()?.to_ne_bytes())?;
                writer.bytes(aliases)?;
                writer.bytes(addresses.0)?;
                kind::ADDRESSES
            }
            Answer::Failed(eai) => {
                writer.bytes(&eai.to_ne_bytes())?;
                kind::FAILED
            }
            Answer::Name(name) => {
                writer.bytes(name)?;
                kind::NAME
            }
            Answer::Resolver(resolver) => {
                writer.resolver(resolver)?;
                kind::RESOLVER_IS
            }
            Answer::Nameserver(address) => {
                writer.address(address)?;
                kind::NAMESERVER_IS
            }
            Answer::Local(address) => {
                writer.address(address)?;
                kind::LOCAL_IS
            }
            Answer::Relay { relay, connected } => {
                writer.address(relay)?;
                writer.bytes(&[u8::from(connected)])?;
                kind::RELAY
            }
            Answer::Enter(path) => {
                writer.bytes(path.to_bytes_with_nul())?;
                kind::ENTER_BY
            }
            Answer::Namespaces => kind::NAMESPACES,
            Answer::Trap => kind::TRAP,
        };
        writer.finish(kind)
    }

    /// Reads a message; [`None`] if it is not one.
    #[must_use]
    pub fn decode(message: &'a [u8]) -> Option<Self> {
        let (kind, mut body) = Reader::message(message)?;
        let answer = match kind {
            kind::PASS => Answer::Pass,
            kind::ERRNO => Answer::Errno(body.i32()?),
            kind::PARK => Answer::Park(body.address()?),
            kind::PEER_IS => Answer::Peer(body.address()?),
            kind::ADDRESSES => {
                let seconds = u32::from_ne_bytes(body.array()?);
                let length = usize::from(body.u8()?);
                let canonical = body.take(length)?;
                let length = usize::from(u16::from_ne_bytes(body.array()?));
                let aliases = body.names(length)?;
                Answer::Addresses { seconds, canonical, aliases, addresses: body.addresses(body.0.len())? }
            }
            kind::FAILED => Answer::Failed(body.i32()?),
            kind::NAME => Answer::Name(body.name()?),
            kind::RESOLVER_IS => Answer::Resolver(body.resolver()?),
            kind::NAMESERVER_IS => Answer::Nameserver(body.address()?),
            kind::LOCAL_IS => Answer::Local(body.address()?),
            kind::RELAY => Answer::Relay { relay: body.address()?, connected: body.bool()? },
            kind::ENTER_BY => Answer::Enter(body.path()?),
            kind::NAMESPACES => Answer::Namespaces,
            kind::TRAP => Answer::Trap,
            _ => return None,
        };
        body.end()?;
        Some(answer)
    }
}
