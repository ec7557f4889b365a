//! Messages between the shim and the launcher: one question, one answer, each a single datagram of an `AF_UNIX`
//! `SOCK_SEQPACKET` socket (unix(7)), then both ends close.
//!
//! Layout: an 8-byte header (`magic`, `kind`, `length` of the body) and a body, in the machine's own byte order,
//! since both ends run on one machine; `include/tp_wire.h` says the same in C. A question that is about a socket or
//! a program file carries its descriptor as `SCM_RIGHTS`. Decoding takes any bytes and never panics: what does not
//! parse is [`None`].

/// First four bytes of every message. It changes with the layout, so that a shim of another version is refused
/// instead of misread.
pub const MAGIC: u32 = u32::from_be_bytes(*b"tp\x00\x02");

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
    /// May the program file that comes along be started? Answered by [`Answer::Pass`] (yes) or [`Answer::Errno`].
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

const FAMILY_V4: u8 = 4;
const FAMILY_V6: u8 = 6;

mod kind {
    pub(super) const CONNECT: u16 = 1;
    pub(super) const PEER: u16 = 2;
    pub(super) const WHY: u16 = 3;
    pub(super) const LOOKUP: u16 = 4;
    pub(super) const REVERSE: u16 = 5;
    pub(super) const EXEC: u16 = 6;
    pub(super) const RESOLVER: u16 = 0x10;
    pub(super) const NAMESERVER: u16 = 0x11;
    pub(super) const LOCAL: u16 = 0x20;
    pub(super) const FLOW: u16 = 0x30;
    pub(super) const CONNECTED: u16 = 0x31;
    pub(super) const RELAYED: u16 = 0x32;
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
}

impl<'a> Question<'a> {
    /// Writes the message into `buffer` and says how long it is; [`None`] if it does not fit.
    #[must_use]
    pub fn encode(&self, buffer: &mut [u8]) -> Option<usize> {
        let (kind, mut writer) = match self {
            Question::Connect { .. } => (kind::CONNECT, Writer::new(buffer)?),
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
        };
        match *self {
            Question::Connect { cookie, asked, v6_socket } => {
                writer.bytes(&cookie.to_ne_bytes())?;
                writer.address(asked)?;
                writer.bytes(&[u8::from(v6_socket)])?;
            }
            Question::Peer { cookie } | Question::Why { cookie } => writer.bytes(&cookie.to_ne_bytes())?,
            Question::Lookup { want, name } => {
                writer.bytes(&[want])?;
                writer.bytes(name)?;
            }
            Question::Reverse { address } | Question::Nameserver { address } => writer.address(address)?,
            Question::Local { v6 } => writer.bytes(&[u8::from(v6)])?,
            Question::Exec | Question::Resolver => {}
            Question::Flow { asked } => writer.address(asked)?,
            Question::Connected { cookie, fd, asked } => {
                writer.bytes(&cookie.to_ne_bytes())?;
                writer.address(asked)?;
                writer.bytes(&fd.to_ne_bytes())?;
            }
            Question::Relayed { relay } => writer.address(relay)?,
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
            Answer::Addresses { canonical, aliases, addresses } => {
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
                let length = usize::from(body.u8()?);
                let canonical = body.take(length)?;
                let length = usize::from(u16::from_ne_bytes(body.array()?));
                let aliases = body.names(length)?;
                Answer::Addresses { canonical, aliases, addresses: body.addresses(body.0.len())? }
            }
            kind::FAILED => Answer::Failed(body.i32()?),
            kind::NAME => Answer::Name(body.name()?),
            kind::RESOLVER_IS => Answer::Resolver(body.resolver()?),
            kind::NAMESERVER_IS => Answer::Nameserver(body.address()?),
            kind::LOCAL_IS => Answer::Local(body.address()?),
            kind::RELAY => Answer::Relay { relay: body.address()?, connected: body.bool()? },
            _ => return None,
        };
        body.end()?;
        Some(answer)
    }
}

/// Appends one encoded address at `at` and gives the place after it; [`None`] if it does not fit.
#[must_use]
pub fn put_address(buffer: &mut [u8], at: usize, address: Address) -> Option<usize> {
    let mut writer = Writer { buffer, at };
    writer.address(address)?;
    Some(writer.at)
}

struct Writer<'b> {
    buffer: &'b mut [u8],
    at: usize,
}

impl<'b> Writer<'b> {
    fn new(buffer: &'b mut [u8]) -> Option<Self> {
        (buffer.len() >= HEADER_LEN).then_some(Self { buffer, at: HEADER_LEN })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        let place = self.buffer.get_mut(self.at..end)?;
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.at = end;
        Some(())
    }

    fn short_name(&mut self, name: &[u8]) -> Option<()> {
        self.bytes(&[u8::try_from(name.len()).ok()?])?;
        self.bytes(name)
    }

    fn address(&mut self, address: Address) -> Option<()> {
        let (family, bytes) = match address.ip {
            Ip::V4([a, b, c, d]) => (FAMILY_V4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Ip::V6(bytes) => (FAMILY_V6, bytes),
        };
        self.bytes(&[family, 0])?;
        self.bytes(&address.port.to_ne_bytes())?;
        self.bytes(&address.scope.to_ne_bytes())?;
        self.bytes(&bytes)
    }

    fn resolver(&mut self, resolver: Resolver<'_>) -> Option<()> {
        self.bytes(&resolver.options.to_ne_bytes())?;
        let nameservers = u8::try_from(resolver.nameservers.0.len() / ADDRESS_LEN).ok()?;
        self.bytes(&[resolver.timeout, resolver.attempts, resolver.ndots, nameservers])?;
        self.bytes(resolver.nameservers.0)?;
        self.bytes(resolver.search)
    }

    fn finish(mut self, kind: u16) -> Option<usize> {
        let end = self.at;
        if end > MESSAGE_MAX {
            return None;
        }
        let length = u16::try_from(end.checked_sub(HEADER_LEN)?).ok()?;
        self.at = 0;
        self.bytes(&MAGIC.to_ne_bytes())?;
        self.bytes(&kind.to_ne_bytes())?;
        self.bytes(&length.to_ne_bytes())?;
        Some(end)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn message(message: &'a [u8]) -> Option<(u16, Self)> {
        if message.len() > MESSAGE_MAX {
            return None;
        }
        let mut reader = Self(message);
        if u32::from_ne_bytes(reader.array()?) != MAGIC {
            return None;
        }
        let kind = u16::from_ne_bytes(reader.array()?);
        let length = usize::from(u16::from_ne_bytes(reader.array()?));
        (reader.0.len() == length).then_some((kind, reader))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// The rest of the body, as a name.
    fn name(&mut self) -> Option<&'a [u8]> {
        if self.0.len() > NAME_MAX {
            return None;
        }
        self.take(self.0.len())
    }

    fn address(&mut self) -> Option<Address> {
        let [family, _reserved] = self.array()?;
        let port = u16::from_ne_bytes(self.array()?);
        let scope = u32::from_ne_bytes(self.array()?);
        let bytes: [u8; 16] = self.array()?;
        let ip = match family {
            FAMILY_V4 => Ip::V4(*bytes.first_chunk()?),
            FAMILY_V6 => Ip::V6(bytes),
            _ => return None,
        };
        Some(Address { ip, port, scope })
    }

    fn addresses(&mut self, length: usize) -> Option<AddressList<'a>> {
        let bytes = self.take(length)?;
        if !bytes.len().is_multiple_of(ADDRESS_LEN) {
            return None;
        }
        for chunk in bytes.chunks_exact(ADDRESS_LEN) {
            Reader(chunk).address()?;
        }
        Some(AddressList(bytes))
    }

    /// Names with a NUL after each.
    fn names(&mut self, length: usize) -> Option<&'a [u8]> {
        let names = self.take(length)?;
        names.last().is_none_or(|last| *last == 0).then_some(names)
    }

    fn resolver(&mut self) -> Option<Resolver<'a>> {
        let options = u32::from_ne_bytes(self.array()?);
        let [timeout, attempts, ndots, nameservers] = self.array()?;
        let nameservers = self.addresses(usize::from(nameservers).checked_mul(ADDRESS_LEN)?)?;
        let search = self.names(self.0.len())?;
        Some(Resolver { options, timeout, attempts, ndots, nameservers, search })
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Address = Address { ip: Ip::V4([10, 96, 0, 7]), port: 80, scope: 0 };
    const V6: Address =
        Address { ip: Ip::V6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]), port: 443, scope: 3 };

    #[test]
    fn every_question_comes_back_as_itself() {
        for question in [
            Question::Connect { cookie: 7, asked: V4, v6_socket: true },
            Question::Connect { cookie: u64::MAX, asked: V6, v6_socket: false },
            Question::Peer { cookie: 1 },
            Question::Why { cookie: 2 },
            Question::Lookup { want: WANT_V4 | WANT_V6, name: b"backend" },
            Question::Lookup { want: WANT_V6, name: b"" },
            Question::Reverse { address: V6 },
            Question::Exec,
            Question::Resolver,
            Question::Nameserver { address: V4 },
            Question::Local { v6: true },
            Question::Flow { asked: V6 },
            Question::Connected { cookie: 3, fd: -1, asked: V4 },
            Question::Relayed { relay: V4 },
        ] {
            let mut buffer = [0; MESSAGE_MAX];
            let length = question.encode(&mut buffer).unwrap();
            assert_eq!(Question::decode(&buffer[..length]), Some(question));
            assert_eq!(Question::decode(&buffer[..length - 1]), None);
            assert_eq!(Question::decode(&buffer[..length + 1]), None);
        }
    }

    #[test]
    fn every_answer_comes_back_as_itself() {
        let mut list = [0; 2 * ADDRESS_LEN];
        let at = put_address(&mut list, 0, V4).unwrap();
        assert_eq!(put_address(&mut list, at, V6), Some(2 * ADDRESS_LEN));
        let addresses = AddressList::new(&list);
        assert!(addresses.eq([V4, V6]));
        for answer in [
            Answer::Pass,
            Answer::Errno(111),
            Answer::Park(V4),
            Answer::Peer(V6),
            Answer::Addresses {
                canonical: b"backend.default.svc.cluster.local",
                aliases: b"a\0bc\0",
                addresses,
            },
            Answer::Addresses { canonical: b"", aliases: b"", addresses: AddressList::new(&[]) },
            Answer::Failed(errno_of_a_missing_name()),
            Answer::Name(b"kubernetes.default.svc.cluster.local"),
            Answer::Resolver(Resolver {
                options: 0x4000,
                timeout: 5,
                attempts: 2,
                ndots: 5,
                nameservers: addresses,
                search: b"svc.cluster.local\0cluster.local\0",
            }),
            Answer::Nameserver(V6),
            Answer::Local(V6),
            Answer::Relay { relay: V4, connected: true },
            Answer::Relay { relay: V6, connected: false },
        ] {
            let mut buffer = [0; MESSAGE_MAX];
            let length = answer.encode(&mut buffer).unwrap();
            assert_eq!(Answer::decode(&buffer[..length]), Some(answer));
        }
    }

    fn errno_of_a_missing_name() -> i32 {
        crate::errno::eai::NONAME
    }

    #[test]
    fn the_largest_answer_fits_one_message() {
        let mut list = [0; ADDRESSES_MAX * ADDRESS_LEN];
        let mut at = 0;
        for _ in 0..ADDRESSES_MAX {
            at = put_address(&mut list, at, V6).unwrap();
        }
        let answer = Answer::Addresses {
            canonical: &[b'a'; NAME_MAX],
            aliases: b"",
            addresses: AddressList::new(&list[..at]),
        };
        assert!(answer.encode(&mut [0; MESSAGE_MAX]).is_some());
    }

    #[test]
    fn a_family_that_is_neither_is_refused() {
        let mut buffer = [0; MESSAGE_MAX];
        let length = Answer::Park(V4).encode(&mut buffer).unwrap();
        buffer[HEADER_LEN] = 5;
        assert_eq!(Answer::decode(&buffer[..length]), None);
    }

    #[test]
    fn a_message_does_not_outgrow_its_buffer() {
        assert_eq!(Question::Exec.encode(&mut [0; 7]), None);
        assert_eq!(Answer::Name(b"abc").encode(&mut [0; 10]), None);
    }
}
