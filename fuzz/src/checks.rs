//! What must hold for any bytes from outside: nothing panics, nothing hangs, and what was understood is said again in
//! the same bytes.
//!
//! Plain functions without a fuzzer in them, so that `socks-proxy/tests/corpus.rs` replays the saved corpus with
//! them under plain `cargo test`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::task::noop_waker;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socks_proxy::expose::wire::Filter;
use socks_proxy::expose::wire::{self as exposing_wire, Arrival, ToAgent, ToLauncher};
use socks_proxy::files::{ENCODED_MAX, Files};
use socks_proxy::link::frames::{self, Header};
use socks_proxy::link::{self, Flags, TokenDigest};
use socks_proxy::messages;
use socks_proxy::mux;
use socks_proxy::proto::{
    Client, Command, Credentials, Reply, Request, Step, Target, credentials_status, decode_credentials,
    decode_greeting,
};
use socks_proxy::resolve::RecordType;
use socks_proxy::resolve::hosts::Hosts;
use socks_proxy::resolve::message::{self, Head};
use socks_proxy::route::framing::{self, Body, Follows, Found, Method};
use socks_proxy::route::{self, Connection, Probed, Refusal, Routes, Stream, Upstream, Visitor};
use socks_proxy::settings::Settings;
use socks_proxy::volumes::wire as volumes_wire;
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

/// What launchers and agents say of exposed ports: what was understood means the same when it is said again.
pub fn exposing(data: &[u8]) {
    fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = messages::decode::<T>(data) {
            let bytes = messages::encode(&message).expect("what was decoded can be encoded");
            assert_eq!(messages::decode::<T>(&bytes[4..]).expect("and decoded"), message);
        }
    }
    again::<ToAgent>(data);
    again::<ToLauncher>(data);
    again::<Arrival>(data);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let read =
        runtime.block_on(messages::read::<ToAgent>(&mut Script::new(data), exposing_wire::MESSAGE_MAX));
    if let Ok(message) = read {
        let length = u32::from_be_bytes(*data.first_chunk().expect("it was read")) as usize;
        assert_eq!(messages::decode::<ToAgent>(&data[4..4 + length]).ok(), Some(message));
    }
}

/// What clients and programs say in HTTP: where its messages end, and a whole connection that is routed.
pub fn http(data: &[u8]) {
    if let Found::Whole((request, ())) = framing::request(data, |_, _| ()) {
        cut(request.body, &data[request.length..]);
    }
    for method in [Method::Safe, Method::Head, Method::Connect] {
        if let Found::Whole(response) = framing::response(data, method)
            && let Follows::Body(body) = response.follows
        {
            cut(body, &data[response.length..]);
        }
    }
    cut(Body::chunked(), data);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (asked, answers) = data.split_at(data.len() / 2);
    runtime.block_on(async {
        for (client, program) in
            [(data, b"HTTP/1.1 204 No Content\r\n\r\n".repeat(4)), (asked, answers.to_vec())]
        {
            let routes = Routes::new(Arc::new(Says(program.clone())));
            let filter = Filter { headers: vec![("x-user".into(), "alice".into())], path_prefix: None };
            let _alice = routes.add(Some(filter), Arc::new(Says(program)));
            let here = SocketAddr::from(([127, 0, 0, 1], 1));
            let visitor = Visitor { peer: here, to: here, probed: Probed::ByTls };
            route::serve(Box::new(Script::new(client.to_vec())), visitor, &routes).await;
        }
    });
}

/// A body ends at the same place whether its bytes come at once or one by one.
fn cut(mut body: Body, bytes: &[u8]) {
    let mut piecewise = body.clone();
    let mut taken = 0;
    let piecewise = loop {
        match bytes.get(taken..=taken).map(|byte| piecewise.take(byte)) {
            Some(Ok(1)) => taken += 1,
            Some(Ok(_)) | None => break Ok(taken),
            Some(Err(broken)) => break Err(broken),
        }
    };
    assert_eq!(body.take(bytes), piecewise);
}

/// A program that says this to everybody.
struct Says(Vec<u8>);

impl Upstream for Says {
    fn connect(&self, _: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>> {
        let lines = Script::new(self.0.clone());
        Box::pin(async { Ok(Box::new(lines) as Stream) })
    }
}

/// A connection that says its lines, takes everything, and ends.
struct Script<T>(io::Cursor<T>);

impl<T> Script<T> {
    const fn new(lines: T) -> Self {
        Self(io::Cursor::new(lines))
    }
}

impl<T: AsRef<[u8]> + Send + Unpin> Connection for Script<T> {
    fn reset_on_drop(&mut self) {}
}

impl<T: AsRef<[u8]> + Unpin> AsyncRead for Script<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<T: Unpin> AsyncWrite for Script<T> {
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

/// What launcher and agent say about files. Numbers have longer spellings than the one that is written, so what was
/// understood is compared, not the bytes.
pub fn volumes(data: &[u8]) {
    fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = messages::decode::<T>(data) {
            let bytes = messages::encode(&message).expect("what was decoded can be encoded");
            assert_eq!(messages::decode::<T>(&bytes[4..]).expect("and decoded"), message);
        }
    }
    again::<volumes_wire::Hello>(data);
    again::<volumes_wire::Question>(data);
    again::<volumes_wire::Response>(data);
}
