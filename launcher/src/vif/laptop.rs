//! What stays on the laptop (`--local`, `--only`), opened from the launcher's own network: the program's has no way there.

use std::net::SocketAddr;

use tokio::io::duplex;
use tokio::net::TcpStream;
use tp_abi::errno::code;
use tracing::debug;

use crate::pod::datagrams::Datagrams;
use crate::pod::{DialError, Stream};

/// Bytes of datagrams that wait for the socket.
const QUEUE: usize = 256 * 1024;

/// Opens a connection.
pub(super) async fn dial(target: SocketAddr) -> Result<Stream, DialError> {
    let stream = TcpStream::connect(target).await.map_err(|error| DialError {
        errno: error.raw_os_error().unwrap_or(code::ENETUNREACH),
        reason: error.to_string(),
    })?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// Opens a flow of datagrams. The agent's own code carries it, at the other end of a pipe within this process.
pub(super) async fn datagrams(target: SocketAddr) -> Result<Datagrams, DialError> {
    let socket = socks_proxy::datagrams::connect(&[target]).await.map_err(DialError::from_reply)?;
    let (ours, its) = duplex(QUEUE);
    tokio::spawn(async move {
        let ended = socks_proxy::datagrams::carry(its, &socket).await;
        debug!(?ended, %target, "a flow of the laptop's own network ended");
    });
    Ok(Datagrams::new(Box::new(ours), None))
}
