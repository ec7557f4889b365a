//! Many streams over one [`link`](crate::link): yamux, with its edges rounded off.
//!
//! The library has no task of its own: a connection moves only while somebody polls it, and whoever opens streams
//! needs the connection itself. So one driver owns it, and [`Opener`]s ask the driver. Its streams cannot tell an
//! end from a reset once a side has shut down, or from the death of the session, and a download that was cut off must
//! not look complete; so each [`MuxStream`] says in its own bytes where it ends.
//!
//! Both sides open streams: the client for what its programs ask, the server for who comes to an exposed port.
//!
//! Invariants: opening costs no round trip; one stream whose reader stalls does not stall the others (each has a
//! window of its own); a stream dropped before it was shut down is reset; nothing but the peer's own word is
//! taken for an end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, Mode};

mod leaving;
mod load;
mod stream;

use leaving::Leaving;
use load::Load;

/// Streams that a client may have open at once in one session; further ones wait.
pub const STREAMS_MAX: usize = 16 * 1024;
/// Streams that the library is told to allow: more, as it ends the whole session at the first one too many.
const STREAMS_CONFIGURED: usize = 2 * STREAMS_MAX;
/// By how many bytes the windows of all streams together may outgrow the 256 KiB that each starts with.
const WINDOWS_GROW_BY: usize = 64 * 1024 * 1024;
/// Longest frame in bytes; it is also how long a small stream waits for a busy one.
const FRAME_MAX: usize = 32 * 1024;
/// Requests to open a stream that may wait for the driver.
const OPENS_WAITING: usize = 1024;
/// Streams that a client's server has opened and nobody has taken yet.
const ARRIVALS_WAITING: usize = 1024;

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(STREAMS_CONFIGURED);
    config.set_max_connection_receive_window(Some(
        STREAMS_CONFIGURED * yamux::DEFAULT_CREDIT as usize + WINDOWS_GROW_BY,
    ));
    config.set_split_send_size(FRAME_MAX);
    config
}

/// Opens streams on a session; clones open on the same one.
#[derive(Clone, Debug)]
pub struct Opener {
    /// whoever wants a stream --a place for it--> driver
    opens_tx: mpsc::Sender<oneshot::Sender<MuxStream>>,
    places: Arc<Semaphore>,
    load: Arc<Load>,
    leaving: Arc<Leaving>,
}

impl Opener {
    /// Opens a stream. Nothing crosses the link until the stream is written to.
    ///
    /// # Errors
    /// `NotConnected` when the session has ended.
    pub async fn open(&self) -> io::Result<MuxStream> {
        let place = tokio::select! {
            place = self.places.clone().acquire_owned() => place.map_err(|_| ended())?,
            () = self.opens_tx.closed() => return Err(ended()),
        };
        let (stream_tx, stream_rx) = oneshot::channel();
        self.opens_tx.send(stream_tx).await.map_err(|_| ended())?;
        let mut stream = stream_rx.await.map_err(|_| ended())?;
        stream.keep(place);
        Ok(stream)
    }

    /// Whether a stream that is opened now would wait behind others that have much to say.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.load.is_busy()
    }

    /// Sends the ends of the streams that [left](MuxStream::leave) and that still wait, and waits until they are on their way.
    pub async fn dismiss(&self) {
        self.leaving.dismissed().await;
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.opens_tx.is_closed()
    }

    /// Waits until the session has ended.
    pub async fn closed(&self) {
        self.opens_tx.closed().await;
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the session has ended")
}

/// Streams that the other side has opened.
#[derive(Debug)]
pub struct Arrivals {
    /// driver --stream--> whoever takes them
    streams_rx: mpsc::Receiver<MuxStream>,
}

impl Arrivals {
    /// The next one; `None` when the session has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<MuxStream> {
        self.streams_rx.recv().await
    }
}

/// Starts a session as its client. The future drives it: spawn it; it ends when the peer closes the link or every
/// [`Opener`] and stream is gone (`Ok`), or with the link's error. Streams that the server opens are reset while
/// nobody keeps the [`Arrivals`], or while too many wait there.
pub fn client<IO>(io: IO) -> (Opener, Arrivals, impl Future<Output = io::Result<()>> + Send)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (opener, session) = Session::new(io, Mode::Client);
    let (streams_tx, streams_rx) = mpsc::channel(ARRIVALS_WAITING);
    let mut driver = Driver { session, streams_tx };
    (opener, Arrivals { streams_rx }, async move { poll_fn(|cx| driver.poll(cx)).await })
}

/// Starts a session as its server.
pub fn server<IO>(io: IO) -> Server<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (opener, session) = Session::new(io, Mode::Server);
    Server { session, opener }
}

/// The server's end of a session.
#[derive(Debug)]
pub struct Server<IO> {
    session: Session<IO>,
    opener: Opener,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Server<IO> {
    /// The next stream that the client opens, `None` when it has closed the link. This also drives all streams, so
    /// it must be awaited all the time, not only when a stream is wanted. Cancel safe.
    ///
    /// # Errors
    /// The link's.
    pub async fn accept(&mut self) -> io::Result<Option<MuxStream>> {
        poll_fn(|cx| {
            self.session.poll_opens(cx);
            self.session.poll_inbound(cx)
        })
        .await
    }

    /// Opens streams to the client, for as long as this session is driven.
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// Closes the session: what streams have written leaves first. Streams still open are reset.
    ///
    /// # Errors
    /// The link's.
    pub async fn close(mut self) -> io::Result<()> {
        poll_fn(|cx| self.session.connection.poll_close(cx)).await.map_err(io_error)
    }
}

#[derive(Debug)]
struct Session<IO> {
    connection: Connection<Compat<Together<IO>>>,
    /// whoever wants a stream --a place for it--> session
    opens_rx: mpsc::Receiver<oneshot::Sender<MuxStream>>,
    waiting: Option<oneshot::Sender<MuxStream>>,
    /// Streams hold a place each, so the session is out of use when all are free and no opener is left.
    places: Arc<Semaphore>,
    load: Arc<Load>,
    leaving: Arc<Leaving>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Session<IO> {
    fn new(io: IO, mode: Mode) -> (Opener, Self) {
        let (opens_tx, opens_rx) = mpsc::channel(OPENS_WAITING);
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        let load = Arc::new(Load::new());
        let leaving = Arc::<Leaving>::default();
        let connection = Connection::new(Together(io).compat(), config(), mode);
        let opener =
            Opener { opens_tx, places: places.clone(), load: load.clone(), leaving: leaving.clone() };
        (opener, Self { connection, opens_rx, waiting: None, places, load, leaving })
    }

    /// Opens what can be opened; `true` when there is no stream, and nobody left who could open one.
    fn poll_opens(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let open = match self.waiting.take() {
                Some(open) => open,
                None => match self.opens_rx.poll_recv(cx) {
                    Poll::Ready(Some(open)) => open,
                    Poll::Ready(None) => return self.places.available_permits() == STREAMS_MAX,
                    Poll::Pending => return false,
                },
            };
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => drop(open.send(self.stream(stream))),
                // The session has ended, which shows again in `poll_inbound`.
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => {
                    self.waiting = Some(open);
                    return false;
                }
            }
        }
    }

    fn stream(&self, stream: yamux::Stream) -> MuxStream {
        MuxStream::new(stream, self.load.clone(), self.leaving.clone())
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<MuxStream>>> {
        Poll::Ready(match ready!(self.connection.poll_next_inbound(cx)) {
            Some(Ok(stream)) => Ok(Some(self.stream(stream))),
            Some(Err(error)) => Err(io_error(error)),
            None => Ok(None),
        })
    }
}

/// A link that is not flushed after each frame, as the library would: it reads when it has nothing more to send, and a link
/// that is read sends what waits in it. So all that there is to say at a moment leaves together.
#[derive(Debug)]
struct Together<IO>(IO);

impl<IO: AsyncRead + Unpin> AsyncRead for Together<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Together<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

struct Driver<IO> {
    session: Session<IO>,
    /// driver --stream--> whoever takes them
    streams_tx: mpsc::Sender<MuxStream>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let unused = self.session.poll_opens(cx);
            // Before closing: the last streams' last words are to leave first.
            match self.session.poll_inbound(cx)? {
                Poll::Ready(Some(stream)) => self.arrived(cx, stream),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if unused => return self.session.connection.poll_close(cx).map_err(io_error),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Hands a stream over; without a place or a taker it is dropped, which resets it.
    fn arrived(&self, cx: &mut Context<'_>, mut stream: MuxStream) {
        let Ok(place) = self.session.places.clone().try_acquire_owned() else { return };
        stream.keep(place);
        stream.acknowledge(cx);
        drop(self.streams_tx.try_send(stream));
    }
}

fn io_error(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        ConnectionError::Decode(yamux::FrameDecodeError::Io(error)) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

pub use stream::MuxStream;

#[cfg(test)]
mod tests;
