//! Ends what a killed launcher leaves behind.
//!
//! Programs are told by the network first: with the link gone, every call fails. Those that go on after that are asked to
//! end, and then made to.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::Duration;

/// How long a program has to end by itself, and then to end on SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ends all processes in the network namespace `app`, whose link has gone.
pub(super) fn end_all(app: &OwnedFd) {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        sleep(PATIENCE);
        // One that was about to start another is looked for again.
        while signal_all(app, signal) && signal == libc::SIGKILL {
            sleep(Duration::from_millis(10));
        }
    }
}

/// Signals every process in that network namespace; whether there was one.
fn signal_all(app: &OwnedFd, signal: libc::c_int) -> bool {
    let Ok(namespace) = nix::sys::stat::fstat(app) else { return false };
    let mut found = false;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Held from before the look, so that it is not another's process by the time of the signal.
        let Ok(process) = process(pid) else { continue };
        let is_inside = std::fs::metadata(entry.path().join("ns/net"))
            .is_ok_and(|its| (its.dev(), its.ino()) == (namespace.st_dev, namespace.st_ino));
        if is_inside {
            found = true;
            // SAFETY: pidfd_send_signal takes numbers, and a null pointer for "as kill(2) does".
            let _ = unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    process.as_raw_fd(),
                    signal,
                    std::ptr::null::<()>(),
                    0,
                )
            };
        }
    }
    found
}

fn process(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    match RawFd::try_from(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }) {
        // SAFETY: the kernel has just made this descriptor, and nobody else has it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
