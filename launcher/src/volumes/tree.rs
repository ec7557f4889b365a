//! Which file of the pod each of the kernel's inode numbers stands for, and by which names it was seen.
//!
//! The kernel speaks of inodes, and keeps them while a program uses them or it has room; the agent is asked by path, which
//! survives the loss of a link. So a node knows the names under which it was looked up, and a path is put together when it
//! is needed. It says with each path which file it means, so that a path which has become another file's is noticed.
//!
//! Invariants: one number is one file of the pod (device and inode, as seen by one mount), so that hard links share their
//! pages; a node lives until the kernel has forgotten it as often as it was told of it; a name is one node's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Errno, INodeNo};
use socks_proxy::volumes::wire::{Attributes, Identity, Place, Time};

use super::points::{Points, below};

/// Longest way up to a volume's root; a longer one goes in circles.
const DEPTH_MAX: usize = 4096;
/// Inode numbers above this are made up.
const MADE_UP: u64 = 1 << 62;
/// From this bit on a number tells which device it is of.
const DEVICE_SHIFT: u32 = 48;

/// What changes with a file's bytes.
pub(super) type Version = (u64, Time, Time);

pub(super) fn version(told: &Attributes) -> Version {
    (told.size, told.modified, told.changed)
}

/// How often a file's bytes were seen to change: what was read before is of no use then.
pub(super) type Epoch = Arc<AtomicU64>;

#[derive(Debug)]
struct Node {
    root: u32,
    identity: Identity,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
    names: Vec<(INodeNo, Vec<u8>)>,
    /// What the kernel was told last.
    seen: Version,
    epoch: Epoch,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Tree {
    points: Points,
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    by_number: HashMap<INodeNo, Node>,
    by_name: HashMap<(INodeNo, Vec<u8>), INodeNo>,
    /// Devices in the order in which they were seen, each by one mount.
    devices: Vec<(u32, u64)>,
}

impl Tree {
    pub(super) fn new(points: Points) -> Self {
        Self { points, nodes: Mutex::default() }
    }

    pub(super) const fn points(&self) -> &Points {
        &self.points
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a node is in the pod.
    pub(super) fn place(&self, number: INodeNo) -> Result<Place, Errno> {
        let nodes = self.nodes();
        let is = nodes.by_number.get(&number).map(|node| node.identity);
        let mut names = Vec::new();
        let mut at = number;
        let top = loop {
            if let Some(point) = self.points.get(at) {
                break point.place.clone().ok_or(Errno::ENOENT)?;
            }
            let node = nodes.by_number.get(&at).ok_or(Errno::ESTALE)?;
            let (parent, name) = node.names.last().ok_or(Errno::ESTALE)?;
            names.push(name);
            if names.len() > DEPTH_MAX {
                return Err(Errno::ESTALE);
            }
            at = *parent;
        };
        let place = names.iter().rev().fold(top, |place, name| below(&place, name));
        Ok(Place { is, ..place })
    }

    /// The folder that a node is in, by one of its names.
    pub(super) fn parent(&self, number: INodeNo) -> Option<INodeNo> {
        self.nodes().by_number.get(&number)?.names.last().map(|(parent, _)| *parent)
    }

    /// Which volume a node is in.
    pub(super) fn root(&self, number: INodeNo) -> Option<u32> {
        match self.points.get(number) {
            Some(point) => point.place.as_ref().map(|place| place.root),
            None => self.nodes().by_number.get(&number).map(|node| node.root),
        }
    }

    /// `EROFS` unless a node may be changed.
    pub(super) fn writable(&self, number: INodeNo) -> Result<(), Errno> {
        let may = self.root(number).is_some_and(|root| self.points.is_writable(root));
        if may { Ok(()) } else { Err(Errno::EROFS) }
    }

    /// The kernel is about to be told what a name in a folder is; gives its number.
    pub(super) fn told(&self, folder: INodeNo, name: &OsStr, told: &Attributes) -> INodeNo {
        let root = self.root(folder).unwrap_or(0);
        let mut nodes = self.nodes();
        let number = nodes.number(root, told.identity, self.points.count());
        let node = nodes.by_number.entry(number).or_insert_with(|| Node {
            root,
            identity: told.identity,
            lookups: 0,
            names: Vec::new(),
            seen: version(told),
            epoch: Epoch::default(),
        });
        node.lookups += 1;
        // Another file with the number of one that is gone: the kernel sees it as changed.
        node.identity = told.identity;
        node.see(version(told));
        nodes.name(folder, name.as_bytes(), number);
        number
    }

    /// The number of what is in a folder, of which the kernel is not told yet.
    pub(super) fn number(&self, folder: INodeNo, told: &Attributes) -> INodeNo {
        let root = self.root(folder).unwrap_or(0);
        self.nodes().number(root, told.identity, self.points.count())
    }

    /// The kernel is about to be told of a node's attributes.
    pub(super) fn saw(&self, number: INodeNo, told: &Attributes) {
        if let Some(node) = self.nodes().by_number.get_mut(&number) {
            node.see(version(told));
        }
    }

    /// What the kernel was told last of a node's bytes.
    pub(super) fn seen(&self, number: INodeNo) -> Option<Version> {
        self.nodes().by_number.get(&number).map(|node| node.seen)
    }

    /// See [`Epoch`].
    pub(super) fn epoch(&self, number: INodeNo) -> Epoch {
        self.nodes().by_number.get(&number).map(|node| node.epoch.clone()).unwrap_or_default()
    }

    /// The kernel has forgotten a node so many times.
    pub(super) fn forget(&self, number: INodeNo, times: u64) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.by_number.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(times);
        if node.lookups > 0 {
            return;
        }
        if let Some(node) = nodes.by_number.remove(&number) {
            for name in node.names {
                nodes.by_name.remove(&name);
            }
        }
    }

    /// A name in a folder is gone.
    pub(super) fn removed(&self, folder: INodeNo, name: &OsStr) {
        self.nodes().unname(folder, name.as_bytes());
    }

    /// A file has another name; with `exchange` what had that has the first.
    pub(super) fn renamed(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), exchange: bool) {
        let mut nodes = self.nodes();
        let moved = nodes.unname(from.0, from.1.as_bytes());
        let other = nodes.unname(to.0, to.1.as_bytes());
        if let Some(moved) = moved {
            nodes.name(to.0, to.1.as_bytes(), moved);
        }
        if let Some(other) = other.filter(|_| exchange) {
            nodes.name(from.0, from.1.as_bytes(), other);
        }
    }

    /// How many nodes the kernel knows.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.nodes().by_number.len()
    }
}

impl Node {
    fn see(&mut self, version: Version) {
        if self.seen != version {
            self.seen = version;
            self.epoch.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Nodes {
    /// The number of a file: the pod's own, as far as these differ between devices and from the points'.
    fn number(&mut self, root: u32, identity: Identity, points: u64) -> INodeNo {
        let key = (root, identity.device);
        let device = match self.devices.iter().position(|&known| known == key) {
            Some(device) => device,
            None => {
                self.devices.push(key);
                self.devices.len() - 1
            }
        };
        let number = identity.inode ^ (device as u64) << DEVICE_SHIFT;
        INodeNo(if number <= points { number | MADE_UP } else { number })
    }

    fn name(&mut self, folder: INodeNo, name: &[u8], number: INodeNo) {
        if self.by_name.get(&(folder, name.to_vec())) == Some(&number) {
            return;
        }
        self.unname(folder, name);
        self.by_name.insert((folder, name.to_vec()), number);
        if let Some(node) = self.by_number.get_mut(&number) {
            node.names.push((folder, name.to_vec()));
        }
    }

    fn unname(&mut self, folder: INodeNo, name: &[u8]) -> Option<INodeNo> {
        let number = self.by_name.remove(&(folder, name.to_vec()))?;
        if let Some(node) = self.by_number.get_mut(&number) {
            node.names.retain(|(at, known)| (*at, known.as_slice()) != (folder, name));
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mount;
    use super::*;

    fn tree() -> Tree {
        let mount = Mount { path: "/v".into(), source: "/v".into(), writable: false, is_folder: true };
        Tree::new(Points::new(&[mount]).0)
    }

    fn file(inode: u64) -> Attributes {
        Attributes {
            identity: Identity { device: 7, inode, born: Time::default() },
            mode: 0o100_644,
            links: 1,
            size: 0,
            blocks: 0,
            block_size: 4096,
            device_number: 0,
            accessed: Time::default(),
            modified: Time::default(),
            changed: Time::default(),
        }
    }

    fn path(tree: &Tree, number: INodeNo) -> String {
        String::from_utf8(tree.place(number).unwrap().path.into_vec()).unwrap()
    }

    #[test]
    fn paths_follow_renames_of_the_folders_above() {
        let (tree, volume) = (tree(), INodeNo(2));
        let folder = tree.told(volume, OsStr::new("a"), &file(10));
        let inner = tree.told(folder, OsStr::new("f"), &file(11));
        assert_eq!(path(&tree, inner), "a/f");
        tree.renamed((volume, OsStr::new("a")), (volume, OsStr::new("b")), false);
        assert_eq!(path(&tree, inner), "b/f");
        assert_eq!(tree.place(inner).unwrap().is, Some(file(11).identity));
        tree.removed(folder, OsStr::new("f"));
        assert!(tree.place(inner).is_err());
    }

    #[test]
    fn two_names_of_a_file_are_one_node_until_both_are_forgotten() {
        let (tree, volume) = (tree(), INodeNo(2));
        let one = tree.told(volume, OsStr::new("one"), &file(1));
        assert_eq!(tree.told(volume, OsStr::new("two"), &file(1)), one);
        assert!(one.0 > 2, "the pod's inode 1 is not the root");
        tree.removed(volume, OsStr::new("two"));
        assert_eq!(path(&tree, one), "one");
        tree.forget(one, 1);
        assert_eq!(tree.count(), 1);
        tree.forget(one, 1);
        assert_eq!(tree.count(), 0);
    }

    #[test]
    fn names_can_be_exchanged_and_taken_over() {
        let (tree, volume) = (tree(), INodeNo(2));
        let (a, b) =
            (tree.told(volume, OsStr::new("a"), &file(10)), tree.told(volume, OsStr::new("b"), &file(11)));
        tree.renamed((volume, OsStr::new("a")), (volume, OsStr::new("b")), true);
        assert_eq!((path(&tree, a), path(&tree, b)), ("b".into(), "a".into()));
        tree.told(volume, OsStr::new("a"), &file(12));
        assert!(tree.place(b).is_err(), "its name is another file's now");
    }
}
