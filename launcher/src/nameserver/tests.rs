//! Ports with a pod behind them whose nameserver is scripted.

use std::net::IpAddr;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::pod::{Found, LookupError, Stream, Want};

/// Flows answer each question with itself and `!`, but for `silent`, and refuse `refused`; connections echo.
struct Scripted;

impl Pod for Scripted {
    fn dial(&self, target: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
        async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let stream = TcpStream::connect(listener.local_addr()?).await?;
            let (mut far, _) = listener.accept().await?;
            assert_eq!(target.port(), 53);
            tokio::spawn(async move {
                let (mut from, mut to) = far.split();
                tokio::io::copy(&mut from, &mut to).await
            });
            Ok(Box::new(stream) as Stream)
        }
        .boxed()
    }

    fn carries_datagrams(&self, _: SocketAddr) -> bool {
        true
    }

    fn datagrams(&self, target: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
        async move {
            if target == UNREACHABLE {
                return Err(DialError::from_reply(4));
            }
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let stream = TcpStream::connect(listener.local_addr()?).await?;
            let (mut far, _) = listener.accept().await?;
            tokio::spawn(async move {
                while let Ok(length) = far.read_u16().await {
                    let mut question = vec![0; length.into()];
                    far.read_exact(&mut question).await.unwrap();
                    let answer = match &question[HEADER_LEN..] {
                        b"silent" => continue,
                        b"refused" => vec![0xff, 0xff, 5],
                        _ => [&(length + 1).to_be_bytes()[..], &question, b"!"].concat(),
                    };
                    far.write_all(&answer).await.unwrap();
                }
            });
            Ok(Datagrams::new(Box::new(stream), None))
        }
        .boxed()
    }

    fn lookup(&self, _: String, _: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
        unreachable!("no name is looked up")
    }

    fn reverse(&self, _: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
        unreachable!("no address is looked up")
    }
}

const NAMESERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);
const UNREACHABLE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11)), 53);

fn message(id: u8, text: &str) -> Vec<u8> {
    [&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], text.as_bytes()].concat()
}

async fn client(nameservers: &Nameservers, nameserver: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.connect(nameservers.at(nameserver).unwrap()).await.unwrap();
    client
}

async fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).await.unwrap();
    let mut answer = vec![0; 512];
    let length = client.recv(&mut answer).await.unwrap();
    answer.truncate(length);
    answer
}

#[tokio::test]
async fn a_question_comes_back_answered_and_one_without_answer_delays_none() {
    let nameservers = Nameservers::new(Arc::new(Scripted));
    let (one, other) = (client(&nameservers, NAMESERVER).await, client(&nameservers, NAMESERVER).await);
    one.send(&message(1, "silent")).await.unwrap();
    assert_eq!(ask(&other, &message(2, "a")).await, message(2, "a!"));
    assert_eq!(ask(&one, &message(3, "b")).await, message(3, "b!"), "nor its own client's next one");
    assert_eq!(nameservers.at(NAMESERVER).unwrap(), one.peer_addr().unwrap(), "one port a nameserver");
}

#[tokio::test]
async fn a_nameserver_that_takes_nothing_fails_at_once() {
    let nameservers = Nameservers::new(Arc::new(Scripted));
    let mut failed = message(7, "refused");
    (failed[2], failed[3]) = (0x81, 0x82);
    let refused = client(&nameservers, NAMESERVER).await;
    assert_eq!(ask(&refused, &message(7, "refused")).await, failed);
    let nowhere = client(&nameservers, UNREACHABLE).await;
    assert_eq!(ask(&nowhere, &message(7, "refused")).await, failed);
}

#[tokio::test]
async fn tcp_goes_by_the_same_port() {
    let nameservers = Nameservers::new(Arc::new(Scripted));
    let mut stream = TcpStream::connect(nameservers.at(NAMESERVER).unwrap()).await.unwrap();
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"question");
}

#[test]
fn what_is_no_question_gets_no_failure() {
    assert!(!server_failure(&mut [0; 11]));
    assert!(!server_failure(&mut [0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "an answer");
    assert!(server_failure(&mut [0; 12]));
}
