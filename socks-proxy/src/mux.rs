//! Many streams over one [`link`](crate::link): yamux, with its two edges rounded off.
//!
//! The library has no task of its own: a connection moves only while somebody polls it, and whoever opens streams
//! needs the connection itself. So one driver owns it, and [`Opener`]s ask the driver. And it gives a reader the same
//! `Ok(0)` for an end, a reset and the death of the connection; a download that was cut off must not look
//! complete, so [`MuxStream`] tells them apart.
//!
//! Invariants: opening costs no round trip; one stream whose reader stalls does not stall the others (each has a
//! window of its own); a stream dropped before it was shut down is reset.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::io::AsyncRead as _;
use futures_util::io::AsyncWrite as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, Mode};

/// Streams that may be open at once in one session.
pub const STREAMS_MAX: usize = 32 * 1024;
/// By how many bytes the windows of all streams together may outgrow the 256 KiB that each starts with.
const WINDOWS_GROW_BY: usize = 64 * 1024 * 1024;
/// Longest frame in bytes; it is also how long a small stream waits for a busy one.
const FRAME_MAX: usize = 32 * 1024;
/// Requests to open a stream that may wait for the driver.
const OPENS_WAITING: usize = 1024;

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(STREAMS_MAX);
    config.set_max_connection_receive_window(Some(
        STREAMS_MAX * yamux::DEFAULT_CREDIT as usize + WINDOWS_GROW_BY,
    ));
    config.set_split_send_size(FRAME_MAX);
    config
}

/// Opens streams on a session; clones open on the same one.
#[derive(Clone, Debug)]
pub struct Opener {
    /// whoever wants a stream --a place for it--> driver
    opens_tx: mpsc::Sender<oneshot::Sender<MuxStream>>,
}

impl Opener {
    /// Opens a stream. Nothing crosses the link until the stream is written to.
    ///
    /// # Errors
    /// `NotConnected` when the session has ended.
    pub async fn open(&self) -> io::Result<MuxStream> {
        let (stream_tx, stream_rx) = oneshot::channel();
        self.opens_tx.send(stream_tx).await.map_err(|_| ended())?;
        stream_rx.await.map_err(|_| ended())
    }

    /// Waits until the session has ended.
    pub async fn closed(&self) {
        self.opens_tx.closed().await;
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the session has ended")
}

/// Starts a session as its client. The future drives it: spawn it; it ends when the peer closes the link or every
/// [`Opener`] and stream is gone (`Ok`), or with the link's error.
pub fn client<IO>(io: IO) -> (Opener, impl Future<Output = io::Result<()>> + Send)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (opens_tx, opens_rx) = mpsc::channel(OPENS_WAITING);
    let mut driver = Driver { session: Session::new(io, Mode::Client), opens_rx, waiting: None };
    (Opener { opens_tx }, async move { poll_fn(|cx| driver.poll(cx)).await })
}

/// Starts a session as its server.
pub fn server<IO>(io: IO) -> Server<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    Server { session: Session::new(io, Mode::Server) }
}

/// The server's end of a session.
#[derive(Debug)]
pub struct Server<IO> {
    session: Session<IO>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Server<IO> {
    /// The next stream that the client opens, `None` when it has closed the link. This also drives all streams, so
    /// it must be awaited all the time, not only when a stream is wanted. Cancel safe.
    ///
    /// # Errors
    /// The link's.
    pub async fn accept(&mut self) -> io::Result<Option<MuxStream>> {
        poll_fn(|cx| self.session.poll_inbound(cx)).await
    }

    /// Closes the session: what streams have written leaves first. Streams still open are reset.
    ///
    /// # Errors
    /// The link's.
    pub async fn close(mut self) -> io::Result<()> {
        poll_fn(|cx| self.session.connection.poll_close(cx)).await.map_err(io_error)
    }
}

/// A connection, and what its streams must learn when it dies.
#[derive(Debug)]
struct Session<IO> {
    connection: Connection<Compat<IO>>,
    dead: Arc<AtomicBool>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Session<IO> {
    fn new(io: IO, mode: Mode) -> Self {
        Self { connection: Connection::new(io.compat(), config(), mode), dead: Arc::default() }
    }

    fn stream(&self, inner: yamux::Stream) -> MuxStream {
        MuxStream { inner, dead: self.dead.clone(), shut: false }
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<MuxStream>>> {
        Poll::Ready(match ready!(self.connection.poll_next_inbound(cx)) {
            Some(Ok(stream)) => Ok(Some(self.stream(stream))),
            Some(Err(error)) => {
                self.dead.store(true, Ordering::Relaxed);
                Err(io_error(error))
            }
            None => {
                self.dead.store(true, Ordering::Relaxed);
                Ok(None)
            }
        })
    }
}

impl<IO> Drop for Session<IO> {
    fn drop(&mut self) {
        // Before the connection's own drop wakes the streams' readers.
        self.dead.store(true, Ordering::Relaxed);
    }
}

struct Driver<IO> {
    session: Session<IO>,
    /// whoever wants a stream --a place for it--> driver
    opens_rx: mpsc::Receiver<oneshot::Sender<MuxStream>>,
    waiting: Option<oneshot::Sender<MuxStream>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.waiting.is_none()
                && let Poll::Ready(Some(open)) = self.opens_rx.poll_recv(cx)
            {
                self.waiting = Some(open);
            }
            if let Some(open) = self.waiting.take() {
                match self.session.connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        drop(open.send(self.session.stream(stream)));
                        continue;
                    }
                    // Too many streams is this caller's trouble; anything else shows again below.
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => self.waiting = Some(open),
                }
            }
            match ready!(self.session.poll_inbound(cx))? {
                // A server has no business opening streams: dropped, it is reset.
                Some(stream) => drop(stream),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn io_error(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        ConnectionError::Decode(yamux::FrameDecodeError::Io(error)) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// One stream of a session. Dropping it without shutting it down resets it.
#[derive(Debug)]
pub struct MuxStream {
    inner: yamux::Stream,
    dead: Arc<AtomicBool>,
    shut: bool,
}

impl MuxStream {
    fn reset(&self) -> io::Error {
        let what = if self.dead.load(Ordering::Relaxed) {
            "the session ended below the stream"
        } else {
            "the other side reset the stream"
        };
        io::Error::new(io::ErrorKind::ConnectionReset, what)
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let place = buf.initialize_unfilled();
        let wanted = place.len();
        let length = match ready!(Pin::new(&mut this.inner).poll_read(cx, place)) {
            Ok(length) => length,
            Err(_) => return Poll::Ready(Err(this.reset())),
        };
        if length == 0 && wanted > 0 {
            let cut = this.inner.is_closed() && (!this.shut || this.dead.load(Ordering::Relaxed));
            if cut {
                return Poll::Ready(Err(this.reset()));
            }
        }
        buf.set_filled(before.saturating_add(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut this.inner).poll_write(cx, buf).map_err(|_| this.reset())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_flush(cx).map_err(|_| this.reset())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_close(cx)).map_err(|_| this.reset())?;
        this.shut = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
