//! The command: started with the shim, given its signals, and its end reported as its own.
//!
//! It stays in the launcher's process group, so that job control and the terminal treat both as one: Ctrl-C, Ctrl-Z
//! and a lost terminal reach it from the kernel. The launcher takes signals from a signalfd, because only that tells
//! them apart: one that the terminal sent has reached the command already, one that was sent to the launcher alone is
//! passed on.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;

use crate::sys;
use crate::sys::process::FileLimit;

/// Signals that mean the program, not the launcher.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
];

/// What the launcher changes about its own process, and what it was: signals, blocked in the whole process and read
/// one at a time, and the limit of open files.
pub struct Blocked {
    signals: SignalFd,
    original: SigSet,
    files: FileLimit,
}

impl Blocked {
    /// Blocks the signals that the launcher handles and raises its limit of open files. Call before any thread is
    /// started: they inherit the mask.
    ///
    /// # Errors
    /// Those of sigprocmask(2), signalfd(2) and setrlimit(2).
    pub fn new() -> io::Result<Self> {
        let files = sys::process::raise_file_limit()?;
        let original = SigSet::thread_get_mask()?;
        let mut mask = SigSet::empty();
        for signal in PASSED_ON {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { signals, original, files })
    }

    /// Makes them readable in the runtime that this is called in.
    ///
    /// # Errors
    /// If the runtime cannot watch one more descriptor.
    pub fn watch(self) -> io::Result<Signals> {
        Ok(Signals {
            fd: sys::watch(self.signals, Interest::READABLE)?,
            original: self.original,
            files: self.files,
        })
    }
}

/// The signals that the launcher gets.
pub struct Signals {
    fd: AsyncFd<SignalFd>,
    original: SigSet,
    files: FileLimit,
}

impl Signals {
    async fn next(&mut self) -> io::Result<siginfo> {
        self.fd
            .async_io_mut(Interest::READABLE, |signals| match signals.read_signal() {
                Ok(Some(signal)) => Ok(signal),
                Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                Err(errno) => Err(errno.into()),
            })
            .await
    }

    /// Waits for a signal that ends the launcher while there is no command yet. Gives its number.
    pub async fn interrupted(&mut self) -> i32 {
        loop {
            match self.next().await.map(number) {
                Ok(Some(signal @ (Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT))) => {
                    return signal as i32;
                }
                Ok(_) => {}
                Err(error) => {
                    debug!(%error, "signals cannot be read");
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn number(signal: siginfo) -> Option<Signal> {
    Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok()
}

/// Runs the command to its end, passing signals on.
///
/// # Errors
/// If it cannot be started.
pub async fn run(mut command: Command, signals: &mut Signals) -> io::Result<ExitStatus> {
    sys::process::restore_in_child(&mut command, signals.original, signals.files);
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    loop {
        tokio::select! {
            ended = child.wait() => return ended,
            signal = signals.next() => pass_on(signal?, pid),
        }
    }
}

fn pass_on(signal: siginfo, child: Option<Pid>) {
    let (Some(number), Some(child)) = (number(signal), child) else { return };
    // The kernel's own (from the terminal, to the whole group) have reached the child already.
    if signal.ssi_code == libc::SI_KERNEL {
        return;
    }
    debug!(%number, "passed on");
    if let Err(error) = kill(child, number) {
        debug!(%error, "the command was gone");
    }
}

/// The exit code that a shell would report: the command's own, or 128 plus the signal that ended it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(125);
    u8::try_from(code & 0xff).unwrap_or(125)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signals_end_is_128_and_its_number() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGTERM)), 143);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGKILL | 0x80)), 137);
    }
}
