//! How a wait ends when the pod said no.
//!
//! # Theory of operation
//! connect(`AF_UNSPEC`) on a duplicate of the app's socket (so no other socket can have taken its port meanwhile) ends
//! the wait in one step: the kernel sets `ECONNRESET` as the socket's error and wakes everybody. Whoever blocks in
//! connect() returns with an error, whoever polls finds the socket writable and in error, whoever fetches `SO_ERROR` has
//! one. The kernel cannot be made to say the true errno; the [gate](super) keeps it before this runs, and the shim asks
//! for it when the kernel has reported a failure.
//!
//! It must be one step. To connect the socket to a refusing port afterwards, so that the kernel itself says
//! `ECONNREFUSED`, was tried: that clears the error for some microseconds, in which a program that the first step woke
//! reads `SO_ERROR` 0 and takes itself for connected.
//!
//! Linux 6.4 and 6.5 refuse it (`EBUSY`) while a thread blocks in connect(); that thread then waits until the kernel's own
//! time-out.

use std::io;
use std::os::fd::OwnedFd;

use super::meet;
use crate::sys::socket;

/// Fails the app's connect.
pub(super) async fn refuse(socket: &OwnedFd) -> io::Result<()> {
    meet::until_parked(socket).await?;
    socket::disconnect(socket)
}
