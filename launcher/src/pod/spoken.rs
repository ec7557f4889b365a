//! What the shim is told of a SOCKS5 server with which it may speak by itself: the user's, or the launcher's own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use tp_abi::env::{PROXY_NAMES, PROXY_TP};

/// A SOCKS5 server with which the shim may speak by itself ([`tp_abi::env::PROXY`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Where it is.
    pub address: SocketAddr,
    /// What it is.
    pub kind: SpokenKind,
}

/// What can be said to a SOCKS5 server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpokenKind {
    /// It resolves names for others.
    Plain,
    /// It resolves names as it connects.
    TakesNames,
    /// It is the launcher's own, which has this port on `::1`, too, or 0, and shows this in its replies.
    Launchers(u16, u128),
}

impl fmt::Display for Spoken {
    /// As the variable has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.ip() {
            IpAddr::V4(ip) => write!(f, "{:08x}", u32::from(ip))?,
            IpAddr::V6(ip) => write!(f, "{:032x}", u128::from(ip))?,
        }
        write!(f, ",{}", self.address.port())?;
        match self.kind {
            SpokenKind::Plain => Ok(()),
            SpokenKind::TakesNames => write!(f, ",{PROXY_NAMES}"),
            SpokenKind::Launchers(v6_port, sign) => write!(f, ",{PROXY_TP},{v6_port},{sign:032x}"),
        }
    }
}
