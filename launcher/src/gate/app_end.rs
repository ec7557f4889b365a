//! The launcher's end of an app's connection, which the gate can look at while it is being relayed.
//!
//! The kernel closes the sockets of a process that ends, killed ones too, with a FIN, and a program that runs on would
//! take a transfer that was cut off for a complete one. So the socket is set to be reset when it is closed
//! (`SO_LINGER` 0, socket(7)) from the start, and only the end of both directions takes that back.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use socks_proxy::relay::{Relayed, relay_until};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::splice;
use crate::pod::Stream;
use crate::sys::socket::{TcpState, tcp_state};

/// A connection to an app's socket.
#[derive(Clone, Debug)]
pub(crate) struct AppEnd(Arc<TcpStream>);

impl AppEnd {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // A socket that is gone already needs no reset.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        Self(Arc::new(stream))
    }

    /// Both directions have ended: from now on a close is an end, and what was written is still delivered.
    pub(crate) fn has_ended(&self) {
        let _ = SockRef::from(&*self.0).set_linger(None);
    }

    /// Carries what both ends say until both directions have ended, or one side fails, or the app ends and `has_left`.
    pub(crate) async fn relay(&mut self, pod: &mut Stream, has_left: impl Fn(&TcpStream) -> bool) -> Relayed {
        match pod.as_tcp() {
            Some(socket) => splice::relay(self.socket(), socket).await,
            None => relay_until(self, pod, |app| has_left(app.socket())).await,
        }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Whether the app has closed its socket or shut its side down.
    pub(crate) fn is_closed_by_app(&self) -> bool {
        const ESTABLISHED: u8 = 1;
        const FIN_WAIT_1: u8 = 4;
        const FIN_WAIT_2: u8 = 5;
        // Those three are the states in which no FIN has come from the other side.
        !matches!(
            tcp_state(&*self.0),
            Ok(TcpState::Other(ESTABLISHED | FIN_WAIT_1 | FIN_WAIT_2)) | Ok(TcpState::Closed) | Err(_)
        )
    }
}

impl AsyncRead for AppEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(into.initialize_unfilled()) {
                Ok(length) => {
                    into.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for AppEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn connection() -> (TcpStream, AppEnd) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (app, AppEnd::new(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_off_is_reset() {
        let (mut app, ours) = connection().await;
        drop(ours);
        let error = app.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_is_closed() {
        let (mut app, ours) = connection().await;
        ours.has_ended();
        drop(ours);
        assert_eq!(app.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
