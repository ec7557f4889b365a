//! How a wait ends when the pod said no.
//!
//! # Theory of operation
//! shutdown() on a socket in `SYN_SENT` ends the wait in one step: the kernel takes the socket back, sets `ECONNRESET`
//! as its error and wakes everybody. Done on a duplicate of the app's socket, so no other socket can have taken its port
//! meanwhile. Whoever blocks in connect() returns with that error, whoever polls finds the socket writable and in error,
//! whoever fetches `SO_ERROR` has one. The kernel cannot be made to say the true errno: the [gate](super) keeps it
//! before this runs, and the shim asks for it when the kernel has reported a failure.
//!
//! The error must come in one step. To connect the socket to a refusing port afterwards, so that the kernel itself says
//! `ECONNREFUSED`, was tried: that clears the error for some microseconds, in which a program that the first step woke
//! reads `SO_ERROR` 0 and takes itself for connected.
//!
//! A second shutdown() closes both directions, as the kernel does where the far end refuses: poll(2) says `POLLIN` and
//! `POLLRDHUP` besides, and recv(2) says end of file. That is also the mark of a failure that connect() has not told
//! yet ([`standing`]): connect(`AF_UNSPEC`) takes it away, whoever calls it.
//!
//! Linux 6.4 and 6.5 refuse all this (`EBUSY`) while a thread blocks in connect(); that thread then waits until the
//! kernel's own time-out.

use std::os::fd::OwnedFd;

use tp_abi::errno::code;
use tracing::debug;

use crate::sys::socket;

/// Fails the app's connect. Nobody must answer a question about the socket meanwhile: what an app that the first step
/// woke does next must come after the second.
pub(super) fn refuse(socket: &OwnedFd) {
    let refused = socket::shut(socket).and_then(|()| match socket::shut(socket) {
        // What the kernel says of a socket that is not connected, having shut it.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(()),
        shut => shut,
    });
    if let Err(error) = refused {
        debug!(%error, "the app's socket was taken back");
    }
}

/// What connect() says of a failure that was not told by a connect() yet: the errno, or `ECONNABORTED` where the
/// program has fetched `SO_ERROR` before. The socket can be connected anew after that, as the kernel would have it.
pub(super) fn standing(socket: &OwnedFd, errno: i32) -> i32 {
    let untold = socket::take_error(socket).is_ok_and(|error| error != 0);
    let _ = socket::disconnect(socket);
    if untold { errno } else { code::ECONNABORTED }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::gate::park::Parks;
    use crate::sys::socket::{Stage, disconnect, stage};

    /// A socket on its way to a park.
    fn waiting(parks: &Parks) -> OwnedFd {
        let app = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        app.set_nonblocking(true).unwrap();
        // A park that lets a packet in would let this one in.
        app.set_ttl_v4(255).unwrap();
        let at = parks.place(SocketAddr::from(([10, 96, 0, 7], 80)), false).unwrap();
        assert_eq!(app.connect(&at.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        let app = OwnedFd::from(app);
        assert_eq!(stage(&app).unwrap(), Stage::Busy);
        app
    }

    #[test]
    fn a_failure_is_told_once_by_the_next_connect() {
        let app = waiting(&Parks::open().unwrap());
        refuse(&app);
        assert_eq!(stage(&app).unwrap(), Stage::Ended);
        assert_eq!(standing(&app, code::EHOSTUNREACH), code::EHOSTUNREACH);
        assert_eq!(stage(&app).unwrap(), Stage::Fresh);
        assert_eq!(socket::take_error(&app).unwrap(), 0);
    }

    #[test]
    fn a_failure_that_so_error_has_told_is_an_abort_to_the_next_connect() {
        let app = waiting(&Parks::open().unwrap());
        refuse(&app);
        assert_eq!(socket::take_error(&app).unwrap(), code::ECONNRESET);
        assert_eq!(standing(&app, code::EHOSTUNREACH), code::ECONNABORTED);
        assert_eq!(stage(&app).unwrap(), Stage::Fresh);
    }

    #[test]
    fn a_socket_that_its_app_took_back_is_fresh() {
        let app = waiting(&Parks::open().unwrap());
        disconnect(&app).unwrap();
        assert_eq!(stage(&app).unwrap(), Stage::Fresh);
    }
}
