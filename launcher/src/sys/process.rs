//! What a child must not inherit from the launcher: its signal mask and its limit of open files. What it has and the
//! launcher has not: namespaces. And what the launcher takes from an app: a copy of a descriptor.
//!
//! The launcher reads signals from a signalfd, which needs them blocked in every thread; a blocked mask is inherited
//! over exec (signal(7)), so the child must be given the mask back that the launcher itself was started with.

use std::ffi::{CStr, CString};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::{Pid, chdir, fchdir};

/// `PIDFD_THREAD` of linux/pidfd.h (Linux 6.9).
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;

/// Soft and hard limit of open files.
pub type FileLimit = (u64, u64);

/// Raises the soft limit of open files to the hard one, since every connection takes a descriptor here. Gives the
/// limits as they were: programs that use select(2) rely on the soft one.
///
/// # Errors
/// Those of setrlimit(2).
pub fn raise_file_limit() -> io::Result<FileLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok((soft, hard))
}

/// Makes the child start with `mask` as its signal mask and `files` as its limit of open files.
pub fn restore_in_child(command: &mut Command, mask: SigSet, files: FileLimit) {
    // SAFETY: the closure runs between fork and exec and makes two system calls; it neither
    // allocates nor locks, and captures plain values.
    unsafe {
        command.pre_exec(move || {
            setrlimit(Resource::RLIMIT_NOFILE, files.0, files.1)?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(io::Error::from)
        });
    }
}

/// Namespaces in which programs of a run are, and the launcher is not.
#[derive(Debug)]
pub struct Within {
    user: Option<OwnedFd>,
    mounts: OwnedFd,
    /// The launcher's working folder: its path, and itself.
    folder: (CString, OwnedFd),
}

impl Within {
    /// Of a mount namespace and the user namespace that it belongs to, unless that is the launcher's own.
    ///
    /// # Errors
    /// If the working folder cannot be opened.
    pub fn new(mounts: OwnedFd, user: Option<OwnedFd>) -> io::Result<Self> {
        let path = std::env::current_dir().unwrap_or_default();
        let path = CString::new(path.into_os_string().into_vec()).unwrap_or_default();
        let itself = nix::fcntl::open(c".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { user, mounts, folder: (path, itself) })
    }

    /// Entering mounts moves a process to the root folder (setns(2)). The working folder's path leads to what is there for
    /// programs; one that has none is as good as it was.
    fn enter(&self) -> io::Result<()> {
        if let Some(user) = &self.user {
            setns(user, CloneFlags::CLONE_NEWUSER)?;
        }
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
        chdir(self.folder.0.as_c_str()).or_else(|_| fchdir(&self.folder.1))?;
        Ok(())
    }
}

/// Makes the child start in these namespaces.
pub fn start_within(command: &mut Command, within: Arc<Within>) {
    // SAFETY: the closure runs between fork and exec, in a process of one thread as setns(2) wants it, and makes system
    // calls only; it neither allocates nor locks, and what it reads was made before.
    unsafe {
        command.pre_exec(move || within.enter());
    }
}

/// execve(2) past libc, which a shim may have taken over. Returns only if it fails.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: a string, and two arrays of strings that end with null; all outlive the call.
    unsafe {
        libc::syscall(libc::SYS_execve, program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}

/// A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6).
///
/// # Errors
/// Those of `pidfd_open` and `pidfd_getfd`; `EPERM` where ptrace(2) would not be allowed.
pub fn descriptor_of(pid: libc::pid_t, fd: RawFd) -> io::Result<OwnedFd> {
    let process = own(|| {
        // SAFETY: pidfd_open takes two numbers.
        unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }
    })?;
    own(|| {
        // SAFETY: pidfd_getfd takes three numbers.
        unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) }
    })
}

/// As [`descriptor_of`], of the process that a thread belongs to.
///
/// # Errors
/// As there; `EBADF` if the process has no such descriptor.
pub fn descriptor_of_thread(thread: libc::pid_t, fd: RawFd) -> io::Result<OwnedFd> {
    let process = own(|| {
        // SAFETY: pidfd_open takes two numbers.
        unsafe { libc::syscall(libc::SYS_pidfd_open, thread, PIDFD_THREAD) }
    });
    match process {
        Ok(thread) => own(|| {
            // SAFETY: pidfd_getfd takes three numbers.
            unsafe { libc::syscall(libc::SYS_pidfd_getfd, thread.as_raw_fd(), fd, 0) }
        }),
        // Before Linux 6.9 there is none of a thread.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => descriptor_of(process_of(thread)?, fd),
        Err(error) => Err(error),
    }
}

/// Whether the memory of another process can be read and written (process_vm_readv(2)). It is asked where nothing is
/// mapped: whoever may do it is told so.
///
/// # Errors
/// `EPERM` where ptrace(2) would not be allowed, or a seccomp filter refuses it.
pub fn memory_of(process: libc::pid_t) -> io::Result<()> {
    let process = Pid::from_raw(process);
    let nowhere = [RemoteIoVec { base: 0, len: 1 }];
    let read = process_vm_readv(process, &mut [IoSliceMut::new(&mut [0])], &nowhere);
    let written = process_vm_writev(process, &[IoSlice::new(&[0])], &nowhere);
    for outcome in [read, written] {
        match outcome {
            Ok(_) | Err(Errno::EFAULT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The process that a thread belongs to (`Tgid` of proc_pid_status(5)).
///
/// # Errors
/// If the thread is gone.
pub fn process_of(thread: libc::pid_t) -> io::Result<libc::pid_t> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.and_then(|group| group.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Makes a system call that gives a new descriptor.
fn own(call: impl FnOnce() -> libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(call()) {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
