//! One UDP flow of the pod over a byte stream: each datagram with its length (16 bits, big-endian) in front.
//!
//! The request leaves with the first datagram and the reply is read with the first answer, so a flow costs no round trip
//! of its own.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use socks_proxy::proto::{Client, DATAGRAM_ERROR, DATAGRAM_MAX, Step};
use tokio::io::{AsyncReadExt as _, ReadHalf, WriteHalf};
use tp_abi::errno;

use super::{DialError, Stream};

/// Bytes read at once.
const BUSY: usize = 64 * 1024;
const IDLE: usize = 2 * 1024;
/// Bytes of a read after which more are expected; a stream gives at most half of [`BUSY`].
const MUCH: usize = 16 * 1024;

/// A flow: its two directions, which do not wait for each other.
pub struct Datagrams {
    /// Takes records ([`append`]).
    pub outgoing: WriteHalf<Stream>,
    /// Gives what comes.
    pub incoming: Incoming,
}

impl Datagrams {
    /// A flow over a stream on which `client`'s request was sent, or is answered already if there is none.
    #[must_use]
    pub fn new(stream: Stream, client: Option<Client>) -> Self {
        let (incoming, outgoing) = tokio::io::split(stream);
        let incoming = Incoming { stream: incoming, client, bytes: BytesMut::new(), busy: false };
        Self { outgoing, incoming }
    }
}

/// Appends a datagram as a record.
pub fn append(records: &mut BytesMut, datagram: &[u8]) {
    // UDP carries no longer one, so the kernel gave none.
    let length = datagram.len().min(DATAGRAM_MAX);
    records.put_u16(u16::try_from(length).unwrap_or(0));
    records.put_slice(datagram.get(..length).unwrap_or_default());
}

/// What came from the pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A datagram of the far end.
    Datagram(Bytes),
    /// ICMP reported this errno about one of ours; the flow goes on.
    Error(i32),
}

/// The direction from the pod.
pub struct Incoming {
    stream: ReadHalf<Stream>,
    client: Option<Client>,
    bytes: BytesMut,
    busy: bool,
}

impl Incoming {
    /// What comes next; [`None`] at the end. Cancel safe.
    ///
    /// # Errors
    /// If the pod refuses the flow, or the stream breaks.
    pub async fn next(&mut self) -> Result<Option<Arrived>, DialError> {
        loop {
            if let Some(arrived) = self.decode()? {
                return Ok(Some(arrived));
            }
            // An idle flow keeps little room, and a busy one reads many datagrams at once.
            if self.bytes.is_empty() {
                self.bytes = BytesMut::new();
            }
            self.bytes.reserve(if self.busy { BUSY } else { IDLE });
            let room = self.bytes.capacity().saturating_sub(self.bytes.len());
            let read = self.stream.read_buf(&mut self.bytes).await?;
            self.busy = read >= room.min(MUCH);
            if read == 0 {
                return match self.client.is_none() && self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Arrived>, DialError> {
        if let Some(client) = &mut self.client {
            let step = client
                .input(&self.bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match step {
                Step::More(used) => {
                    self.bytes.advance(used);
                    return Ok(None);
                }
                Step::Done(used, reply) => {
                    self.bytes.advance(used);
                    self.client = None;
                    if reply.code != 0 {
                        return Err(DialError::from_reply(reply.code));
                    }
                }
            }
        }
        let Some(length) = self.bytes.first_chunk().map(|length| u16::from_be_bytes(*length)) else {
            return Ok(None);
        };
        if length == DATAGRAM_ERROR {
            let Some(code) = self.bytes.get(2).copied() else { return Ok(None) };
            self.bytes.advance(3);
            return Ok(Some(Arrived::Error(errno::from_reply(code))));
        }
        let length = usize::from(length);
        if self.bytes.len() < 2 + length {
            self.bytes.reserve(2 + length);
            return Ok(None);
        }
        self.bytes.advance(2);
        Ok(Some(Arrived::Datagram(self.bytes.split_to(length).freeze())))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socks_proxy::proto::{Command, Request};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A flow and its far end.
    async fn flow(client: Option<Client>) -> (Datagrams, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Datagrams::new(Box::new(stream), client), far)
    }

    #[tokio::test]
    async fn the_reply_comes_with_the_first_answer_and_datagrams_keep_their_borders() {
        let request = Request::new(Command::Datagrams, SocketAddr::from(([10, 0, 0, 1], 53)));
        let (mut flow, mut far) = flow(Some(Client::pipelined(&request).unwrap())).await;
        let mut records = BytesMut::new();
        for length in [0, 3, DATAGRAM_MAX] {
            append(&mut records, &vec![7; length]);
        }
        let writing = tokio::spawn(async move {
            far.write_all(&[5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            far.write_all(&records).await.unwrap();
            far.write_all(&[0xff, 0xff, 5]).await.unwrap();
        });
        for length in [0, 3, DATAGRAM_MAX] {
            let Ok(Some(Arrived::Datagram(datagram))) = flow.incoming.next().await else {
                panic!("{length}")
            };
            assert!(datagram == vec![7; length]);
        }
        let refused = Some(Arrived::Error(errno::code::ECONNREFUSED));
        assert_eq!(flow.incoming.next().await.unwrap(), refused);
        writing.await.unwrap();
        assert_eq!(flow.incoming.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_flow_that_is_refused_or_cut_off_is_an_error() {
        let request = Request::new(Command::Datagrams, SocketAddr::from(([10, 0, 0, 1], 53)));
        let (mut refused, mut far) = flow(Some(Client::pipelined(&request).unwrap())).await;
        far.write_all(&[5, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(refused.incoming.next().await.unwrap_err().errno, errno::code::ENETUNREACH);
        let (mut cut, mut far) = flow(None).await;
        far.write_all(&[0, 5, 1]).await.unwrap();
        drop(far);
        assert_eq!(cut.incoming.next().await.unwrap_err().errno, errno::code::ENETDOWN);
    }
}
