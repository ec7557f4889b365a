//! Which program gets which HTTP request of a port that several have a share in.
//!
//! A connection of a client is kept alive and carries requests of anybody, so a filter cannot be decided once a
//! connection: each request of HTTP/1.1 and each stream of HTTP/2 goes to the first filter that it matches, and else to the
//! program of whoever exposes the port without a filter, and else to the app. The kubelet's probes are the app's.
//!
//! HTTP/1 is passed through, not spoken: heads are read (`httparse`) for where they go and where the message ends, and the
//! very bytes are sent on, so that names' case and order, chunk borders, extensions and trailers stay the client's own. A
//! library that speaks HTTP/1 on both sides cannot promise that. HTTP/2 cannot be passed through (its header compression
//! has one state a connection, which two programs cannot share), so `h2` speaks it on both sides.
//!
//! Invariants: two sides never take the same bytes for different requests: where a message is not framed in the one way that
//! everybody understands, nothing after it is interpreted any more, and the whole rest of the connection is one program's.
//! What is not HTTP is for the program without a filter, or else for the app, byte for byte. What is kept of a connection is bounded, and nobody is read faster than the
//! other side takes it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::mux::MuxStream;

mod exchange;
mod filter;
pub mod framing;
mod http1;
mod http2;
mod routes;
mod visit;
mod wire;

pub use routes::{Registration, Routes};

use visit::Visit;
use wire::Wire;

/// Most bytes of a message's head, and most that is read of a client ahead of its turn.
pub const HEAD_MAX: usize = 64 * 1024;
/// A client that has said nothing for so long may be waiting for the app to talk first.
const HUSH: Duration = Duration::from_secs(1);
/// A head that does not become whole for so long is not waited for.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// A client that asks nothing for so long, while no app is there to end its connection, is let go.
const IDLE: Duration = Duration::from_secs(600);
/// How long after the end of its connection a program's leave may come.
const LEAVE: Duration = Duration::from_secs(1);
/// Time for a dial, the laptop's word that it takes the connection included.
const DIAL: Duration = Duration::from_secs(15);

/// A connection that can be torn so that the other end sees it was.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the coming drop a reset instead of an orderly end.
    fn reset_on_drop(&mut self);
}

impl Connection for TcpStream {
    fn reset_on_drop(&mut self) {
        // It fails on a socket that is closed already, and then there is nothing left to reset.
        drop(self.set_zero_linger());
    }
}

impl Connection for MuxStream {
    fn reset_on_drop(&mut self) {
        // A stream that is dropped is reset as it is.
    }
}

impl Connection for UnixStream {
    fn reset_on_drop(&mut self) {
        // The kernel resets it if anything is unread; there is no other way.
    }
}

/// Any of them.
pub type Stream = Box<dyn Connection>;

/// Why there is no connection to a program.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its side gives this client back: the program has just ended.
    #[error("the program is gone, and the app is to serve it")]
    NotMine,
    /// It could not be reached.
    #[error("the program cannot be reached")]
    Failed(#[source] io::Error),
}

/// Where requests go: the app, the laptop's program, another agent.
pub trait Upstream: Send + Sync {
    /// A new connection, on behalf of that client.
    fn connect(&self, visitor: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>>;
}

impl Connection for Stream {
    fn reset_on_drop(&mut self) {
        (**self).reset_on_drop();
    }
}

impl fmt::Debug for dyn Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl fmt::Debug for dyn Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstream")
    }
}

/// Who came.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address of the pod that it asked for.
    pub to: SocketAddr,
    /// It may be the kubelet.
    pub probed: Probed,
}

/// What of a client is taken for the kubelet's asking whether the app is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Nothing: it comes from elsewhere, or the app is not asked here.
    No,
    /// Its requests that call themselves a probe.
    ByHttp,
    /// These, and whatever it says by TLS, which nobody here can look into.
    ByTls,
}

/// Serves one client to its end.
pub async fn serve(client: Stream, visitor: Visitor, routes: &Routes) {
    let visit = Visit::new(visitor, routes);
    let client = Wire::new(client);
    if let Some(client) = http1::serve(client, visit.clone()).await {
        http2::serve(client, visit).await;
    }
}

/// What a client reads whose request has reached nobody.
fn refusal(error: &io::Error) -> String {
    format!("tp: the program that serves this request cannot be reached: {error}\n")
}

#[cfg(test)]
mod tests;
