//! One mount of the pod's in its place, whether the laptop has that path or not.
//!
//! | of the path the laptop has | then |
//! |---|---|
//! | all, of the same kind | the mount goes over it |
//! | a folder above, in which this user may write | the missing folders are made there, and removed at the end by the last run that has a mount on them ([`kept`]): what programs write beside them must stay |
//! | a folder above, in which he may not | it gets a [`cover`] with the same things in it and the missing folders |
//! | a folder above, which he may not even enter | it is left out of a cover of the one above it: none of his programs sees what is in it anyway |
//!
//! Invariant: what is removed is empty, and was made here or by another run.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{AccessFlags, access};

use super::super::{Refused, refuse};
use super::cover::{self, enter_anew};
use super::kept::{self, Kept, remove_empty};

const NONE: Option<&str> = None;
/// How often what another run is just removing may be in the way.
const TRIES: usize = 5;

/// Where mounts are put.
pub(super) struct Places {
    /// The root of the file system with the volumes.
    volumes: OwnedFd,
    /// The run's folder.
    folder: PathBuf,
    /// The file systems of covers.
    covers: Vec<u64>,
    /// What was made on the laptop, in order.
    made: Vec<PathBuf>,
    /// What is below the mounts.
    kept: Vec<Kept>,
}

impl Places {
    pub(super) fn new(root: &Path, folder: PathBuf) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let volumes = fs::OpenOptions::new().read(true).custom_flags(flags).open(root)?.into();
        Ok(Self { volumes, folder, covers: Vec::new(), made: Vec::new(), kept: Vec::new() })
    }

    /// Puts the mount of that absolute path there.
    pub(super) fn put(&mut self, path: &Path) -> Result<(), Refused> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let source = PathBuf::from(format!("/proc/self/fd/{}", self.volumes.as_raw_fd())).join(below);
        let is_folder = is_folder(&source).map_err(refuse("the agent's volume"))?;
        let mut tries = 0;
        let target = loop {
            match self.kept_target(path, is_folder) {
                Err(refused) if refused.source.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    tries += 1
                }
                found => break found?,
            }
        };
        mount(Some(&source), &target, NONE, MsFlags::MS_BIND, NONE)
            .map_err(io::Error::from)
            .map_err(refuse("a mount over the laptop's files"))
    }

    /// What the mount goes over, which no other run removes from now on.
    fn kept_target(&mut self, path: &Path, is_folder: bool) -> Result<PathBuf, Refused> {
        let target = self.target(path, is_folder)?;
        self.kept.extend(kept::keep(&target).map_err(refuse("a lock on what is below it"))?);
        Ok(target)
    }

    /// What the mount goes over: what is there, or is made.
    fn target(&mut self, path: &Path, is_folder: bool) -> Result<PathBuf, Refused> {
        let (mut at, mut missing) = existing(path).map_err(refuse("the way to it"))?;
        for made in kept::made(&self.folder).into_iter().filter(|made| at.starts_with(made)) {
            self.remember(&made).map_err(refuse("a note of the folder for it"))?;
        }
        let replaced = match fs::metadata(&at) {
            Ok(there) if missing.as_os_str().is_empty() && there.is_dir() == is_folder => return Ok(at),
            Ok(there) if there.is_dir() && !missing.as_os_str().is_empty() => {
                // A link that leads nowhere stands in the way.
                let first = missing.iter().next().unwrap_or_default();
                fs::symlink_metadata(at.join(first)).is_ok().then(|| first.to_owned())
            }
            // A file where there must be a folder, or the other way round.
            _ => {
                let name = at.file_name().unwrap_or_default().to_owned();
                missing = Path::new(&name).join(missing);
                at = at.parent().unwrap_or(Path::new("/")).to_owned();
                Some(name)
            }
        };
        let target = at.join(&missing);
        let is_cover = fs::metadata(&at).is_ok_and(|folder| self.covers.contains(&folder.dev()));
        if !is_cover && replaced.is_none() && access(&at, AccessFlags::W_OK).is_ok() {
            self.make(&at, &missing, is_folder, true).map_err(refuse("a folder for it on the laptop"))?;
            return Ok(target);
        }
        if !is_cover || replaced.is_some() {
            let stage = self.folder.join("stage");
            let made = cover::put(&at, replaced.as_deref(), &stage);
            self.covers.push(made.map_err(refuse("a cover for the folder above it"))?);
            if at == Path::new("/") {
                enter_anew().map_err(refuse("the namespace with a new root"))?;
            }
        }
        self.make(&at, &missing, is_folder, false).map_err(refuse("a folder for it"))?;
        Ok(target)
    }

    /// Makes what is missing below `at`: folders, and at the end a folder or a file.
    fn make(&mut self, at: &Path, missing: &Path, is_folder: bool, remember: bool) -> io::Result<()> {
        let mut path = at.to_owned();
        let mut names = missing.iter().peekable();
        while let Some(name) = names.next() {
            path.push(name);
            if remember {
                self.remember(&path)?;
            }
            let made = if is_folder || names.peek().is_some() {
                // In a cover nothing is kept.
                fs::DirBuilder::new().mode(if remember { 0o755 } else { 0o555 }).create(&path)
            } else {
                fs::File::create_new(&path).map(drop)
            };
            match made {
                // Another run has just made it, and so takes part in its removal.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// In the run's folder, too, where the next run finds it if this one is killed.
    fn remember(&mut self, path: &Path) -> io::Result<()> {
        if self.made.iter().any(|made| made == path) {
            return Ok(());
        }
        let list = self.folder.join(tp_abi::env::MADE);
        let mut list = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(list)?;
        list.write_all(&[path.as_os_str().as_bytes(), b"\0"].concat())?;
        self.made.push(path.to_owned());
        Ok(())
    }

    /// Removes what was made on the laptop. A program that is still there sees none of it any more.
    pub(super) fn remove(&mut self) {
        self.kept.clear();
        while let Some(path) = self.made.pop() {
            // It is covered by its mount.
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            remove_empty(&path);
        }
    }
}

/// The part of an absolute path that is there for this user, without symbolic links, and the rest.
fn existing(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    for there in path.ancestors() {
        let missing = path.strip_prefix(there).unwrap_or(Path::new(""));
        match there.canonicalize() {
            Ok(real) if !missing.as_os_str().is_empty() && is_closed(&real) => {}
            Ok(real) => return Ok((real, missing.to_owned())),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NotFound.into())
}

/// What it is, by its type alone, for which nobody has to ask the pod.
fn is_folder(source: &Path) -> io::Result<bool> {
    let opened = |flags| fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | flags).open(source);
    match opened(libc::O_DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => opened(0).map(|_| false),
        folder => folder.map(|_| true),
    }
}

/// A folder that this user may not enter.
fn is_closed(path: &Path) -> bool {
    path.is_dir() && access(path, AccessFlags::X_OK).is_err()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_deepest_part_that_is_there_is_found_behind_links() {
        let folder = std::env::temp_dir().join(format!("tp-place-{}", std::process::id()));
        let real = folder.join("real");
        fs::create_dir_all(&real).unwrap();
        std::os::unix::fs::symlink(&real, folder.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.join("dangling")).unwrap();
        fs::write(real.join("file"), "").unwrap();
        let real = real.canonicalize().unwrap();
        let found = |path: &str| existing(&folder.join(path)).unwrap();
        assert_eq!(found("link"), (real.clone(), "".into()));
        assert_eq!(found("link/a b/ü"), (real.clone(), "a b/ü".into()));
        assert_eq!(found("real/file/below"), (real.join("file"), "below".into()));
        assert_eq!(found("dangling/x").1, Path::new("dangling/x"));
        // Root may enter it.
        if !nix::unistd::geteuid().is_root() {
            fs::create_dir_all(folder.join("closed/below")).unwrap();
            fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
            assert_eq!(found("closed/below").1, Path::new("closed/below"));
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
