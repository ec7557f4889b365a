//! The resolver against nameservers of our own on 127.0.0.x: truncation, silence, search order, families.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex as Lock;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

pub(crate) type Asked = Arc<Lock<Vec<String>>>;

/// A nameserver that knows some A records. Unknown names do not exist.
#[derive(Clone, Default)]
pub(crate) struct Zone {
    records: HashMap<&'static str, Vec<IpAddr>>,
    /// Answers over UDP are cut.
    truncates: bool,
    /// Says this to everything.
    code: Option<ResponseCode>,
    /// Questions for this name are not answered.
    pub(crate) ignores: Option<&'static str>,
    /// First sends answers that are not to the question.
    lies: bool,
}

impl Zone {
    pub(crate) fn of(records: &[(&'static str, &str)]) -> Self {
        let mut zone = Self::default();
        for (name, address) in records {
            zone.records.entry(name).or_default().push(address.parse().unwrap());
        }
        zone
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let query = Head::read(question).unwrap().query;
        let name = query.name().to_ascii().to_lowercase();
        let records = self.records.get(name.trim_end_matches('.'));
        let answer =
            message::from_addresses(query.name(), query.query_type(), records.map_or(&[], |list| list));
        let mut answer = Message::from_vec(&answer.unwrap()).unwrap();
        answer.metadata.response_code = match (self.code, records) {
            (Some(code), _) => code,
            (None, None) => ResponseCode::NXDomain,
            (None, Some(_)) => ResponseCode::NoError,
        };
        message::with_id(&answer.to_vec().unwrap(), message::id(question).unwrap())
    }

    /// Serves on a free port; gives its address and the list of what it was asked.
    pub(crate) async fn serve(self) -> (SocketAddr, Asked) {
        self.serve_on("127.0.0.1:0").await
    }

    async fn serve_on(self, address: &str) -> (SocketAddr, Asked) {
        // The port that UDP gets may be somebody else's over TCP: the next one is tried then.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(address).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Asked::default();
        tokio::spawn(self.clone().over_udp(udp, asked.clone()));
        tokio::spawn(self.over_tcp(tcp, asked.clone()));
        (address, asked)
    }

    async fn over_udp(self, socket: UdpSocket, asked: Asked) {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = &buffer[..length];
            note(&asked, "udp", question);
            let name = Head::read(question).unwrap().query.name().to_ascii();
            if self.ignores.is_some_and(|ignored| name.trim_end_matches('.') == ignored) {
                continue;
            }
            let mut answer = self.answer(question);
            if self.lies {
                let other = message::with_id(&answer, [answer[0] ^ 1, answer[1]]);
                socket.send_to(&other, from).await.unwrap();
                socket.send_to(question, from).await.unwrap();
                socket.send_to(b"?", from).await.unwrap();
            }
            if self.truncates {
                answer = message::failure(question);
                answer[2] |= 2;
                answer[3] = 0;
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    async fn over_tcp(self, listener: TcpListener, asked: Asked) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            note(&asked, "tcp", &question);
            stream.write_all(&exchange::framed(&self.answer(&question))).await.unwrap();
        }
    }
}

fn note(asked: &Asked, how: &str, question: &[u8]) {
    let query = Head::read(question).unwrap().query;
    asked.lock().unwrap().push(format!("{how} {} {}", query.query_type(), query.name()));
}

fn settings(nameservers: &[SocketAddr], text: &str) -> Settings {
    Settings { nameservers: nameservers.to_vec(), ..Settings::parse(text.as_bytes()) }
}

fn resolver(nameservers: &[SocketAddr], text: &str) -> Resolver {
    Resolver::fixed(settings(nameservers, text), Hosts::parse(b"10.9.9.9 aliased\n"))
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

const KUBERNETES: &str = "search ns.svc.test svc.test test\noptions ndots:5 timeout:1 attempts:1\n";

#[tokio::test]
async fn the_search_list_is_walked_as_glibc_does_and_stops_at_the_first_that_has_records() {
    let (server, asked) = Zone::of(&[("backend.svc.test", "10.0.0.1")]).serve().await;
    let found = resolver(&[server], KUBERNETES).addresses("backend", Families::BOTH).await.unwrap();
    assert_eq!(found, ips(&["10.0.0.1"]));
    let mut asked = asked.lock().unwrap().clone();
    asked.sort();
    let wanted = [
        "udp A backend.ns.svc.test.",
        "udp A backend.svc.test.",
        "udp AAAA backend.ns.svc.test.",
        "udp AAAA backend.svc.test.",
    ];
    assert_eq!(asked, wanted);
}

#[tokio::test]
async fn a_final_dot_skips_the_search_and_enough_dots_come_before_it() {
    let (server, asked) = Zone::of(&[]).serve().await;
    let resolver = resolver(&[server], "search a.test\noptions ndots:1 timeout:1 attempts:1\n");
    let only = Families { ipv4: true, ipv6: false };
    assert!(resolver.addresses("x.y.", only).await.is_err());
    assert!(resolver.addresses("x.y", only).await.is_err());
    assert!(resolver.addresses("x", only).await.is_err());
    let wanted = ["udp A x.y.", "udp A x.y.", "udp A x.y.a.test.", "udp A x.a.test.", "udp A x."];
    assert_eq!(*asked.lock().unwrap(), wanted);
}

#[tokio::test]
async fn both_families_come_in_one_lookup_each_as_its_own_message() {
    let (server, _) =
        Zone::of(&[("db.ns.svc.test", "10.0.0.2"), ("db.ns.svc.test", "fd00::2")]).serve().await;
    let messages = resolver(&[server], KUBERNETES).lookup("db", Families::BOTH).await.unwrap();
    let found: Vec<_> = messages.iter().map(|message| message::addresses(message)).collect();
    assert_eq!(found, [ips(&["10.0.0.2"]), ips(&["fd00::2"])]);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let zone = Zone { truncates: true, ..Zone::of(&[("big.test", "10.0.0.3")]) };
    let (server, asked) = zone.serve().await;
    let found = resolver(&[server], "").addresses("big.test.", Families { ipv4: true, ipv6: false }).await;
    assert_eq!(found.unwrap(), ips(&["10.0.0.3"]));
    assert_eq!(*asked.lock().unwrap(), ["udp A big.test.", "tcp A big.test."]);
}

#[tokio::test]
async fn the_next_nameserver_is_asked_when_the_first_is_silent_closed_or_failing() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = SocketAddr::from(([127, 77, 0, 1], 1));
    let failing = Zone { code: Some(ResponseCode::ServFail), ..Zone::default() }.serve().await.0;
    let good = Zone::of(&[("a.test", "10.0.0.4")]).serve().await.0;
    let text = "options timeout:1 attempts:1\n";
    for first in [silent.local_addr().unwrap(), closed, failing] {
        let found = resolver(&[first, good], text).addresses("a.test.", Families::BOTH).await;
        assert_eq!(found.unwrap(), ips(&["10.0.0.4"]), "after {first}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_after_all_attempts() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = resolver(&[silent.local_addr().unwrap()], "options timeout:2 attempts:3\n");
    let started = tokio::time::Instant::now();
    let error = resolver.addresses("a.test.", Families::BOTH).await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer { .. }));
    assert!(started.elapsed() >= Duration::from_secs(6));
}

#[tokio::test]
async fn answers_that_are_not_to_the_question_are_passed_over() {
    let zone = Zone { lies: true, ..Zone::of(&[("a.test", "10.0.0.5")]) };
    let (server, asked) = zone.serve().await;
    let found = resolver(&[server], "").addresses("a.test.", Families { ipv4: true, ipv6: false }).await;
    assert_eq!(found.unwrap(), ips(&["10.0.0.5"]));
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn hosts_numbers_and_localhost_need_no_nameserver() {
    let (server, asked) = Zone::of(&[]).serve().await;
    let resolver = resolver(&[server], KUBERNETES);
    for (name, wanted) in [
        ("Aliased", &["10.9.9.9"][..]),
        ("127.0.0.1", &["127.0.0.1"]),
        ("fd00::7", &["fd00::7"]),
        ("localhost", &["127.0.0.1", "::1"]),
    ] {
        assert_eq!(resolver.addresses(name, Families::BOTH).await.unwrap(), ips(wanted), "{name}");
    }
    assert_eq!(resolver.name("10.9.9.9".parse().unwrap()).await.unwrap(), "aliased");
    assert_eq!(resolver.name("::ffff:127.0.0.1".parse().unwrap()).await.unwrap(), "localhost");
    assert!(asked.lock().unwrap().is_empty());
    // The line has no IPv6 address, so whoever wants one asks on.
    let only = Families { ipv4: false, ipv6: true };
    assert!(matches!(resolver.addresses("aliased", only).await, Err(ResolveError::NotFound(_))));
    assert!(!asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_that_is_there_without_records_says_so_rather_than_that_it_does_not_exist() {
    let (server, _) = Zone::of(&[("only4.ns.svc.test", "10.0.0.6")]).serve().await;
    let only = Families { ipv4: false, ipv6: true };
    let messages = resolver(&[server], KUBERNETES).lookup("only4", only).await.unwrap();
    assert_eq!(Head::read(&messages[0]).unwrap().code, ResponseCode::NoError);
}

#[tokio::test]
async fn a_forwarded_question_comes_back_with_its_id_and_a_failure_when_nobody_answers() {
    let (server, _) = Zone::of(&[("a.test", "10.0.0.8")]).serve().await;
    let question = message::question(&message::name("a.test").unwrap(), RecordType::A, false).unwrap();
    let question = message::with_id(&question, [0xAB, 0xCD]);
    let answer = resolver(&[server], "").forward(&question, false).await;
    assert_eq!((message::id(&answer), message::addresses(&answer)), (Some([0xAB, 0xCD]), ips(&["10.0.0.8"])));
    assert_eq!(resolver(&[server], "").forward(&question, true).await, answer);

    let closed = SocketAddr::from(([127, 77, 0, 1], 1));
    let failed = resolver(&[closed], "options attempts:1\n").forward(&question, false).await;
    assert_eq!(failed, message::failure(&question));
}

#[tokio::test]
async fn an_ipv6_nameserver_is_asked_over_udp_and_tcp() {
    let zone = Zone { truncates: true, ..Zone::of(&[("a.test", "10.0.0.9")]) };
    let (server, asked) = zone.serve_on("[::1]:0").await;
    let found = resolver(&[server], "").addresses("a.test.", Families { ipv4: true, ipv6: false }).await;
    assert_eq!(found.unwrap(), ips(&["10.0.0.9"]));
    assert_eq!(*asked.lock().unwrap(), ["udp A a.test.", "tcp A a.test."]);
}

#[tokio::test]
async fn rotate_takes_the_nameservers_in_turn() {
    let (one, asked_one) = Zone::of(&[("a.test", "10.0.0.1")]).serve().await;
    let (two, asked_two) = Zone::of(&[("a.test", "10.0.0.1")]).serve().await;
    let resolver = resolver(&[one, two], "options rotate\n");
    for _ in 0..4 {
        resolver.addresses("a.test.", Families { ipv4: true, ipv6: false }).await.unwrap();
    }
    assert_eq!((asked_one.lock().unwrap().len(), asked_two.lock().unwrap().len()), (2, 2));
}

#[tokio::test]
async fn the_reverse_name_of_both_families_is_asked_for() {
    let (server, asked) = Zone::of(&[]).serve().await;
    let resolver = resolver(&[server], "");
    assert!(resolver.name("10.1.2.3".parse().unwrap()).await.is_err());
    assert!(resolver.name("fd00::1".parse().unwrap()).await.is_err());
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0], "udp PTR 3.2.1.10.in-addr.arpa.");
    assert!(asked[1].ends_with(".0.0.d.f.ip6.arpa."), "{}", asked[1]);
}

#[test]
fn the_files_are_read_again_when_they_change() {
    let dir = std::env::temp_dir().join(format!("tp-agent-resolver-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (conf, hosts) = (dir.join("resolv.conf"), dir.join("hosts"));
    let resolver = Resolver::new(&conf, &hosts);
    assert_eq!(resolver.current().settings.ndots, 1);
    std::fs::write(&conf, "options ndots:5\n").unwrap();
    std::fs::write(&hosts, "10.0.0.1 new\n").unwrap();
    let read = resolver.current();
    assert_eq!((read.settings.ndots, read.hosts.addresses("new")), (5, ips(&["10.0.0.1"])));
    std::fs::remove_dir_all(&dir).unwrap();
}
