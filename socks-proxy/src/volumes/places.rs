//! Which file a path means: always one below its root, and never one behind a symbolic link.
//!
//! The launcher's kernel follows links and `..` itself, on the laptop, so that a path that comes from there has neither.
//! One that has, or has come to have since, is of no use but to break out. openat2(2) says so in one call; kernels before
//! 5.6 and seccomp filters that do not know it refuse it, and then each part is opened by itself, which is as safe.
//!
//! Invariant: what is found is held by a descriptor without rights (`O_PATH`), and everything is done to that, never to the
//! path once more.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat, openat2, statx};
use rustix::io::Errno;

use super::wire::{Attributes, Identity, Place, Root, Time};

const FOUND: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Longest path in bytes that the kernel takes at once: `PATH_MAX`, with its NUL.
const PATH_MAX: usize = 4096;
/// How often a path is looked up again that was renamed meanwhile (openat2(2): `EAGAIN`).
const TRIES: usize = 8;

/// The roots of a stream.
#[derive(Debug)]
pub(super) struct Roots(Vec<Opened>);

#[derive(Debug)]
struct Opened {
    root: Root,
    /// From the first use that found it.
    folder: OnceLock<OwnedFd>,
}

impl Roots {
    pub(super) fn new(roots: Vec<Root>) -> Self {
        Self(roots.into_iter().map(|root| Opened { root, folder: OnceLock::new() }).collect())
    }

    fn opened(&self, place: &Place) -> Result<&Opened, Errno> {
        usize::try_from(place.root).ok().and_then(|root| self.0.get(root)).ok_or(Errno::INVAL)
    }

    /// Whether anything below the place's root may be changed.
    pub(super) fn writable(&self, place: &Place) -> Result<(), Errno> {
        if self.opened(place)?.root.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// The file at a place, if it is what the launcher takes it for.
    pub(super) fn find(&self, place: &Place) -> Result<OwnedFd, Errno> {
        let opened = self.opened(place)?;
        let root = match opened.folder.get() {
            Some(root) => root,
            None => {
                // The kubelet mounted it by this path, links included.
                let path = opened.root.path.as_slice();
                let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                opened.folder.get_or_init(|| found)
            }
        };
        let found = if place.path.is_empty() {
            root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?
        } else {
            beneath(root.as_fd(), &place.path)?
        };
        match place.is {
            Some(is) if attributes(&found)?.identity != is => Err(Errno::STALE),
            _ => Ok(found),
        }
    }
}

/// Whether bytes are one part of a path, and not a way out.
pub(super) fn checked(name: &[u8]) -> Result<&[u8], Errno> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL),
        name if name.contains(&b'/') || name.contains(&0) => Err(Errno::INVAL),
        name => Ok(name),
    }
}

/// The entry of a folder.
pub(super) fn entry(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(folder, checked(name)?, FOUND, Mode::empty())
}

/// openat2(2) is of no use here.
static IS_REFUSED: AtomicBool = AtomicBool::new(false);

/// Makes or unmakes this a kernel without openat2(2).
#[cfg(test)]
pub(super) fn step_by_step_only(only: bool) {
    IS_REFUSED.store(only, Ordering::Relaxed);
}

fn beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    path.split(|&byte| byte == b'/').try_for_each(|part| checked(part).map(drop))?;
    if path.len() >= PATH_MAX || IS_REFUSED.load(Ordering::Relaxed) {
        return step_by_step(root, path);
    }
    for _ in 0..TRIES {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(root, path, FOUND, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // A link where the launcher knew a folder.
            Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => return Err(Errno::STALE),
            Err(Errno::NOSYS | Errno::PERM) => {
                IS_REFUSED.store(true, Ordering::Relaxed);
                break;
            }
            found => return found,
        }
    }
    step_by_step(root, path)
}

fn step_by_step(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    for part in path.split(|&byte| byte == b'/') {
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        at = Some(
            entry(from, part).map_err(|error| if error == Errno::NOTDIR { Errno::STALE } else { error })?,
        );
    }
    at.ok_or(Errno::INVAL)
}

/// A path by which calls that take no such descriptor reach the file: proc(5).
pub(super) fn magic(found: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", found.as_raw_fd())
}

/// What stat(2) tells of a descriptor.
pub(super) fn attributes(of: impl AsFd) -> Result<Attributes, Errno> {
    attributes_at(of, b"", AtFlags::EMPTY_PATH)
}

/// What lstat(2) tells of an entry.
pub(super) fn attributes_at(folder: impl AsFd, name: &[u8], flags: AtFlags) -> Result<Attributes, Errno> {
    let told =
        statx(folder, name, flags | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let time = |time: rustix::fs::StatxTimestamp| Time { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    let device = makedev(told.stx_dev_major, told.stx_dev_minor);
    Ok(Attributes {
        identity: Identity { device, inode: told.stx_ino, born: time(told.stx_btime) },
        mode: told.stx_mode.into(),
        links: told.stx_nlink,
        size: told.stx_size,
        blocks: told.stx_blocks,
        block_size: told.stx_blksize,
        device_number: makedev(told.stx_rdev_major, told.stx_rdev_minor),
        accessed: time(told.stx_atime),
        modified: time(told.stx_mtime),
        changed: time(told.stx_ctime),
    })
}
