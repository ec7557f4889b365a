//! Files that a stream has open.
//!
//! A program may go on with a file that has lost its name, so what is open is kept by descriptor.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::places::magic;
use super::wire::{Attributes, Place};

/// Most files that a stream has open.
const OPEN_MAX: usize = 8192;
/// The flags of open(2) that are the launcher's to say; those of them that exist have one value on x86-64 and arm64.
const SAID: OFlags = OFlags::RWMODE.union(OFlags::APPEND).union(OFlags::TRUNC).union(OFlags::SYNC);

/// A file that is open, and where it was found.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: OwnedFd,
    pub(super) place: Place,
}

/// All of a stream.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Arc<Handle>>,
}

impl Handles {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, file: OwnedFd, place: Place) -> Result<u64, Errno> {
        let mut table = self.table();
        if table.open.len() >= OPEN_MAX {
            return Err(Errno::NFILE);
        }
        table.last = table.last.wrapping_add(1);
        let number = table.last;
        table.open.insert(number, Arc::new(Handle { file, place }));
        Ok(number)
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        self.table().open.get(&number).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn close(&self, number: u64) {
        // Closed outside of the lock: close(2) of a network's file may take its time.
        let closed = self.table().open.remove(&number);
        drop(closed);
    }
}

/// The flags of open(2) that `flags` may say.
pub(super) fn said(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags) & SAID
}

/// Whether a file that is opened so may be changed by it.
pub(super) fn changes(flags: OFlags) -> bool {
    flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
}

/// Opens a file that was found, for good.
pub(super) fn reopen(found: &OwnedFd, of: &Attributes, flags: OFlags) -> Result<OwnedFd, Errno> {
    const TYPE: u32 = 0o170_000;
    match of.mode & TYPE {
        0o100_000 | 0o040_000 => {}
        0o120_000 => return Err(Errno::LOOP),
        // What happens at the open of these happens in the pod, where nobody asked for it.
        _ => return Err(Errno::NXIO),
    }
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    rustix::fs::open(magic(found), flags, Mode::empty())
}
