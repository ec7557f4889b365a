//! The pod's nameservers, reachable on this machine's loopback: for resolvers that send DNS messages by themselves.
//!
//! libc's resolver functions (resolver(3)) send from inside libc, where nothing can be caught; they can only be told
//! another address. So for each nameserver that is asked for there is a loopback port, UDP and TCP, that speaks for it.
//! Messages pass as they are, over a flow of datagrams or a connection that the pod opens: retries, EDNS sizes, truncation
//! and the way to TCP stay between the program's resolver and the nameserver.
//!
//! # Theory of operation
//! A client's datagrams from one port are one flow, from its first question until all were answered and no more came for a
//! moment ([`QUIET`]), or until a resolver would have given up ([`UNANSWERED`]). Flows know nothing of each other, so a
//! question that is never answered delays no other. Where the pod has no way to the nameserver, or it refuses, questions
//! are answered with "server failure": a resolver then asks its next nameserver, as it does for the kernel's errors.
//!
//! Invariants: everything is bounded and has an end; the ports are gone when [`Nameservers`] is dropped. Loopback belongs
//! to all users of the machine: another user who finds a port can ask the cluster's DNS by it, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use socks_proxy::proto::DATAGRAM_MAX;
use socks_proxy::relay::relay;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::debug;

use crate::pod::datagrams::{Arrived, Datagrams, append};
use crate::pod::{DialError, Duplex as _, Pod};

/// Where the ports are: a loopback address on which nothing else listens.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 84, 80, 3);
/// Nameservers that are spoken for at once; a resolv.conf has three.
const NAMESERVERS: usize = 64;
/// Flows of one nameserver at once, and connections.
const FLOWS: usize = 512;
/// Questions of one flow that wait for its stream.
const QUEUE: usize = 16;
/// Ports that are tried until one is free for UDP and TCP alike.
const PORTS: usize = 16;
/// How long a flow lasts after its last answer.
const QUIET: Duration = Duration::from_secs(1);
/// How long a flow without an answer lasts: `RES_MAXRETRANS` of resolv.h.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Bytes of a DNS message's header (RFC 1035, 4.1.1).
const HEADER_LEN: usize = 12;

/// The loopback ports, by the nameserver that each speaks for.
pub struct Nameservers {
    pod: Arc<dyn Pod>,
    runtime: Handle,
    open: Mutex<HashMap<SocketAddr, Endpoint>>,
}

/// One port; what serves it ends when this is dropped.
struct Endpoint {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Nameservers {
    /// No ports yet. What serves them runs in the runtime in which this is called.
    #[must_use]
    pub fn new(pod: Arc<dyn Pod>) -> Self {
        Self { pod, runtime: Handle::current(), open: Mutex::default() }
    }

    /// The port that speaks for `nameserver`, by UDP and by TCP.
    ///
    /// # Errors
    /// Those of bind(2), and `ResourceBusy` if there are too many already.
    pub fn at(&self, nameserver: SocketAddr) -> io::Result<SocketAddr> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = open.get(&nameserver) {
            return Ok(endpoint.address);
        }
        if open.len() >= NAMESERVERS {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let _runtime = self.runtime.enter();
        let (udp, tcp) = bind()?;
        let address = udp.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(Arc::clone(&self.pod), nameserver, Arc::new(udp)));
        tasks.spawn(connections(Arc::clone(&self.pod), nameserver, tcp));
        debug!(%nameserver, %address, "nameserver opened");
        open.insert(nameserver, Endpoint { address, _tasks: tasks });
        Ok(address)
    }
}

/// A UDP and a TCP socket on one port.
fn bind() -> io::Result<(UdpSocket, TcpListener)> {
    let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORTS {
        let tcp = std::net::TcpListener::bind((LOOPBACK, 0))?;
        match std::net::UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                return Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Hands each datagram to its client's flow.
async fn datagrams(pod: Arc<dyn Pod>, nameserver: SocketAddr, socket: Arc<UdpSocket>) {
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut room = vec![0; DATAGRAM_MAX];
    loop {
        while tasks.try_join_next().is_some() {}
        // An error is one client's, who closed its port before the answer came (ICMP).
        let Ok((length, client)) = socket.recv_from(&mut room).await else { continue };
        let question = room.get(..length).unwrap_or_default().to_vec();
        let question = match flows.get(&client).map(|flow| flow.try_send(question.clone())) {
            // One that does not fit into the queue is lost, as datagrams are.
            Some(Ok(()) | Err(mpsc::error::TrySendError::Full(_))) => continue,
            Some(Err(mpsc::error::TrySendError::Closed(question))) => question,
            None => question,
        };
        flows.retain(|_, flow| !flow.is_closed());
        if flows.len() >= FLOWS {
            continue;
        }
        let (question_tx, question_rx) = mpsc::channel(QUEUE);
        let _ = question_tx.try_send(question);
        flows.insert(client, question_tx);
        let mut flow = Flow { socket: Arc::clone(&socket), client, question_rx, unanswered: VecDeque::new() };
        let pod = Arc::clone(&pod);
        tasks.spawn(async move {
            match pod.datagrams(nameserver).await {
                Ok(datagrams) => {
                    if let Err(error) = flow.carry(datagrams).await {
                        debug!(%nameserver, %error, "a flow of questions broke");
                    }
                }
                Err(error) => debug!(%nameserver, %error, "no flow to the nameserver"),
            }
            flow.fail().await;
        });
    }
}

/// One client's questions and their answers.
struct Flow {
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    /// the port --a client's questions--> its flow
    question_rx: mpsc::Receiver<Vec<u8>>,
    unanswered: VecDeque<Vec<u8>>,
}

impl Flow {
    /// Until there is nothing to wait for.
    async fn carry(&mut self, flow: Datagrams) -> Result<(), DialError> {
        let Datagrams { outgoing: mut to_pod, incoming: mut from_pod } = flow;
        loop {
            let patience = if self.unanswered.is_empty() { QUIET } else { UNANSWERED };
            tokio::select! {
                question = self.question_rx.recv() => {
                    let Some(question) = question else { return Ok(()) };
                    let mut record = BytesMut::new();
                    append(&mut record, &question);
                    to_pod.write_all(&record).await?;
                    to_pod.flush().await?;
                    if self.unanswered.len() >= QUEUE {
                        self.unanswered.pop_front();
                    }
                    self.unanswered.push_back(question);
                }
                arrived = from_pod.next() => match arrived? {
                    Some(Arrived::Datagram(answer)) => self.answer(&answer).await,
                    // The nameserver's host, or one on the way, said that it takes none.
                    Some(Arrived::Error(_)) => self.fail().await,
                    None => return Ok(()),
                },
                () = tokio::time::sleep(patience) => {
                    self.unanswered.clear();
                    return Ok(to_pod.shutdown().await?);
                }
            }
        }
    }

    async fn answer(&mut self, answer: &[u8]) {
        self.unanswered.retain(|question| question.get(..2) != answer.get(..2));
        // A client that has gone needs no answer.
        let _ = self.socket.send_to(answer, self.client).await;
    }

    /// Answers all that is open with "server failure".
    async fn fail(&mut self) {
        while let Ok(question) = self.question_rx.try_recv() {
            self.unanswered.push_back(question);
        }
        for mut question in std::mem::take(&mut self.unanswered) {
            if server_failure(&mut question) {
                let _ = self.socket.send_to(&question, self.client).await;
            }
        }
    }
}

/// Makes a question its own answer, `SERVFAIL` (RFC 1035, 4.1.1). It is none if it is too short or an answer already.
fn server_failure(question: &mut [u8]) -> bool {
    match question {
        [_, _, flags, more, ..] if *flags & 0x80 == 0 => {
            *flags |= 0x80;
            *more = (*more & 0x70) | 0x82;
            question.len() >= HEADER_LEN
        }
        _ => false,
    }
}

/// Carries each connection to the nameserver.
async fn connections(pod: Arc<dyn Pod>, nameserver: SocketAddr, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(FLOWS));
    let mut tasks = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while tasks.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: those in use come back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let pod = Arc::clone(&pod);
        tasks.spawn(async move {
            connection(&*pod, nameserver, client).await;
            drop(place);
        });
    }
}

async fn connection(pod: &dyn Pod, nameserver: SocketAddr, mut client: TcpStream) {
    let mut stream = match pod.dial(nameserver).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%nameserver, %error, "no connection to the nameserver");
            return client.reset_on_close();
        }
    };
    if let Some((side, error)) = relay(&mut client, &mut stream).await.error {
        debug!(%nameserver, ?side, %error, "a connection to the nameserver broke");
        client.reset_on_close();
        stream.reset_on_close();
    }
}

#[cfg(test)]
mod tests;
