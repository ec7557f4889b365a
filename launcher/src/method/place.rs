//! Where a program's files are: not every program of the tree has the launcher's root and working folder.
//!
//! A program that changed its root (chroot(2), a mount namespace of its own) starts the files that it sees, and its
//! `#!` lines and the shim's own path mean those. The kernel shows another process's folders in /proc (proc(5)), and
//! openat2(2) follows symbolic links within them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::Pid;

/// A root and a working folder.
pub(super) enum Place {
    /// The launcher's.
    Here,
    /// Those of another process.
    Of {
        /// Its root.
        root: OwnedFd,
        /// Its working folder.
        folder: PathBuf,
    },
}

impl Place {
    /// The place of a process; the launcher's own where the kernel does not show it.
    pub(super) fn of(pid: Pid) -> Self {
        let process = PathBuf::from(format!("/proc/{pid}"));
        match File::open(process.join("root")) {
            Ok(root) => Self::Of { root: root.into(), folder: process.join("cwd") },
            Err(_) => Self::Here,
        }
    }

    /// Opens a file for reading, without waiting for anything that is not one (a FIFO waits for a writer).
    ///
    /// # Errors
    /// Those of openat2(2).
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match self {
            Self::Of { root, .. } if path.is_absolute() => {
                let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
                Ok(openat2(root, path, how)?.into())
            }
            Self::Of { folder, .. } => open(&folder.join(path)),
            Self::Here => open(path),
        }
    }
}

/// The root folder, the mounts and the user namespace of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings([Option<(u64, u64)>; 3]);

impl Surroundings {
    /// Those of the process with this folder in /proc.
    #[must_use]
    pub fn of(process: &Path) -> Self {
        let seen = |what| std::fs::metadata(process.join(what)).map(|file| (file.dev(), file.ino())).ok();
        Self(["root/", "ns/mnt", "ns/user"].map(seen))
    }

    /// Whether a process has others: it cannot enter more of a run and start the program that it meant.
    #[must_use]
    pub fn are_not_of(&self, pid: Pid) -> bool {
        Self::of(&PathBuf::from(format!("/proc/{pid}"))) != *self
    }
}

impl Default for Surroundings {
    /// The launcher's own.
    fn default() -> Self {
        Self::of(Path::new("/proc/self"))
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}
