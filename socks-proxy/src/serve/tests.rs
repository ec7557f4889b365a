//! The server in process, with a nameserver and limits of our own.

use std::net::SocketAddr;

use hickory_proto::op::ResponseCode;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::files::Files;
use crate::limits::Limit;
use crate::mux::{MuxStream, Opener};
use crate::proto::{Client, Command, LOOKUP_A, LOOKUP_AAAA, LOOKUP_ORDERED, Reply, Request, Step, Target};
use crate::resolve::exchange::framed;
use crate::resolve::hosts::Hosts;
use crate::resolve::message::{self, Head};
use crate::resolve::tests::Zone;
use crate::resolve::{RecordType, Resolver};
use crate::settings::Settings;

const TOKEN: [u8; 32] = [3; 32];

async fn agent(nameservers: &[SocketAddr], limits: Limits) -> Opener {
    let text = b"search ns.test\noptions ndots:2 timeout:1 attempts:1\n";
    let settings = Settings { nameservers: nameservers.to_vec(), ..Settings::parse(text) };
    // Dropped, it would say "stop".
    let (stopping_tx, stopping_rx) = watch::channel(false);
    let agent = Arc::new(Agent {
        token: TokenDigest::of(&TOKEN),
        resolver: Resolver::fixed(settings, Hosts::default()),
        limits,
        stopping_rx,
        relays: TaskTracker::new(),
        present_tx: watch::Sender::new(0),
        exposures: Exposures::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let stranger = agent.limits.strangers.take().unwrap();
        serve(agent, connection, stranger).await;
        drop(stopping_tx);
    });
    let (opener, _, driver) = mux::client(link::connect(TcpStream::connect(address).await.unwrap(), &TOKEN));
    tokio::spawn(driver);
    opener
}

async fn ask(opener: &Opener, request: &Request) -> (MuxStream, Reply) {
    let mut stream = opener.open().await.unwrap();
    let mut client = Client::pipelined(request).unwrap();
    stream.write_all(&client.output()).await.unwrap();
    stream.flush().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.unwrap());
        match client.input(&bytes).unwrap() {
            Step::More(used) => drop(bytes.drain(..used)),
            Step::Done(_, reply) => return (stream, reply),
        }
    }
}

async fn message(stream: &mut MuxStream) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

fn question(name: &str, id: u8) -> Vec<u8> {
    let name = message::name(name).unwrap();
    framed(&message::with_id(&message::question(&name, RecordType::A, false).unwrap(), [0, id]))
}

#[tokio::test]
async fn a_slow_question_does_not_delay_the_next_one_on_its_stream() {
    let mut zone = Zone::of(&[("fast.test", "10.0.0.1")]);
    zone.ignores = Some("slow.test");
    let opener = agent(&[zone.serve().await.0], Limits::default()).await;
    let (mut stream, reply) = ask(&opener, &Request::bare(Command::Dns)).await;
    assert_eq!(reply.code, 0);
    let both = [question("slow.test", 1), question("fast.test", 2)].concat();
    stream.write_all(&both).await.unwrap();
    stream.shutdown().await.unwrap();

    let fast = message(&mut stream).await;
    assert_eq!((message::id(&fast), message::addresses(&fast).len()), (Some([0, 2]), 1));
    let slow = message(&mut stream).await;
    assert_eq!(message::id(&slow), Some([0, 1]));
    assert_eq!(Head::read(&slow).unwrap().code, ResponseCode::ServFail);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn names_come_by_the_search_list_and_a_missing_one_says_so() {
    let zone = Zone::of(&[("db.ns.test", "10.0.0.2"), ("db.ns.test", "fd00::2")]);
    let opener = agent(&[zone.serve().await.0], Limits::default()).await;
    let name = |name: &str, bits| Target::Name(name.into(), bits);

    let lookup = Request::new(Command::Lookup, name("db", LOOKUP_A | LOOKUP_AAAA));
    let (mut stream, reply) = ask(&opener, &lookup).await;
    assert_eq!(reply.code, 0);
    for wanted in ["10.0.0.2", "fd00::2"] {
        let addresses = message::addresses(&message(&mut stream).await);
        assert_eq!(addresses, [wanted.parse::<std::net::IpAddr>().unwrap()]);
    }
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);

    let lookup = Request::new(Command::Lookup, name("nothing", LOOKUP_A));
    let (mut stream, reply) = ask(&opener, &lookup).await;
    let head = Head::read(&message(&mut stream).await).unwrap();
    assert_eq!((reply.code, head.code), (0, ResponseCode::NXDomain));

    for command in [Command::Resolve, Command::Connect, Command::Datagrams] {
        assert_eq!(ask(&opener, &Request::new(command, name("nothing", 9))).await.1.code, 4, "{command:?}");
    }
    assert_eq!(ask(&opener, &Request::new(Command::Lookup, name("db", 0))).await.1.code, 1);
}

#[tokio::test]
async fn silence_of_the_nameservers_is_a_time_out() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let opener = agent(&[silent.local_addr().unwrap()], Limits::default()).await;
    let lookup = Request::new(Command::Lookup, Target::Name("db".into(), LOOKUP_A));
    assert_eq!(ask(&opener, &lookup).await.1.code, 6);
    let resolve = Request::new(Command::Resolve, Target::Name("db".into(), 0));
    assert_eq!(ask(&opener, &resolve).await.1.code, 6);
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_and_not_kept() {
    let none = Limit::new(0);
    let limits = Limits { dials: none.clone(), flows: none.clone(), lookups: none, ..Limits::default() };
    let opener = agent(&[], limits).await;
    let here: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for command in [Command::Connect, Command::Datagrams, Command::ResolvePtr] {
        assert_eq!(ask(&opener, &Request::new(command, here)).await.1.code, 1, "{command:?}");
    }
    let (mut stream, _) = ask(&opener, &Request::bare(Command::Dns)).await;
    stream.write_all(&question("a.test", 1)).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(Head::read(&message(&mut stream).await).unwrap().code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_request_with_an_address_type_of_its_own_is_answered_with_8() {
    let opener = agent(&[], Limits::default()).await;
    let mut stream = opener.open().await.unwrap();
    stream.write_all(&[5, 1, 0, 5, 1, 0, 9]).await.unwrap();
    stream.flush().await.unwrap();
    let mut got = [0; 4];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, [5, 0, 5, 8]);
}

#[tokio::test]
async fn data_sent_with_the_request_reaches_the_far_end_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let opener = agent(&[], Limits::default()).await;
    let request = Request::new(Command::Connect, listener.local_addr().unwrap());
    let mut stream = opener.open().await.unwrap();
    let mut bytes = Client::pipelined(&request).unwrap().output();
    bytes.extend(b"early ");
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let (mut service, _) = listener.accept().await.unwrap();
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    service.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"early late");
}

#[tokio::test]
async fn resolver_tells_both_files() {
    let opener = agent(&[], Limits::default()).await;
    let (mut stream, reply) = ask(&opener, &Request::bare(Command::Resolver)).await;
    assert_eq!(reply.code, 0);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(Files::decode(&bytes), Some(Files::default()), "this agent's resolver has none");
}

#[tokio::test]
async fn a_lookup_tells_the_order_behind_an_empty_message_to_who_asks_for_it() {
    let (server, _) = Zone::of(&[("a.test", "10.0.0.1")]).serve().await;
    let opener = agent(&[server], Limits::default()).await;
    for (bit, frames) in [(0, 1), (LOOKUP_ORDERED, 3)] {
        let target = Target::Name("a.test.".into(), LOOKUP_A | bit);
        let (mut stream, reply) = ask(&opener, &Request::new(Command::Lookup, target)).await;
        assert_eq!(reply.code, 0);
        let mut read = Vec::new();
        for _ in 0..frames {
            read.push(message(&mut stream).await);
        }
        assert!(stream.read_u8().await.is_err(), "and nothing more");
        if let [_, end, order] = &read[..] {
            assert!(end.is_empty());
            assert_eq!(*order, std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        }
    }
}
