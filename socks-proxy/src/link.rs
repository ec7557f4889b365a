//! The one long-lived connection between launcher and agent, as a byte stream that knows when it is dead.
//!
//! A port-forward that lost its pod, its kubelet or the laptop's network goes silent without an error: TCP ends at
//! the API server, and keepalives are answered there. So the link carries its own pings, from end to end, and a
//! side that hears nothing for [`SILENCE`] says that the link is dead. The launcher does not wait for the answer to
//! its hello: the first request leaves with it, and a refused token surfaces as the error of the first read.
//!
//! Invariants: bytes come out in the order they went in; memory is bounded ([`BUFFER`] each way) whatever the peer
//! does; one task polls both halves of a link (its wakers are those of the last poll); who reads it sends what waits.
//! It must not know what runs above it: it is the layer that will become resumable.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

pub mod frames;
mod wire;

pub use frames::{Flags, TOKEN_LEN};
use wire::{Incoming, Outgoing};

/// How often the client pings.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A side that hears nothing at all for so long declares the link dead.
pub const SILENCE: Duration = Duration::from_secs(20);
/// Bytes that a refused client may have sent ahead and still read the refusal.
const FAREWELL_MAX: u64 = 64 * 1024;
/// Bytes that a link buffers each way.
pub const BUFFER: usize = 128 * 1024;

/// Why a link ended; the source of the [`io::Error`]s that reading and writing it give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The agent runs for another token. The `io::Error` has kind `PermissionDenied`.
    #[error("the agent refused the token")]
    Refused,
    /// The other side's first bytes are not a link's.
    #[error("the other side does not speak this version of the link")]
    NotALink,
    /// A frame that no version has.
    #[error("the link carried a frame that is not one: {0:02x?}")]
    Frame([u8; frames::HEADER_LEN]),
    /// Nothing was heard in time. The `io::Error` has kind `TimedOut`.
    #[error("nothing came over the link for {} s", .0.as_secs())]
    Silent(Duration),
    /// The other side closed the connection in the middle of a frame or before its hello.
    #[error("the link was cut off")]
    Cut,
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        let kind = match error {
            LinkError::Refused => io::ErrorKind::PermissionDenied,
            LinkError::NotALink | LinkError::Frame(_) => io::ErrorKind::InvalidData,
            LinkError::Silent(_) => io::ErrorKind::TimedOut,
            LinkError::Cut => io::ErrorKind::UnexpectedEof,
        };
        Self::new(kind, error)
    }
}

/// SHA-256 of a token: all that the pod's specification, which many may read, holds of it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        unhex(hex.as_bytes()).map(Self)
    }

    /// The digest as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Whether this is the digest of `token`; takes the same time for every wrong one.
    #[must_use]
    pub fn matches(&self, token: &[u8]) -> bool {
        Self::of(token).0.ct_eq(&self.0).into()
    }
}

impl std::fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 hexadecimal digits as 32 bytes; `None` if they are not that.
#[must_use]
pub fn unhex(digits: &[u8]) -> Option<[u8; 32]> {
    if digits.len() != 64 {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// One end of a link over `IO`.
#[derive(Debug)]
pub struct Link<IO> {
    io: IO,
    incoming: Incoming,
    outgoing: Outgoing,
    flags_tx: watch::Sender<Option<Flags>>,
    heard: Instant,
    /// When the client pings next; the server only answers.
    ping_at: Option<Instant>,
    pings: u64,
    alarm: Pin<Box<Sleep>>,
}

/// Starts the client's end. No byte has crossed yet: the hello leaves with the first write or read.
pub fn connect<IO>(io: IO, token: &[u8; TOKEN_LEN]) -> Link<IO> {
    let hello = frames::client_hello(token);
    Link::new(io, Incoming::awaiting_hello(), Outgoing::starting_with(&hello), None, true)
}

/// Takes a client's hello, answers it, and gives the server's end.
///
/// # Errors
/// Those of `io`; [`LinkError::NotALink`] for other bytes (nothing is answered); [`LinkError::Refused`] for a token
/// that is not `token`'s (answered, then read on until the client closes). There is no time limit here: the caller sets one.
pub async fn accept<IO>(mut io: IO, token: &TokenDigest, flags: Flags) -> io::Result<Link<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = [0; frames::CLIENT_HELLO_LEN];
    io.read_exact(&mut hello).await?;
    let proof = frames::token_of(&hello).ok_or(LinkError::NotALink)?;
    if !token.matches(proof) {
        io.write_all(&frames::server_hello(None)).await?;
        io.shutdown().await?;
        // The client has sent frames already; closed over them, the connection would be reset, and the answer lost.
        let rest = tokio::io::copy(&mut (&mut io).take(FAREWELL_MAX), &mut tokio::io::sink()).await;
        drop(rest);
        return Err(LinkError::Refused.into());
    }
    let answer = frames::server_hello(Some(flags));
    Ok(Link::new(io, Incoming::started(), Outgoing::starting_with(&answer), Some(flags), false))
}

impl<IO> Link<IO> {
    fn new(io: IO, incoming: Incoming, outgoing: Outgoing, flags: Option<Flags>, client: bool) -> Self {
        let now = Instant::now();
        let ping_at = client.then(|| now + PING_EVERY);
        let alarm = Box::pin(sleep_until(ping_at.unwrap_or(now + SILENCE)));
        Self {
            io,
            incoming,
            outgoing,
            flags_tx: watch::Sender::new(flags),
            heard: now,
            ping_at,
            pings: 0,
            alarm,
        }
    }

    /// What the pod has: `None` until the agent's hello has come. Never changes after that.
    #[must_use]
    pub fn flags(&self) -> watch::Receiver<Option<Flags>> {
        self.flags_tx.subscribe()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Link<IO> {
    /// Sends the ping that is due, and fails when the other side was silent for too long.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= self.heard + SILENCE && self.incoming.has_room() {
                // A whole silence may have passed in which nobody polled: what waits in the socket counts as heard.
                if !self.fill(cx)? {
                    return Err(LinkError::Silent(SILENCE).into());
                }
                self.heard = now;
            }
            if self.ping_at.is_some_and(|at| at <= now) {
                self.outgoing.ping(frames::Header::Ping, self.pings.to_be_bytes());
                self.pings = self.pings.wrapping_add(1);
                self.ping_at = Some(now + PING_EVERY);
            }
            let silent_at = (self.heard + SILENCE).max(now + Duration::from_millis(100));
            self.alarm.as_mut().reset(self.ping_at.map_or(silent_at, |at| at.min(silent_at)));
        }
        Ok(())
    }

    /// Reads once if something is there; tells whether bytes came.
    fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.incoming.poll_fill(Pin::new(&mut self.io), cx) {
            Poll::Ready(Ok(0)) | Poll::Pending => Ok(false),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Writes what is queued, as far as the transport takes it.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_drain(Pin::new(&mut self.io), cx)
    }

    fn take_control(&mut self) {
        if let Some(flags) = self.incoming.take_flags() {
            self.flags_tx.send_replace(Some(flags));
        }
        while let Some(ping) = self.incoming.take_ping() {
            // A peer that pings without reading the answers does not fill our memory with them.
            if self.outgoing.has_room() {
                self.outgoing.ping(frames::Header::Pong, ping);
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Link<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let copied = this.incoming.copy_to(buf)?;
            this.take_control();
            if copied {
                return Poll::Ready(Ok(()));
            }
            this.poll_alarm(cx)?;
            // A write error alone is not the end: what the other side said before it closed is still to be read.
            let written = this.drain(cx);
            match this.incoming.poll_fill(Pin::new(&mut this.io), cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(this.incoming.at_end()),
                Poll::Ready(Ok(_)) => this.heard = Instant::now(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    return match written {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Link<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_alarm(cx)?;
        if !this.outgoing.has_room() {
            ready!(this.drain(cx))?;
        }
        Poll::Ready(Ok(this.outgoing.data(buf)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_alarm(cx)?;
        ready!(this.drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
