//! The kernel's side: each of its requests becomes a task, and the task's end the reply.
//!
//! One thread reads the device and does nothing else, so no request waits for another; only what must be known in the
//! kernel's own order (what is read next) is noted there.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use socks_proxy::volumes::wire::{Answer, Ask, Change, DATA_MAX};
use tokio::runtime::Handle;

use super::KEPT;
use super::attributes::new_time;
use super::folders::{What, name as listed_name};
use super::requests::{Made, Volumes};

/// Requests of the kernel's own (read-ahead, write-back) that it sends side by side.
const BACKGROUND: u16 = 64;
/// Files have no generation: a number is not used for another file while the kernel knows it.
const GENERATION: Generation = Generation(0);

#[derive(Debug)]
pub(super) struct System {
    volumes: Arc<Volumes>,
    runtime: Handle,
}

impl System {
    pub(super) const fn new(volumes: Arc<Volumes>, runtime: Handle) -> Self {
        Self { volumes, runtime }
    }

    /// Does `work` and gives its result to `reply`, whenever that is.
    fn then<T, F>(
        &self,
        work: impl FnOnce(Arc<Volumes>) -> F,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) where
        F: Future<Output = Result<T, Errno>> + Send + 'static,
        T: Send + 'static,
    {
        let work = work(self.volumes.clone());
        self.runtime.spawn(async move { reply(work.await) });
    }

    fn entry<F>(&self, reply: ReplyEntry, work: impl FnOnce(Arc<Volumes>) -> F)
    where
        F: Future<Output = Result<FileAttr, Errno>> + Send + 'static,
    {
        self.then(work, |done| match done {
            Ok(told) => reply.entry(&KEPT, &told, GENERATION),
            Err(error) => reply.error(error),
        });
    }

    fn attributes<F>(&self, reply: ReplyAttr, work: impl FnOnce(Arc<Volumes>) -> F)
    where
        F: Future<Output = Result<FileAttr, Errno>> + Send + 'static,
    {
        self.then(work, |done| match done {
            Ok(told) => reply.attr(&KEPT, &told),
            Err(error) => reply.error(error),
        });
    }

    fn data<F, T>(&self, reply: ReplyData, work: impl FnOnce(Arc<Volumes>) -> F)
    where
        F: Future<Output = Result<T, Errno>> + Send + 'static,
        T: AsRef<[u8]> + Send + 'static,
    {
        self.then(work, |done| match done {
            Ok(data) => reply.data(data.as_ref()),
            Err(error) => reply.error(error),
        });
    }

    fn empty<F>(&self, reply: ReplyEmpty, work: impl FnOnce(Arc<Volumes>) -> F)
    where
        F: Future<Output = Result<(), Errno>> + Send + 'static,
    {
        self.then(work, |done| match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        });
    }

    fn xattr(&self, reply: ReplyXattr, size: u32, node: INodeNo, name: Option<&OsStr>) {
        let name = name.map(OsStr::to_owned);
        let work = |volumes: Arc<Volumes>| async move { volumes.xattr(node, name.as_deref()).await };
        self.then(work, move |done| match done {
            Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
            Ok(value) if u32::try_from(value.len()).is_ok_and(|length| length <= size) => reply.data(&value),
            Ok(_) => reply.error(Errno::ERANGE),
            Err(error) => reply.error(error),
        });
    }
}

impl Filesystem for System {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO;
        // What an older kernel does not know it does without.
        let known = config.capabilities() & wanted;
        let _ = config.add_capabilities(known);
        let _ = config.set_max_write(u32::try_from(DATA_MAX).unwrap_or(u32::MAX));
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(told) = self.volumes.known(parent, name) {
            // Whoever wants to know more than its type asks for its attributes.
            return reply.entry_with_ttls(&Duration::ZERO, &KEPT, &told, GENERATION);
        }
        let name = name.to_owned();
        self.entry(reply, |volumes| async move { volumes.look(parent, &name).await });
    }

    fn forget(&self, _: &Request, node: INodeNo, times: u64) {
        self.volumes.tree.forget(node, times);
    }

    fn getattr(&self, _: &Request, node: INodeNo, file: Option<FileHandle>, reply: ReplyAttr) {
        self.attributes(reply, |volumes| async move { volumes.attributes(node, file).await });
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        file: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let owner = self.volumes.owner;
        if user.is_some_and(|user| user != owner.user) || group.is_some_and(|group| group != owner.group) {
            // Nobody else of the laptop has anything in the pod.
            return reply.error(Errno::EPERM);
        }
        let change = Change {
            mode: mode.map(|mode| mode & 0o7777),
            size,
            accessed: accessed.map(new_time),
            modified: modified.map(new_time),
        };
        self.attributes(reply, |volumes| async move { volumes.change(node, file, change).await });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        self.data(reply, |volumes| async move { volumes.follow(node).await });
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.entry(reply, |volumes| async move { volumes.make(parent, &name, Made::Node(mode)).await });
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, |volumes| async move { volumes.make(parent, &name, Made::Folder(mode)).await });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.empty(reply, |volumes| async move { volumes.remove(parent, &name, false).await });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.empty(reply, |volumes| async move { volumes.remove(parent, &name, true).await });
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, text: &Path, reply: ReplyEntry) {
        let (name, text) = (name.to_owned(), text.as_os_str().to_owned());
        self.entry(reply, |volumes| async move { volumes.make(parent, &name, Made::Symlink(&text)).await });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.empty(reply, |volumes| async move {
            volumes.rename((parent, &name), (to_parent, &to_name), flags.bits()).await
        });
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, |volumes| async move { volumes.make(parent, &name, Made::Link(node)).await });
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let work = |volumes: Arc<Volumes>| async move { volumes.open(node, flags.0).await };
        self.then(work, |done| match done {
            Ok(opened) => reply.opened(opened.file, opened.flags),
            Err(error) => reply.error(error),
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        let work = |volumes: Arc<Volumes>| async move { volumes.create(parent, &name, flags, mode).await };
        self.then(work, |done| match done {
            Ok((told, file)) => reply.created(&KEPT, &told, GENERATION, file, FopenFlags::empty()),
            Err(error) => reply.error(error),
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.volumes.files.get(file) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        let length = self.volumes.tree.seen(node).map_or(u64::MAX, |(length, ..)| length);
        let (plan, comes) = file.plan(offset, size, length);
        self.data(reply, |volumes| async move { volumes.read(file, offset, size, plan, comes).await });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let work = |volumes: Arc<Volumes>| async move {
            let file = volumes.files.get(file)?;
            let written =
                volumes.ask_of(&file, |handle| Ask::Write { handle, offset, data: data.into() }).await;
            file.changed();
            match written? {
                Answer::Written(length) => Ok(length),
                _ => Err(Errno::EIO),
            }
        };
        self.then(work, |done| match done {
            Ok(length) => reply.written(length),
            Err(error) => reply.error(error),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, file: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.empty(reply, |volumes| async move {
            let file = volumes.files.get(file)?;
            // Closing a file that was only read loses nothing.
            if file.writes() {
                volumes.ask_of(&file, |handle| Ask::Flush { handle }).await?;
            }
            Ok(())
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.runtime.spawn(self.volumes.clone().release(file));
    }

    fn fsync(&self, _: &Request, node: INodeNo, file: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.empty(reply, |volumes| async move { volumes.sync(node, Some(file), data_only).await });
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.volumes.folders.add(node), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, _: INodeNo, file: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let volumes = self.volumes.clone();
        self.runtime.spawn(async move {
            let done = async {
                let folder = volumes.folders.get(file)?;
                for (index, at, name) in dots(&volumes, folder.node, offset) {
                    if reply.add(at, index, FileType::Directory, name) {
                        return Ok(());
                    }
                }
                let from = offset.saturating_sub(DOTS);
                for (index, listed) in (from + 1 + DOTS..).zip(volumes.entries(&folder, from).await?) {
                    let (number, kind) = match &listed.what {
                        What::Point(told) => (told.ino, told.kind),
                        What::File(_, kind, Some(told)) => (volumes.tree.number(folder.node, told), *kind),
                        What::File(inode, kind, None) => (INodeNo(*inode), *kind),
                    };
                    if reply.add(number, index, kind, listed_name(&listed)) {
                        break;
                    }
                }
                Ok(())
            };
            match done.await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let volumes = self.volumes.clone();
        self.runtime.spawn(async move {
            match list_with_attributes(&volumes, file, offset, &mut reply).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error),
            }
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, file: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.volumes.folders.remove(file);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.empty(reply, |volumes| async move { volumes.sync(node, None, data_only).await });
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        let work = |volumes: Arc<Volumes>| async move { volumes.space(node).await };
        self.then(work, |done| match done {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.available,
                space.files,
                space.files_free,
                space.block_size,
                space.name_max,
                space.fragment_size,
            ),
            Err(error) => reply.error(error),
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.empty(
            reply,
            |volumes| async move { volumes.set_xattr(node, &name, Some((value, flags))).await },
        );
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.xattr(reply, size, node, Some(name));
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.xattr(reply, size, node, None);
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.empty(reply, |volumes| async move { volumes.set_xattr(node, &name, None).await });
    }

    fn access(&self, _: &Request, node: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.empty(reply, |volumes| async move { volumes.access(node, mask.bits()).await });
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        file: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = mode.cast_unsigned();
        self.empty(reply, |volumes| async move {
            let file = volumes.files.get(file)?;
            let done = volumes.ask_of(&file, |handle| Ask::Allocate { handle, mode, offset, length }).await;
            file.changed();
            done.map(drop)
        });
    }
}

/// How many entries stand before the folder's own: itself and the one above.
const DOTS: u64 = 2;

/// Those of them that are to be told: index of the next entry, number, name.
fn dots(volumes: &Volumes, node: INodeNo, offset: u64) -> impl Iterator<Item = (u64, INodeNo, &'static str)> {
    let both = [(1, node, "."), (2, volumes.above(node), "..")];
    both.into_iter().filter(move |(index, ..)| *index > offset)
}

async fn list_with_attributes(
    volumes: &Volumes,
    file: FileHandle,
    offset: u64,
    reply: &mut ReplyDirectoryPlus,
) -> Result<(), Errno> {
    let folder = volumes.folders.get(file)?;
    // Number 0 tells the kernel nothing but the entry itself.
    let nothing = volumes.owner.folder(INodeNo(0), SystemTime::UNIX_EPOCH);
    for (index, at, name) in dots(volumes, folder.node, offset) {
        if reply.add(at, index, name, &KEPT, &nothing, GENERATION) {
            return Ok(());
        }
    }
    let from = offset.saturating_sub(DOTS);
    for (index, listed) in (from + 1 + DOTS..).zip(volumes.entries(&folder, from).await?) {
        let name = listed_name(&listed);
        let (number, told) = match &listed.what {
            What::Point(told) => (told.ino, *told),
            What::File(_, _, Some(told)) if listed.fresh() => {
                let number = volumes.tree.told(folder.node, name, told);
                (number, volumes.owner.attributes(number, told))
            }
            What::File(_, kind, Some(told)) => {
                (volumes.tree.number(folder.node, told), FileAttr { kind: *kind, ..nothing })
            }
            What::File(inode, kind, None) => (INodeNo(*inode), FileAttr { kind: *kind, ..nothing }),
        };
        if reply.add(number, index, name, &KEPT, &told, GENERATION) {
            if told.ino.0 != 0 {
                volumes.tree.forget(told.ino, 1);
            }
            break;
        }
    }
    Ok(())
}
