//! A part of a folder: names with attributes, from where the last part ended.
//!
//! The cookie is the one that the kernel gives with each entry (getdents(2), `d_off`), so a listing survives the loss of a
//! link, and is as true to a folder that changes meanwhile as the kernel's own.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;
use serde_bytes::ByteBuf;

use super::handles::reopen;
use super::places::{attributes, attributes_at};
use super::wire::{Answer, DATA_MAX, Entry};

/// Bytes that one getdents(2) fills.
const READ: usize = 32 * 1024;
/// Bytes that an entry takes in a message beside its name, at most.
const ENTRY: usize = 160;

pub(super) fn list(folder: &OwnedFd, after: i64, room: u32) -> Result<Answer, Errno> {
    let open = reopen(folder, &attributes(folder)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
    if after != 0 {
        seek(&open, SeekFrom::Start(after.cast_unsigned()))?;
    }
    let room = usize::try_from(room).unwrap_or(DATA_MAX).min(DATA_MAX / 2);
    let mut buffer = vec![MaybeUninit::uninit(); READ];
    let mut raw = RawDir::new(&open, &mut buffer);
    let (mut entries, mut used) = (Vec::new(), 0_usize);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        used = used.saturating_add(name.len().saturating_add(ENTRY));
        let told = match attributes_at(&open, name, AtFlags::empty()) {
            // It went while we looked.
            Err(Errno::NOENT) => continue,
            told => told.ok(),
        };
        entries.push(Entry {
            name: ByteBuf::from(name),
            cookie: entry.next_entry_cookie().cast_signed(),
            inode: told.map_or(entry.ino(), |told| told.identity.inode),
            kind: told.map_or_else(|| entry.file_type().as_raw_mode(), |told| told.mode),
            attributes: told,
        });
        if used >= room {
            return Ok(Answer::Listing { entries, end: false });
        }
    }
    Ok(Answer::Listing { entries, end: true })
}
