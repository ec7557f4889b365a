//! The folders between the file system's root and the volumes, and the volumes' own roots.
//!
//! All volumes are one file system, so that there is one thing to mount and to take away. What lies above a volume exists
//! on neither side, unless a volume is mounted within another one: then it is that one's folder.
//!
//! Invariant: points are made once and have the lowest inode numbers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Component;
use std::sync::OnceLock;

use fuser::{FileType, INodeNo};
use socks_proxy::volumes::wire::{Hello, Place, Root};

use super::Mount;

/// A folder that is a volume, or on the way to one.
#[derive(Debug)]
pub(super) struct Point {
    /// Number of the one above it; the root's is its own.
    pub(super) parent: INodeNo,
    /// What is there in the pod.
    pub(super) place: Option<Place>,
    /// A volume begins here; otherwise there may be nothing in the pod.
    pub(super) is_volume: bool,
    /// What a volume is, as soon as that is known.
    pub(super) kind: OnceLock<FileType>,
    children: BTreeMap<Vec<u8>, INodeNo>,
}

impl Point {
    const fn below(parent: INodeNo) -> Self {
        Self { parent, place: None, is_volume: false, kind: OnceLock::new(), children: BTreeMap::new() }
    }
}

/// All of them. The root is number 1.
#[derive(Debug)]
pub(super) struct Points {
    points: Vec<Point>,
    /// Which volumes may be changed, in the order of [`Hello::roots`].
    writable: Vec<bool>,
}

impl Points {
    /// The points of `mounts`, and the first message that goes with them.
    pub(super) fn new(mounts: &[Mount]) -> (Self, Hello) {
        let mut points = Self { points: vec![Point::below(INodeNo::ROOT)], writable: Vec::new() };
        let mut hello = Hello { roots: Vec::new() };
        for mount in mounts {
            let mut at = INodeNo::ROOT;
            for part in mount.path.components() {
                if let Component::Normal(part) = part {
                    at = points.child_or_new(at, part);
                }
            }
            let root = u32::try_from(hello.roots.len()).unwrap_or(u32::MAX);
            if let Some(point) = points.get_mut(at) {
                point.place = Some(Place { root, path: Vec::new().into(), is: None });
                point.is_volume = true;
                point.kind =
                    mount.is_folder.then_some(FileType::Directory).map(OnceLock::from).unwrap_or_default();
            }
            let source = mount.source.as_os_str().as_bytes().to_vec();
            hello.roots.push(Root { path: source.into(), writable: mount.writable });
            points.writable.push(mount.writable);
        }
        points.inherit(INodeNo::ROOT);
        (points, hello)
    }

    fn child_or_new(&mut self, parent: INodeNo, name: &OsStr) -> INodeNo {
        let next = INodeNo(self.points.len() as u64 + 1);
        let Some(point) = self.get_mut(parent) else { return parent };
        let child = *point.children.entry(name.to_owned().into_vec()).or_insert(next);
        if child == next {
            self.points.push(Point::below(parent));
        }
        child
    }

    /// Tells points within a volume which folder of it they are.
    fn inherit(&mut self, from: INodeNo) {
        let Some(point) = self.get(from) else { return };
        let place = point.place.clone();
        for (name, child) in point.children.clone() {
            if let (Some(place), Some(child)) = (&place, self.get_mut(child))
                && child.place.is_none()
            {
                child.place = Some(below(place, &name));
            }
            self.inherit(child);
        }
    }

    fn get_mut(&mut self, number: INodeNo) -> Option<&mut Point> {
        self.points.get_mut(usize::try_from(number.0.checked_sub(1)?).ok()?)
    }

    /// The point of that number.
    pub(super) fn get(&self, number: INodeNo) -> Option<&Point> {
        self.points.get(usize::try_from(number.0.checked_sub(1)?).ok()?)
    }

    /// How many there are: their numbers end there.
    pub(super) fn count(&self) -> u64 {
        self.points.len() as u64
    }

    /// The volumes of which it is not known what they are.
    pub(super) fn unknown(&self) -> impl Iterator<Item = (INodeNo, &Point)> {
        let numbered = (1..).map(INodeNo).zip(&self.points);
        numbered.filter(|(_, point)| point.is_volume && point.kind.get().is_none())
    }

    /// The point of that name in another one.
    pub(super) fn child(&self, parent: INodeNo, name: &[u8]) -> Option<INodeNo> {
        self.get(parent)?.children.get(name).copied()
    }

    /// All points in another one.
    pub(super) fn children(&self, parent: INodeNo) -> impl Iterator<Item = (&[u8], INodeNo)> {
        let children = self.get(parent).into_iter().flat_map(|point| &point.children);
        children.map(|(name, number)| (name.as_slice(), *number))
    }

    /// Whether a volume may be changed.
    pub(super) fn is_writable(&self, root: u32) -> bool {
        usize::try_from(root).ok().and_then(|root| self.writable.get(root)).copied().unwrap_or(false)
    }
}

/// The place of a name in a folder.
pub(super) fn below(folder: &Place, name: &[u8]) -> Place {
    let mut path = folder.path.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    Place { root: folder.root, path: path.into(), is: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, source: &str) -> Mount {
        Mount { path: path.into(), source: source.into(), writable: path.contains("data"), is_folder: false }
    }

    #[test]
    fn volumes_lie_below_folders_that_exist_nowhere_or_in_another_volume() {
        let (points, hello) = Points::new(&[
            mount("/etc/web/config", "/etc/web/config"),
            mount("/data", "/data"),
            mount("/data/a/b", "/tp-volumes/b/sub"),
        ]);
        let walk = |path: &str| {
            path.split('/').try_fold(INodeNo::ROOT, |at, name| points.child(at, name.as_bytes()))
        };
        let place = |path: &str| points.get(walk(path).unwrap()).unwrap().place.clone();
        assert_eq!(place("etc/web"), None);
        assert_eq!(place("etc/web/config").unwrap(), Place { root: 0, path: Vec::new().into(), is: None });
        assert_eq!(place("data/a").unwrap(), Place { root: 1, path: b"a".to_vec().into(), is: None });
        assert_eq!(place("data/a/b").unwrap().root, 2);
        assert_eq!(hello.roots.len(), 3);
        assert!(!points.is_writable(0) && points.is_writable(1) && !points.is_writable(3));
        assert_eq!(walk("data/c"), None);
    }
}
