//! The app's socket behind a relay of its own, found again when it is needed.
//!
//! No copy of it is kept: a descriptor of ours would keep the app's port bound after the app has closed it. So its
//! number, its process and its inode are remembered, and a copy is taken at the moment of need (pidfd_getfd(2), which
//! asks for the same rights as ptrace(2): Yama may restrict it to our own descendants, or to nobody).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use procfs::process::{FDTarget, Process, all_processes};

use crate::sys;

/// Which socket of which process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pid: libc::pid_t,
    fd: i32,
    cookie: u64,
    inode: u64,
}

impl Owner {
    /// That of descriptor `fd` in process `pid`, of which `socket` is a copy.
    pub(super) fn of(socket: &OwnedFd, pid: libc::pid_t, fd: i32) -> io::Result<Self> {
        let inode = nix::sys::stat::fstat(socket.as_fd())?.st_ino;
        Ok(Self { pid, fd, cookie: sys::socket::cookie(socket)?, inode })
    }

    /// A copy of the socket, if some process that we may look into has it.
    pub(super) fn copy(&self) -> Option<OwnedFd> {
        self.take(self.pid, self.fd)
            .or_else(|| self.find_in(&Process::new(self.pid).ok()?))
            .or_else(|| all_processes().ok()?.flatten().find_map(|process| self.find_in(&process)))
    }

    /// It may have been moved by dup2(2), or be open in a child or in a process that it was passed to.
    fn find_in(&self, process: &Process) -> Option<OwnedFd> {
        let is_it = |target: &FDTarget| matches!(target, FDTarget::Socket(inode) if *inode == self.inode);
        let mut found = process.fd().ok()?.flatten().filter(|open| is_it(&open.target));
        found.find_map(|open| self.take(process.pid, open.fd))
    }

    fn take(&self, pid: libc::pid_t, fd: i32) -> Option<OwnedFd> {
        let copy = sys::process::descriptor_of(pid, fd).ok()?;
        sys::socket::cookie(&copy).is_ok_and(|cookie| cookie == self.cookie).then_some(copy)
    }
}
