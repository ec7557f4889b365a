//! What was made on the laptop for mounts, and who may remove it.
//!
//! Several runs may have mounts on one folder of the laptop's, each in a namespace of its own. Whoever removes the folder
//! takes all of these mounts away: rmdir(2) asks only whether something is mounted there in its own namespace. So who
//! mounts holds a shared lock (flock(2)) on what the mount goes over, and it is removed under the exclusive one or not at
//! all. Each run takes note of what others have made for theirs, so that the last one removes it.
//!
//! Invariant: what is removed is empty, and nobody's mount is on it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

/// A removal holds the other lock for the time of two calls; whoever holds it longer is none of ours.
const TRIES: usize = 10;
const TRY_EVERY: Duration = Duration::from_millis(5);

/// What may not be removed.
pub(super) type Kept = Flock<fs::File>;

/// Keeps what is at `path` from being removed by another run; nothing if that could not remove it.
///
/// # Errors
/// `NotFound` if it has just been removed.
pub(super) fn keep(path: &Path) -> io::Result<Option<Kept>> {
    let there = fs::metadata(path)?;
    if !is_removable(&there) {
        return Ok(None);
    }
    // What this user may not look into he has not made.
    let Ok(mut file) = open(path) else { return Ok(None) };
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(kept) => {
                let (locked, there) = (kept.metadata()?, fs::metadata(path)?);
                let is_same = (locked.dev(), locked.ino()) == (there.dev(), there.ino());
                return if is_same { Ok(Some(kept)) } else { Err(io::ErrorKind::NotFound.into()) };
            }
            Err((again, _)) => file = again,
        }
        sleep(TRY_EVERY);
    }
    Ok(None)
}

/// Removes a folder, or a file, that nobody has put anything in or mounted anything on.
pub fn remove_empty(path: &Path) {
    let Ok(there) = fs::symlink_metadata(path) else { return };
    if !is_removable(&there) {
        return;
    }
    let Ok(file) = open(path) else { return };
    let Ok(_alone) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return };
    let _ = if there.is_file() { fs::remove_file(path) } else { fs::remove_dir(path) };
}

fn is_removable(there: &fs::Metadata) -> bool {
    there.is_dir() || (there.is_file() && there.len() == 0)
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)
}

/// What the runs of this user have made so far. `folder` is the folder of one of them.
pub(super) fn made(folder: &Path) -> BTreeSet<PathBuf> {
    let runs = folder.parent().and_then(|runs| fs::read_dir(runs).ok());
    runs.into_iter().flatten().flatten().flat_map(|run| made_by(&run.path())).collect()
}

/// What the run with this folder has made, in order.
#[must_use]
pub fn made_by(folder: &Path) -> Vec<PathBuf> {
    let list = fs::read(folder.join(tp_abi::env::MADE)).unwrap_or_default();
    let paths = list.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_used_is_not_removed() {
        let folder = std::env::temp_dir().join(format!("tp-removed-{}", std::process::id()));
        fs::create_dir_all(folder.join("used/by")).unwrap();
        for name in ["empty", "mounted on"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        fs::write(folder.join("file"), "").unwrap();
        fs::write(folder.join("written"), "x").unwrap();
        let kept = keep(&folder.join("mounted on")).unwrap().unwrap();
        for (name, stays) in
            [("used", true), ("empty", false), ("file", false), ("written", true), ("mounted on", true)]
        {
            remove_empty(&folder.join(name));
            assert_eq!(folder.join(name).exists(), stays, "{name}");
        }
        drop(kept);
        remove_empty(&folder.join("mounted on"));
        let gone = keep(&folder.join("mounted on")).map(|kept| kept.is_some());
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn runs_know_what_the_others_have_made() {
        let runs = std::env::temp_dir().join(format!("tp-runs-{}", std::process::id()));
        for (run, list) in [("a", &b"/x\0/x/y z\0"[..]), ("b", b"/w\0"), ("c", b"")] {
            fs::create_dir_all(runs.join(run)).unwrap();
            fs::write(runs.join(run).join(tp_abi::env::MADE), list).unwrap();
        }
        assert_eq!(made_by(&runs.join("a")), [Path::new("/x"), Path::new("/x/y z")]);
        assert_eq!(made(&runs.join("c")).len(), 3);
        fs::remove_dir_all(runs).unwrap();
    }
}
