//! The listener of a seccomp filter (seccomp_unotify(2)): calls that wait for an answer, and the answers.
//!
//! A call is named by a number that is never used again. It is gone when its thread was killed or took a signal; whatever was
//! learned about a process by its number is to be believed only if the call still waits after that
//! ([`is_waiting`]), since numbers of processes are used again.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6): caller and supervisor take turns on one processor.
const SYNC_WAKE_UP: u64 = 1;

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its name.
    pub id: u64,
    /// The thread that makes it.
    pub thread: libc::pid_t,
    /// `AUDIT_ARCH_*`: by which table its number is to be read.
    pub arch: u32,
    /// The system call's number.
    pub number: i32,
    /// Where in the program it is made.
    pub instruction: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Has the thread that makes a call and the one that answers it wake each other without a detour, where that is known.
pub fn take_turns(listener: &impl AsFd) {
    // SAFETY: the call takes a number.
    let _ = unsafe {
        libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP)
    };
}

/// The next call that waits; nothing if there is none now.
///
/// # Errors
/// `BrokenPipe` when no process has the filter any more; those of ioctl(2).
pub fn receive(listener: &impl AsFd) -> io::Result<Option<Notification>> {
    loop {
        // The ioctl would wait.
        let mut polled = libc::pollfd { fd: listener.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer is to one pollfd that outlives the call, which waits for nothing.
        check(unsafe { libc::poll(&raw mut polled, 1, 0) })?;
        if polled.revents & libc::POLLIN == 0 {
            let over = polled.revents & libc::POLLHUP != 0;
            return if over { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(None) };
        }
        // SAFETY: the struct is integers, for which zero is a value; the kernel wants it zeroed.
        let mut waiting: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        match ioctl(listener.as_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut waiting) {
            Ok(_) => {
                return Ok(Some(Notification {
                    id: waiting.id,
                    thread: waiting.pid.cast_signed(),
                    arch: waiting.data.arch,
                    number: waiting.data.nr,
                    instruction: waiting.data.instruction_pointer,
                    arguments: waiting.data.args,
                }));
            }
            // It was gone before it could be read.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the call still waits.
#[must_use]
pub fn is_waiting(listener: &impl AsFd, id: u64) -> bool {
    let mut id = id;
    ioctl(listener.as_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_ok()
}

/// Has the kernel make the call as it is.
///
/// # Errors
/// `NotFound` if it does not wait any more.
pub fn proceed(listener: &impl AsFd, id: u64) -> io::Result<()> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    answer(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
}

/// Has the call return `value`, or fail with `errno` if that is not 0.
///
/// # Errors
/// `NotFound` if it does not wait any more.
pub fn finish(listener: &impl AsFd, id: u64, value: i64, errno: i32) -> io::Result<()> {
    answer(listener, libc::seccomp_notif_resp { id, val: value, error: -errno, flags: 0 })
}

/// Gives the process a copy of `file` and has the call return its number.
///
/// # Errors
/// `NotFound` if it does not wait any more; `EMFILE` if the process has no room.
pub fn give(listener: &impl AsFd, id: u64, file: &impl AsFd, close_on_exec: bool) -> io::Result<()> {
    let mut added = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_fd().as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    ioctl(listener.as_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut added).map(drop)
}

fn answer(listener: &impl AsFd, mut answer: libc::seccomp_notif_resp) -> io::Result<()> {
    ioctl(listener.as_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer).map(drop)
}

fn ioctl<T>(listener: BorrowedFd<'_>, request: libc::Ioctl, argument: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: each request above goes with the struct that the kernel reads and writes for it.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), request, std::ptr::from_mut(argument)) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
