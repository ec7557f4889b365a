//! What the kernel asks for, in the agent's terms: by node and name here, by place there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileHandle, FopenFlags, INodeNo, Notifier};
use futures_util::future::join_all;
use socks_proxy::volumes::wire::{Answer, Ask, Attributes, Change, Hello, Place, Space, Subject};
use tracing::debug;

use super::attributes::Owner;
use super::client::Client;
use super::files::Files;
use super::folders::Folders;
use super::points::Points;
use super::tree::{Tree, version};
use super::{Mount, Opening};

/// The file system, but for the kernel's side of it.
#[derive(Debug)]
pub(super) struct Volumes {
    pub(super) client: Client,
    pub(super) tree: Tree,
    pub(super) files: Files,
    pub(super) folders: Folders,
    pub(super) owner: Owner,
    since: SystemTime,
    notifier: OnceLock<Notifier>,
}

/// What a file that was opened is to the kernel.
pub(super) struct Opened {
    pub(super) file: FileHandle,
    pub(super) flags: FopenFlags,
}

impl Volumes {
    pub(super) fn new(
        open: Box<dyn Fn() -> Opening + Send + Sync>,
        mounts: &[Mount],
        denied: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Self {
        let (points, hello): (Points, Hello) = Points::new(mounts);
        let seen: Vec<_> = mounts.iter().map(|mount| mount.path.clone()).collect();
        let denied = move |place: &Place| {
            let root = usize::try_from(place.root).ok().and_then(|root| seen.get(root));
            if let Some(root) = root {
                denied(&root.join(OsStr::from_bytes(&place.path)));
            }
        };
        Self {
            client: Client::new(open, hello, Box::new(denied)),
            tree: Tree::new(points),
            files: Files::default(),
            folders: Folders::default(),
            owner: Owner::of_this_process(),
            since: SystemTime::now(),
            notifier: OnceLock::new(),
        }
    }

    /// How the kernel is told of changes.
    pub(super) fn tell_by(&self, notifier: Notifier) {
        // Set once, by the one who serves.
        let _ = self.notifier.set(notifier);
    }

    /// What a point is: a volume, a folder of one, or made up.
    pub(super) async fn point(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let point = self.tree.points().get(number).ok_or(Errno::ESTALE)?;
        let made_up = self.owner.folder(number, self.since);
        let Some(place) = point.place.clone() else { return Ok(made_up) };
        match self.client.ask(&Ask::Attributes(Subject::Place(place))).await {
            Ok(answer) => Ok(self.owner.attributes(number, &Self::attributes_of(answer)?)),
            Err(error) if !point.is_volume && error.code() == libc::ENOENT => Ok(made_up),
            Err(error) => Err(error),
        }
    }

    /// What a name is that leads to a volume, as far as that is known without the agent: its type, and nothing else.
    pub(super) fn known(&self, folder: INodeNo, name: &OsStr) -> Option<FileAttr> {
        let number = self.tree.points().child(folder, name.as_bytes())?;
        let kind = *self.tree.points().get(number)?.kind.get()?;
        Some(FileAttr { kind, ..self.owner.folder(number, self.since) })
    }

    /// Asks what all volumes are of which that is not known.
    pub(super) async fn look_at_all(&self) {
        let looks = self.tree.points().unknown().map(|(number, point)| async move {
            // One that cannot be looked at says so to whoever touches it.
            if let Ok(told) = self.point(number).await {
                let _ = point.kind.set(told.kind);
            }
        });
        join_all(looks).await;
    }

    /// The kernel is to be told of a name.
    fn entry(&self, folder: INodeNo, name: &OsStr, told: &Attributes) -> FileAttr {
        self.owner.attributes(self.tree.told(folder, name, told), told)
    }

    pub(super) async fn look(&self, folder: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        if let Some(point) = self.tree.points().child(folder, name.as_bytes()) {
            return self.point(point).await;
        }
        let ask = Ask::Look { folder: self.tree.place(folder)?, name: name.as_bytes().to_vec().into() };
        let told = Self::attributes_of(self.client.ask(&ask).await?)?;
        Ok(self.entry(folder, name, &told))
    }

    pub(super) async fn attributes(
        &self,
        node: INodeNo,
        file: Option<FileHandle>,
    ) -> Result<FileAttr, Errno> {
        if self.tree.points().get(node).is_some() {
            return self.point(node).await;
        }
        let told = Self::attributes_of(self.ask_about(node, file, Ask::Attributes).await?)?;
        self.tree.saw(node, &told);
        Ok(self.owner.attributes(node, &told))
    }

    pub(super) async fn change(
        &self,
        node: INodeNo,
        file: Option<FileHandle>,
        change: Change,
    ) -> Result<FileAttr, Errno> {
        if change == Change::default() {
            return self.attributes(node, file).await;
        }
        self.tree.writable(node)?;
        let asked = match (change.size, file) {
            // Only a file that was opened for writing can be cut by its handle.
            (Some(_), None) => {
                let of = Subject::Place(self.tree.place(node)?);
                self.client.ask(&Ask::Change { of, change }).await
            }
            _ => self.ask_about(node, file, |of| Ask::Change { of, change }).await,
        };
        let told = Self::attributes_of(asked?)?;
        self.tree.saw(node, &told);
        Ok(self.owner.attributes(node, &told))
    }

    pub(super) async fn open(&self, node: INodeNo, flags: i32) -> Result<Opened, Errno> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            self.tree.writable(node)?;
        }
        let file = self.tree.place(node)?;
        let (number, answer) = self.client.ask_on(&Ask::Open { file, flags: flags.cast_unsigned() }).await?;
        let Answer::Opened { handle, attributes } = answer else { return Err(Errno::EIO) };
        let flags_told = match self.tree.seen(node) {
            Some(seen) if seen == version(&attributes) => FopenFlags::FOPEN_KEEP_CACHE,
            _ => {
                // What it knows of the file's length is old, too.
                if let Some(notifier) = self.notifier.get()
                    && let Err(error) = notifier.inval_inode(node, -1, 0)
                {
                    debug!(%error, "the kernel was not told of a change");
                }
                FopenFlags::empty()
            }
        };
        let file = self.files.add(node, self.tree.epoch(node), flags, (number, handle, attributes.identity));
        Ok(Opened { file, flags: flags_told })
    }

    pub(super) async fn create(
        &self,
        folder: INodeNo,
        name: &OsStr,
        flags: i32,
        mode: u32,
    ) -> Result<(FileAttr, FileHandle), Errno> {
        let ask = Ask::Create {
            folder: self.changing(folder, name)?,
            name: name.as_bytes().to_vec().into(),
            flags: flags.cast_unsigned(),
            mode,
        };
        let (number, answer) = self.client.ask_on(&ask).await?;
        let Answer::Opened { handle, attributes } = answer else { return Err(Errno::EIO) };
        let told = self.entry(folder, name, &attributes);
        let file =
            self.files.add(told.ino, self.tree.epoch(told.ino), flags, (number, handle, attributes.identity));
        Ok((told, file))
    }

    /// A folder in which a name is to be made or removed: `EROFS`, and `EBUSY` for what is a volume or leads to one.
    fn changing(&self, folder: INodeNo, name: &OsStr) -> Result<Place, Errno> {
        self.tree.writable(folder)?;
        if self.tree.points().child(folder, name.as_bytes()).is_some() {
            return Err(Errno::EBUSY);
        }
        self.tree.place(folder)
    }

    pub(super) async fn make(
        &self,
        folder: INodeNo,
        name: &OsStr,
        what: Made<'_>,
    ) -> Result<FileAttr, Errno> {
        let place = self.changing(folder, name)?;
        let bytes = name.as_bytes().to_vec().into();
        let ask = match what {
            Made::Folder(mode) => Ask::MakeFolder { folder: place, name: bytes, mode },
            Made::Node(mode) => Ask::MakeNode { folder: place, name: bytes, mode },
            Made::Symlink(text) => {
                Ask::MakeSymlink { folder: place, name: bytes, text: text.as_bytes().to_vec().into() }
            }
            Made::Link(node) if self.tree.root(node) != self.tree.root(folder) => return Err(Errno::EXDEV),
            Made::Link(node) => Ask::MakeLink { file: self.tree.place(node)?, folder: place, name: bytes },
        };
        let told = Self::attributes_of(self.client.ask(&ask).await?)?;
        Ok(self.entry(folder, name, &told))
    }

    pub(super) async fn remove(&self, folder: INodeNo, name: &OsStr, is_folder: bool) -> Result<(), Errno> {
        let place = self.changing(folder, name)?;
        let ask = Ask::Remove { folder: place, name: name.as_bytes().to_vec().into(), is_folder };
        self.client.ask(&ask).await?;
        self.tree.removed(folder, name);
        Ok(())
    }

    pub(super) async fn rename(
        &self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let (folder, to_folder) = (self.changing(from.0, from.1)?, self.changing(to.0, to.1)?);
        if folder.root != to_folder.root {
            return Err(Errno::EXDEV);
        }
        let (name, to_name) = (from.1.as_bytes().to_vec().into(), to.1.as_bytes().to_vec().into());
        self.client.ask(&Ask::Rename { folder, name, to_folder, to_name, flags }).await?;
        self.tree.renamed(from, to, flags & libc::RENAME_EXCHANGE != 0);
        Ok(())
    }

    pub(super) async fn follow(&self, node: INodeNo) -> Result<Vec<u8>, Errno> {
        match self.client.ask(&Ask::Follow(self.tree.place(node)?)).await? {
            Answer::Bytes(text) => Ok(text.into_vec()),
            _ => Err(Errno::EIO),
        }
    }

    pub(super) async fn access(&self, node: INodeNo, mask: i32) -> Result<(), Errno> {
        if mask & libc::W_OK != 0 {
            self.tree.writable(node)?;
        }
        let of = match self.tree.place(node) {
            Ok(of) => of,
            // Made up.
            Err(_) if self.tree.points().get(node).is_some() => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_volume = self.tree.points().get(node).is_none_or(|point| point.is_volume);
        match self.client.ask(&Ask::Access { of, mask: mask.cast_unsigned() }).await {
            Err(error) if !is_volume && error.code() == libc::ENOENT => Ok(()),
            asked => asked.map(drop),
        }
    }

    pub(super) async fn space(&self, node: INodeNo) -> Result<Space, Errno> {
        let Ok(place) = self.tree.place(node) else {
            return Ok(Space { block_size: 4096, fragment_size: 4096, name_max: 255, ..Space::default() });
        };
        match self.client.ask(&Ask::Space(place)).await? {
            Answer::Space(space) => Ok(space),
            _ => Err(Errno::EIO),
        }
    }

    /// An extended attribute's value, or with no name the list of names.
    pub(super) async fn xattr(&self, node: INodeNo, name: Option<&OsStr>) -> Result<Vec<u8>, Errno> {
        let answer = match name {
            // Who may do what is the pod's business, and `ls -l` asks these of every file.
            Some(name) if is_of_the_pods_kernel(name.as_bytes()) => return Err(Errno::EOPNOTSUPP),
            Some(name) => {
                let name = || name.as_bytes().to_vec().into();
                self.ask_about(node, None, |of| Ask::Xattr { of, name: name() }).await?
            }
            None if self.tree.place(node).is_err() && self.tree.points().get(node).is_some() => {
                return Ok(Vec::new());
            }
            None => self.ask_about(node, None, Ask::Xattrs).await?,
        };
        let Answer::Bytes(bytes) = answer else { return Err(Errno::EIO) };
        if name.is_some() {
            return Ok(bytes.into_vec());
        }
        let names = bytes.split_inclusive(|&byte| byte == 0);
        Ok(names.filter(|name| !is_of_the_pods_kernel(name)).flatten().copied().collect())
    }

    pub(super) async fn set_xattr(
        &self,
        node: INodeNo,
        name: &OsStr,
        value: Option<(Vec<u8>, i32)>,
    ) -> Result<(), Errno> {
        self.tree.writable(node)?;
        if is_of_the_pods_kernel(name.as_bytes()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let ask = |of| {
            let name = name.as_bytes().to_vec().into();
            match &value {
                Some((value, flags)) => {
                    Ask::SetXattr { of, name, value: value.clone().into(), flags: flags.cast_unsigned() }
                }
                None => Ask::RemoveXattr { of, name },
            }
        };
        self.ask_about(node, None, ask).await.map(drop)
    }

    pub(super) async fn sync(
        &self,
        node: INodeNo,
        file: Option<FileHandle>,
        data_only: bool,
    ) -> Result<(), Errno> {
        self.ask_about(node, file, |of| Ask::Sync { of, data_only }).await.map(drop)
    }

    pub(super) async fn release(self: Arc<Self>, number: FileHandle) {
        if let Some(file) = self.files.remove(number) {
            self.close(&file).await;
        }
    }
}

/// What is made with a new name.
pub(super) enum Made<'a> {
    /// With that mode.
    Folder(u32),
    /// With that mode and type.
    Node(u32),
    /// With that text.
    Symlink(&'a OsStr),
    /// Of that file.
    Link(INodeNo),
}

fn is_of_the_pods_kernel(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"system.posix_acl_")
}
