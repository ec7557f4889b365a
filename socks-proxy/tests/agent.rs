//! The built `tp-agent` from outside: curl, a session, half-close and reset, drain, linger, bad starts, a flood.
//!
//! Everything stays on loopback. Each test has an agent of its own on a free port.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use socks_proxy::link::{self, LinkError, TokenDigest, hex};
use socks_proxy::mux::{self, MuxStream, Opener};
use socks_proxy::proto::{Client, Command, Credentials, LOOKUP_A, LOOKUP_AAAA, Reply, Request, Step, Target};
use socks_proxy::resolve::message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::Child;

const TOKEN: [u8; 32] = [0x42; 32];

struct Agent {
    process: Child,
    port: u16,
}

impl Agent {
    async fn start(variables: &[(&str, &str)]) -> Self {
        let mut process = command(variables).spawn().unwrap();
        let mut line = String::new();
        // The pipe is closed after this line, as when an attach goes away.
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        let port = line.trim().strip_prefix("tp-agent listening on ").unwrap().parse().unwrap();
        Self { process, port }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn session(&self) -> Opener {
        let (opener, _, driver) = mux::client(link::connect(self.tcp().await, &TOKEN));
        tokio::spawn(driver);
        opener
    }

    fn signal(&self, name: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), name).unwrap();
    }

    async fn exit(&mut self) -> Option<i32> {
        let exit = tokio::time::timeout(Duration::from_secs(60), self.process.wait());
        exit.await.expect("the agent did not end").unwrap().code()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn command(variables: &[(&str, &str)]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tp-agent"));
    command
        .env_clear()
        .env("TP_AGENT_TOKEN_SHA256", TokenDigest::of(&TOKEN).to_hex())
        .env("TP_AGENT_PORT", "0")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Holds a conversation up to its reply; what follows the reply is left in the stream.
async fn ask<S>(stream: &mut S, mut client: Client) -> io::Result<Reply>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    let mut bytes = Vec::new();
    loop {
        stream.write_all(&client.output()).await?;
        stream.flush().await?;
        bytes.push(stream.read_u8().await?);
        match client.input(&bytes).map_err(io::Error::other)? {
            Step::More(used) => drop(bytes.drain(..used)),
            Step::Done(used, reply) => {
                assert_eq!(used, bytes.len());
                return Ok(reply);
            }
        }
    }
}

async fn request(opener: &Opener, request: &Request) -> (MuxStream, Reply) {
    let mut stream = opener.open().await.unwrap();
    let reply = ask(&mut stream, Client::pipelined(request).unwrap()).await.unwrap();
    (stream, reply)
}

fn to(address: SocketAddr) -> Request {
    Request::new(Command::Connect, address)
}

fn credentials(password: &str) -> Credentials {
    Credentials::new("tp", password).unwrap()
}

async fn rest(stream: &mut MuxStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// A service that answers, once its client has ended, with all that the client said.
async fn late_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut said = Vec::new();
                stream.read_to_end(&mut said).await.unwrap();
                stream.write_all(&said).await.unwrap();
            });
        }
    });
    address
}

/// A port that nobody listens on, and that no other test is given meanwhile.
fn closed_port() -> SocketAddr {
    SocketAddr::from(([127, 77, 0, 1], 1))
}

#[tokio::test]
async fn curl_works_with_the_token_and_is_refused_without() {
    let agent = Agent::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    });
    let proxy = format!("127.0.0.1:{}", agent.port);
    let curl = async |login: &[&str], url: &str| {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "--socks5-hostname", &proxy]).args(login).arg(url);
        let output = curl.output().await.expect("this test needs curl");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let user = format!("tp:{}", hex(&TOKEN));
    assert_eq!(curl(&["--proxy-user", &user], &url).await, (Some(0), "hello".into()));
    assert_eq!(curl(&[], &url).await.0, Some(97));
    assert_eq!(curl(&["--proxy-user", "tp:wrong"], &url).await.0, Some(97));
    let closed = format!("http://{}/", closed_port());
    assert_eq!(curl(&["--proxy-user", &user], &closed).await.0, Some(97));
}

#[tokio::test]
async fn plain_socks_tells_the_kernels_reason_and_keeps_half_close() {
    let agent = Agent::start(&[]).await;
    let login = || Some(credentials(&hex(&TOKEN)));
    let mut stream = agent.tcp().await;
    let client = Client::negotiated(login(), &to(closed_port())).unwrap();
    assert_eq!(ask(&mut stream, client).await.unwrap().code, 5);

    let mut stream = agent.tcp().await;
    let client = Client::negotiated(login(), &to(late_echo().await)).unwrap();
    assert_eq!(ask(&mut stream, client).await.unwrap().code, 0);
    stream.write_all(b"all of it").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"all of it");

    let mut stream = agent.tcp().await;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn a_session_needs_the_token() {
    let agent = Agent::start(&[]).await;
    let (opener, _, driver) = mux::client(link::connect(agent.tcp().await, &[1; 32]));
    let error = driver.await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(error.get_ref().and_then(|cause| cause.downcast_ref()), Some(&LinkError::Refused));
    assert!(opener.open().await.is_err());
}

#[tokio::test]
async fn a_session_carries_every_command() {
    let agent = Agent::start(&[("GREETING", "two\nlines")]).await;
    let opener = agent.session().await;

    let (mut stream, reply) = request(&opener, &to(late_echo().await)).await;
    assert_eq!(reply.code, 0);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(rest(&mut stream).await == sent);

    assert_eq!(request(&opener, &to(closed_port())).await.1.code, 5);
    let localhost = Target::Name("localhost".into(), 0);
    let (_, reply) = request(&opener, &Request::new(Command::Resolve, localhost)).await;
    assert_eq!(reply, Reply::with("127.0.0.1:0".parse::<SocketAddr>().unwrap()));
    let address: SocketAddr = "[::1]:0".parse().unwrap();
    let (_, reply) = request(&opener, &Request::new(Command::ResolvePtr, address)).await;
    assert!(matches!(reply, Reply { code: 0, bound: Target::Name(..) }), "{reply:?}");

    let localhost = Target::Name("localhost".into(), LOOKUP_A | LOOKUP_AAAA);
    let (mut stream, reply) = request(&opener, &Request::new(Command::Lookup, localhost)).await;
    assert_eq!(reply.code, 0);
    let mut messages = rest(&mut stream).await;
    let second = messages.split_off(2 + usize::from(u16::from_be_bytes([messages[0], messages[1]])));
    assert_eq!(message::addresses(&messages[2..]), ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(message::Head::read(&second[2..]).unwrap().response);

    let (mut stream, _) = request(&opener, &Request::bare(Command::Environ)).await;
    assert_eq!(rest(&mut stream).await, b"GREETING=two\nlines\0");
    let (_, reply) = request(&opener, &Request::bare(Command::Unknown(2))).await;
    assert_eq!(reply.code, 7);
}

#[tokio::test]
async fn datagrams_cross_a_session() {
    let agent = Agent::start(&[]).await;
    let opener = agent.session().await;
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let flow = Request::new(Command::Datagrams, service.local_addr().unwrap());
    let (mut stream, reply) = request(&opener, &flow).await;
    assert_eq!(reply.code, 0);
    stream.write_all(b"\0\x04ping").await.unwrap();
    let mut datagram = [0; 16];
    let (length, from) = service.recv_from(&mut datagram).await.unwrap();
    assert_eq!((&datagram[..length], Target::Ip(from)), (&b"ping"[..], reply.bound));
    service.send_to(b"pong!", from).await.unwrap();
    let mut frame = [0; 7];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\0\x05pong!");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_both_ways() {
    let agent = Agent::start(&[]).await;
    let opener = agent.session().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    let (mut stream, _) = request(&opener, &to(address)).await;
    let (service, _) = listener.accept().await.unwrap();
    service.set_zero_linger().unwrap();
    drop(service);
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let (stream, _) = request(&opener, &to(address)).await;
    let (mut service, _) = listener.accept().await.unwrap();
    drop(stream);
    assert_eq!(service.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// A listener whose queue is full: further SYNs are dropped, as behind a black hole.
async fn black_hole() -> (TcpListener, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let wait = Duration::from_millis(300);
    while let Ok(stream) = tokio::time::timeout(wait, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (listener, queued)
}

/// Whether the kernel has a connect under way to this port (state 2 in /proc/net/tcp, proc_net_tcp(5)).
fn is_dialing(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!("0100007F:{port:04X} 02");
    table.contains(&wanted)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come");
}

#[tokio::test]
async fn a_dial_ends_when_its_client_goes_and_delays_no_other() {
    let agent = Agent::start(&[]).await;
    let opener = agent.session().await;
    let (listener, _queued) = black_hole().await;
    let address = listener.local_addr().unwrap();
    let mut stream = opener.open().await.unwrap();
    stream.write_all(&Client::pipelined(&to(address)).unwrap().output()).await.unwrap();
    until("the dial", || is_dialing(address.port())).await;
    assert_eq!(request(&opener, &to(closed_port())).await.1.code, 5);
    drop(stream);
    until("the dial's end", || !is_dialing(address.port())).await;
}

#[tokio::test]
async fn sigterm_lets_relays_finish_and_takes_no_more() {
    let mut agent = Agent::start(&[]).await;
    let opener = agent.session().await;
    let (mut stream, _) = request(&opener, &to(late_echo().await)).await;
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let port = agent.port;
    let gone = || std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
    until("the closed listener", gone).await;
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"still here");
    assert_eq!(agent.exit().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut agent = Agent::start(&[]).await;
    let opener = agent.session().await;
    let (_stream, _) = request(&opener, &to(late_echo().await)).await;
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let port = agent.port;
    until("the closed listener", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err()).await;
    agent.signal(nix::sys::signal::Signal::SIGINT);
    assert!(agent.exit().await.is_some());
}

#[tokio::test]
async fn it_lingers_while_a_session_is_there_and_ends_after() {
    let mut agent = Agent::start(&[("TP_AGENT_LINGER", "1")]).await;
    let opener = agent.session().await;
    let (stream, _) = request(&opener, &to(late_echo().await)).await;
    let early = tokio::time::timeout(Duration::from_secs(3), agent.process.wait()).await;
    assert!(early.is_err(), "it ended under a session");
    drop((stream, opener));
    assert_eq!(agent.exit().await, Some(0));
}

#[tokio::test]
async fn a_bad_start_says_why_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (variables, wanted) in [
        ([("TP_AGENT_TOKEN_SHA256", "xyz")], "TP_AGENT_TOKEN_SHA256 is not 64 hexadecimal digits".to_owned()),
        ([("TP_AGENT_PORT", "http")], "TP_AGENT_PORT is not a port number".to_owned()),
        ([("TP_AGENT_PORT", &*port)], format!("cannot listen on 127.0.0.1:{port}: Address already in use")),
    ] {
        let output = command(&variables).stderr(Stdio::piped()).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("tp-agent: error: {wanted}")), "{said}");
        assert_eq!((said.lines().count(), output.status.code()), (1, Some(1)));
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_flood_of_strangers_costs_little_and_ends() {
    let agent = Agent::start(&[]).await;
    let mut strangers = Vec::new();
    for number in 0..800_u32 {
        let mut stream = agent.tcp().await;
        let start: &[u8] = if number % 2 == 0 { b"tp-link1" } else { b"\x05\xff" };
        // Those beyond the limit are closed under the write.
        drop(stream.write_all(start).await);
        strangers.push(stream);
    }
    assert!(agent.resident_kib() < 20 * 1024, "{} KiB resident", agent.resident_kib());
    drop(strangers);
    let login = || Some(credentials(&hex(&TOKEN)));
    let address = late_echo().await;
    let served = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let client = Client::negotiated(login(), &to(address)).unwrap();
            if ask(&mut agent.tcp().await, client).await.is_ok_and(|reply| reply.code == 0) {
                break;
            }
        }
    });
    served.await.expect("the agent did not serve after the flood");
}
