//! What must hold for any bytes from outside: nothing panics, nothing hangs, and what was understood is said again in
//! the same bytes.
//!
//! Plain functions without a fuzzer in them, so that `socks-proxy/tests/corpus.rs` replays the saved corpus with
//! them under plain `cargo test`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::task::noop_waker;
use socks_proxy::files::{ENCODED_MAX, Files};
use socks_proxy::link::frames::{self, Header};
use socks_proxy::link::{self, Flags, TokenDigest};
use socks_proxy::mux;
use socks_proxy::proto::{
    Client, Command, Credentials, Reply, Request, Step, Target, credentials_status, decode_credentials,
    decode_greeting,
};
use socks_proxy::resolve::RecordType;
use socks_proxy::resolve::hosts::Hosts;
use socks_proxy::resolve::message::{self, Head};
use socks_proxy::settings::Settings;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tp_abi::wire::{Answer, MESSAGE_MAX, Question};

/// SOCKS5 requests, replies, greetings, credentials, and the client's conversation.
pub fn proto(data: &[u8]) {
    if let Ok(Some((request, used))) = Request::decode(data) {
        let mut again = Vec::new();
        request.encode(&mut again).expect("what was decoded can be encoded");
        assert!(same_but_reserved(&again, &data[..used]));
        assert_eq!(Request::decode(&again), Ok(Some((request, used))));
    }
    if let Ok(Some((reply, used))) = Reply::decode(data) {
        let mut again = Vec::new();
        reply.encode(&mut again).expect("what was decoded can be encoded");
        assert!(same_but_reserved(&again, &data[..used]));
    }
    if let Ok(Some((credentials, used))) = decode_credentials(data) {
        let mut again = Vec::new();
        credentials.encode(&mut again);
        assert_eq!(again, data[..used]);
    }
    if let Ok(Some((methods, used))) = decode_greeting(data) {
        assert_eq!(methods.len() + 2, used);
    }
    assert_eq!(credentials_status(true), [1, 0]);
    converse(data);
}

fn same_but_reserved(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one[..2] == other[..2] && one[3..] == other[3..]
}

/// The conversation goes the same way however the bytes are cut.
fn converse(data: &[u8]) {
    let request = Request::new(Command::Connect, Target::Name("backend".into(), 80));
    let login = Credentials::new("me", "secret").expect("short enough");
    let client = || Client::negotiated(Some(login.clone()), &request).expect("a plain name");
    let whole = client().input(data);
    let (mut piecewise, mut start) = (client(), 0);
    for end in 0..=data.len().min(600) {
        match piecewise.input(&data[start..end]) {
            Ok(Step::More(used)) => start += used,
            Ok(Step::Done(used, reply)) => {
                assert_eq!(whole, Ok(Step::Done(start + used, reply)));
                return;
            }
            Err(error) => {
                assert_eq!(whole, Err(error));
                return;
            }
        }
    }
}

/// Link hellos and frame headers, and whole links of either side.
pub fn frames(data: &[u8]) {
    if let Some(bytes) = data.first_chunk()
        && let Some(header) = Header::decode(*bytes)
    {
        assert_eq!(header.encode(), *bytes);
    }
    if let Some(Some(flags)) = data.first_chunk().and_then(frames::answer_of) {
        assert_eq!(Flags::from_byte(flags.byte()), flags);
    }
    let token = [7; 32];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut out = Vec::new();
        drop(link::connect(Script::new(data), &token).read_to_end(&mut out).await);
        assert!(out.len() <= data.len());
        let mut hello = frames::client_hello(&token);
        hello.extend(data);
        let server = link::accept(Script::new(&hello), &TokenDigest::of(&token), Flags::default()).await;
        out.clear();
        drop(server.expect("the token is right").read_to_end(&mut out).await);
        drop(link::accept(Script::new(data), &TokenDigest::of(&token), Flags::default()).await);
    });
}

/// A session's bytes, and the streams that they open.
pub fn session(data: &[u8]) {
    let mut server = mux::server(Script::new(data));
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let mut streams = Vec::new();
    for _ in 0..64 {
        match std::pin::pin!(server.accept()).poll(&mut cx) {
            Poll::Ready(Ok(Some(stream))) => streams.push(stream),
            Poll::Ready(Ok(None) | Err(_)) => break,
            Poll::Pending => {}
        }
        for stream in &mut streams {
            let mut place = [0; 64];
            let mut read = ReadBuf::new(&mut place);
            let _ = Pin::new(&mut *stream).poll_read(&mut cx, &mut read);
            let _ = Pin::new(stream).poll_write(&mut cx, read.filled());
        }
    }
}

/// DNS messages as they come from nameservers and from programs.
pub fn dns(data: &[u8]) {
    let failed = message::failure(data);
    assert!(failed.len() >= message::HEADER_LEN);
    if let Some(head) = Head::read(data) {
        assert!(head.end <= data.len());
        let failed = Head::read(&failed).expect("an answer to a question that was read can be read");
        assert!(failed.answers(&head) && !failed.settles() && !failed.found());
    }
    let _ = (message::is_rejection(data), message::addresses(data), message::pointer(data));
    if let Some(name) = std::str::from_utf8(data).ok().and_then(message::name) {
        let question =
            message::question(&name, RecordType::A, true).expect("a name that fits can be asked for");
        assert_eq!(Head::read(&question).map(|head| head.query.name().clone()), Some(name));
    }
}

/// `/etc/hosts` and `/etc/resolv.conf`, and how the two go over the wire.
pub fn files(data: &[u8]) {
    if let Some(files) = Files::decode(data) {
        let bytes = files.encode();
        assert!(data.starts_with(&bytes) && Files::decode(&bytes) == Some(files));
    }
    let halves = data.split_at(data.len() / 2);
    let files = Files { resolv_conf: halves.0.to_vec(), hosts: halves.1.to_vec() };
    let bytes = files.encode();
    assert!(bytes.len() <= ENCODED_MAX && Files::decode(&bytes).is_some());
    let hosts = Hosts::parse(data);
    let settings = Settings::parse(data);
    assert!(!settings.nameservers.is_empty() && settings.attempts > 0 && !settings.timeout.is_zero());
    for place in 0..settings.nameservers.len() {
        assert!(settings.patience(place) > std::time::Duration::ZERO);
    }
    for word in String::from_utf8_lossy(data).split_whitespace().take(8) {
        for address in hosts.addresses(word) {
            let _ = hosts.name(address);
        }
        assert!(!settings.candidates(word).is_empty());
    }
}

/// Messages between shim and launcher.
pub fn wire(data: &[u8]) {
    let mut buffer = [0; MESSAGE_MAX];
    if let Some(question) = Question::decode(data) {
        let length = question.encode(&mut buffer).expect("what was decoded can be encoded");
        assert_eq!(Question::decode(&buffer[..length]), Some(question));
    }
    if let Some(answer) = Answer::decode(data) {
        let length = answer.encode(&mut buffer).expect("what was decoded can be encoded");
        assert_eq!(Answer::decode(&buffer[..length]), Some(answer));
        if let Answer::Addresses { addresses, .. } = answer {
            assert!(addresses.count() <= MESSAGE_MAX);
        }
    }
}

/// A connection that says its lines, takes everything, and ends.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    const fn new(lines: &'a [u8]) -> Self {
        Self(lines)
    }
}

impl AsyncRead for Script<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (now, later) = this.0.split_at(this.0.len().min(buf.remaining()));
        buf.put_slice(now);
        this.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
