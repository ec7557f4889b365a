//! Folders that programs are listing.
//!
//! The agent gives a folder in parts, with each entry's attributes, so that a program that looks at each of ten thousand
//! files (`find`, `ls -l`) costs a few questions. What came is kept while the folder is open: the kernel asks by the index
//! of an entry, and in portions of its own.
//!
//! Invariants: a listing that starts again is made again; attributes are told only while they are fresh.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo};
use socks_proxy::volumes::wire::{Answer, Ask, Attributes};
use tokio::time::Instant;

use super::KEPT;
use super::attributes::kind;
use super::requests::Volumes;

/// Bytes of a part of a folder.
const PART: u32 = 256 * 1024;

/// One entry as it came.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: Vec<u8>,
    pub(super) what: What,
    came: Instant,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// A point, with what is told of it.
    Point(FileAttr),
    /// A file of the pod: its inode, type, attributes.
    File(u64, FileType, Option<Attributes>),
}

impl Listed {
    /// The attributes, if they can still be told.
    pub(super) fn fresh(&self) -> bool {
        self.came.elapsed() < KEPT
    }
}

#[derive(Debug, Default)]
struct Listing {
    entries: Vec<Listed>,
    /// Where the pod's next part begins; none at the end.
    after: i64,
    is_whole: bool,
}

/// One open folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) node: INodeNo,
    listing: tokio::sync::Mutex<Listing>,
}

/// All open folders, by the kernel's number.
#[derive(Debug, Default)]
pub(super) struct Folders {
    last: AtomicU64,
    open: Mutex<HashMap<FileHandle, Arc<Folder>>>,
}

impl Folders {
    pub(super) fn add(&self, node: INodeNo) -> FileHandle {
        let number = FileHandle(self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        let folder = Arc::new(Folder { node, listing: tokio::sync::Mutex::default() });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, folder);
        number
    }

    pub(super) fn get(&self, number: FileHandle) -> Result<Arc<Folder>, Errno> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&number).cloned().ok_or(Errno::EBADF)
    }

    pub(super) fn remove(&self, number: FileHandle) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

impl Volumes {
    /// Entries of a folder from an index on, as many as there are at hand and at least one, none at its end.
    pub(super) async fn entries(&self, folder: &Folder, from: u64) -> Result<Vec<Listed>, Errno> {
        let from = usize::try_from(from).map_err(|_| Errno::EINVAL)?;
        let mut listing = folder.listing.lock().await;
        if from == 0 {
            *listing = Listing::default();
        }
        while from >= listing.entries.len() && !listing.is_whole {
            self.list_on(folder.node, &mut listing).await?;
        }
        Ok(listing.entries.get(from..).unwrap_or_default().to_vec())
    }

    async fn list_on(&self, node: INodeNo, listing: &mut Listing) -> Result<(), Errno> {
        let points = self.tree.points();
        let came = Instant::now();
        let listed = match self.tree.place(node) {
            Ok(place) => {
                self.client.ask(&Ask::List { folder: place, after: listing.after, room: PART }).await
            }
            Err(error) => Err(error),
        };
        let is_made_up = points.get(node).is_some_and(|point| !point.is_volume);
        match listed {
            Ok(Answer::Listing { entries, end }) => {
                listing.after = entries.last().map_or(listing.after, |entry| entry.cookie);
                listing.is_whole = end;
                for entry in entries {
                    if points.child(node, &entry.name).is_none() {
                        let what = What::File(entry.inode, kind(entry.kind), entry.attributes);
                        listing.entries.push(Listed { name: entry.name.into_vec(), what, came });
                    }
                }
            }
            Ok(_) => return Err(Errno::EIO),
            // It exists for the sake of the volumes in it.
            Err(error) if is_made_up && error.code() == libc::ENOENT => listing.is_whole = true,
            Err(error) => return Err(error),
        }
        if listing.is_whole {
            for (name, point) in points.children(node) {
                // A volume that cannot be looked at is no reason to hide the others.
                if let Ok(told) = self.point(point).await {
                    listing.entries.push(Listed { name: name.to_vec(), what: What::Point(told), came });
                }
            }
        }
        Ok(())
    }

    /// The number of the folder above.
    pub(super) fn above(&self, node: INodeNo) -> INodeNo {
        match self.tree.points().get(node) {
            Some(point) => point.parent,
            None => self.tree.parent(node).unwrap_or(node),
        }
    }
}

/// The name as the kernel takes it.
pub(super) fn name(listed: &Listed) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(&listed.name)
}
