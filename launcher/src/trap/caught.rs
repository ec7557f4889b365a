//! One caught call: what can be learned of the program that makes it, and how it is answered.
//!
//! Numbers of threads are used again, and the program runs on while its call waits. So what was read counts only when
//! the call [still waits](Caught::waits) afterwards; and another thread may change memory after it was looked at: this is
//! no wall between a program and the network, as `LD_PRELOAD` is none.
//!
//! What cannot be read or found is left to the kernel, which then says `EFAULT` or `EBADF` as ever. What may not be looked
//! at fails: nothing that names an address goes by unseen.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::time::Instant;
use tp_abi::decide::Socket;
use tp_abi::errno::{LAUNCHER_GONE, code};
use tracing::{debug, warn};

use super::layout::{Block, Width};
use crate::sys;
use crate::sys::seccomp::{self, Notification};

/// A filter's listener.
pub(super) type Listener = Arc<AsyncFd<OwnedFd>>;

/// How soon a call that waits for something else is looked at again, and how seldom in the end: its thread may take a
/// signal or be killed, of which the kernel tells nobody.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// A call that waits for its answer.
#[derive(Clone)]
pub(super) struct Caught {
    pub(super) listener: Listener,
    pub(super) notification: Notification,
    pub(super) width: Width,
}

/// An answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// The kernel makes the call as it is.
    Proceeds,
    /// It fails with this errno.
    Fails(i32),
    /// It returns this when that was written into the program's memory.
    Returns(i64, Vec<(u64, Vec<u8>)>),
    /// It returns a descriptor of this file.
    Opens { file: OwnedFd, close_on_exec: bool },
    /// There is nobody any more to be answered.
    Gone,
}

/// What an answer is made of, or the answer if that is known already.
pub(super) type Step<T> = Result<T, Reply>;

impl Reply {
    pub(super) const fn returns(value: i64) -> Self {
        Self::Returns(value, Vec::new())
    }

    /// The failure of a call that was made for the program.
    pub(super) fn failed(error: &io::Error) -> Self {
        Self::Fails(error.raw_os_error().unwrap_or(LAUNCHER_GONE))
    }

    pub(super) fn of(result: io::Result<()>) -> Self {
        result.map_or_else(|error| Self::failed(&error), |()| Self::returns(0))
    }
}

impl Caught {
    /// The thread that makes the call.
    pub(super) const fn thread(&self) -> Pid {
        Pid::from_raw(self.notification.thread)
    }

    /// Whether the call still waits.
    pub(super) fn waits(&self) -> bool {
        seccomp::is_waiting(&*self.listener, self.notification.id)
    }

    /// Reads as much as is there.
    pub(super) fn read<'r>(&self, at: u64, room: &'r mut [u8]) -> Step<&'r [u8]> {
        let length = room.len();
        let read = self.gather(&[Block { at, length: length as u64 }], room)?;
        Ok(room.get(..read).unwrap_or(room))
    }

    /// Reads so many bytes.
    pub(super) fn read_all<const N: usize>(&self, at: u64) -> Step<[u8; N]> {
        let mut room = [0; N];
        if self.read(at, &mut room)?.len() < N {
            return Err(Reply::Proceeds);
        }
        Ok(room)
    }

    /// Reads a block whole, if it is not longer than `limit`.
    pub(super) fn read_block(&self, block: Block, limit: usize) -> Step<Vec<u8>> {
        let length = usize::try_from(block.length).ok().filter(|length| *length <= limit);
        let mut room = vec![0; length.ok_or(Reply::Proceeds)?];
        if self.read(block.at, &mut room)?.len() < room.len() {
            return Err(Reply::Proceeds);
        }
        Ok(room)
    }

    /// Reads blocks one behind the other; gives how much was there.
    pub(super) fn gather(&self, blocks: &[Block], room: &mut [u8]) -> Step<usize> {
        let remote: Vec<_> = blocks.iter().filter_map(remote).collect();
        if remote.is_empty() || room.is_empty() {
            return Ok(0);
        }
        let read = process_vm_readv(self.thread(), &mut [IoSliceMut::new(room)], &remote);
        read.map_err(|errno| self.unreadable(errno))
    }

    /// A copy of descriptor `fd`.
    pub(super) fn socket(&self, fd: i32) -> Step<OwnedFd> {
        let copy = self.copy(fd)?;
        // What was read before this was this program's, too.
        if self.waits() { Ok(copy) } else { Err(Reply::Gone) }
    }

    /// A copy of descriptor `fd`, of a thread that may have taken a signal meanwhile.
    pub(super) fn copy(&self, fd: i32) -> Step<OwnedFd> {
        let copy = sys::process::descriptor_of_thread(self.notification.thread, fd);
        copy.map_err(|error| match error.raw_os_error() {
            Some(libc::EBADF) => Reply::Proceeds,
            _ if sys::socket::is_exhausted(&error) => Reply::Fails(code::ENOBUFS),
            _ => self.unreadable(error.raw_os_error().map_or(Errno::EPERM, Errno::from_raw)),
        })
    }

    fn unreadable(&self, errno: Errno) -> Reply {
        match errno {
            Errno::EFAULT => Reply::Proceeds,
            Errno::ESRCH => Reply::Gone,
            _ if !self.waits() => Reply::Gone,
            _ => {
                warn!(thread = self.notification.thread, %errno, "a program may not be looked into: its call fails");
                Reply::Fails(LAUNCHER_GONE)
            }
        }
    }

    /// Waits until `take` gives something other than "would block". It is asked only while the call still waits.
    pub(super) async fn until<T>(
        &self,
        socket: &OwnedFd,
        interest: Interest,
        limit: Option<Duration>,
        mut take: impl FnMut() -> io::Result<T>,
    ) -> Step<io::Result<T>> {
        match take() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            taken => return Ok(taken),
        }
        let watched = match sys::watch(socket.as_fd(), interest) {
            Ok(watched) => watched,
            Err(error) => return Ok(Err(error)),
        };
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut look = LOOKS.0;
        loop {
            let pause = deadline.map_or(look, |deadline| look.min(deadline - Instant::now()));
            let ready = tokio::time::timeout(pause, watched.ready(interest)).await;
            if !self.waits() {
                return Err(Reply::Gone);
            }
            match ready {
                Err(_elapsed) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Ok(Err(io::Error::from_raw_os_error(libc::EAGAIN)));
                }
                Err(_elapsed) => look = LOOKS.1.min(look * 2),
                Ok(Err(error)) => return Ok(Err(error)),
                Ok(Ok(mut ready)) => match take() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready_matching(Ready::ALL);
                    }
                    taken => return Ok(taken),
                },
            }
        }
    }

    /// Gives the answer; `false` if the call did not wait for it any more.
    pub(super) fn deliver(&self, reply: &Reply) -> bool {
        let Notification { id, .. } = self.notification;
        let told = match reply {
            Reply::Gone => return true,
            Reply::Proceeds => seccomp::proceed(&*self.listener, id),
            Reply::Fails(errno) => seccomp::finish(&*self.listener, id, 0, *errno),
            Reply::Opens { file, close_on_exec } => seccomp::give(&*self.listener, id, file, *close_on_exec)
                .or_else(|error| match error.raw_os_error() {
                    Some(errno) if errno != libc::ENOENT => seccomp::finish(&*self.listener, id, 0, errno),
                    _ => Err(error),
                }),
            Reply::Returns(..) if !self.waits() => return false,
            Reply::Returns(value, writes) => match self.write(writes) {
                Ok(()) => seccomp::finish(&*self.listener, id, *value, 0),
                Err(errno) => seccomp::finish(&*self.listener, id, 0, errno as i32),
            },
        };
        if let Err(error) = &told {
            debug!(%error, "a call was not waiting for its answer");
        }
        told.is_ok()
    }

    fn write(&self, writes: &[(u64, Vec<u8>)]) -> nix::Result<()> {
        for (at, bytes) in writes.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let block = Block { at: *at, length: bytes.len() as u64 };
            let remote: Vec<_> = remote(&block).into_iter().collect();
            let written = process_vm_writev(self.thread(), &[io::IoSlice::new(bytes)], &remote)?;
            if written < bytes.len() {
                return Err(Errno::EFAULT);
            }
        }
        Ok(())
    }
}

fn remote(block: &Block) -> Option<RemoteIoVec> {
    let (base, len) = (usize::try_from(block.at).ok()?, usize::try_from(block.length).ok()?);
    Some(RemoteIoVec { base, len })
}

/// What the kernel says about a socket; what is none is the kernel's to refuse.
pub(super) fn facts(socket: &OwnedFd) -> Step<Socket> {
    sys::socket::facts(socket).map_err(|_not_one| Reply::Proceeds)
}
