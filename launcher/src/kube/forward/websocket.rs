//! A port-forward over a WebSocket, in the protocol `v4.channel.k8s.io`.
//!
//! A message's first byte is its channel: for the one port here, 0 is data and 1 is the error that ended it. Each channel
//! begins with a message that has nothing but the port's number. The library's own port-forward passes every byte through
//! three tasks and two queues in pieces of 4 KiB, and its two directions hold each other up; here whoever reads or writes the
//! stream moves the socket itself.
//!
//! Invariants: at most one message waits to be sent; a message is as long as what the link had to say at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};

use super::super::Cluster;

/// The channel of what the port and its client say.
const DATA: u8 = 0;
/// The channel of the words with which a forward ends that could not go on.
const ERROR: u8 = 1;
/// Bytes of the longest message. The servers on the way put each into memory whole.
const MESSAGE_MAX: usize = 128 * 1024;

/// A byte stream to a port on a pod's loopback, over the messages of `W`. Dropping it ends the port-forward.
#[derive(Debug)]
struct Forward<W> {
    socket: W,
    /// What came and was not read yet.
    unread: Bytes,
    /// By channel: if its first message has come.
    begun: [bool; 2],
    /// If a message waits to be sent.
    unsent: bool,
}

/// Opens a port-forward. That somebody listens on the port shows only when bytes come back.
///
/// # Errors
/// Those of the API server.
pub(super) async fn open(
    cluster: &Cluster,
    request: http::Request<Vec<u8>>,
) -> ::kube::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    Ok(Forward::new(cluster.client.connect(request).await?.into_stream()))
}

impl<W> Forward<W> {
    const fn new(socket: W) -> Self {
        Self { socket, unread: Bytes::new(), begun: [false; 2], unsent: false }
    }

    /// Takes a message apart.
    fn take(&mut self, mut message: Bytes) -> io::Result<()> {
        let Some(&channel) = message.first() else { return Ok(()) };
        let payload = message.split_off(1);
        let begun = self.begun.get_mut(usize::from(channel)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the port-forward has no channel {channel}"))
        })?;
        match channel {
            _ if !std::mem::replace(begun, true) => {}
            ERROR => return Err(io::Error::other(String::from_utf8_lossy(&payload).trim().to_owned())),
            _ => self.unread = payload,
        }
        Ok(())
    }
}

impl<W: Sink<Message, Error = SocketError> + Unpin> Forward<W> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent {
            ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(io_error)?;
            self.unsent = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn io_error(error: SocketError) -> io::Error {
    match error {
        SocketError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<W> AsyncRead for Forward<W>
where
    W: Stream<Item = Result<Message, SocketError>> + Sink<Message, Error = SocketError> + Unpin,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Who only waits for an answer sends what is left of the question. If that fails, the next write says so: what
        // the other side said before is still to be read.
        let _told_later = this.poll_send(cx);
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => this.take(message)?,
                None | Some(Ok(Message::Close(_)) | Err(SocketError::ConnectionClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let length = this.unread.len().min(into.remaining());
        into.put_slice(&this.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<W: Sink<Message, Error = SocketError> + Unpin> AsyncWrite for Forward<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let bytes = bytes.get(..MESSAGE_MAX).unwrap_or(bytes);
        let message: Bytes = [&[DATA], bytes].concat().into();
        Pin::new(&mut this.socket).start_send(Message::Binary(message)).map_err(io_error)?;
        this.unsent = true;
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_close(cx).map_err(io_error)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_immediate;
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    type Socket = WebSocketStream<DuplexStream>;

    /// A forward, and the API server's end of it, with room for so many bytes between them.
    async fn begun(room: usize) -> (Forward<Socket>, Socket) {
        let (here, there) = duplex(room);
        let here = WebSocketStream::from_raw_socket(here, Role::Client, None).await;
        let mut there = WebSocketStream::from_raw_socket(there, Role::Server, None).await;
        for channel in [DATA, ERROR] {
            says(&mut there, channel, &8080_u16.to_le_bytes()).await;
        }
        (Forward::new(here), there)
    }

    async fn says(server: &mut Socket, channel: u8, words: &[u8]) {
        server.send(Message::Binary([&[channel], words].concat().into())).await.unwrap();
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_close_is_the_end() {
        let (mut forward, mut server) = begun(1024).await;
        forward.write_all(b"ask").await.unwrap();
        assert_eq!(server.next().await.unwrap().unwrap(), Message::Binary(b"\0ask"[..].into()));
        says(&mut server, DATA, b"ans").await;
        says(&mut server, DATA, b"").await;
        says(&mut server, DATA, b"wer").await;
        server.close(None).await.unwrap();
        let mut answer = String::new();
        forward.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn what_ended_the_forward_is_told() {
        let (mut forward, mut server) = begun(1024).await;
        says(&mut server, DATA, b"x").await;
        says(&mut server, ERROR, b"connection refused\n").await;
        assert_eq!(forward.read_u8().await.unwrap(), b'x');
        assert_eq!(forward.read_u8().await.unwrap_err().to_string(), "connection refused");
        let (mut forward, mut server) = begun(1024).await;
        says(&mut server, 7, b"x").await;
        assert_eq!(forward.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut forward, server) = begun(1024).await;
        drop(server);
        forward.read_u8().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_takes_one_message_and_can_still_be_read() {
        let (mut forward, mut server) = begun(64).await;
        let long = vec![7; 1000];
        assert_eq!(forward.write(&long).await.unwrap(), long.len());
        assert!(poll_immediate(forward.write(&long)).await.is_none());
        says(&mut server, DATA, b"x").await;
        assert_eq!(forward.read_u8().await.unwrap(), b'x');
        // Reading alone sends what is left of it.
        let message = tokio::select! {
            message = server.next() => message.unwrap().unwrap(),
            byte = forward.read_u8() => panic!("{byte:?}"),
        };
        assert_eq!(message.len(), 1 + long.len());
    }
}
