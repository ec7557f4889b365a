//! Ports of the laptop's loopback that lead to programs inside: a web server that is started inside is there for the
//! laptop's browser, a debug port for its debugger.
//!
//! Nothing tells when a socket begins to listen, so the programs' sockets are listed every few hundredths of a second
//! (sock_diag(7)), and each that is bound to a loopback address, or to all, is given the same port of the laptop; it goes
//! when the program's does. A port that is taken there is said so in the log, and tried again.
//!
//! UDP sockets have no listen(). One that is bound to all addresses, at a port that the kernel chose, is mostly a
//! client's that has just sent something: it gets no port of the laptop.

mod datagrams;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::DropGuard;
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::Network;
use crate::gate::app_end::AppEnd;
use crate::gate::splice;
use crate::sys::diagnose::{self, Entry, Protocol, state};

/// How often the programs' sockets are looked at.
const EVERY: Duration = Duration::from_millis(25);
/// Looks take at most one part in this many of the time.
const SHARE: u32 = 25;
/// How soon a port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an open within this machine may take.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 1024;

/// A port of the laptop that is, or should be, a program's.
type Port = (Protocol, SocketAddr);

/// What others may know of the mirrors.
pub(super) struct Mirrors {
    /// UDP ports of our own where the programs are.
    ours: Vec<SocketAddr>,
    open: Mutex<HashSet<Port>>,
    /// The programs' ends of what is being carried.
    carried: Mutex<HashMap<u64, AppEnd>>,
    last: AtomicU64,
}

impl Mirrors {
    pub(super) fn new(ours: Vec<SocketAddr>) -> Self {
        Self { ours, open: Mutex::default(), carried: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// Whether this port of the laptop leads back inside.
    pub(super) fn is_open(&self, protocol: Protocol, at: SocketAddr) -> bool {
        locked(&self.open).contains(&(protocol, at))
    }

    /// Whether something that a program wrote before it closed its socket may be on its way.
    pub(super) fn has_last_words(&self) -> bool {
        locked(&self.carried).values().any(AppEnd::is_closed_by_app)
    }
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Mirror {
    /// Dropping it closes the port.
    Open(#[allow(dead_code, reason = "it is there to be dropped")] DropGuard),
    Taken(Instant),
}

/// Looks until the network's end. `socket` is of the programs' namespace.
pub(super) async fn watch(network: Arc<Network>, socket: OwnedFd) {
    let Some(loopback) = &network.loopback else { return };
    let ephemeral = ephemeral_ports();
    let mut mirrors: HashMap<Port, Mirror> = HashMap::new();
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = network.end.cancelled() => return,
        }
        let began = Instant::now();
        match listening(&socket, &loopback.mirrors.ours, &ephemeral) {
            Ok(wanted) => {
                mirrors.retain(|port, _| wanted.contains(port));
                for port in wanted {
                    let again = match mirrors.get(&port) {
                        None => false,
                        Some(Mirror::Taken(since)) if since.elapsed() > AGAIN => true,
                        Some(_) => continue,
                    };
                    mirrors.insert(port, open(&network, port, again));
                }
            }
            Err(error) => warn!(%error, "ports of programs are not seen"),
        }
        pause = EVERY.max(began.elapsed() * SHARE);
    }
}

/// The ports that the kernel chooses from (`net.ipv4.ip_local_port_range`).
fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().filter_map(|word| word.parse().ok());
    words.next().zip(words.next()).map_or(32_768..=60_999, |(first, last)| first..=last)
}

/// The ports that the laptop should have.
fn listening(
    socket: &OwnedFd,
    ours: &[SocketAddr],
    ephemeral: &RangeInclusive<u16>,
) -> io::Result<HashSet<Port>> {
    let mut wanted = HashSet::new();
    for entry in diagnose::list(socket, Protocol::Tcp, state::LISTEN)? {
        wanted.extend(on_loopback(&entry).map(|at| (Protocol::Tcp, at)));
    }
    for entry in diagnose::list(socket, Protocol::Udp, state::CLOSE)? {
        let is_clients = entry.own.ip().is_unspecified() && ephemeral.contains(&entry.own.port());
        if entry.own.port() != 0 && !is_clients && !ours.contains(&entry.own) {
            wanted.extend(on_loopback(&entry).map(|at| (Protocol::Udp, at)));
        }
    }
    Ok(wanted)
}

/// The loopback addresses at which the socket can be reached.
fn on_loopback(entry: &Entry) -> impl Iterator<Item = SocketAddr> + use<> {
    let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let ips = match entry.own.ip() {
        _ if entry.is_dual => [Some(v4), Some(v6)],
        IpAddr::V4(ip) if ip.is_unspecified() => [Some(v4), None],
        IpAddr::V6(ip) if ip.is_unspecified() => [Some(v6), None],
        ip => [Some(ip).filter(IpAddr::is_loopback), None],
    };
    let port = entry.own.port();
    ips.into_iter().flatten().map(move |ip| SocketAddr::new(ip, port))
}

/// Opens a port of the laptop. `again` says that it was told already that it is taken.
fn open(network: &Arc<Network>, (protocol, at): Port, again: bool) -> Mirror {
    let bound = match protocol {
        Protocol::Tcp => listen(at).map(Opened::Tcp),
        Protocol::Udp => datagrams::bind(at).map(Opened::Udp),
    };
    let opened = match bound {
        Ok(opened) => opened,
        Err(error) => {
            // A laptop without IPv6 misses nothing.
            if !again && error.kind() != io::ErrorKind::AddrNotAvailable {
                warn!(?protocol, %at, %error, "a program's port cannot be had on the laptop");
            }
            return Mirror::Taken(Instant::now());
        }
    };
    info!(?protocol, %at, "a program's port is on the laptop, too");
    let end = network.end.child_token();
    let network = Arc::clone(network);
    let span = info_span!("mirror", ?protocol, %at);
    let until = end.clone();
    network.tasks.clone().spawn(
        async move {
            let Some(loopback) = &network.loopback else { return };
            locked(&loopback.mirrors.open).insert((protocol, at));
            let serving = async {
                match opened {
                    Opened::Tcp(listener) => accept(&network, listener, at).await,
                    Opened::Udp(socket) => datagrams::carry(&network, socket, at).await,
                }
            };
            tokio::select! {
                () = serving => {}
                () = until.cancelled() => {}
            }
            locked(&loopback.mirrors.open).remove(&(protocol, at));
            info!("closed");
        }
        .instrument(span),
    );
    Mirror::Open(end.drop_guard())
}

enum Opened {
    Tcp(TcpListener),
    Udp(tokio::net::UdpSocket),
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // Connections that were open when a program ended must not keep the next one's port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(network: &Arc<Network>, listener: TcpListener, at: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((outside, _)) => {
                let network = Arc::clone(network);
                let carry = async move {
                    tokio::select! {
                        carried = carry(&network, outside, at) => {
                            if let Err(error) = carried {
                                debug!(%error, "the program's port was gone");
                            }
                        }
                        () = network.end.cancelled() => {}
                    }
                };
                tokio::spawn(carry.in_current_span());
            }
            // No descriptor left, or a client that was gone already (accept(2)).
            Err(error) => {
                debug!(%error, "accept");
                sleep(EVERY).await;
            }
        }
    }
}

/// Carries a connection of the laptop to a program's port.
async fn carry(network: &Arc<Network>, outside: TcpStream, to: SocketAddr) -> io::Result<()> {
    let Some(loopback) = &network.loopback else { return Ok(()) };
    outside.set_nodelay(true)?;
    let outside = AppEnd::new(outside);
    let ours = Socket::from(network.tcp(to.is_ipv6()).await?);
    ours.set_tcp_nodelay(true)?;
    let connect = TcpSocket::from_std_stream(ours.into()).connect(to);
    let inside =
        timeout(OPEN_LIMIT, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let inside = AppEnd::new(inside);
    let mirrors = &loopback.mirrors;
    let number = mirrors.last.fetch_add(1, Ordering::Relaxed);
    locked(&mirrors.carried).insert(number, inside.clone());
    let _carried = Carried(mirrors, number);
    let relayed = splice::relay(outside.socket(), inside.socket()).await;
    if relayed.error.is_none() {
        outside.has_ended();
        inside.has_ended();
    }
    debug!(to_program = relayed.a_to_b, from_program = relayed.b_to_a, "closed");
    Ok(())
}

/// One entry of what is being carried.
struct Carried<'a>(&'a Mirrors, u64);

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        locked(&self.0.carried).remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_on_the_loopback_addresses_that_lead_to_it() {
        let at = |own: &str, is_dual| {
            let far = SocketAddr::from(([0, 0, 0, 0], 0));
            let entry = Entry {
                own: own.parse().unwrap(),
                far,
                state: state::LISTEN,
                is_dual,
                is_held: true,
                user: 0,
                cookie: 0,
            };
            on_loopback(&entry).map(|at| at.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(at("127.0.0.1:80", false), ["127.0.0.1:80"]);
        assert_eq!(at("127.0.0.9:80", false), ["127.0.0.9:80"]);
        assert_eq!(at("0.0.0.0:80", false), ["127.0.0.1:80"]);
        assert_eq!(at("[::]:80", false), ["[::1]:80"]);
        assert_eq!(at("[::]:80", true), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(at("[::1]:80", false), ["[::1]:80"]);
        assert!(at("10.244.0.6:80", false).is_empty());
    }
}
