//! What launcher and agent say to each other on a VOLUMES stream, as messages of [`crate::messages`].
//!
//! The launcher begins with [`Hello`], then sends [`Question`]s; each but [`Ask::Close`] has one [`Response`], in any order.
//! Numbers that mean something to a kernel (flags of open(2), modes, errno) are Linux' generic ones, which x86-64 and
//! arm64 share but for the few that are named here.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most bytes of one [`Ask::Read`]'s answer, and of one [`Ask::Write`].
pub const DATA_MAX: usize = 1024 * 1024;
/// Most bytes of a message: the data, and what is said about it. A path has at most 4096 bytes (`PATH_MAX`), a value of an
/// extended attribute 64 KiB (xattr(7)).
pub const MESSAGE_MAX: usize = DATA_MAX + 128 * 1024;
/// Most folders that a stream may begin with.
pub const ROOTS_MAX: usize = 1024;

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the stream is about; a [`Place`] has an index into it.
    pub roots: Vec<Root>,
}

/// A folder (or a single file) of the agent's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Absolute.
    pub path: ByteBuf,
    /// Whether anything below may be changed; if not, that is `EROFS`.
    pub writable: bool,
}

/// Which file it is, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// `st_dev` in the agent's container.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// When it was made, where the file system knows: numbers are used again.
    pub born: Time,
}

/// A file by its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index of the root.
    pub root: u32,
    /// Relative to the root, empty for the root itself; no part of it is `.` or `..` or empty.
    pub path: ByteBuf,
    /// What the launcher takes it for. If another file is there by now, that is `ESTALE`, at which the launcher's kernel
    /// looks the path up again.
    pub is: Option<Identity>,
}

/// A file by an open handle, or by its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// Open on this stream.
    Handle(u64),
    /// By path.
    Place(Place),
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

/// A time to set (utimensat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewTime {
    /// The agent's clock.
    Now,
    /// As given.
    At(Time),
}

/// What to change of a file's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub accessed: Option<NewTime>,
    /// Last modification.
    pub modified: Option<NewTime>,
}

/// A question with the number by which it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Chosen by the launcher.
    pub id: u64,
    /// What to do.
    pub ask: Ask,
}

/// What to do. Names are single parts of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are what the call is given that each of these stands for")]
pub enum Ask {
    /// Answer at once, [`Answer::Done`]: the link is there.
    Alive,
    /// What is by that name in a folder: [`Answer::Attributes`].
    Look { folder: Place, name: ByteBuf },
    /// [`Answer::Attributes`].
    Attributes(Subject),
    /// [`Answer::Attributes`], of after.
    Change { of: Subject, change: Change },
    /// Entries of a folder behind the one whose cookie that is (0: from the start), about so many bytes: [`Answer::Listing`].
    List { folder: Place, after: i64, room: u32 },
    /// A symbolic link's text: [`Answer::Bytes`].
    Follow(Place),
    /// Opens a file with flags of open(2); `O_CREAT`, `O_EXCL` mean nothing. [`Answer::Opened`].
    Open { file: Place, flags: u32 },
    /// Creates a file that is not there, or opens the one that is, if `O_EXCL` is not among the flags. [`Answer::Opened`].
    Create { folder: Place, name: ByteBuf, flags: u32, mode: u32 },
    /// [`Answer::Bytes`], shorter only at the file's end.
    Read { handle: u64, offset: u64, length: u32 },
    /// [`Answer::Written`]. With `O_APPEND` among the handle's flags at the end, wherever that is.
    Write { handle: u64, offset: u64, data: ByteBuf },
    /// What close(2) would say: [`Answer::Done`].
    Flush { handle: u64 },
    /// fsync(2), or fdatasync(2): [`Answer::Done`].
    Sync { of: Subject, data_only: bool },
    /// fallocate(2): [`Answer::Done`].
    Allocate { handle: u64, mode: u32, offset: u64, length: u64 },
    /// Forgets a handle. Not answered.
    Close { handle: u64 },
    /// [`Answer::Attributes`].
    MakeFolder { folder: Place, name: ByteBuf, mode: u32 },
    /// mknod(2) of a file, a FIFO or a socket: [`Answer::Attributes`].
    MakeNode { folder: Place, name: ByteBuf, mode: u32 },
    /// [`Answer::Attributes`].
    MakeSymlink { folder: Place, name: ByteBuf, text: ByteBuf },
    /// Another name for a file: [`Answer::Attributes`].
    MakeLink { file: Place, folder: Place, name: ByteBuf },
    /// unlink(2), or rmdir(2): [`Answer::Done`].
    Remove { folder: Place, name: ByteBuf, is_folder: bool },
    /// renameat2(2) with its flags: [`Answer::Done`].
    Rename { folder: Place, name: ByteBuf, to_folder: Place, to_name: ByteBuf, flags: u32 },
    /// access(2): [`Answer::Done`].
    Access { of: Place, mask: u32 },
    /// statvfs(3): [`Answer::Space`].
    Space(Place),
    /// An extended attribute's value: [`Answer::Bytes`].
    Xattr { of: Subject, name: ByteBuf },
    /// Names of extended attributes, each with a NUL behind: [`Answer::Bytes`].
    Xattrs(Subject),
    /// setxattr(2) with its flags: [`Answer::Done`].
    SetXattr { of: Subject, name: ByteBuf, value: ByteBuf, flags: u32 },
    /// [`Answer::Done`].
    RemoveXattr { of: Subject, name: ByteBuf },
}

/// An answer to the question of that number: what was asked for, or an errno.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The question's.
    pub id: u64,
    /// What came of it.
    pub result: Result<Answer, i32>,
}

/// See [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are what each answer is made of")]
pub enum Answer {
    /// It is done.
    Done,
    /// Of a file.
    Attributes(Attributes),
    /// A handle, good until [`Ask::Close`] or the stream's end.
    Opened { handle: u64, attributes: Attributes },
    /// So many bytes; fewer than were given if then an error came.
    Written(u32),
    /// Data, text, names.
    Bytes(ByteBuf),
    /// A part of a folder; `end` if there is nothing behind it.
    Listing { entries: Vec<Entry>, end: bool },
    /// Of a file system.
    Space(Space),
}

/// What stat(2) tells, but for the owner: that is somebody in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Which file.
    pub identity: Identity,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    /// Bytes of a good read(2).
    pub block_size: u32,
    /// Of a device.
    pub device_number: u64,
    /// Last access.
    pub accessed: Time,
    /// Last modification.
    pub modified: Time,
    /// Last change of anything.
    pub changed: Time,
}

/// An entry of a folder; neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: ByteBuf,
    /// Where a listing goes on behind it.
    pub cookie: i64,
    /// `st_ino` of what it names.
    pub inode: u64,
    /// The type of what it names, as in [`Attributes::mode`].
    pub kind: u32,
    /// Of what it names. None where the folder may be read but not searched.
    pub attributes: Option<Attributes>,
}

/// What statvfs(3) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Blocks.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Free ones for others than root.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free ones.
    pub files_free: u64,
    /// Bytes of a good read(2).
    pub block_size: u32,
    /// Bytes of a block.
    pub fragment_size: u32,
    /// Longest name.
    pub name_max: u32,
}
