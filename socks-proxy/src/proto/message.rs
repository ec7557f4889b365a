//! Requests and replies: RFC 1928 sections 4 to 6, Tor's `socks-extensions.txt`, and tp's commands 0xF2 to 0xF8.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ProtoError, Reader, Target, VERSION, need};

const ATYP_V4: u8 = 1;
const ATYP_NAME: u8 = 3;
const ATYP_V6: u8 = 4;

/// Bit of a LOOKUP's port: ask for A records.
pub const LOOKUP_A: u16 = 1;
/// Bit of a LOOKUP's port: ask for AAAA records.
pub const LOOKUP_AAAA: u16 = 2;
/// Bit of a LOOKUP's port: only families that the pod has an address of (`AI_ADDRCONFIG` of getaddrinfo(3)).
pub const LOOKUP_CONFIGURED: u16 = 4;

/// Bit of a LOOKUP's port: after the messages an empty one, and the addresses once more, 16 bytes each, in the order
/// in which the pod would try them.
pub const LOOKUP_ORDERED: u16 = 8;

/// Bit of a DNS request's port: ask the nameservers over TCP from the start.
pub const DNS_OVER_TCP: u16 = 1;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Connect a TCP socket; the reply comes after the dial.
    Connect,
    /// Tor's RESOLVE: the first address of a name, in the reply.
    Resolve,
    /// Tor's `RESOLVE_PTR`: the name of an address, in the reply.
    ResolvePtr,
    /// Addresses of a name by the pod's search list, as whole DNS messages after the reply.
    Lookup,
    /// DNS over TCP framing (RFC 1035, 4.2.2) with the pod's nameservers; the target is not used.
    Dns,
    /// Datagrams from and to one UDP destination, each with its length in front.
    Datagrams,
    /// The agent's own environment; the target is not used.
    Environ,
    /// The pod's resolv.conf and hosts files; the target is not used.
    Resolver,
    /// A port of the pod for a program on the laptop ([`crate::expose::wire`]); the target is not used.
    Expose,
    /// Files of the pod's volumes; the target is not used.
    Volumes,
    /// A command that this crate does not know. A server answers it with reply 7.
    Unknown(u8),
}

impl Command {
    /// The command's byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Connect => 0x01,
            Self::Resolve => 0xF0,
            Self::ResolvePtr => 0xF1,
            Self::Lookup => 0xF2,
            Self::Dns => 0xF3,
            Self::Datagrams => 0xF4,
            Self::Environ => 0xF5,
            Self::Resolver => 0xF6,
            Self::Expose => 0xF7,
            Self::Volumes => 0xF8,
            Self::Unknown(byte) => byte,
        }
    }

    /// The command of a byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => Self::Connect,
            0xF0 => Self::Resolve,
            0xF1 => Self::ResolvePtr,
            0xF2 => Self::Lookup,
            0xF3 => Self::Dns,
            0xF4 => Self::Datagrams,
            0xF5 => Self::Environ,
            0xF6 => Self::Resolver,
            0xF7 => Self::Expose,
            0xF8 => Self::Volumes,
            other => Self::Unknown(other),
        }
    }
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// With what.
    pub target: Target,
}

impl Request {
    /// A request for `command` with `target`.
    #[must_use]
    pub fn new(command: Command, target: impl Into<Target>) -> Self {
        Self { command, target: target.into() }
    }

    /// A request whose command has no use for a target ([`Command::Dns`], [`Command::Environ`],
    /// [`Command::Resolver`], [`Command::Expose`], [`Command::Volumes`]).
    #[must_use]
    pub fn bare(command: Command) -> Self {
        Self { command, target: unspecified() }
    }

    /// Appends the request to `out`.
    ///
    /// # Errors
    /// [`ProtoError::Name`] if the target's name is not 1 to 255 visible ASCII bytes; `out` is as it was then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let start = out.len();
        out.extend([VERSION, self.command.byte(), 0]);
        put_target(&self.target, out).inspect_err(|_| out.truncate(start))
    }

    /// Reads a request from the front of `bytes`: it and its length, or `None` while some of it is missing.
    ///
    /// # Errors
    /// [`ProtoError::Version`], [`ProtoError::AddressType`] and [`ProtoError::Name`]; all are final.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtoError> {
        let mut reader = Reader::new(bytes);
        need!(version(&mut reader)?);
        let command = Command::from_byte(need!(reader.u8()));
        let _reserved = need!(reader.u8());
        let target = need!(target(&mut reader)?);
        Ok(Some((Self { command, target }, reader.used)))
    }
}

/// A server's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// A code of `tp_abi::errno::reply`; 0 is success.
    pub code: u8,
    /// `BND.ADDR` and `BND.PORT`: the dialing socket's own address, or what RESOLVE and `RESOLVE_PTR` found.
    pub bound: Target,
}

impl Reply {
    /// Success without anything to tell.
    #[must_use]
    pub fn succeeded() -> Self {
        Self::failed(0)
    }

    /// A reply that tells a code and nothing else.
    #[must_use]
    pub fn failed(code: u8) -> Self {
        Self { code, bound: unspecified() }
    }

    /// Success with an address or a name.
    #[must_use]
    pub fn with(bound: impl Into<Target>) -> Self {
        Self { code: 0, bound: bound.into() }
    }

    /// Appends the reply to `out`.
    ///
    /// # Errors
    /// [`ProtoError::Name`] if a bound name is not 1 to 255 visible ASCII bytes; `out` is as it was then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtoError> {
        let start = out.len();
        out.extend([VERSION, self.code, 0]);
        put_target(&self.bound, out).inspect_err(|_| out.truncate(start))
    }

    /// Reads a reply from the front of `bytes`: it and its length, or `None` while some of it is missing.
    ///
    /// # Errors
    /// [`ProtoError::Version`], [`ProtoError::AddressType`] and [`ProtoError::Name`]; all are final.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtoError> {
        let mut reader = Reader::new(bytes);
        need!(version(&mut reader)?);
        let code = need!(reader.u8());
        let _reserved = need!(reader.u8());
        let bound = need!(target(&mut reader)?);
        Ok(Some((Self { code, bound }, reader.used)))
    }
}

fn unspecified() -> Target {
    Target::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

fn version(reader: &mut Reader<'_>) -> Result<Option<()>, ProtoError> {
    match need!(reader.u8()) {
        VERSION => Ok(Some(())),
        got => Err(ProtoError::Version { got, wanted: VERSION }),
    }
}

fn target(reader: &mut Reader<'_>) -> Result<Option<Target>, ProtoError> {
    let ip = match need!(reader.u8()) {
        ATYP_V4 => IpAddr::V4(Ipv4Addr::from(need!(reader.array::<4>()))),
        ATYP_V6 => IpAddr::V6(Ipv6Addr::from(need!(reader.array::<16>()))),
        ATYP_NAME => {
            let name = name_of(need!(reader.short()))?;
            return Ok(Some(Target::Name(name, need!(reader.u16()))));
        }
        other => return Err(ProtoError::AddressType(other)),
    };
    Ok(Some(Target::Ip(SocketAddr::new(ip, need!(reader.u16())))))
}

fn name_of(bytes: &[u8]) -> Result<String, ProtoError> {
    let bad = ProtoError::Name { length: bytes.len() };
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(bad);
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| bad)
}

fn put_target(target: &Target, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    match target {
        Target::Ip(SocketAddr::V4(address)) => {
            out.push(ATYP_V4);
            out.extend(address.ip().octets());
        }
        Target::Ip(SocketAddr::V6(address)) => {
            out.push(ATYP_V6);
            out.extend(address.ip().octets());
        }
        Target::Name(name, _) => {
            name_of(name.as_bytes())?;
            let length = u8::try_from(name.len()).map_err(|_| ProtoError::Name { length: name.len() })?;
            out.extend([ATYP_NAME, length]);
            out.extend(name.as_bytes());
        }
    }
    out.extend(target.port().to_be_bytes());
    Ok(())
}
