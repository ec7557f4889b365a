//! A [process of ours](tp_inside::hold) that holds namespaces: how it is started and spoken to.
//!
//! The launcher has threads, and so makes no namespaces; what makes them is a child of it, and its standard input is the
//! one socket that they share. The end of that socket is what a holder ends by.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, send, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tp_inside::orders::{Answer, MESSAGE_MAX};
use tracing::debug;

use crate::sys;
use crate::sys::process::Within;

/// A running holder.
pub struct Holder {
    socket: AsyncFd<OwnedFd>,
    /// Its folder in /proc.
    process: PathBuf,
    /// Cancelled when it has ended.
    pub gone: CancellationToken,
}

impl Holder {
    /// Starts `inside` as one, in namespaces if any are given.
    ///
    /// # Errors
    /// Those of socketpair(2) and of starting a program.
    pub fn start(
        inside: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        within: Option<&Arc<Within>>,
    ) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        nix::fcntl::fcntl(&its, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
        let mut command = Command::new(inside);
        command.args(arguments).env_clear();
        // It may outlive the launcher, and whoever reads what that writes waits for the end of all writers.
        command.stdin(Stdio::from(its)).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(within) = within {
            sys::process::start_within(command.as_std_mut(), Arc::clone(within));
        }
        let child = command.spawn()?;
        drop(command);
        let socket = sys::watch(ours, Interest::READABLE)?;
        let gone = CancellationToken::new();
        let process = PathBuf::from(format!("/proc/{}", child.id().unwrap_or_default()));
        tokio::spawn(wait(child, gone.clone()));
        Ok(Self { socket, process, gone })
    }

    /// Its folder in /proc.
    #[must_use]
    pub fn process(&self) -> &Path {
        &self.process
    }

    /// Sends it a message.
    ///
    /// # Errors
    /// If it has ended, or has not read many before.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        send(self.socket.as_raw_fd(), message, flags)?;
        Ok(())
    }

    /// Says that there are no more messages.
    pub fn finish(&self) {
        // One that has ended heard of it.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Waits for its next message, and the descriptors that come along.
    ///
    /// # Errors
    /// `BrokenPipe` if it has ended.
    pub async fn answer(&self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let mut message = [0; MESSAGE_MAX];
        let receive = self
            .socket
            .async_io(Interest::READABLE, |fd| sys::socket::receive_all(fd.as_raw_fd(), &mut message));
        let (length, descriptors) = tokio::select! {
            received = receive => received?,
            () = self.gone.cancelled() => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let answer = Answer::decode(message.get(..length).unwrap_or_default());
        Ok((answer.ok_or(io::ErrorKind::UnexpectedEof)?, descriptors))
    }
}

async fn wait(mut child: Child, gone: CancellationToken) {
    let ended = child.wait().await;
    debug!(?ended, "a holder of namespaces ended");
    gone.cancel();
}
