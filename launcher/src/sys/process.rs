//! Signal masks around fork and exec.
//!
//! The launcher reads signals from a signalfd, which needs them blocked in every thread; a blocked mask is inherited
//! over exec (signal(7)), so the child must be given the mask back that the launcher itself was started with.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Makes the child start with `mask` as its signal mask.
pub fn restore_mask_in_child(command: &mut Command, mask: SigSet) {
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe system call; it neither
    // allocates nor locks, and captures a plain value.
    unsafe {
        command.pre_exec(move || {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(std::io::Error::from)
        });
    }
}
