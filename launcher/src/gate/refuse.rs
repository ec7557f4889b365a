//! How a wait ends when the pod said no.
//!
//! # Theory of operation
//! On a duplicate of the app's socket (so no port can be taken over by another socket meanwhile):
//! 1. connect(`AF_UNSPEC`) ends the wait. Whoever blocks in connect() returns with an error, whoever polls is woken.
//! 2. A non-blocking socket then connect()s to a port that refuses, which leaves `ECONNREFUSED` in `SO_ERROR` and in
//!    a second connect(), as a refusal by the far end would. (On a blocking socket that call would take the error
//!    for itself, and the app has it from step 1 already.)
//!
//! The kernel cannot be made to say another errno. The true one is kept by the [gate](super) before this runs, and
//! the shim asks for it when the kernel has reported a failure.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::meet;
use crate::sys::socket;

/// Fails the app's connect. `closed` is an address on which nobody listens.
pub(super) async fn refuse(socket: &OwnedFd, closed: SocketAddr) -> io::Result<()> {
    meet::until_parked(socket).await?;
    socket::disconnect(socket)?;
    if socket::is_non_blocking(socket)? {
        match socket::connect(socket, spelled_for(socket, closed)?) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// An `AF_INET6` socket takes an IPv4 address only in its v4-mapped spelling (RFC 4291, 2.5.5.2).
fn spelled_for(socket: &OwnedFd, address: SocketAddr) -> io::Result<SocketAddr> {
    let v6_socket = socket2::SockRef::from(socket).domain()? == socket2::Domain::IPV6;
    Ok(match address {
        SocketAddr::V4(v4) if v6_socket => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        other => other,
    })
}
