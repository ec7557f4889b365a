//! The agent's words for a file in the kernel's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use socks_proxy::volumes::wire::{Attributes, NewTime, Time};

/// Type bits of a mode (inode(7)).
const TYPE: u32 = 0o170_000;
/// A folder that exists on neither side: for reading.
const FOLDER: u32 = 0o040_555;

/// Who everything belongs to: the user of the laptop, as whom the program runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Owner {
    pub(super) fn of_this_process() -> Self {
        Self { user: nix::unistd::getuid().as_raw(), group: nix::unistd::getgid().as_raw() }
    }

    /// What stat(2) tells of a file.
    pub(super) fn attributes(self, number: INodeNo, told: &Attributes) -> FileAttr {
        FileAttr {
            ino: number,
            size: told.size,
            blocks: told.blocks,
            atime: time(told.accessed),
            mtime: time(told.modified),
            ctime: time(told.changed),
            crtime: UNIX_EPOCH,
            kind: kind(told.mode),
            perm: u16::try_from(told.mode & 0o7777).unwrap_or(0),
            nlink: told.links,
            uid: self.user,
            gid: self.group,
            rdev: u32::try_from(told.device_number).unwrap_or(0),
            blksize: told.block_size,
            flags: 0,
        }
    }

    /// What it tells of a folder that exists on neither side.
    pub(super) fn folder(self, number: INodeNo, since: SystemTime) -> FileAttr {
        FileAttr {
            ino: number,
            size: 0,
            blocks: 0,
            atime: since,
            mtime: since,
            ctime: since,
            crtime: since,
            kind: FileType::Directory,
            perm: u16::try_from(FOLDER & 0o7777).unwrap_or(0),
            nlink: 2,
            uid: self.user,
            gid: self.group,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The type that a mode tells.
pub(super) fn kind(mode: u32) -> FileType {
    match mode & TYPE {
        0o010_000 => FileType::NamedPipe,
        0o020_000 => FileType::CharDevice,
        0o040_000 => FileType::Directory,
        0o060_000 => FileType::BlockDevice,
        0o120_000 => FileType::Symlink,
        0o140_000 => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn time(told: Time) -> SystemTime {
    let nanoseconds = Duration::from_nanos(told.nanoseconds.into());
    let seconds = Duration::from_secs(told.seconds.unsigned_abs());
    let whole =
        if told.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(UNIX_EPOCH)
}

/// A time that the kernel wants to be set.
pub(super) fn new_time(time: TimeOrNow) -> NewTime {
    let TimeOrNow::SpecificTime(time) = time else { return NewTime::Now };
    let told = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: after.subsec_nanos(),
        },
        Err(before) => {
            // As timespec has it: nanoseconds go forward.
            let (whole, part) = (before.duration().as_secs(), before.duration().subsec_nanos());
            let seconds = i64::try_from(whole).map_or(i64::MIN, |whole| -whole);
            match part {
                0 => Time { seconds, nanoseconds: 0 },
                part => Time { seconds: seconds.saturating_sub(1), nanoseconds: 1_000_000_000 - part },
            }
        }
    };
    NewTime::At(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_their_own_way_back() {
        for (seconds, nanoseconds) in [(0, 0), (1, 5), (-1, 0), (-1, 999_999_999), (-86_400, 1)] {
            let told = Time { seconds, nanoseconds };
            assert_eq!(new_time(TimeOrNow::SpecificTime(time(told))), NewTime::At(told));
        }
        assert_eq!(new_time(TimeOrNow::Now), NewTime::Now);
    }
}
