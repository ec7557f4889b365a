//! A connection with what was read of it and not used yet.
//!
//! Invariants: an idle connection holds no buffer; bytes leave the buffer when they are written and not before, so that
//! a copy can be given up at any moment and another way of copying goes on with the very next byte.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Chain, Join, ReadBuf, ReadHalf, WriteHalf,
};
use tokio::time::timeout;

use super::{Connection as _, Stream};

/// Most bytes of one read.
const CHUNK: usize = 64 * 1024;
/// How long a client may take to notice the end, and how many bytes of it are passed over meanwhile.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_MAX: u64 = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// As one stream again: what was read of it first.
pub(super) type Whole = Join<Chain<io::Cursor<Bytes>, ReadHalf<Stream>>, WriteHalf<Stream>>;

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) incoming: Incoming,
    pub(super) outgoing: WriteHalf<Stream>,
}

#[derive(Debug)]
pub(super) struct Incoming {
    reader: ReadHalf<Stream>,
    pub(super) buffer: BytesMut,
    /// Nothing comes after what is in the buffer.
    pub(super) ended: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        let (reader, outgoing) = tokio::io::split(stream);
        Self { incoming: Incoming { reader, buffer: BytesMut::new(), ended: false }, outgoing }
    }

    pub(super) fn into_whole(self) -> Whole {
        let Incoming { reader, buffer, .. } = self.incoming;
        tokio::io::join(io::Cursor::new(buffer.freeze()).chain(reader), self.outgoing)
    }

    /// Ends it so that the other side sees that it was torn.
    pub(super) fn reset(self) {
        reset(self.incoming.reader, self.outgoing);
    }

    /// Ends it in order. A close with unread bytes would be a reset, and could overtake what was written last.
    pub(super) async fn end(mut self) {
        if self.outgoing.shutdown().await.is_ok() && !self.incoming.ended {
            let mut rest = self.incoming.reader.take(FAREWELL_MAX);
            drop(timeout(FAREWELL, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await);
        }
    }

    /// It is idle as it should be: there, and without a word.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.incoming.buffer.is_empty() && self.incoming.poll_fill(&mut cx).is_pending()
    }
}

/// As [`Wire::reset`].
pub(super) fn reset_whole(whole: Whole) {
    let (chain, writer) = whole.into_inner();
    reset(chain.into_inner().1, writer);
}

fn reset(reader: ReadHalf<Stream>, writer: WriteHalf<Stream>) {
    reader.unsplit(writer).reset_on_drop();
}

impl Incoming {
    /// Reads more into the buffer; `false` at the end. Cancel safe.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        let mut scratch = SCRATCH.take();
        scratch.resize(CHUNK, 0);
        let mut chunk = ReadBuf::new(&mut scratch);
        let read = Pin::new(&mut self.reader).poll_read(cx, &mut chunk);
        self.buffer.extend_from_slice(chunk.filled());
        let length = chunk.filled().len();
        SCRATCH.replace(scratch);
        ready!(read)?;
        self.ended = length == 0;
        Poll::Ready(Ok(!self.ended))
    }

    /// Has these bytes before all others again.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.buffer);
        self.buffer.extend_from_slice(bytes);
        self.buffer.extend_from_slice(&rest);
    }

    /// Forgets so many bytes of the buffer.
    pub(super) fn drop_front(&mut self, length: usize) {
        drop(self.buffer.split_to(length.min(self.buffer.len())));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}
