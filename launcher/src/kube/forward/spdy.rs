//! A port-forward by SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, version 3), as far as Kubernetes speaks it.
//!
//! One port has two streams, one of its bytes and one of the error that ended it. Nobody has written SPDY for Rust in years,
//! and little of it is left here: header blocks are sent uncompressed, in a form of zlib's that every decompressor reads
//! (RFC 1951 3.2.4), and those that come are passed over; the servers know no windows, TCP alone holds back.
//!
//! Invariants: at most one frame of data waits to be sent; of what comes at most one read is kept.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::kube::client::Body;
use bytes::{Buf as _, BufMut as _, BytesMut};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::super::Cluster;

const PROTOCOL: &str = "SPDY/3.1";
/// The streams of the port, in the order in which they are opened. A client's are odd.
const ERROR: u32 = 1;
const DATA: u32 = 3;
/// The first two bytes of a control frame: its bit and the version.
const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// The flag of a stream's last frame.
const FIN: u8 = 1;
/// Bytes of a frame's head.
const HEAD: usize = 8;
/// Longest control frame that is read: a header block of a server is some words.
const CONTROL_MAX: usize = 64 * 1024;
/// Bytes of the longest frame of data. The server puts each into memory whole: longer ones cost it more a byte, as do shorter
/// ones.
const DATA_MAX: usize = 64 * 1024;
/// Bytes of a read.
const READ: usize = 128 * 1024;
/// Most that is kept of an error's words, and of answers to pings that nobody reads.
const WORDS_MAX: usize = 4096;

/// A byte stream to a port on a pod's loopback, over the frames of `IO`. Dropping it ends the port-forward.
#[derive(Debug)]
pub(super) struct Forward<IO> {
    io: IO,
    expect: Expect,
    /// What came and was not taken apart yet.
    incoming: BytesMut,
    /// What waits to be sent.
    outgoing: BytesMut,
    /// Something written may still be in a buffer below.
    unflushed: bool,
    /// The server has confirmed the stream of data.
    begun: bool,
    /// Nothing comes any more.
    ended: bool,
    /// Our last frame is queued.
    shut: bool,
    /// What came on the stream of errors.
    words: Vec<u8>,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Head,
    Control { kind: u16, length: usize },
    Payload { stream: u32, left: usize, last: bool },
}

/// What there is to take.
#[derive(Debug)]
enum Found {
    /// So many bytes of the port's.
    Data(usize),
    /// Nothing before more is read.
    Nothing,
    End,
}

/// Opens a port-forward; `None` if the answer is not that of a server that speaks SPDY.
pub(super) async fn open(
    cluster: &Cluster,
    request: http::Request<Vec<u8>>,
    port: u16,
) -> ::kube::Result<Option<Forward<impl AsyncRead + AsyncWrite + Unpin + use<>>>> {
    let mut request = request.map(Body::from);
    let fields = request.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    fields.insert("x-stream-protocol-version", HeaderValue::from_static("portforward.k8s.io"));
    let answer = cluster.client.send(request).await?;
    let speaks = answer.headers().get(header::UPGRADE);
    let speaks = speaks.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()));
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS || !speaks {
        return Ok(None);
    }
    let failed = |error: io::Error| ::kube::Error::Service(error.into());
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| failed(io::Error::other(error)))?;
    begin(TokioIo::new(upgraded), port).await.map(Some).map_err(failed)
}

/// Opens the two streams. The server drops what is said before it has confirmed one.
async fn begin<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO, port: u16) -> io::Result<Forward<IO>> {
    io.write_all(&opening(port)).await?;
    io.flush().await?;
    let mut forward = Forward {
        io,
        expect: Expect::Head,
        incoming: BytesMut::new(),
        outgoing: BytesMut::new(),
        unflushed: false,
        begun: false,
        ended: false,
        shut: false,
        words: Vec::new(),
    };
    while !forward.begun {
        match forward.take()? {
            Found::Data(_) => break,
            Found::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            Found::Nothing if forward.begun => break,
            Found::Nothing => std::future::poll_fn(|cx| forward.poll_fill(cx)).await?,
        }
    }
    Ok(forward)
}

/// Two SYN_STREAMs.
fn opening(port: u16) -> BytesMut {
    let mut frames = BytesMut::new();
    let port = port.to_string();
    // All header blocks of a connection are one stream of zlib's, which begins here.
    let mut zlib: &[u8] = &[0x78, 0x01];
    for (stream, kind) in [(ERROR, "error"), (DATA, "data")] {
        let headers = [("port", port.as_str()), ("requestid", "0"), ("streamtype", kind)];
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for word in headers.into_iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(word.len() as u32);
            block.put_slice(word.as_bytes());
        }
        let mut packed = BytesMut::from(zlib);
        zlib = &[];
        // A block of zlib's, and an empty one: at that a decompressor gives out what it has.
        for stored in [&block[..], &[]] {
            let length = stored.len() as u16;
            packed.put_u8(0);
            packed.put_u16_le(length);
            packed.put_u16_le(!length);
            packed.put_slice(stored);
        }
        frames.put_u16(CONTROL);
        frames.put_u16(SYN_STREAM);
        frames.put_u32(10 + packed.len() as u32);
        frames.put_u32(stream);
        // No stream that it belongs to, no priority.
        frames.put_bytes(0, 6);
        frames.put_slice(&packed);
    }
    frames
}

impl<IO> Forward<IO> {
    /// Takes frames apart until there are bytes of the port's or nothing is left.
    fn take(&mut self) -> io::Result<Found> {
        while !self.ended {
            match self.expect {
                Expect::Head => {
                    if self.incoming.len() < HEAD {
                        return Ok(Found::Nothing);
                    }
                    self.head()?;
                }
                Expect::Control { kind, length } => {
                    if self.incoming.len() < length {
                        return Ok(Found::Nothing);
                    }
                    let body = self.incoming.split_to(length);
                    self.expect = Expect::Head;
                    self.control(kind, &body)?;
                }
                Expect::Payload { stream, left: 0, last } => {
                    self.expect = Expect::Head;
                    self.ended = last && stream == DATA;
                    if last && stream == ERROR && !self.words.is_empty() {
                        let words = String::from_utf8_lossy(&self.words);
                        return Err(io::Error::other(words.trim().to_owned()));
                    }
                }
                Expect::Payload { stream, left, last } => {
                    let here = left.min(self.incoming.len());
                    if here == 0 {
                        return Ok(Found::Nothing);
                    }
                    if stream == DATA {
                        return Ok(Found::Data(here));
                    }
                    let words = self.incoming.split_to(here);
                    if stream == ERROR {
                        let room = WORDS_MAX.saturating_sub(self.words.len());
                        self.words.extend(words.iter().take(room));
                    }
                    self.expect = Expect::Payload { stream, left: left - here, last };
                }
            }
        }
        Ok(Found::End)
    }

    fn head(&mut self) -> io::Result<()> {
        let first = self.incoming.get_u32();
        let flags = self.incoming.get_u8();
        let length = self.incoming.get_uint(3) as usize;
        self.expect = if first >> 31 == 0 {
            Expect::Payload { stream: first, left: length, last: flags & FIN != 0 }
        } else if first >> 16 == u32::from(CONTROL) && length <= CONTROL_MAX {
            Expect::Control { kind: first as u16, length }
        } else {
            let what =
                format!("the port-forward carried no frame of {PROTOCOL} but {first:08x}, {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        Ok(())
    }

    fn control(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        let about = body.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
        match kind {
            SYN_REPLY => self.begun |= about == DATA,
            RST_STREAM if about == DATA || about == ERROR => {
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the port-forward was reset"));
            }
            GOAWAY => self.ended = true,
            // A server's are even.
            PING if about % 2 == 0 && self.outgoing.len() < DATA_MAX + WORDS_MAX => {
                self.outgoing.put_u16(CONTROL);
                self.outgoing.put_u16(PING);
                self.outgoing.put_u32(4);
                self.outgoing.put_u32(about);
            }
            _ => {}
        }
        Ok(())
    }

    fn queue(&mut self, flags: u8, data: &[u8]) {
        self.outgoing.reserve(HEAD + data.len());
        self.outgoing.put_u32(DATA);
        self.outgoing.put_u8(flags);
        self.outgoing.put_uint(data.len() as u64, 3);
        self.outgoing.put_slice(data);
    }
}

impl<IO: AsyncRead + Unpin> Forward<IO> {
    /// Reads once.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.incoming.reserve(READ);
        if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.incoming))? == 0 {
            let between = matches!(self.expect, Expect::Head) && self.incoming.is_empty();
            self.ended = true;
            return Poll::Ready(if between { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> Forward<IO> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.outgoing.advance(written),
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Forward<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let found = this.take()?;
            // Who only waits for an answer sends what is left of the question. If that fails, the next write says so: what
            // the other side said before is still to be read.
            let _told_later = this.poll_send(cx);
            match (found, this.expect) {
                (Found::Data(here), Expect::Payload { stream, left, last }) => {
                    let length = here.min(into.remaining());
                    into.put_slice(&this.incoming.split_to(length));
                    this.expect = Expect::Payload { stream, left: left - length, last };
                    return Poll::Ready(Ok(()));
                }
                (Found::End, _) => return Poll::Ready(Ok(())),
                _ => ready!(this.poll_fill(cx))?,
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Forward<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let bytes = bytes.get(..DATA_MAX).unwrap_or(bytes);
        this.queue(0, bytes);
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
        if !std::mem::replace(&mut this.shut, true) {
            this.queue(FIN, &[]);
            ready!(this.poll_send(cx))?;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join, poll_immediate};
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    fn control(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.put_u16(CONTROL);
        frame.put_u16(kind);
        frame.put_u32(u32::try_from(body.len()).unwrap());
        frame.put_slice(body);
        frame
    }

    fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.put_u32(stream);
        frame.put_u8(flags);
        frame.put_uint(payload.len() as u64, 3);
        frame.put_slice(payload);
        frame
    }

    fn reply(stream: u32) -> Vec<u8> {
        control(SYN_REPLY, &[&stream.to_be_bytes()[..], b"packed headers"].concat())
    }

    /// A forward, and the server's end of it, with room for so many bytes between them.
    async fn begun(room: usize) -> (Forward<DuplexStream>, DuplexStream) {
        let (here, mut there) = duplex(room);
        let opened = opening(8080).len();
        let serve = async {
            there.read_exact(&mut vec![0; opened]).await.unwrap();
            there.write_all(&[reply(ERROR), reply(DATA)].concat()).await.unwrap();
            there
        };
        let (forward, there) = join(begin(here, 8080), serve).await;
        (forward.unwrap(), there)
    }

    #[test]
    fn the_streams_headers_are_blocks_of_zlib_that_are_not_compressed() {
        let frames = opening(8080);
        assert_eq!(frames[..4], [0x80, 3, 0, 1]);
        let length = usize::try_from(u32::from_be_bytes(frames[4..8].try_into().unwrap())).unwrap();
        let (first, second) = frames.split_at(HEAD + length);
        assert_eq!(first[8..18], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let block = b"\0\0\0\x03\0\0\0\x04port\0\0\0\x048080\0\0\0\x09requestid\0\0\0\x010\0\0\0\x0astreamtype\0\0\0\x05error";
        let size = u16::try_from(block.len()).unwrap();
        let packed =
            [&[0x78, 1, 0][..], &size.to_le_bytes(), &(!size).to_le_bytes(), block, &[0, 0, 0, 255, 255]];
        assert_eq!(first[18..], packed.concat());
        assert_eq!(second[8..12], [0, 0, 0, 3]);
        assert!(second.ends_with(b"data\0\0\0\xff\xff"));
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_streams_last_frame_is_the_end() {
        let (mut forward, mut server) = begun(1024).await;
        forward.write_all(b"ask").await.unwrap();
        let mut asked = [0; 11];
        server.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, *b"\0\0\0\x03\0\0\0\x03ask");
        let answer = [
            data(DATA, 0, b"ans"),
            data(DATA, 0, b""),
            data(7, 0, b"?"),
            data(DATA, FIN, b"wer"),
            b"x".into(),
        ];
        server.write_all(&answer.concat()).await.unwrap();
        let mut answer = String::new();
        forward.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        forward.shutdown().await.unwrap();
        let mut last = Vec::new();
        server.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, data(DATA, FIN, b""));
    }

    #[tokio::test]
    async fn what_ended_the_forward_is_told() {
        let (mut forward, mut server) = begun(1024).await;
        let refused = [data(DATA, 0, b"x"), data(ERROR, 0, b"connection "), data(ERROR, FIN, b"refused\n")];
        server.write_all(&refused.concat()).await.unwrap();
        assert_eq!(forward.read_u8().await.unwrap(), b'x');
        assert_eq!(forward.read_u8().await.unwrap_err().to_string(), "connection refused");
        let ends = [
            (control(RST_STREAM, &[0, 0, 0, 3, 0, 0, 0, 5]), io::ErrorKind::ConnectionReset),
            (control(GOAWAY, &[0; 8]), io::ErrorKind::UnexpectedEof),
            (b"\x80\x02\0\x01\0\0\0\0".into(), io::ErrorKind::InvalidData),
            (control(SYN_REPLY, &vec![0; CONTROL_MAX + 1]), io::ErrorKind::InvalidData),
            (b"\0\0\0\x03\0\0\0\x03as".into(), io::ErrorKind::UnexpectedEof),
        ];
        for (said, kind) in ends {
            let (mut forward, mut server) = begun(1 << 20).await;
            server.write_all(&said).await.unwrap();
            drop(server);
            let read = forward.read_to_end(&mut Vec::new()).await.map(|_| io::ErrorKind::UnexpectedEof);
            assert_eq!(read.unwrap_or_else(|error| error.kind()), kind);
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_before_it_confirms_is_an_error() {
        let (here, mut there) = duplex(1024);
        there
            .write_all(&[reply(ERROR), data(ERROR, 0, b"pod is "), data(ERROR, FIN, b"gone")].concat())
            .await
            .unwrap();
        assert_eq!(begin(here, 80).await.unwrap_err().to_string(), "pod is gone");
        let (here, there) = duplex(1024);
        drop(there);
        begin(here, 80).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_takes_one_frame_and_can_still_be_read() {
        let (mut forward, mut server) = begun(512).await;
        let long = vec![7; 1000];
        assert_eq!(forward.write(&long).await.unwrap(), long.len());
        assert!(poll_immediate(forward.write(&long)).await.is_none());
        server.write_all(&[control(PING, &2_u32.to_be_bytes()), data(DATA, 0, b"x")].concat()).await.unwrap();
        assert_eq!(forward.read_u8().await.unwrap(), b'x');
        // Reading alone sends what is left of it, and the answer.
        let wanted = [data(DATA, 0, &long), control(PING, &2_u32.to_be_bytes())].concat();
        let mut sent = vec![0; wanted.len()];
        tokio::select! {
            read = server.read_exact(&mut sent) => drop(read.unwrap()),
            byte = forward.read_u8() => panic!("{byte:?}"),
        }
        assert_eq!(sent, wanted);
    }

    proptest! {
        /// Wherever the transport cuts them, and whatever is between, the frames' bytes come in their order.
        #[test]
        fn bytes_do_not_depend_on_where_frames_are_cut(
            parts in prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            pieces in prop::collection::vec(1_usize..200, 1..50),
        ) {
            let (mut wanted, mut wire) = (Vec::new(), Vec::new());
            for (kind, payload) in &parts {
                wire.extend(match kind {
                    0 => control(9, payload),
                    1 => data(5, 0, payload),
                    2 => control(PING, &[0, 0, 0, 2]),
                    _ => {
                        wanted.extend_from_slice(payload);
                        data(DATA, 0, payload)
                    }
                });
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(async {
                let (mut forward, mut server) = begun(64).await;
                let says = async {
                    let mut rest = &wire[..];
                    for &piece in pieces.iter().cycle() {
                        let (now, later) = rest.split_at(piece.min(rest.len()));
                        server.write_all(now).await.unwrap();
                        rest = later;
                        if rest.is_empty() {
                            break;
                        }
                    }
                    server.write_all(&data(DATA, FIN, b"")).await.unwrap();
                    let _ = server.read_to_end(&mut Vec::new()).await;
                };
                let reads = async {
                    let mut got = Vec::new();
                    forward.read_to_end(&mut got).await.unwrap();
                    drop(forward);
                    got
                };
                join(says, reads).await.1
            });
            prop_assert_eq!(got, wanted);
        }

        /// No bytes of a server make it panic, or keep more than a read and a frame.
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut forward, mut server) = begun(4096).await;
                server.write_all(&bytes).await.unwrap();
                server.shutdown().await.unwrap();
                let _ = forward.read_to_end(&mut Vec::new()).await;
            });
        }
    }
}
