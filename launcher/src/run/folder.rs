//! A run's private folder: everything that it makes on the laptop lies there, and goes with it. A run that was killed
//! leaves its folder to the next one, which sweeps it; its lock, which the kernel drops, tells that it is nobody's.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tracing::debug;

use crate::mounts;
use crate::report::Failure;

/// A folder that only this user can enter, gone when this is dropped.
pub(super) struct Folder {
    folder: tempfile::TempDir,
    _lock: Flock<std::fs::File>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !mounts::sweep(self.folder.path()) {
            self.folder.disable_cleanup(true);
        }
    }
}

const FOLDER_PREFIX: &str = "run-";
const LOCK: &str = "lock";

impl Folder {
    /// Makes one in the first place that can be used: `XDG_RUNTIME_DIR` may be somebody else's after su(1).
    pub(super) fn make() -> Result<Self, Failure> {
        let mut failure = None;
        for parent in parent_folders() {
            match Self::make_in(&parent) {
                Ok(folder) => return Ok(folder),
                Err(source) => {
                    debug!(folder = %parent.display(), %source, "no private folder here");
                    failure.get_or_insert(Failure::Folder { path: parent, source });
                }
            }
        }
        Err(failure.unwrap_or_else(|| Failure::SetUp(io::ErrorKind::NotFound.into())))
    }

    fn make_in(parent: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let metadata = std::fs::symlink_metadata(parent)?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("it belongs to somebody else or others can enter it"));
        }
        // One at a time: a folder whose lock is not held yet would be swept by the next run.
        let turn = std::fs::File::open(parent)?;
        let _turn = Flock::lock(turn, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        sweep(parent);
        let folder = tempfile::Builder::new().prefix(FOLDER_PREFIX).tempdir_in(parent)?;
        let lock = std::fs::File::create(folder.path().join(LOCK))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// In `XDG_RUNTIME_DIR` where there is one, then in /tmp. The path must stay short: a socket's may have 107 bytes
/// (unix(7)).
fn parent_folders() -> impl Iterator<Item = PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime
        .filter(|path| path.is_absolute() && path.is_dir() && path.as_os_str().len() < 64)
        .map(|path| path.join("tp"))
        .into_iter()
        .chain([PathBuf::from(format!("/tmp/tp-{}", nix::unistd::geteuid()))])
}

/// The folders of this user's runs: each holds its lock until its end.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for parent in parent_folders() {
        // A lock that is tried must not keep a run from taking it.
        let turn = std::fs::File::open(&parent).ok();
        let Some(Ok(_turn)) = turn.map(|turn| Flock::lock(turn, FlockArg::LockExclusive)) else { continue };
        let entries = std::fs::read_dir(&parent).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path()).filter(|folder| {
            let lock = std::fs::File::open(folder.join(LOCK));
            lock.is_ok_and(|lock| Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_err())
        }));
    }
    folders
}

/// Removes the folders of runs that were killed: nobody holds their locks any more. No other run may be making its
/// own meanwhile.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(FOLDER_PREFIX.as_bytes()) {
            continue;
        }
        let Ok(lock) = std::fs::File::open(entry.path().join(LOCK)) else {
            // Its run was killed before it made the lock: it is empty.
            let _ = std::fs::remove_dir(entry.path());
            continue;
        };
        if Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok() && mounts::sweep(&entry.path()) {
            let removed = std::fs::remove_dir_all(entry.path());
            debug!(folder = %entry.path().display(), ?removed, "swept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_swept_and_what_runs_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let [dead, alive] = ["run-dead", "run-alive"].map(|name| parent.path().join(name));
        for folder in [&dead, &alive] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join(LOCK), "").unwrap();
        }
        let lock = std::fs::File::open(alive.join(LOCK)).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).unwrap();
        sweep(parent.path());
        assert!(!dead.exists());
        assert!(alive.exists());
    }
}
