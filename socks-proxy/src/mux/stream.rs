//! One stream of a session, with an end of its own.
//!
//! What is written is cut into records of at most [`RECORD_MAX`] bytes, each with its length (16 bits, big-endian) in
//! front; a record of length 0 is the end, and one of length 0xFFFF is nothing. The library's own half-close is not used: with it a reset after one side's
//! end arrives as an end, a session that dies ends all its streams in apparent order, and whoever writes to a stream
//! that the peer has dropped after its end is never told. This way a dropped stream is always reset, and the end is
//! what the peer said.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::FRAME_MAX;
use super::leaving::Leaving;
use super::load::Load;

const HEADER_LEN: usize = 2;
/// Payload bytes of the longest record; with its header it fills one frame.
const RECORD_MAX: usize = FRAME_MAX - HEADER_LEN;
/// Header of a record that says nothing and has nothing behind it.
const NOTHING: u16 = u16::MAX;
/// Room that an idle stream may keep for its next record, in bytes.
const IDLE: usize = 512;

/// One stream of a session. Dropping it without shutting it down resets it; dropping it after that resets what the
/// peer still writes, as close(2) does with TCP.
#[derive(Debug)]
pub struct MuxStream {
    /// Given back before `inner` wakes the driver, which counts these.
    place: Option<OwnedSemaphorePermit>,
    inner: yamux::Stream,
    incoming: Incoming,
    /// A record on its way out; `outgoing[sent..]` is left.
    outgoing: Vec<u8>,
    sent: usize,
    shut: bool,
    load: Arc<Load>,
    leaving: Arc<Leaving>,
}

#[derive(Debug, Clone, Copy)]
enum Incoming {
    Header([u8; HEADER_LEN], usize),
    Record(usize),
    Ended,
}

impl MuxStream {
    pub(super) const fn new(inner: yamux::Stream, load: Arc<Load>, leaving: Arc<Leaving>) -> Self {
        let incoming = Incoming::Header([0; HEADER_LEN], 0);
        Self { place: None, inner, incoming, outgoing: Vec::new(), sent: 0, shut: false, load, leaving }
    }

    /// Ends the stream, of which nothing will be read any more, behind what has been written. It may leave a moment later, with
    /// something else. Call it in a runtime.
    pub fn leave(self) {
        let leaving = Arc::clone(&self.leaving);
        leaving.add(self);
    }

    pub(super) fn keep(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    /// Says nothing, in a record. A side may have opened 256 streams of which it has heard nothing (yamux), and whoever
    /// waits for a slow server's first word would keep the next one from being opened.
    pub(super) fn acknowledge(&mut self, cx: &mut Context<'_>) {
        self.outgoing.extend(NOTHING.to_be_bytes());
        // What is not taken now leaves with the first write; a stream that is gone says so then.
        let _later = self.poll_drain(cx);
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>, place: &mut [u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.inner).poll_read(cx, place)) {
            Ok(0) | Err(_) => Poll::Ready(Err(reset())),
            Ok(length) => Poll::Ready(Ok(length)),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, rest)).map_err(|_| reset())?;
            self.sent = self.sent.saturating_add(written);
        }
        self.outgoing.clear();
        self.outgoing.shrink_to(IDLE);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.poll_drain(cx))?;
            self.put(&[]);
            self.shut = true;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx).map_err(|_| reset())
    }

    fn put(&mut self, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap_or(0);
        self.outgoing.reserve_exact(payload.len().saturating_add(HEADER_LEN));
        self.outgoing.extend(length.to_be_bytes());
        self.outgoing.extend_from_slice(payload);
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the other side reset the stream, or the session ended")
}

impl AsyncRead for MuxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.incoming {
                Incoming::Ended => return Poll::Ready(Ok(())),
                Incoming::Header(header, HEADER_LEN) => {
                    this.incoming = match u16::from_be_bytes(header) {
                        0 => Incoming::Ended,
                        NOTHING => Incoming::Header([0; HEADER_LEN], 0),
                        length => {
                            this.load.add(length.into());
                            Incoming::Record(length.into())
                        }
                    };
                }
                Incoming::Header(mut header, have) => {
                    let missing = header.get_mut(have..).unwrap_or_default();
                    let length = ready!(this.poll_inner(cx, missing))?;
                    this.incoming = Incoming::Header(header, have.saturating_add(length));
                }
                Incoming::Record(0) => this.incoming = Incoming::Header([0; HEADER_LEN], 0),
                Incoming::Record(left) => {
                    if buf.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let room = left.min(buf.remaining());
                    let place = buf.initialize_unfilled_to(room);
                    let length = ready!(this.poll_inner(cx, place))?;
                    buf.advance(length);
                    this.incoming = Incoming::Record(left.saturating_sub(length));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for MuxStream {
    /// Takes one record. It may stay in the stream until the next write or flush, if the peer's window is full.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_drain(cx))?;
        let payload = buf.get(..RECORD_MAX).unwrap_or(buf);
        if !payload.is_empty() {
            this.load.add(payload.len());
            this.put(payload);
            if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(payload.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.leaving.dismiss();
        Pin::new(&mut this.inner).poll_flush(cx).map_err(|_| reset())
    }

    /// Says the end. A peer that has said its own and has left needs not be told.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match ready!(this.poll_end(cx)) {
            Err(_) if matches!(this.incoming, Incoming::Ended) => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}
