//! One SOCKS5 conversation over any byte stream, up to the reply.
//!
//! What the far end sends right behind the reply (a server that talks first) arrives in the same read; it is kept
//! and read first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use socks_proxy::proto::{Client, ProtoError, Reply, Step};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::Duplex;

/// Why there was no reply.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The stream broke or ended.
    #[error("the connection ended before the SOCKS reply")]
    Io(#[from] io::Error),
    /// The server let us in, and hung up on the request.
    #[error("the server hung up on the SOCKS request")]
    HungUp(#[source] io::Error),
    /// What came is not SOCKS5, or the server did not let us in.
    #[error(transparent)]
    Proto(#[from] ProtoError),
}

impl From<ConversationError> for io::Error {
    fn from(error: ConversationError) -> Self {
        match error {
            ConversationError::Io(error) | ConversationError::HungUp(error) => error,
            ConversationError::Proto(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A stream behind a SOCKS reply.
#[derive(Debug)]
pub struct Conversation<IO> {
    io: IO,
    early: BytesMut,
}

/// Holds a conversation until the server's reply, whatever its code.
///
/// # Errors
/// If there is no reply.
pub async fn converse<IO>(
    mut io: IO,
    mut client: Client,
) -> Result<(Reply, Conversation<IO>), ConversationError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut early = BytesMut::with_capacity(512);
    let mut let_in = false;
    loop {
        let output = client.output();
        if !output.is_empty() {
            io.write_all(&output).await?;
            io.flush().await?;
        }
        let read = match io.read_buf(&mut early).await {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            read => read,
        };
        read.map_err(if let_in { ConversationError::HungUp } else { ConversationError::Io })?;
        match client.input(&early)? {
            Step::More(used) => {
                early.advance(used);
                let_in |= client.is_let_in();
            }
            Step::Done(used, reply) => {
                early.advance(used);
                return Ok((reply, Conversation { io, early }));
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Conversation<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, into);
        }
        let length = self.early.len().min(into.remaining());
        into.put_slice(&self.early.split_to(length));
        if self.early.is_empty() {
            self.early = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Conversation<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: Duplex> Duplex for Conversation<IO> {
    fn reset_on_close(&self) {
        self.io.reset_on_close();
    }

    fn leave(self: Box<Self>) {
        Box::new(self.io).leave();
    }

    fn as_tcp(&self) -> Option<&TcpStream> {
        self.io.as_tcp().filter(|_| self.early.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use socks_proxy::proto::{Command, Request};

    use super::*;

    #[tokio::test]
    async fn what_comes_with_the_reply_is_the_streams_first_data() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let request = Request::new(Command::Connect, std::net::SocketAddr::from(([10, 0, 0, 1], 80)));
        theirs.write_all(&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        theirs.write_all(b"220 hello").await.unwrap();
        let (reply, mut stream) = converse(ours, Client::pipelined(&request).unwrap()).await.unwrap();
        assert_eq!(reply.code, 0);
        theirs.write_all(b" again").await.unwrap();
        drop(theirs);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "220 hello again");
    }

    #[tokio::test]
    async fn a_socket_is_nobodys_before_what_came_early_was_read() {
        for (early, is_socket) in [(&b""[..], true), (b"220 hello", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut theirs, _) = listener.accept().await.unwrap();
            let request = Request::new(Command::Connect, std::net::SocketAddr::from(([10, 0, 0, 1], 80)));
            theirs.write_all(&[&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0], early].concat()).await.unwrap();
            let (_, mut stream) = converse(ours, Client::pipelined(&request).unwrap()).await.unwrap();
            assert_eq!(stream.as_tcp().is_some(), is_socket);
            stream.read_exact(&mut vec![0; early.len()]).await.unwrap();
            assert!(stream.as_tcp().is_some());
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_an_error() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let request = Request::new(Command::Connect, std::net::SocketAddr::from(([10, 0, 0, 1], 80)));
        drop(theirs);
        assert!(matches!(
            converse(ours, Client::pipelined(&request).unwrap()).await,
            Err(ConversationError::Io(_))
        ));
    }
}
