//! Each question as the system call that it stands for.
//!
//! All of it blocks, so it runs on threads of its own, and each call is made as the agent: what that may not do in the
//! container is what the container's program may not do either, if both run as the same user.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;
use serde_bytes::ByteBuf;

use super::handles::{Handle, Handles, changes, reopen, said};
use super::list::list;
use super::places::{Roots, attributes, checked, entry, magic};
use super::wire::{Answer, Ask, Change, DATA_MAX, NewTime, Place, Root, Space, Subject};
use super::xattr;

/// What a stream is about, and has open.
#[derive(Debug)]
pub(super) struct Files {
    roots: Roots,
    handles: Handles,
}

/// What a [`Subject`] was.
enum Found {
    Open(Arc<Handle>),
    Named(OwnedFd),
}

impl Found {
    fn descriptor(&self) -> &OwnedFd {
        match self {
            Self::Open(handle) => &handle.file,
            Self::Named(found) => found,
        }
    }
}

impl Files {
    pub(super) fn new(roots: Vec<Root>) -> Self {
        Self { roots: Roots::new(roots), handles: Handles::default() }
    }

    /// Forgets a handle. It may block as much as anything.
    pub(super) fn close(&self, handle: u64) {
        self.handles.close(handle);
    }

    /// Does what is asked.
    pub(super) fn answer(&self, ask: Ask) -> Result<Answer, Errno> {
        match ask {
            Ask::Alive => Ok(Answer::Done),
            Ask::Look { folder, name } => told(&entry(self.roots.find(&folder)?.as_fd(), &name)?),
            Ask::Attributes(of) => told(self.find(&of)?.descriptor()),
            Ask::List { folder, after, room } => list(&self.roots.find(&folder)?, after, room),
            Ask::Follow(link) => {
                let text = rustix::fs::readlinkat(self.roots.find(&link)?, "", Vec::new())?;
                Ok(Answer::Bytes(ByteBuf::from(text.into_bytes())))
            }
            Ask::Open { file, flags } => self.open(file, said(flags)),
            Ask::Read { handle, offset, length } => self.read(handle, offset, length),
            Ask::Access { of, mask } => {
                let mask = Access::from_bits_truncate(mask);
                if mask.contains(Access::WRITE_OK) {
                    self.roots.writable(&of)?;
                }
                rustix::fs::access(magic(&self.roots.find(&of)?), mask)?;
                Ok(Answer::Done)
            }
            Ask::Space(of) => self.space(&of),
            Ask::Xattr { of, name } => {
                Ok(Answer::Bytes(ByteBuf::from(xattr::get(self.find(&of)?.descriptor(), &name)?)))
            }
            Ask::Xattrs(of) => Ok(Answer::Bytes(ByteBuf::from(xattr::names(self.find(&of)?.descriptor())?))),
            Ask::Close { handle } => {
                self.close(handle);
                Ok(Answer::Done)
            }
            Ask::Flush { handle } => {
                // Some file systems tell only here that what was written is lost.
                let again = rustix::io::dup(&self.handles.get(handle)?.file)?;
                nix::unistd::close(again).map_err(errno)?;
                Ok(Answer::Done)
            }
            Ask::Sync { of, data_only } => self.sync(&of, data_only),
            change => self.alter(change),
        }
    }

    fn alter(&self, ask: Ask) -> Result<Answer, Errno> {
        match ask {
            Ask::Change { of, change } => self.change(&of, change),
            Ask::Create { folder, name, flags, mode } => self.create(folder, &name, flags, mode),
            Ask::Write { handle, offset, data } => write(&self.handles.get(handle)?.file, offset, &data),
            Ask::Allocate { handle, mode, offset, length } => {
                let mode = FallocateFlags::from_bits_retain(mode);
                rustix::fs::fallocate(&self.handles.get(handle)?.file, mode, offset, length)?;
                Ok(Answer::Done)
            }
            Ask::MakeFolder { folder, name, mode } => {
                let folder = self.changing(&folder)?;
                rustix::fs::mkdirat(&folder, checked(&name)?, Mode::from_raw_mode(mode))?;
                told(&entry(folder.as_fd(), &name)?)
            }
            Ask::MakeNode { folder, name, mode } => {
                let folder = self.changing(&folder)?;
                let kind = FileType::from_raw_mode(mode);
                if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
                    return Err(Errno::PERM);
                }
                rustix::fs::mknodat(&folder, checked(&name)?, kind, Mode::from_raw_mode(mode), 0)?;
                told(&entry(folder.as_fd(), &name)?)
            }
            Ask::MakeSymlink { folder, name, text } => {
                let folder = self.changing(&folder)?;
                rustix::fs::symlinkat(text.as_slice(), &folder, checked(&name)?)?;
                told(&entry(folder.as_fd(), &name)?)
            }
            Ask::MakeLink { file, folder, name } => {
                let (file, folder) = (self.changing(&file)?, self.changing(&folder)?);
                rustix::fs::linkat(CWD, magic(&file), &folder, checked(&name)?, AtFlags::SYMLINK_FOLLOW)?;
                told(&entry(folder.as_fd(), &name)?)
            }
            Ask::Remove { folder, name, is_folder } => {
                let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(self.changing(&folder)?, checked(&name)?, flags)?;
                Ok(Answer::Done)
            }
            Ask::Rename { folder, name, to_folder, to_name, flags } => {
                let (from, to) = (self.changing(&folder)?, self.changing(&to_folder)?);
                let flags = RenameFlags::from_bits_retain(flags);
                rustix::fs::renameat_with(from, checked(&name)?, to, checked(&to_name)?, flags)?;
                Ok(Answer::Done)
            }
            Ask::SetXattr { of, name, value, flags } => {
                self.may_change(&of)?;
                xattr::set(self.find(&of)?.descriptor(), &name, &value, flags)?;
                Ok(Answer::Done)
            }
            Ask::RemoveXattr { of, name } => {
                self.may_change(&of)?;
                xattr::remove(self.find(&of)?.descriptor(), &name)?;
                Ok(Answer::Done)
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn find(&self, subject: &Subject) -> Result<Found, Errno> {
        match subject {
            Subject::Handle(handle) => self.handles.get(*handle).map(Found::Open),
            Subject::Place(place) => self.roots.find(place).map(Found::Named),
        }
    }

    fn changing(&self, place: &Place) -> Result<OwnedFd, Errno> {
        self.roots.writable(place)?;
        self.roots.find(place)
    }

    fn may_change(&self, subject: &Subject) -> Result<(), Errno> {
        match subject {
            Subject::Handle(handle) => self.roots.writable(&self.handles.get(*handle)?.place),
            Subject::Place(place) => self.roots.writable(place),
        }
    }

    fn open(&self, file: Place, flags: OFlags) -> Result<Answer, Errno> {
        if changes(flags) {
            self.roots.writable(&file)?;
        }
        let found = self.roots.find(&file)?;
        let opened = reopen(&found, &attributes(&found)?, flags)?;
        self.opened(opened, file)
    }

    fn opened(&self, file: OwnedFd, place: Place) -> Result<Answer, Errno> {
        let attributes = attributes(&file)?;
        Ok(Answer::Opened { handle: self.handles.add(file, place)?, attributes })
    }

    fn create(&self, folder: Place, name: &[u8], flags: u32, mode: u32) -> Result<Answer, Errno> {
        let parent = self.changing(&folder)?;
        let wanted = said(flags);
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, checked(name)?, wanted | create, Mode::from_raw_mode(mode));
        let is_exclusive = OFlags::from_bits_retain(flags).contains(OFlags::EXCL);
        let file = match made {
            // Somebody was faster: it is opened as any other that is there.
            Err(Errno::EXIST) if !is_exclusive => {
                let found = entry(parent.as_fd(), name)?;
                reopen(&found, &attributes(&found)?, wanted)?
            }
            made => made?,
        };
        self.opened(file, folder)
    }

    fn read(&self, handle: u64, offset: u64, length: u32) -> Result<Answer, Errno> {
        let handle = self.handles.get(handle)?;
        let mut data = vec![0; usize::try_from(length).unwrap_or(DATA_MAX).min(DATA_MAX)];
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&handle.file, rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(length) => done += length,
                Err(Errno::INTR) => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        data.truncate(done);
        Ok(Answer::Bytes(ByteBuf::from(data)))
    }

    fn sync(&self, of: &Subject, data_only: bool) -> Result<Answer, Errno> {
        let open = match self.find(of)? {
            Found::Open(handle) => handle.file.try_clone().map_err(|_| Errno::MFILE)?,
            Found::Named(found) => reopen(&found, &attributes(&found)?, OFlags::RDONLY)?,
        };
        if data_only {
            rustix::fs::fdatasync(open)?
        } else {
            rustix::fs::fsync(open)?
        }
        Ok(Answer::Done)
    }

    fn change(&self, of: &Subject, change: Change) -> Result<Answer, Errno> {
        self.may_change(of)?;
        let found = self.find(of)?;
        let (file, path) = (found.descriptor(), magic(found.descriptor()));
        if let Some(size) = change.size {
            match &found {
                Found::Open(handle) => rustix::fs::ftruncate(&handle.file, size)?,
                Found::Named(found) => {
                    rustix::fs::ftruncate(reopen(found, &attributes(found)?, OFlags::WRONLY)?, size)?;
                }
            }
        }
        if let Some(mode) = change.mode {
            rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(mode))?;
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let (last_access, last_modification) = (timespec(change.accessed), timespec(change.modified));
            let times = Timestamps { last_access, last_modification };
            rustix::fs::utimensat(CWD, path.as_str(), &times, AtFlags::empty())?;
        }
        told(file)
    }

    fn space(&self, of: &Place) -> Result<Answer, Errno> {
        let told = rustix::fs::fstatvfs(self.roots.find(of)?)?;
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Answer::Space(Space {
            blocks: told.f_blocks,
            free: told.f_bfree,
            available: told.f_bavail,
            files: told.f_files,
            files_free: told.f_ffree,
            block_size: short(told.f_bsize),
            fragment_size: short(told.f_frsize),
            name_max: short(told.f_namemax),
        }))
    }
}

fn told(found: &OwnedFd) -> Result<Answer, Errno> {
    attributes(found).map(Answer::Attributes)
}

fn timespec(time: Option<NewTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(NewTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(NewTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    }
}

fn write(file: &OwnedFd, offset: u64, data: &[u8]) -> Result<Answer, Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(file, rest, offset.saturating_add(done as u64)) {
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(Answer::Written(u32::try_from(done).unwrap_or(u32::MAX)))
}

fn errno(error: nix::Error) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
