//! A TCP connection that is reset when this process is killed.
//!
//! The kernel ends the connections of a process that dies as if it had closed them, and what was cut off would look whole
//! to the other end. With `SO_LINGER` 0 it resets them; so that is set while the connection is here, and taken back when it
//! ends in order.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::route::Connection;

#[derive(Debug)]
pub(super) struct Guarded {
    stream: TcpStream,
    reset: bool,
}

impl Guarded {
    /// # Errors
    /// Those of setsockopt(2), on a connection that has ended.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_zero_linger()?;
        Ok(Self { stream, reset: false })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !self.reset {
            // It fails on a socket that is closed already, and then it has ended anyway.
            drop(SockRef::from(&self.stream).set_linger(None));
        }
    }
}

impl Connection for Guarded {
    fn reset_on_drop(&mut self) {
        self.reset = true;
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
