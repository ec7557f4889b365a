//! A client's connection and the bytes that it sent ahead.
//!
//! Clients pipeline: the request comes with the greeting, and first data with the request. What was read too far
//! must reach the far end, in order; and while a dial runs somebody has to read on, or nobody would notice that the
//! client has gone.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::EARLY_MAX;
use crate::mux::MuxStream;
use crate::proto::{MESSAGE_MAX, ProtoError};

/// How long the last words may take to arrive.
const FAREWELL: Duration = Duration::from_secs(1);
/// How many bytes of a client are passed over meanwhile.
const FAREWELL_MAX: u64 = 64 * 1024;

/// A connection that can be torn so that the client sees it was.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {
    /// It is a TCP socket. There an end without data before it means that the client is gone, and a close with unread
    /// bytes is a reset that overtakes our last words; a session's streams have neither trait.
    const PLAIN: bool;

    /// Makes the coming drop a reset instead of an orderly end.
    fn reset_on_drop(&self);
}

impl Connection for TcpStream {
    const PLAIN: bool = true;

    fn reset_on_drop(&self) {
        // It fails on a socket that is closed already, and then there is nothing left to reset.
        drop(self.set_zero_linger());
    }
}

impl Connection for MuxStream {
    const PLAIN: bool = false;

    fn reset_on_drop(&self) {
        // A stream that is dropped is reset as it is.
    }
}

/// A connection with what was read of it and not used yet in front.
#[derive(Debug)]
pub(super) struct Inbox<C> {
    connection: C,
    ahead: Vec<u8>,
    at: usize,
    /// What is to be said with the next words.
    held: Vec<u8>,
}

impl<C: Connection> Inbox<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, ahead: Vec::new(), at: 0, held: Vec::new() }
    }

    /// Keeps words back until the next ones: each message by itself is a turn of everybody on the way.
    pub(super) fn hold(&mut self, words: &[u8]) {
        self.held.extend_from_slice(words);
    }

    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was kept back, for the caller to say.
    pub(super) fn held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Says what was kept back.
    pub(super) async fn say_held(&mut self) -> io::Result<()> {
        if self.holds() {
            let words = self.held();
            self.connection.write_all(&words).await?;
            self.connection.flush().await?;
        }
        Ok(())
    }

    pub(super) fn reset_on_drop(&self) {
        self.connection.reset_on_drop();
    }

    /// Reads one message with a decoder of [`crate::proto`].
    pub(super) async fn message<M>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<Option<(M, usize)>, ProtoError>,
    ) -> io::Result<M> {
        loop {
            let here = self.ahead.get(self.at..).unwrap_or_default();
            match decode(here) {
                Ok(Some((message, used))) => {
                    self.at = self.at.saturating_add(used);
                    return Ok(message);
                }
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            // Who has not said all may wait for our word.
            self.say_held().await?;
            self.ahead.drain(..self.at);
            self.at = 0;
            let room = u64::try_from(MESSAGE_MAX.saturating_sub(self.ahead.len())).unwrap_or(0);
            if (&mut self.connection).take(room).read_buf(&mut self.ahead).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Ends the conversation so that what was written arrives, if the client reads it within [`FAREWELL`].
    pub(super) async fn end(&mut self) -> io::Result<()> {
        self.shutdown().await?;
        if !C::PLAIN {
            return Ok(());
        }
        let rest = (&mut self.connection).take(FAREWELL_MAX);
        match timeout(FAREWELL, tokio::io::copy(&mut { rest }, &mut tokio::io::sink())).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Reads ahead and returns when the client has gone: a reset, or an end without a byte of data before it where
    /// [`Connection::PLAIN`] is set. An end after data is a client that has said all it wants to say, and waits.
    pub(super) async fn gone(&mut self) {
        self.ahead.drain(..self.at);
        self.at = 0;
        while self.ahead.len() < EARLY_MAX {
            let room = u64::try_from(EARLY_MAX.saturating_sub(self.ahead.len())).unwrap_or(0);
            match (&mut self.connection).take(room).read_buf(&mut self.ahead).await {
                Ok(0) if C::PLAIN && self.ahead.is_empty() => return,
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        std::future::pending().await
    }
}

impl<C: Connection> AsyncRead for Inbox<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ahead = this.ahead.get(this.at..).unwrap_or_default();
        if ahead.is_empty() {
            return Pin::new(&mut this.connection).poll_read(cx, buf);
        }
        let length = ahead.len().min(buf.remaining());
        buf.put_slice(ahead.get(..length).unwrap_or_default());
        this.at = this.at.saturating_add(length);
        if this.at == this.ahead.len() {
            this.ahead = Vec::new();
            this.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: Connection> AsyncWrite for Inbox<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}
