//! A VOLUMES stream, from its first message to its end.
//!
//! One task reads questions, one writes answers; what blocks is done by threads of the runtime's pool. Small answers
//! overtake big ones that wait, so that a listing does not stand behind a megabyte of somebody's file.
//!
//! Invariants: at most [`QUESTIONS`] questions are open and [`BYTES`] bytes of data held; over that nothing more is read,
//! or nothing more begun, until an answer has left.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::act::Files;
use super::wire::{Answer, Ask, DATA_MAX, Hello, MESSAGE_MAX, Question, ROOTS_MAX, Response};
use crate::messages;

/// Questions of a stream that are open at once.
const QUESTIONS: usize = 256;
/// Bytes of data that are held for a stream: read and not sent yet, or received and not written yet.
const BYTES: usize = 8 * DATA_MAX;
/// An answer of more bytes is big.
const SMALL: usize = 16 * 1024;

/// An answer on its way out, with what it takes of the limits.
struct Outgoing {
    bytes: Vec<u8>,
    _shares: Shares,
}

type Shares = [Option<OwnedSemaphorePermit>; 2];

/// Where answers wait.
#[derive(Clone)]
struct Answers {
    /// work --small answers--> writer
    small_tx: mpsc::Sender<Outgoing>,
    /// work --big answers--> writer
    big_tx: mpsc::Sender<Outgoing>,
}

/// Serves a stream whose SOCKS reply was sent.
///
/// # Errors
/// The stream's, and `InvalidData` for what is no message.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let Hello { roots } = messages::read(&mut reader, MESSAGE_MAX).await?;
    if roots.len() > ROOTS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many roots"));
    }
    let files = Arc::new(Files::new(roots));
    let (small_tx, small_rx) = mpsc::channel(QUESTIONS);
    let (big_tx, big_rx) = mpsc::channel(QUESTIONS);
    let answers = Answers { small_tx, big_tx };
    tokio::select! {
        ended = take(&mut reader, &files, answers) => match ended {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            ended => ended,
        },
        ended = send(&mut writer, small_rx, big_rx) => ended,
    }
}

async fn take(reader: &mut (impl AsyncRead + Unpin), files: &Arc<Files>, answers: Answers) -> io::Result<()> {
    let questions = Arc::new(Semaphore::new(QUESTIONS));
    let bytes = Arc::new(Semaphore::new(BYTES));
    loop {
        let open = share(&questions, 1).await;
        let Question { id, ask } = messages::read(reader, MESSAGE_MAX).await?;
        let (files, answers) = (files.clone(), answers.clone());
        match ask {
            // The answer says that somebody is here, whatever else takes its time.
            Ask::Alive => answers.say(id, Ok(Answer::Done), [open, None]).await?,
            Ask::Close { handle } => drop(tokio::task::spawn_blocking(move || files.close(handle))),
            Ask::Write { ref data, .. } => {
                // Its bytes are here already: nothing more is read until there is room.
                let held = share(&bytes, data.len()).await;
                tokio::spawn(work(files, answers, Question { id, ask }, [open, held]));
            }
            ask => {
                let bytes = bytes.clone();
                tokio::spawn(async move {
                    let held = match &ask {
                        Ask::Read { length, .. } => {
                            share(&bytes, usize::try_from(*length).unwrap_or(DATA_MAX)).await
                        }
                        Ask::List { .. } => share(&bytes, DATA_MAX / 2).await,
                        _ => None,
                    };
                    work(files, answers, Question { id, ask }, [open, held]).await;
                });
            }
        }
    }
}

async fn share(of: &Arc<Semaphore>, count: usize) -> Option<OwnedSemaphorePermit> {
    let count = u32::try_from(count.min(BYTES)).unwrap_or(u32::MAX);
    // None would mean that it was closed, which nobody does.
    of.clone().acquire_many_owned(count).await.ok()
}

async fn work(files: Arc<Files>, answers: Answers, question: Question, shares: Shares) {
    let Question { id, ask } = question;
    let done = tokio::task::spawn_blocking(move || files.answer(ask)).await;
    let result = done.unwrap_or(Err(Errno::IO)).map_err(Errno::raw_os_error);
    // Nobody waits for it any more when that fails.
    drop(answers.say(id, result, shares).await);
}

impl Answers {
    async fn say(&self, id: u64, result: Result<Answer, i32>, shares: Shares) -> io::Result<()> {
        let bytes = messages::encode(&Response { id, result })?;
        let queue = if bytes.len() > SMALL { &self.big_tx } else { &self.small_tx };
        let outgoing = Outgoing { bytes, _shares: shares };
        queue.send(outgoing).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    mut small_rx: mpsc::Receiver<Outgoing>,
    mut big_rx: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    loop {
        let outgoing = tokio::select! {
            biased;
            Some(outgoing) = small_rx.recv() => outgoing,
            Some(outgoing) = big_rx.recv() => outgoing,
            else => return Ok(()),
        };
        writer.write_all(&outgoing.bytes).await?;
        writer.flush().await?;
    }
}
