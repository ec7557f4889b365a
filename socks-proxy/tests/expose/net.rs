//! A pod and its clients as two network namespaces with a link between them, agents in the pod, launchers of theirs, and
//! servers that say who they are.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command as Plain, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socks_proxy::expose::wire::*;
use socks_proxy::link::{self, TokenDigest};
use socks_proxy::messages;
use socks_proxy::mux::{self, Arrivals, MuxStream, Opener};
use socks_proxy::proto::{Client, Command, Request, Step};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, ChildStdout};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const TOKEN: [u8; 32] = [0x43; 32];
/// Nothing here takes so long, unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// What does not hang.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(HANG, work).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// The pod's namespace and its clients'; gone when dropped.
pub struct Pod {
    name: String,
}

pub const POD: [&str; 2] = ["10.77.0.2", "fd77::2"];
pub const NODE: [&str; 2] = ["10.77.0.1", "fd77::1"];

fn ip(arguments: &str) {
    let output = Plain::new("ip").args(arguments.split(' ')).output().expect("this test needs ip(8)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Pod {
    /// `None`, and a word about it, for who may not make namespaces; a failure where `TP_REQUIRE` names `netns`.
    pub fn make() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            let required =
                std::env::var("TP_REQUIRE").is_ok_and(|list| list.split(',').any(|it| it == "netns"));
            assert!(!required, "TP_REQUIRE names netns, and this is not root");
            eprintln!("not run: it takes root to make network namespaces");
            return None;
        }
        let pod =
            Self { name: format!("tpx{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)) };
        let (inside, outside) = (pod.namespace(), pod.node());
        ip(&format!("netns add {inside}"));
        ip(&format!("netns add {outside}"));
        ip(&format!("-n {inside} link add eth0 type veth peer name pod0 netns {outside}"));
        for (namespace, link, own, via) in
            [(&inside, "eth0", POD, Some(NODE)), (&outside, "pod0", NODE, None)]
        {
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} link set {link} up"));
            ip(&format!("-n {namespace} addr add {}/24 dev {link}", own[0]));
            ip(&format!("-n {namespace} addr add {}/64 dev {link} nodad", own[1]));
            if let Some(via) = via {
                ip(&format!("-n {namespace} route add default via {}", via[0]));
                ip(&format!("-n {namespace} -6 route add default via {}", via[1]));
            }
        }
        Some(pod)
    }

    fn namespace(&self) -> String {
        format!("{}-pod", self.name)
    }

    fn node(&self) -> String {
        format!("{}-node", self.name)
    }

    /// Does something in the pod's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.namespace(), work)
    }

    /// Does something where the pod's clients are.
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.node(), work)
    }

    /// A client of the pod.
    pub async fn client(&self, ip: &str, port: u16) -> Talk<TcpStream> {
        let to = SocketAddr::new(ip.parse().unwrap(), port);
        let connected = self.outside(|| std::net::TcpStream::connect_timeout(&to, HANG));
        let stream = connected.unwrap_or_else(|error| panic!("connect to {to}: {error}"));
        stream.set_nonblocking(true).unwrap();
        Talk::new(TcpStream::from_std(stream).unwrap())
    }

    /// A UDP client of the pod, which its kernel lets hear nobody else.
    pub async fn udp_client(&self, ip: &str, port: u16) -> UdpSocket {
        self.udp_client_from(0, ip, port).await
    }

    /// The same, with a port of its own.
    pub async fn udp_client_from(&self, from: u16, ip: &str, port: u16) -> UdpSocket {
        let to = SocketAddr::new(ip.parse().unwrap(), port);
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let socket = self.outside(|| {
            let socket = std::net::UdpSocket::bind((any, from)).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    }

    /// An app in the pod: says its name before every line that it is told.
    pub fn app(&self, port: u16) {
        let listener = self.inside(|| std::net::TcpListener::bind(("::", port)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(echo("app", stream));
            }
        });
    }

    /// A UDP app, which holds its port for itself.
    pub fn udp_app(&self, port: u16) {
        let socket = self.inside(|| std::net::UdpSocket::bind(("::", port)).unwrap());
        socket.set_nonblocking(true).unwrap();
        let socket = UdpSocket::from_std(socket).unwrap();
        tokio::spawn(async move {
            let mut room = [0; 2048];
            loop {
                let (length, peer) = socket.recv_from(&mut room).await.unwrap();
                let answer = [b"app: ", &room[..length]].concat();
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
    }

    /// An agent in the pod; `before` is what it is started by.
    pub async fn agent(&self, before: &[&str]) -> Agent {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace()])
            .args(before)
            .arg(env!("CARGO_BIN_EXE_tp-agent"))
            .env("TP_AGENT_TOKEN_SHA256", TokenDigest::of(&TOKEN).to_hex())
            .env("TP_AGENT_PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = soon("the agent's port", log.next_line()).await.unwrap().unwrap();
        let port = line.strip_prefix("tp-agent listening on ").unwrap().parse().unwrap();
        Agent { process, port, log }
    }

    /// A launcher with a session of its own.
    pub async fn launcher(&self, agent: &Agent) -> Launcher {
        let stream = self.inside(|| std::net::TcpStream::connect(("127.0.0.1", agent.port)).unwrap());
        stream.set_nonblocking(true).unwrap();
        let (opener, arrivals, driver) =
            mux::client(link::connect(TcpStream::from_std(stream).unwrap(), &TOKEN));
        tokio::spawn(driver);
        Launcher { opener, arrivals }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for name in [self.namespace(), self.node()] {
            drop(Plain::new("ip").args(["netns", "del", &name]).status());
        }
    }
}

fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

pub struct Agent {
    pub process: Child,
    port: u16,
    log: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    /// The next line of its log.
    pub async fn says(&mut self) -> String {
        soon("a line of the log", self.log.next_line()).await.unwrap().unwrap()
    }

    /// What it has in memory, in MiB (proc_pid_status(5)).
    pub fn resident(&self) -> u64 {
        let pid = self.process.id().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
    }

    /// kill -9
    pub async fn kill(mut self) {
        self.process.start_kill().unwrap();
        soon("the agent's end", self.process.wait()).await.unwrap();
    }
}

/// One line here, one there.
pub struct Talk<S>(BufReader<S>);

impl<S: AsyncReadExt + AsyncWriteExt + Unpin> Talk<S> {
    pub fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    pub async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub async fn hear(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        soon("a line", self.0.read_line(&mut line)).await?;
        Ok(line.trim_end().to_owned())
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.ok().filter(|length| *length > 0).map(|_| line)
    }

    /// Who answers an HTTP request with these headers.
    pub async fn get(&mut self, headers: &str) -> String {
        self.say(&format!("GET / HTTP/1.1\r\nHost: app\r\n{headers}\r")).await;
        let mut name = None;
        while let Some(line) = soon("a head", self.line()).await.filter(|line| line != "\r\n") {
            name = name.or_else(|| Some(line.strip_prefix("X-Name: ")?.trim_end().to_owned()));
        }
        name.expect("somebody's answer")
    }

    /// The answer to a line.
    pub async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await.unwrap()
    }

    pub fn stream(&mut self) -> &mut S {
        self.0.get_mut()
    }
}

/// Says a name before every line that it is told; and to HTTP requests, in a header.
pub async fn echo(name: &str, stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut talk = Talk::new(stream);
    while let Some(line) = talk.line().await {
        let answer = if line.starts_with("GET ") {
            while talk.line().await.is_some_and(|line| line != "\r\n") {}
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Name: {name}\r\n\r\n")
        } else {
            format!("{name}: {line}")
        };
        if talk.0.write_all(answer.as_bytes()).await.is_err() || talk.0.flush().await.is_err() {
            return;
        }
    }
    drop(talk.0.shutdown().await);
}

/// The same for datagrams.
pub async fn echo_datagrams(name: &'static str, mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    while let Ok(length) = stream.read_u16().await {
        let mut datagram = vec![0; length.into()];
        stream.read_exact(&mut datagram).await.unwrap();
        let answer = [name.as_bytes(), b": ", &datagram[..]].concat();
        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
    }
}

pub struct Launcher {
    pub opener: Opener,
    pub arrivals: Arrivals,
}

/// What a launcher asks for, unless a test wants something else.
pub fn steal(port: u16) -> Expose {
    Expose {
        id: 7,
        protocol: Protocol::Tcp,
        port,
        way: Way::Steal,
        filter: None,
        who: "alice@laptop".into(),
        run: 1,
        probes: false,
        tls_probes: false,
        nodes: Vec::new(),
        declared: true,
        app: None,
    }
}

impl Launcher {
    /// As [`expose`].
    pub async fn expose(&self, wanted: Expose) -> (Exposing, ToLauncher) {
        expose(&self.opener, wanted).await
    }

    /// Asks for a port that is to be had.
    pub async fn exposes(&self, expose: Expose) -> Exposing {
        let (exposing, answer) = self.expose(expose).await;
        assert_eq!(answer, ToLauncher::Ready);
        exposing
    }

    /// The next client, and its stream.
    pub async fn arrival(&mut self) -> (Arrival, MuxStream) {
        let mut stream = soon("an arrival", self.arrivals.next()).await.unwrap();
        let arrival = soon("its head", messages::read(&mut stream, ARRIVAL_MAX)).await.unwrap();
        (arrival, stream)
    }

    /// Takes every client from now on, with a program that says its name before every line.
    pub fn serve(mut self, name: &'static str) -> Opener {
        let opener = self.opener.clone();
        tokio::spawn(async move {
            while let Some(mut stream) = self.arrivals.next().await {
                tokio::spawn(async move {
                    let _: Arrival = messages::read(&mut stream, ARRIVAL_MAX).await.unwrap();
                    stream.write_all(&[TAKEN]).await.unwrap();
                    echo(name, stream).await;
                });
            }
        });
        opener
    }
}

/// Asks for a port; gives the conversation and the first answer.
pub async fn expose(opener: &Opener, expose: Expose) -> (Exposing, ToLauncher) {
    let mut stream = opener.open().await.unwrap();
    let mut client = Client::pipelined(&Request::bare(Command::Expose)).unwrap();
    stream.write_all(&client.output()).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        bytes.push(soon("a reply", stream.read_u8()).await.unwrap());
        match client.input(&bytes).unwrap() {
            Step::More(used) => drop(bytes.drain(..used)),
            Step::Done(_, reply) => {
                assert_eq!(reply.code, 0);
                break;
            }
        }
    }
    messages::write(&mut stream, &ToAgent::Expose(expose)).await.unwrap();
    let (reader, writer) = tokio::io::split(stream);
    let writer = Arc::new(Mutex::new(writer));
    let alive = tokio::spawn(say_alive(writer.clone()));
    let mut exposing = Exposing { reader, writer, alive };
    let answer = exposing.hears().await;
    (exposing, answer)
}

/// A port that is exposed until this is dropped.
pub struct Exposing {
    reader: ReadHalf<MuxStream>,
    writer: Arc<Mutex<WriteHalf<MuxStream>>>,
    alive: JoinHandle<()>,
}

async fn say_alive(writer: Arc<Mutex<WriteHalf<MuxStream>>>) {
    while messages::write(&mut *writer.lock().await, &ToAgent::Alive).await.is_ok() {
        tokio::time::sleep(ALIVE_EVERY).await;
    }
}

impl Drop for Exposing {
    fn drop(&mut self) {
        self.alive.abort();
    }
}

impl Exposing {
    pub async fn hears(&mut self) -> ToLauncher {
        soon("an answer", messages::read(&mut self.reader, MESSAGE_MAX)).await.unwrap()
    }

    pub async fn done(&mut self) {
        messages::write(&mut *self.writer.lock().await, &ToAgent::Done).await.unwrap();
        assert_eq!(self.hears().await, ToLauncher::Ended);
    }

    /// The agent has ended the conversation.
    pub async fn is_over(&mut self) {
        assert_eq!(soon("the end", self.reader.read(&mut [0])).await.unwrap(), 0);
    }
}

pub fn node() -> Vec<IpAddr> {
    NODE.iter().map(|ip| ip.parse().unwrap()).collect()
}
