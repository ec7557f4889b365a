//! The only room of the launcher in which `unsafe` may stand: socket options, descriptors from control messages and
//! process calls that no safe crate wraps. Everything here takes and gives owned or borrowed descriptors and
//! `io::Result`; no policy.

pub mod diagnose;
pub mod message;
pub mod process;
pub mod seccomp;
pub mod socket;

use std::io;
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime that this is called in watch a descriptor.
///
/// # Errors
/// If it cannot watch one more.
pub fn watch<T: Descriptor>(descriptor: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: T holds its descriptor for as long as it lives, gives the same one every time, and gives it to nobody:
    // that is what `Descriptor` is for, and it is implemented in this file alone. (A borrowed one cannot be closed while it
    // is borrowed.)
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(Into::into)
}

/// Types that own or borrow one descriptor, the same from construction to drop.
pub trait Descriptor: AsFd + std::os::fd::AsRawFd {}
impl Descriptor for std::os::fd::OwnedFd {}
impl Descriptor for std::os::fd::BorrowedFd<'_> {}
impl Descriptor for nix::sys::signalfd::SignalFd {}
