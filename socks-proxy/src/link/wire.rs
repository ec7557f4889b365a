//! The two buffers of a link: frames being taken apart, and frames waiting to leave.
//!
//! The layer above writes 12-byte headers and bodies in turns; without a buffer each would be a system call and, on
//! a port-forward, a WebSocket message of its own.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::frames::{self, DATA_MAX, Flags, HEADER_LEN, Header, PING_LEN, SERVER_HELLO_LEN};
use super::{BUFFER, LinkError};

/// Pings that may wait for their answer. A peer that sends more without reading the answers gets fewer answers.
const PINGS_MAX: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Expect {
    Hello,
    Header,
    Data(usize),
    Ping,
    Pong,
}

/// Bytes that came and the place in the frame they belong to.
#[derive(Debug)]
pub(super) struct Incoming {
    expect: Expect,
    buffer: Vec<u8>,
    at: usize,
    pings: VecDeque<[u8; PING_LEN]>,
    flags: Option<Flags>,
}

impl Incoming {
    pub(super) fn awaiting_hello() -> Self {
        Self { expect: Expect::Hello, buffer: Vec::new(), at: 0, pings: VecDeque::new(), flags: None }
    }

    pub(super) fn started() -> Self {
        Self { expect: Expect::Header, ..Self::awaiting_hello() }
    }

    /// Whether [`Self::poll_fill`] can take more.
    pub(super) fn has_room(&self) -> bool {
        self.buffer.len() < BUFFER
    }

    pub(super) fn take_flags(&mut self) -> Option<Flags> {
        self.flags.take()
    }

    pub(super) fn take_ping(&mut self) -> Option<[u8; PING_LEN]> {
        self.pings.pop_front()
    }

    /// Reads once from the transport; `Ok(0)` is its end.
    pub(super) fn poll_fill(
        &mut self,
        io: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        let used = self.buffer.len();
        self.buffer.reserve_exact(BUFFER.saturating_sub(used));
        poll_read_buf(io, cx, &mut self.buffer)
    }

    /// Takes frames apart until bytes for the layer above were copied (`true`) or the buffer is used up (`false`).
    pub(super) fn copy_to(&mut self, out: &mut ReadBuf<'_>) -> Result<bool, LinkError> {
        loop {
            match self.expect {
                Expect::Data(0) => self.expect = Expect::Header,
                Expect::Data(left) => {
                    let here = self.buffer.get(self.at..).unwrap_or_default();
                    let length = left.min(here.len()).min(out.remaining());
                    out.put_slice(here.get(..length).unwrap_or_default());
                    self.at = self.at.saturating_add(length);
                    self.expect = Expect::Data(left.saturating_sub(length));
                    return Ok(length > 0);
                }
                Expect::Hello => {
                    let Some(hello) = self.array::<SERVER_HELLO_LEN>() else { return Ok(false) };
                    match frames::answer_of(&hello) {
                        Some(Some(flags)) => self.flags = Some(flags),
                        Some(None) => return Err(LinkError::Refused),
                        None => return Err(LinkError::NotALink),
                    }
                    self.expect = Expect::Header;
                }
                Expect::Header => {
                    let Some(header) = self.array::<HEADER_LEN>() else { return Ok(false) };
                    self.expect = match Header::decode(header) {
                        Some(Header::Data(length)) => Expect::Data(length),
                        Some(Header::Ping) => Expect::Ping,
                        Some(Header::Pong) => Expect::Pong,
                        None => return Err(LinkError::Frame(header)),
                    };
                }
                Expect::Ping | Expect::Pong => {
                    let Some(ping) = self.array::<PING_LEN>() else { return Ok(false) };
                    if matches!(self.expect, Expect::Ping) && self.pings.len() < PINGS_MAX {
                        self.pings.push_back(ping);
                    }
                    self.expect = Expect::Header;
                }
            }
        }
    }

    /// What the transport's end means here: fine between frames, a cut elsewhere.
    pub(super) fn at_end(&self) -> io::Result<()> {
        let between = matches!(self.expect, Expect::Header | Expect::Data(0)) && self.at == self.buffer.len();
        if between { Ok(()) } else { Err(LinkError::Cut.into()) }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.buffer.get(self.at..)?.first_chunk()?;
        self.at = self.at.saturating_add(N);
        Some(array)
    }
}

/// Frames on their way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    buffer: Vec<u8>,
    at: usize,
    /// Where the header of the last DATA frame is, while that frame can still grow.
    open: Option<usize>,
}

impl Outgoing {
    pub(super) fn starting_with(hello: &[u8]) -> Self {
        Self { buffer: hello.to_vec(), at: 0, open: None }
    }

    pub(super) fn has_room(&self) -> bool {
        self.buffer.len() < BUFFER
    }

    /// Queues bytes of the layer above; tells how many were taken (at least one if there are any).
    pub(super) fn data(&mut self, bytes: &[u8]) -> usize {
        let grown = self.open.and_then(|at| {
            let length = self.buffer.len().saturating_sub(at.saturating_add(HEADER_LEN));
            (length < DATA_MAX).then_some((at, length))
        });
        let (at, length) = grown.unwrap_or_else(|| {
            let at = self.buffer.len();
            self.buffer.extend(Header::Data(0).encode());
            (at, 0)
        });
        let taken = bytes.get(..DATA_MAX.saturating_sub(length)).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        let header = Header::Data(length.saturating_add(taken.len())).encode();
        if let Some(place) = self.buffer.get_mut(at..at.saturating_add(HEADER_LEN)) {
            place.copy_from_slice(&header);
        }
        self.open = Some(at);
        taken.len()
    }

    /// Queues a PING or PONG.
    pub(super) fn ping(&mut self, header: Header, payload: [u8; PING_LEN]) {
        self.open = None;
        self.buffer.extend(header.encode());
        self.buffer.extend(payload);
    }

    /// Writes until nothing is queued.
    pub(super) fn poll_drain(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.buffer.get(self.at..).filter(|rest| !rest.is_empty()) {
            // From here on its length is being told to the peer.
            self.open = None;
            match ready!(io.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.at = self.at.saturating_add(written),
            }
        }
        self.buffer.clear();
        self.at = 0;
        Poll::Ready(Ok(()))
    }
}
