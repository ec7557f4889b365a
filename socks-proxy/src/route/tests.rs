use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::expose::wire::Filter;

mod forms;
mod http1;
mod http2;
mod untouched;

/// Nothing here takes so long; what does hangs.
const HANG: Duration = Duration::from_secs(30);

/// A program at an address.
struct At(SocketAddr);

impl Upstream for At {
    fn connect(&self, _: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>> {
        let dialed = TcpStream::connect(self.0);
        async { Ok(Box::new(dialed.await.map_err(Refusal::Failed)?) as Stream) }.boxed()
    }
}

/// One that gives everybody back.
struct Gone;

impl Upstream for Gone {
    fn connect(&self, _: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>> {
        async { Err(Refusal::NotMine) }.boxed()
    }
}

/// A port that is served by [`serve`], with the app behind it.
struct Port {
    routes: Routes,
    address: SocketAddr,
}

impl Port {
    /// In front of an app at that address.
    async fn before(app: SocketAddr) -> Self {
        Self::visited(app, Probed::No).await
    }

    async fn visited(app: SocketAddr, probed: Probed) -> Self {
        let routes = Routes::new(Arc::new(At(app)));
        let (listener, address) = listener().await;
        let served = routes.clone();
        tokio::spawn(async move {
            loop {
                let (client, peer) = listener.accept().await.unwrap();
                client.set_nodelay(true).unwrap();
                let routes = served.clone();
                tokio::spawn(async move {
                    serve(Box::new(client), Visitor { peer, to: address, probed }, &routes).await;
                });
            }
        });
        Self { routes, address }
    }

    fn add(&self, header: &str, value: &str, program: SocketAddr) -> Registration {
        self.routes.add(Some(by(header, value)), Arc::new(At(program)))
    }

    async fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client
    }
}

fn by(header: &str, value: &str) -> Filter {
    Filter { headers: vec![(header.into(), value.into())], path_prefix: None }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    listener().await.1
}

/// A program that answers each request with its name and the request's target, and keeps connections; HTTP/1.
async fn named(name: &'static str) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move { answer_by_name(connection, name).await });
        }
    });
    address
}

async fn answer_by_name(mut connection: TcpStream, name: &str) {
    let mut had = Vec::new();
    loop {
        let parsed = framing::request(&had, |target, _| String::from_utf8(target.to_vec()).unwrap());
        if let framing::Found::Whole((request, target)) = &parsed {
            had.drain(..request.length);
            let mut body = request.body.clone();
            loop {
                let taken = body.take(&had).unwrap();
                had.drain(..taken);
                if body.is_complete() {
                    break;
                }
                assert!(connection.read_buf(&mut had).await.unwrap() > 0);
            }
            let text = format!("{name} {target}");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        } else if parsed == framing::Found::Broken || connection.read_buf(&mut had).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// The next bytes, which are to be these.
async fn expect(stream: &mut TcpStream, wanted: &str) {
    let mut got = vec![0; wanted.len()];
    let read = timeout(HANG, stream.read_exact(&mut got)).await;
    read.unwrap_or_else(|_| panic!("nothing comes where {wanted:?} should")).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

/// Everything until the end.
async fn rest(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    timeout(HANG, stream.read_to_end(&mut got)).await.unwrap().unwrap();
    String::from_utf8(got).unwrap()
}

/// The next answer of [`named`]'s kind: its status and its body.
async fn answer(stream: &mut TcpStream) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(HANG, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    timeout(HANG, stream.read_exact(&mut body)).await.unwrap().unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
}
