//! What a child must not inherit from the launcher: its signal mask and its limit of open files.
//!
//! The launcher reads signals from a signalfd, which needs them blocked in every thread; a blocked mask is inherited
//! over exec (signal(7)), so the child must be given the mask back that the launcher itself was started with.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

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
