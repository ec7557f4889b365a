//! Copies bytes both ways between two connections until both directions have ended.
//!
//! TCP ends its directions one by one, and programs rely on it (`curl -T - `, `nc -N`, `git`): an end of one side is
//! passed on as a shutdown of the other's write half and nothing else. An error is another matter: it ends both
//! directions at once, and the caller passes it on as a reset (`SO_LINGER` 0 on TCP, dropping a
//! [`MuxStream`](crate::mux::MuxStream)), so that a truncated transfer never looks complete.
//!
//! Invariants: bytes keep their order; a direction reads only when it has written what it read before; an idle
//! connection holds no buffer (one scratch buffer a thread serves all, and only what a writer did not take
//! is kept).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes moved by one read.
const CHUNK: usize = 64 * 1024;
/// Chunks that one direction moves before it lets other tasks run.
const CHUNKS_IN_A_ROW: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first argument of [`relay`].
    A,
    /// The second one.
    B,
}

/// How a relay ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes read from `a` and written to `b`.
    pub a_to_b: u64,
    /// Bytes read from `b` and written to `a`.
    pub b_to_a: u64,
    /// It is over because `a` has left ([`relay_until`]).
    pub left: bool,
    /// The error that ended it and the side that it came from; `None` if both directions ended in order.
    pub error: Option<(Side, io::Error)>,
}

/// Copies both ways until both directions have ended, or one side fails. Pass `&mut` to keep the connections, to
/// reset the one that did not fail.
pub async fn relay<A, B>(a: A, b: B) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    relay_until(a, b, |_| false).await
}

/// The same, but at `a`'s end it is asked whether `a` `has_left` altogether: then nobody reads what `b` may still say, and the
/// relay is over. `b` has all that `a` said, and has not been told of the end.
pub async fn relay_until<A, B>(mut a: A, mut b: B, has_left: impl Fn(&A) -> bool) -> Relayed
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut a_to_b = Direction::new(Side::A);
    let mut b_to_a = Direction::new(Side::B);
    let ended = poll_fn(|cx| {
        let one = a_to_b.poll(cx, Pin::new(&mut a), Pin::new(&mut b), &has_left)?;
        if matches!(a_to_b.state, State::Left) {
            return Poll::Ready(Ok(()));
        }
        let other = b_to_a.poll(cx, Pin::new(&mut b), Pin::new(&mut a), |_| false)?;
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await;
    let left = matches!(a_to_b.state, State::Left);
    Relayed { a_to_b: a_to_b.moved, b_to_a: b_to_a.moved, left, error: ended.err() }
}

#[derive(Debug)]
enum State {
    Copying,
    /// All is read and written.
    Done,
    Ending,
    Ended,
    /// Whoever was read from is not there any more.
    Left,
}

#[derive(Debug)]
struct Direction {
    from: Side,
    state: State,
    /// Read, and not taken by the writer yet; `pending[at..]` is left.
    pending: Vec<u8>,
    at: usize,
    unflushed: bool,
    moved: u64,
}

type Failed = (Side, io::Error);

impl Direction {
    const fn new(from: Side) -> Self {
        Self { from, state: State::Copying, pending: Vec::new(), at: 0, unflushed: false, moved: 0 }
    }

    const fn to(&self) -> Side {
        match self.from {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    fn poll<R: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut impl AsyncWrite>,
        has_left: impl Fn(&R) -> bool,
    ) -> Poll<Result<(), Failed>> {
        let to = self.to();
        for _ in 0..CHUNKS_IN_A_ROW {
            match self.state {
                State::Copying => match self.copy(cx, reader.as_mut(), writer.as_mut())? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        if self.unflushed && self.pending.is_empty() {
                            ready!(writer.as_mut().poll_flush(cx)).map_err(|error| (to, error))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Done => {
                    // Nobody waits for what a writer still keeps, if the reader has left.
                    ready!(writer.as_mut().poll_flush(cx)).map_err(|error| (to, error))?;
                    self.state = if has_left(&reader) { State::Left } else { State::Ending };
                }
                State::Ending => {
                    ready!(writer.as_mut().poll_shutdown(cx)).map_err(|error| (to, error))?;
                    self.state = State::Ended;
                }
                State::Ended | State::Left => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves one chunk. Pending means that the reader has nothing or the writer has no room.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        reader: Pin<&mut impl AsyncRead>,
        mut writer: Pin<&mut impl AsyncWrite>,
    ) -> Result<Poll<()>, Failed> {
        let to = self.to();
        while let Some(rest) = self.pending.get(self.at..).filter(|rest| !rest.is_empty()) {
            match write_some(cx, writer.as_mut(), rest).map_err(|error| (to, error))? {
                Poll::Ready(written) => self.wrote(written),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        self.pending = Vec::new();
        self.at = 0;
        let mut scratch = SCRATCH.take();
        scratch.resize(CHUNK, 0);
        let outcome = self.copy_through(cx, reader, writer, &mut scratch);
        SCRATCH.replace(scratch);
        outcome
    }

    fn copy_through(
        &mut self,
        cx: &mut Context<'_>,
        reader: Pin<&mut impl AsyncRead>,
        mut writer: Pin<&mut impl AsyncWrite>,
        scratch: &mut [u8],
    ) -> Result<Poll<()>, Failed> {
        let (from, to) = (self.from, self.to());
        let mut chunk = ReadBuf::new(scratch);
        match reader.poll_read(cx, &mut chunk) {
            Poll::Ready(read) => read.map_err(|error| (from, error))?,
            Poll::Pending => return Ok(Poll::Pending),
        }
        let mut rest = chunk.filled();
        if rest.is_empty() {
            self.state = State::Done;
        }
        while !rest.is_empty() {
            match write_some(cx, writer.as_mut(), rest).map_err(|error| (to, error))? {
                Poll::Ready(written) => {
                    self.wrote(written);
                    self.at = 0;
                    rest = rest.get(written..).unwrap_or_default();
                }
                Poll::Pending => {
                    self.pending = rest.to_vec();
                    return Ok(Poll::Pending);
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn wrote(&mut self, written: usize) {
        self.at = self.at.saturating_add(written);
        self.moved = self.moved.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        self.unflushed = true;
    }
}

fn write_some(
    cx: &mut Context<'_>,
    writer: Pin<&mut impl AsyncWrite>,
    bytes: &[u8],
) -> io::Result<Poll<usize>> {
    match writer.poll_write(cx, bytes) {
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(Ok(written)) => Ok(Poll::Ready(written)),
        Poll::Ready(Err(error)) => Err(error),
        Poll::Pending => Ok(Poll::Pending),
    }
}

#[cfg(test)]
mod tests;
