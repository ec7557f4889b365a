//! A mount for a user who may not mount: fusermount3(1), a setuid program of libfuse.
//!
//! It takes options and a folder, and gives the device by a socket whose descriptor `_FUSE_COMMFD` names. With
//! `auto_unmount` it stays, and unmounts when the other end of that socket is closed: by whatever end of this process.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;

use crate::sys;

/// Newer systems have the first alone, older ones the second.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// A mounted file system; it is unmounted when this is dropped.
pub(super) struct Fusermount {
    root: PathBuf,
    program: Child,
    /// Its end is what the program waits for.
    socket: Option<AsyncFd<OwnedFd>>,
}

/// Mounts a file system at `root`. Gives its device, too.
pub(super) async fn mount(root: &Path) -> io::Result<(Fusermount, OwnedFd)> {
    let mut tried = Err(io::ErrorKind::NotFound.into());
    for program in PROGRAMS {
        tried = mount_by(program, root).await;
        if !tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    tried.map_err(|error| io::Error::new(error.kind(), format!("fusermount3: {error}")))
}

async fn mount_by(program: &str, root: &Path) -> io::Result<(Fusermount, OwnedFd)> {
    let (ours, its) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let mut command = Command::new(program);
    command.args(["-o", "rw,nosuid,nodev,fsname=tp,subtype=tp,auto_unmount", "--"]).arg(root);
    command.env("_FUSE_COMMFD", "0").stdin(Stdio::from(its)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut started = command.spawn()?;
    drop(command);
    let ours = sys::watch(ours, Interest::READABLE)?;
    let receive = |fd: &OwnedFd| sys::socket::receive(fd.as_raw_fd(), &mut [0]);
    let device = ours.async_io(Interest::READABLE, receive).await.ok().and_then(|(_, device)| device);
    let Some(device) = device else {
        // It has ended, or does with its socket.
        drop(ours);
        let mut said = String::new();
        started.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        started.wait()?;
        return Err(io::Error::other(said.trim().trim_start_matches("fusermount3: ").to_owned()));
    };
    Ok((Fusermount { root: root.to_owned(), program: started, socket: Some(ours) }, device))
}

impl Drop for Fusermount {
    fn drop(&mut self) {
        drop(self.socket.take());
        let ended = self.program.wait();
        debug!(?ended, "fusermount3 ended");
        // One that knows no auto_unmount has ended long ago.
        unmount(&self.root);
    }
}

/// Unmounts what is there, also while it is in use. There is nobody left who could be told of what fails.
pub(super) fn unmount(root: &Path) {
    for program in PROGRAMS {
        let arguments = ["-u".as_ref(), "-q".as_ref(), "-z".as_ref(), "--".as_ref(), root.as_os_str()];
        let arguments: [&OsStr; 5] = arguments;
        let done = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        debug!(program, ?done, "unmounted");
        if done.is_ok() {
            return;
        }
    }
}
