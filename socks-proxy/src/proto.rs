//! SOCKS5 (RFC 1928), username/password (RFC 1929), Tor's RESOLVE extension and tp's own commands, as a codec.
//!
//! Sans I/O: bytes in, values out. A port-forward turns every round trip into tens of milliseconds, so the client
//! pipelines greeting, credentials and request; that only works when each message is decoded from whatever has
//! arrived, and when the bytes after it are left alone. Every decoder therefore answers `Ok(None)` for "not all here
//! yet" and otherwise tells how many bytes it used.
//!
//! Invariants: no input panics; no decoder asks for more than [`MESSAGE_MAX`] bytes; what was decoded encodes to
//! the same bytes. No sockets, no clock, no policy: who may do what is the server's business.
#![deny(clippy::indexing_slicing)]

use std::net::{IpAddr, SocketAddr};

mod client;
mod message;
mod method;

pub use client::{Client, Step};
pub use message::{
    Command, DNS_OVER_TCP, LOOKUP_A, LOOKUP_AAAA, LOOKUP_CONFIGURED, LOOKUP_ORDERED, Reply, Request,
};
pub use method::{
    Credentials, METHOD_NONE, METHOD_PASSWORD, METHOD_REFUSED, credentials_status, decode_credentials,
    decode_greeting, greeting,
};

/// Protocol version of RFC 1928; also the first byte by which the agent knows a plain SOCKS5 client.
pub const VERSION: u8 = 5;

/// No message is longer than this many bytes: a credentials message of two 255-byte fields.
pub const MESSAGE_MAX: usize = 3 + 255 + 255;

/// `datagram length` by which the agent says "one byte of SOCKS reply code follows" in a flow of datagrams.
pub const DATAGRAM_ERROR: u16 = 0xFFFF;

/// Largest UDP payload over IPv4 in bytes (65,535 - 8 UDP - 20 IPv4), and so the longest datagram in a flow.
pub const DATAGRAM_MAX: usize = 65_507;

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address and port; flow label and scope of IPv6 are not carried by SOCKS.
    Ip(SocketAddr),
    /// A name of 1 to 255 visible ASCII bytes, resolved where the proxy stands, and a port.
    Name(String, u16),
}

impl Target {
    /// The port, in host order.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<(IpAddr, u16)> for Target {
    fn from(address: (IpAddr, u16)) -> Self {
        Self::Ip(address.into())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Bytes that are not SOCKS5, or values that SOCKS5 cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtoError {
    /// The first byte of a message is not the version it should be.
    #[error("version {got} where {wanted} was expected: the other side does not speak SOCKS5")]
    Version {
        /// The byte that came.
        got: u8,
        /// The byte that belongs there.
        wanted: u8,
    },
    /// An address type that RFC 1928 does not know. A server answers it with reply 8.
    #[error("address type {0} is not known")]
    AddressType(u8),
    /// A name with a length or with bytes that no host name has.
    #[error("a name of {length} bytes that is not 1 to 255 visible ASCII characters")]
    Name {
        /// Its length in bytes.
        length: usize,
    },
    /// A user name or password outside of RFC 1929's 1 to 255 bytes.
    #[error("a user name or password of {length} bytes where 1 to 255 are allowed")]
    Credential {
        /// Its length in bytes.
        length: usize,
    },
    /// The proxy accepts none of the methods that were offered.
    #[error("the proxy accepts none of the authentication methods offered")]
    NoMethod,
    /// The proxy chose a method that was not offered.
    #[error("the proxy chose authentication method {0:#04x}, which was not offered")]
    Method(u8),
    /// The proxy did not accept user name and password.
    #[error("the proxy refused the user name and password (status {0})")]
    Credentials(u8),
}

/// Bytes not read yet; each read is [`None`] when they do not suffice.
struct Reader<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> Reader<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        self.used = self.used.saturating_add(length);
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A field with a leading length byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }
}

/// `?` for "not all here yet".
macro_rules! need {
    ($read:expr) => {
        match $read {
            Some(value) => value,
            None => return Ok(None),
        }
    };
}
use need;

#[cfg(test)]
mod tests;
