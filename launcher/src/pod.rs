//! The pod as interceptors see it: something that dials and resolves. They know neither Kubernetes nor SOCKS.
//!
//! Two things can stand behind it: the [agent] in a pod, over one link, and any SOCKS5 server ([proxy]).

pub mod agent;
pub mod conversation;
pub mod datagrams;
pub mod messages;
pub mod proxy;
pub mod spoken;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use socks_proxy::mux::MuxStream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tp_abi::errno::{self, code, eai};

use datagrams::Datagrams;

/// A byte stream to a service, opened from where the pod is.
pub type Stream = Box<dyn Duplex>;

/// Both halves of a byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// When this is dropped, the other end learns that the stream was cut off, not that it ended.
    fn reset_on_close(&self);

    /// Ends this, of which nothing will be read any more. The other end may learn of it a moment later.
    fn leave(self: Box<Self>) {}

    /// The socket, if it is one of this machine and nothing else is between.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl Duplex for TcpStream {
    fn reset_on_close(&self) {
        // A socket that is gone already needs no reset.
        let _ = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Duplex for DuplexStream {
    fn reset_on_close(&self) {}
}

impl Duplex for MuxStream {
    /// A dropped stream is reset unless it was shut down.
    fn reset_on_close(&self) {}

    fn leave(self: Box<Self>) {
        MuxStream::leave(*self);
    }
}

/// Why a dial did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DialError {
    /// What the app's connect() fails with.
    pub errno: i32,
    /// What happened, for the log.
    pub reason: String,
}

impl DialError {
    /// The far end's own word, as a SOCKS reply.
    #[must_use]
    pub fn from_reply(code: u8) -> Self {
        Self { errno: errno::from_reply(code), reason: format!("SOCKS reply {code}") }
    }
}

impl From<io::Error> for DialError {
    /// The way to the pod broke before it could say anything: the network is down, nobody refused.
    fn from(error: io::Error) -> Self {
        Self { errno: code::ENETDOWN, reason: format!("the session failed: {error}") }
    }
}

/// Which addresses a lookup asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Want {
    /// A records.
    pub v4: bool,
    /// AAAA records.
    pub v6: bool,
    /// Only families of which the pod has an address (`AI_ADDRCONFIG`).
    pub configured: bool,
    /// In the nameserver's order, and not in that of RFC 6724 (gethostbyname(3)).
    pub as_told: bool,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The addresses, in the order in which the pod would try them.
    pub addresses: Vec<IpAddr>,
    /// The name that the addresses belong to, at the end of all aliases.
    pub canonical: String,
    /// The names that led there, in order.
    pub aliases: Vec<String>,
    /// How long this may be kept.
    pub ttl: Duration,
}

/// Why a lookup found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LookupError {
    /// What getaddrinfo() fails with (`EAI_*`).
    pub eai: i32,
    /// How long that may be kept (RFC 2308); nothing for a failure that may pass.
    pub ttl: Duration,
    /// What happened, for the log.
    pub reason: String,
}

impl LookupError {
    /// A failure that may be gone at the next try.
    #[must_use]
    pub fn passing(reason: impl ToString) -> Self {
        Self { eai: eai::AGAIN, ttl: Duration::ZERO, reason: reason.to_string() }
    }

    /// What a SOCKS reply to a lookup means.
    #[must_use]
    pub fn from_reply(code: u8) -> Self {
        let (eai, reason) = match code {
            errno::reply::HOST_UNREACHABLE => (eai::NONAME, "no such name"),
            errno::reply::TTL_EXPIRED => (eai::AGAIN, "no nameserver answered in time"),
            _ => (eai::FAIL, "the lookup was refused"),
        };
        Self { eai, ttl: Duration::ZERO, reason: format!("{reason} (SOCKS reply {code})") }
    }
}

impl From<io::Error> for LookupError {
    fn from(error: io::Error) -> Self {
        Self::passing(format!("the session failed: {error}"))
    }
}

/// Where the apps' connections and lookups go.
pub trait Pod: Send + Sync + 'static {
    /// Opens a connection to `target` from the pod. It returns when the far end has accepted or refused.
    fn dial(&self, target: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>>;

    /// Whether [`Pod::datagrams`] is of any use for that target.
    fn carries_datagrams(&self, target: SocketAddr) -> bool;

    /// Opens a flow of datagrams to and from `target`. It returns without having heard of the pod, which may refuse the
    /// flow when the first answer is awaited.
    fn datagrams(&self, target: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>>;

    /// Looks a name up as the pod would: its resolv.conf, its hosts file.
    fn lookup(&self, name: String, want: Want) -> BoxFuture<'_, Result<Found, LookupError>>;

    /// The address of that family from which the pod's connections come. None where that is not known: a SOCKS server tells
    /// at most where it dialed from.
    fn own_address(&self, v6: bool) -> Option<IpAddr> {
        let _ = v6;
        None
    }

    /// Waits until the pod has all that left so far, if that can be known.
    fn settle(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// Looks up the name of an address.
    fn reverse(&self, address: IpAddr) -> BoxFuture<'_, Result<String, LookupError>>;
}
