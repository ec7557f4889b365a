//! Questions to the agent: one stream at a time, as many questions on it as there are, over the link of the moment.
//!
//! A link that is lost mostly says so, but one that was cut says nothing, and its own pings are slower than a program may
//! be kept waiting. So while a question is open and no byte moves either way, the agent is asked whether it is there.
//!
//! Invariants: a question that may be asked twice is asked again over the next link, once; a call returns at most ten
//! seconds after its link was lost; a call on a link that lives waits as long as the pod's file system does.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fuser::Errno;
use socks_proxy::messages;
use socks_proxy::volumes::wire::{Answer, Ask, Hello, MESSAGE_MAX, Place, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info};

use super::Opening;
use crate::pod::Stream;

/// How long a call waits for a link where there is none.
const LINK_WAIT: Duration = Duration::from_secs(8);
/// How long it waits for the next one when it has lost one.
const NEXT_LINK_WAIT: Duration = Duration::from_secs(4);
/// With questions open and no byte for so long the link is taken for lost; and how often that is looked at.
const SILENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Questions that wait for the stream.
const QUEUE: usize = 64;
/// The number of questions that nobody waits for.
const NOBODY: u64 = 0;

/// The stream ended before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// Until when a call may look for a link.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    has_lost: bool,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { until: Instant::now() + LINK_WAIT, has_lost: false }
    }

    /// A link was lost over the call.
    pub(super) fn lost(&mut self) {
        if !self.has_lost {
            self.until = Instant::now() + NEXT_LINK_WAIT;
        }
        self.has_lost = true;
    }
}

/// Is told which place the agent may not read.
pub(super) type Denied = Box<dyn Fn(&Place) + Send + Sync>;

/// Asks over the link of the moment.
pub(super) struct Client {
    open: Box<dyn Fn() -> Opening + Send + Sync>,
    denied: Denied,
    hello: Hello,
    current: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(open: Box<dyn Fn() -> Opening + Send + Sync>, hello: Hello, denied: Denied) -> Self {
        Self { open, denied, hello, current: tokio::sync::Mutex::default() }
    }

    /// The connection of the moment, or a new one.
    pub(super) async fn connection(&self, patience: &Patience) -> Result<Arc<Connection>, Errno> {
        let connected = async {
            let mut current = self.current.lock().await;
            match &*current {
                Some(connection) if !connection.is_lost() => Ok(connection.clone()),
                before => {
                    let number = before.as_ref().map_or(1, |before| before.number.wrapping_add(1));
                    let connection = Connection::open((self.open)().await?, &self.hello, number).await?;
                    *current = Some(connection.clone());
                    Ok(connection)
                }
            }
        };
        match tokio::time::timeout_at(patience.until, connected).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                let error: io::Error = error;
                info!(%error, "the pod's volumes cannot be reached");
                Err(Errno::EIO)
            }
            Err(_elapsed) => Err(Errno::EIO),
        }
    }

    /// Asks what names no handle.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answer, Errno> {
        self.ask_on(ask).await.map(|(_, answer)| answer)
    }

    /// As [`Client::ask`]; gives the number of the connection, too, on which an answered handle is one.
    pub(super) async fn ask_on(&self, ask: &Ask) -> Result<(u64, Answer), Errno> {
        let mut patience = Patience::new();
        loop {
            let connection = self.connection(&patience).await?;
            match connection.ask(ask).await {
                Ok(answer) => {
                    if answer.as_ref().is_err_and(|error| error.code() == libc::EACCES) {
                        read_at(ask).into_iter().for_each(&self.denied);
                    }
                    return answer.map(|answer| (connection.number, answer));
                }
                Err(Lost) if may_be_repeated(ask) => patience.lost(),
                Err(Lost) => return Err(Errno::EIO),
            }
        }
    }

    /// Tells what is not answered, if that is still the connection of the moment.
    pub(super) async fn tell_if(&self, number: u64, ask: &Ask) {
        let current = self.current.lock().await.clone();
        if let Some(connection) = current.filter(|current| current.number == number) {
            connection.tell(ask).await;
        }
    }
}

/// What a question that reads is about.
fn read_at(ask: &Ask) -> Option<&Place> {
    match ask {
        Ask::Open { file, flags } if flags & (libc::O_WRONLY | libc::O_RDWR) as u32 == 0 => Some(file),
        Ask::List { folder, .. } | Ask::Look { folder, .. } => Some(folder),
        _ => None,
    }
}

/// Whether it makes no difference that a question was carried out and is asked again.
fn may_be_repeated(ask: &Ask) -> bool {
    !matches!(
        ask,
        Ask::Create { .. }
            | Ask::MakeFolder { .. }
            | Ask::MakeNode { .. }
            | Ask::MakeSymlink { .. }
            | Ask::MakeLink { .. }
            | Ask::Remove { .. }
            | Ask::Rename { .. }
            | Ask::SetXattr { .. }
            | Ask::RemoveXattr { .. }
    )
}

/// One stream.
#[derive(Debug)]
pub(super) struct Connection {
    /// Handles of one connection mean nothing on the next.
    pub(super) number: u64,
    /// calls --questions, encoded--> the stream's writer
    questions_tx: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<Waiting>,
}

type Asker = oneshot::Sender<Result<Answer, i32>>;

#[derive(Debug, Default)]
struct Waiting {
    lost: bool,
    last: u64,
    askers: HashMap<u64, Asker>,
}

impl Connection {
    async fn open(stream: Stream, hello: &Hello, number: u64) -> io::Result<Arc<Self>> {
        let moved = Arc::new(AtomicU64::new(0));
        let (mut reader, mut writer) = tokio::io::split(Watched { stream, moved: moved.clone() });
        messages::write(&mut writer, hello).await?;
        let (questions_tx, mut questions_rx) = mpsc::channel::<Vec<u8>>(QUEUE);
        let connection = Arc::new(Self { number, questions_tx, waiting: Mutex::default() });
        let carried = connection.clone();
        tokio::spawn(async move {
            let receive = async {
                loop {
                    carried.answered(messages::read(&mut reader, MESSAGE_MAX).await?);
                }
            };
            let send = async {
                while let Some(question) = questions_rx.recv().await {
                    writer.write_all(&question).await?;
                    writer.flush().await?;
                }
                Ok(())
            };
            let ended: io::Result<()> = tokio::select! {
                ended = receive => ended,
                ended = send => ended,
                () = carried.silence(&moved) => Err(io::ErrorKind::TimedOut.into()),
            };
            debug!(?ended, "a stream of volumes ended");
            carried.end();
        });
        Ok(connection)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lost(&self) -> bool {
        self.waiting().lost
    }

    fn end(&self) {
        let mut waiting = self.waiting();
        waiting.lost = true;
        // Dropped, they say so to who waits.
        waiting.askers.clear();
    }

    fn answered(&self, Response { id, result }: Response) {
        if let Some(asker) = self.waiting().askers.remove(&id) {
            // A call that was given up has no use for it.
            drop(asker.send(result));
        }
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Result<Answer, Errno>, Lost> {
        let (answer_tx, answer_rx) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            if waiting.lost {
                return Err(Lost);
            }
            waiting.last += 1;
            let id = waiting.last;
            waiting.askers.insert(id, answer_tx);
            id
        };
        // As a `Question`, without taking what is asked.
        let Ok(question) = messages::encode(&(id, ask)) else { return Ok(Err(Errno::EIO)) };
        self.questions_tx.send(question).await.map_err(|_| Lost)?;
        Ok(answer_rx.await.map_err(|_| Lost)?.map_err(Errno::from_i32))
    }

    /// Asks what is not answered.
    async fn tell(&self, ask: &Ask) {
        if let Ok(question) = messages::encode(&(NOBODY, ask)) {
            // A stream that has ended forgets by itself.
            drop(self.questions_tx.send(question).await);
        }
    }

    /// Returns when questions are open and nothing has moved for too long.
    async fn silence(&self, moved: &AtomicU64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = moved.load(Ordering::Relaxed);
            if now != last || self.waiting().askers.is_empty() {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= SILENCE {
                return;
            } else if let Ok(question) = messages::encode(&(NOBODY, Ask::Alive)) {
                // A full queue has something to move already.
                drop(self.questions_tx.try_send(question));
            }
        }
    }
}

/// A stream that counts how often bytes went by.
struct Watched {
    stream: Stream,
    moved: Arc<AtomicU64>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.moved.fetch_add(polled.is_ready().into(), Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        // The question whether somebody is there goes by, too, and says nothing.
        let counts = polled.is_ready() && buf.len() > 64;
        self.moved.fetch_add(counts.into(), Ordering::Relaxed);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
