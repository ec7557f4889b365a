//! Files that programs have open.
//!
//! A handle of the agent's ends with its stream. So a file knows how it was opened, and is opened again by its path on the
//! next stream, if the same file is still there; if not, nobody can reach it any more, and that is `ESTALE`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use fuser::{Errno, FileHandle, INodeNo};
use socks_proxy::volumes::wire::{Answer, Ask, Attributes, Identity, Place, Subject};
use tokio::sync::watch;

use super::ahead::{Ahead, Coming, Plan};
use super::client::{Connection, Lost, Patience};
use super::requests::Volumes;
use super::tree::Epoch;

/// One open file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) node: INodeNo,
    identity: Identity,
    flags: i32,
    epoch: Epoch,
    /// The connection's number, and the agent's handle there.
    handle: tokio::sync::Mutex<(u64, u64)>,
    ahead: Mutex<Ahead>,
}

impl File {
    pub(super) fn writes(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    /// Whatever was read ahead is of no use.
    pub(super) fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a read. To be called in the kernel's order.
    pub(super) fn plan(
        &self,
        offset: u64,
        length: u32,
        size: u64,
    ) -> (Plan, Vec<watch::Sender<Option<Read>>>) {
        let mut ahead = self.ahead();
        let read = offset..offset.saturating_add(length.into());
        let plan = ahead.plan(read, size, self.epoch.load(Ordering::Relaxed));
        let comes = plan.ask.iter().map(|range| {
            let (coming_tx, coming_rx) = watch::channel(None);
            ahead.asked(range.clone(), coming_rx);
            coming_tx
        });
        let comes = comes.collect();
        (plan, comes)
    }
}

type Read = Result<Bytes, Errno>;

/// All open files, by the kernel's number.
#[derive(Debug, Default)]
pub(super) struct Files {
    last: AtomicU64,
    open: Mutex<HashMap<FileHandle, Arc<File>>>,
}

impl Files {
    fn open(&self) -> MutexGuard<'_, HashMap<FileHandle, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `opened` has the number of the connection, the agent's handle there, and which file it is.
    pub(super) fn add(
        &self,
        node: INodeNo,
        epoch: Epoch,
        flags: i32,
        opened: (u64, u64, Identity),
    ) -> FileHandle {
        // What made or emptied the file is not to be done again.
        let flags = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
        let (connection, handle, identity) = opened;
        let handle = tokio::sync::Mutex::new((connection, handle));
        let file = File { node, identity, flags, epoch, handle, ahead: Mutex::default() };
        let number = FileHandle(self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        self.open().insert(number, Arc::new(file));
        number
    }

    pub(super) fn get(&self, number: FileHandle) -> Result<Arc<File>, Errno> {
        self.open().get(&number).cloned().ok_or(Errno::EBADF)
    }

    pub(super) fn remove(&self, number: FileHandle) -> Option<Arc<File>> {
        self.open().remove(&number)
    }

    /// Any file that is open on a node.
    pub(super) fn of(&self, node: INodeNo) -> Option<Arc<File>> {
        self.open().values().find(|file| file.node == node).cloned()
    }
}

impl Volumes {
    /// Asks about an open file; `ask` is given the handle.
    pub(super) async fn ask_of(&self, file: &File, ask: impl FnOnce(u64) -> Ask) -> Result<Answer, Errno> {
        let mut patience = Patience::new();
        // Made once, for it may hold a megabyte; the handle is put in where it goes out.
        let mut ask = ask(0);
        loop {
            let connection = self.client.connection(&patience).await?;
            let asked = match self.handle(file, &connection).await {
                Ok(Ok(handle)) => {
                    put(&mut ask, handle);
                    connection.ask(&ask).await
                }
                Ok(Err(error)) => Ok(Err(error)),
                Err(Lost) => Err(Lost),
            };
            match asked {
                Ok(answer) => return answer,
                // What was appended may be there already.
                Err(Lost) if file.appends() && matches!(ask, Ask::Write { .. }) => return Err(Errno::EIO),
                Err(Lost) => patience.lost(),
            }
        }
    }

    /// A file's handle on a connection.
    async fn handle(&self, file: &File, connection: &Connection) -> Result<Result<u64, Errno>, Lost> {
        let mut handle = file.handle.lock().await;
        if handle.0 == connection.number {
            return Ok(Ok(handle.1));
        }
        let Ok(place) = self.tree.place(file.node) else { return Ok(Err(Errno::ESTALE)) };
        let place = Place { is: Some(file.identity), ..place };
        match connection.ask(&Ask::Open { file: place, flags: file.flags.cast_unsigned() }).await? {
            Ok(Answer::Opened { handle: opened, .. }) => {
                *handle = (connection.number, opened);
                Ok(Ok(opened))
            }
            Ok(_) => Ok(Err(Errno::EIO)),
            Err(error) if error.code() == libc::ENOENT => Ok(Err(Errno::ESTALE)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The agent may forget a file.
    pub(super) async fn close(&self, file: &File) {
        let (number, handle) = *file.handle.lock().await;
        self.client.tell_if(number, &Ask::Close { handle }).await;
    }

    /// Asks about a node: by its file if there is one, else by another one that is open on it (it may have lost its name), else
    /// by its path.
    pub(super) async fn ask_about(
        &self,
        node: INodeNo,
        file: Option<FileHandle>,
        ask: impl Fn(Subject) -> Ask,
    ) -> Result<Answer, Errno> {
        let by = async |file: &File| self.ask_of(file, |handle| ask(Subject::Handle(handle))).await;
        if let Some(number) = file {
            return by(&*self.files.get(number)?).await;
        }
        if let Some(file) = self.files.of(node) {
            match by(&file).await {
                // Whoever had it open has closed it meanwhile: rsync sets a file's time just then.
                Err(error) if error.code() == libc::EBADF => {}
                asked => return asked,
            }
        }
        self.client.ask(&ask(Subject::Place(self.tree.place(node)?))).await
    }

    /// Reads as planned.
    pub(super) async fn read(
        self: &Arc<Self>,
        file: Arc<File>,
        offset: u64,
        length: u32,
        plan: Plan,
        comes: Vec<watch::Sender<Option<Read>>>,
    ) -> Read {
        let end = offset.saturating_add(length.into());
        let covered = plan.have.last().map_or(offset, |(range, _)| range.end).min(end);
        let direct =
            async { if covered < end { self.read_now(&file, covered, end).await } else { Ok(Bytes::new()) } };
        for (range, coming_tx) in plan.ask.into_iter().zip(comes) {
            let (volumes, file) = (self.clone(), file.clone());
            tokio::spawn(async move {
                let read = volumes.read_now(&file, range.start, range.end).await;
                coming_tx.send_replace(Some(read));
            });
        }
        let (had, direct) = tokio::join!(gather(plan.have, offset, end), direct);
        match had? {
            // It ended before what was read for it.
            (had, false) => Ok(had),
            (had, true) if covered == end => Ok(had),
            (had, true) if had.is_empty() => direct,
            (had, true) => {
                let mut whole = BytesMut::from(had);
                whole.extend_from_slice(&direct?);
                Ok(whole.freeze())
            }
        }
    }

    async fn read_now(&self, file: &File, from: u64, to: u64) -> Read {
        let length = u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX);
        match self.ask_of(file, |handle| Ask::Read { handle, offset: from, length }).await? {
            Answer::Bytes(bytes) => Ok(Bytes::from(bytes.into_vec())),
            _ => Err(Errno::EIO),
        }
    }

    /// Attributes of an answer.
    pub(super) fn attributes_of(answer: Answer) -> Result<Attributes, Errno> {
        match answer {
            Answer::Attributes(attributes) => Ok(attributes),
            _ => Err(Errno::EIO),
        }
    }
}

/// What had been asked for ahead, and whether the file goes on behind it.
async fn gather(
    have: Vec<(std::ops::Range<u64>, Coming)>,
    offset: u64,
    end: u64,
) -> Result<(Bytes, bool), Errno> {
    let mut parts = Vec::new();
    let mut goes_on = true;
    for (range, mut coming) in have {
        let chunk = match coming.wait_for(Option::is_some).await {
            Ok(read) => read.clone().unwrap_or(Err(Errno::EIO))?,
            Err(_) => return Err(Errno::EIO),
        };
        let index = |at: u64| usize::try_from(at.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let from = index(offset.max(range.start)).min(chunk.len());
        let to = index(end.min(range.end)).min(chunk.len());
        goes_on = index(end.min(range.end)) <= chunk.len();
        parts.push(chunk.slice(from..to));
        if !goes_on {
            break;
        }
    }
    Ok(match <[Bytes; 1]>::try_from(parts) {
        Ok([whole]) => (whole, goes_on),
        Err(parts) => (Bytes::from(parts.concat()), goes_on),
    })
}

fn put(ask: &mut Ask, to: u64) {
    match ask {
        Ask::Attributes(Subject::Handle(handle))
        | Ask::Xattrs(Subject::Handle(handle))
        | Ask::Change { of: Subject::Handle(handle), .. }
        | Ask::Sync { of: Subject::Handle(handle), .. }
        | Ask::Xattr { of: Subject::Handle(handle), .. }
        | Ask::SetXattr { of: Subject::Handle(handle), .. }
        | Ask::RemoveXattr { of: Subject::Handle(handle), .. }
        | Ask::Read { handle, .. }
        | Ask::Write { handle, .. }
        | Ask::Flush { handle }
        | Ask::Allocate { handle, .. } => *handle = to,
        _ => {}
    }
}
