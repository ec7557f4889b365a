//! The private network: programs with a network of their own, in which nothing of ours handles an open connection.
//!
//! # Theory of operation
//! A [holder](tp_inside::hold) makes two network namespaces that are linked to each other and to nothing else. Programs
//! are in the one, with the pod's own addresses; whatever they send ends in the other, where every address is local.
//!
//! | a program's | is seen by | and becomes |
//! |---|---|---|
//! | SYN | a packet socket, before nftables drops it | a dial, then a simultaneous open or a refusal ([`connections`]) |
//! | datagram | a socket that nftables' `tproxy` leads to | a flow ([`datagrams`]) |
//! | ping | the packet socket | "packet filtered": it is not carried, and nobody here answers for others |
//! | question to the pod's nameserver | as any datagram or connection | the same, unless names are kept local ([`questions`]) |
//!
//! What programs send to loopback addresses, or to their own, stays in their namespace, and is theirs if one of their
//! sockets takes it. What none takes is handled in the same way ([`loopback`]).
//!
//! So every errno, getpeername(), getsockname() and event is the kernel's own, whatever the program is made of.
//!
//! # Sockets for others
//! Who needs a socket in either namespace asks the holder: [`Network`] has it as `holder`, and
//! `holder.sockets(place, kind, count)` gives new ones of a [`Kind`](tp_inside::orders::Kind) in the app's or in the
//! gateway's namespace ([`Place`](tp_inside::orders::Place)). What can be made there is a line of
//! `tp_inside::hold::factory`.
//!
//! # When something ends
//! The run: [`Vif::drain`], then [`Vif::end`]. The holder, killed: all tasks here end, connections are reset, and
//! with our sockets the gateway goes, so that programs have no network. The launcher, killed: see the holder.

mod arrivals;
mod connections;
mod datagrams;
mod given_up;
mod holder;
mod laptop;
mod loopback;
mod mirror;
pub mod packet;
mod questions;
mod unix;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tp_abi::errno::code;
use tracing::{debug, info, warn};

use crate::pod::datagrams::Datagrams as PodDatagrams;
use crate::pod::{DialError, Stream};
use crate::services::Services;
use crate::sys;
use crate::sys::diagnose::Protocol;
use crate::sys::process::Within;
use connections::Connections;
use datagrams::Datagrams;
use holder::{Family, Holder, Made};
use loopback::{Loopback, Whose};
use packet::Seen;

/// Addresses of programs where nobody knows the pod's: behind a SOCKS server. RFC 7335's are no host's, and the other is
/// of a block that nobody shares (RFC 4193).
const NOBODYS_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 2));
const NOBODYS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd74, 0x7000, 0, 0, 0, 0, 0, 2));
/// Bytes that are read of a packet.
const PACKET_MAX: usize = 2048;
/// Packets taken before others get their turn.
const IN_A_ROW: usize = 64;

/// Why there is no private network.
#[derive(Debug, thiserror::Error)]
pub enum VifError {
    /// The system refused a step.
    #[error("{step} was refused")]
    Refused {
        /// What was tried.
        step: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A private network.
pub struct Vif {
    namespaces: [OwnedFd; 3],
    network: Arc<Network>,
    loopback: Arc<Network>,
}

impl Vif {
    /// Makes one. `inside` is the path of `tp-inside`, `folder` the run's, `within` the namespaces of its programs, if they
    /// have any: only below these can be another that they may enter. What carries it runs in the runtime that this is
    /// called in.
    ///
    /// # Errors
    /// If the machine does not allow it.
    pub async fn start(
        inside: &Path,
        folder: &Path,
        services: Arc<Services>,
        within: Option<&Arc<Within>>,
    ) -> Result<Arc<Self>, VifError> {
        let files = files(folder, &services)
            .map_err(|source| VifError::Refused { step: "a file in the run's folder".to_owned(), source })?;
        let (holder, made) = Holder::start(inside, &files, &addresses(&services), within).await?;
        let Made { namespaces, families, loopback, diagnose } = made;
        let refused = |source| VifError::Refused { step: "a descriptor".to_owned(), source };
        let end = holder.gone.child_token();
        let (special, lookers) = Loopback::new(&holder, &loopback).await.map_err(refused)?;
        let start = |loopback, families| {
            let network = Network {
                services: Arc::clone(&services),
                holder: Arc::clone(&holder),
                loopback,
                raws: RwLock::default(),
                numbers: AtomicU32::default(),
                connections: Connections::default(),
                datagrams: Datagrams::default(),
                dialing: Notify::new(),
                tasks: TaskTracker::new(),
                end: end.clone(),
            };
            network.start(families).map_err(refused)
        };
        let network = start(None, families)?;
        let loopback = start(Some(special), loopback)?;
        network.tasks.spawn(given_up::watch(Arc::clone(&network), diagnose));
        lookers.start(&loopback).await.map_err(refused)?;
        tokio::spawn(Arc::clone(&network).mourn());
        info!("a private network");
        Ok(Arc::new(Self { namespaces, network, loopback }))
    }

    /// The user, the network and the mount namespace.
    #[must_use]
    pub fn namespaces(&self) -> &[OwnedFd; 3] {
        &self.namespaces
    }

    /// Has programs read the files that are in the run's folder now.
    pub async fn files_changed(&self) {
        if let Err(error) = self.network.holder.files().await {
            warn!(%error, "the pod's files are not those of its next pod");
        }
    }

    /// Waits until what programs wrote before they ended is delivered, at most for `limit`. Connections that some process
    /// still holds open are not waited for.
    pub async fn drain(&self, limit: Duration) {
        let connections = async {
            while self.both().iter().any(|network| network.has_last_words()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let [network, loopback] = self.both().map(|network| network.datagrams.drain(limit));
        let drained = async { tokio::join!(connections, network, loopback) };
        if tokio::time::timeout(limit, drained).await.is_err() {
            debug!("connections were cut off: their far ends did not finish in time");
        }
    }

    fn both(&self) -> [&Arc<Network>; 2] {
        [&self.network, &self.loopback]
    }

    /// Ends it: programs that are still inside have no network any more.
    pub async fn end(&self) {
        self.network.end.cancel();
        self.network.holder.end().await;
    }
}

/// The addresses that programs have: the pod's. One of a family that the pod has not is there only if something is left to
/// the laptop, which may have it.
fn addresses(services: &Services) -> Vec<IpAddr> {
    let own = |v6| services.pod.own_address(v6);
    let known = own(false).or(own(true)).is_some();
    let any = !known || services.scope.has_rules();
    let or = |own: Option<IpAddr>, nobodys| own.or(any.then_some(nobodys));
    [or(own(false), NOBODYS_V4), or(own(true), NOBODYS_V6)].into_iter().flatten().collect()
}

/// The folder with the files that programs read in place of the laptop's: the run's, with the pod's, or where there is no
/// pod one of its own (the shim's programs need none there).
fn files(folder: &Path, services: &Services) -> io::Result<PathBuf> {
    if services.resolver.is_some() {
        return Ok(folder.to_owned());
    }
    let files = folder.join("vif");
    std::fs::create_dir(&files)?;
    crate::questions::write_files(&files)?;
    Ok(files)
}

/// What all parts share of what handles one link of the programs.
pub(crate) struct Network {
    services: Arc<Services>,
    holder: Arc<Holder>,
    /// If the link is the programs' loopback, and not the one to the gateway.
    loopback: Option<Loopback>,
    /// Sends whole packets to programs; for IPv4, and for IPv6 if the kernel has it. None when the holder is gone.
    raws: RwLock<Vec<Socket>>,
    /// Of packets in parts.
    numbers: AtomicU32,
    connections: Connections,
    datagrams: Datagrams,
    /// open --there is a dial--> `given_up`
    dialing: Notify,
    tasks: TaskTracker,
    /// The run's end, or the holder's --> everybody
    end: CancellationToken,
}

impl Network {
    /// Handles what comes by these sockets, until its end.
    fn start(mut self, families: Vec<Family>) -> io::Result<Arc<Self>> {
        let mut raws = Vec::new();
        let mut watches = Vec::new();
        for Family { watch, receive, raw } in families {
            raws.push(Socket::from(raw));
            watches.push((sys::watch(watch, Interest::READABLE)?, sys::watch(receive, Interest::READABLE)?));
        }
        self.raws = RwLock::new(raws);
        let network = Arc::new(self);
        for (watch, receive) in watches {
            network.tasks.spawn(Arc::clone(&network).watch(watch));
            network.tasks.spawn(Arc::clone(&network).receive(receive));
        }
        Ok(network)
    }

    fn has_last_words(&self) -> bool {
        self.connections.has_last_words()
            || self.loopback.as_ref().is_some_and(|loopback| loopback.mirrors.has_last_words())
    }

    /// Looks at what asks to be answered, until the network's end.
    async fn watch(self: Arc<Self>, socket: AsyncFd<OwnedFd>) {
        let mut room = vec![0; PACKET_MAX];
        loop {
            let seen = tokio::select! {
                seen = socket.async_io(Interest::READABLE, |fd| self.watch_some(fd, &mut room)) => seen,
                () = self.end.cancelled() => break,
            };
            match seen {
                Ok(()) => tokio::task::yield_now().await,
                // The link is gone, and the holder with it, or one packet was too many (ENOBUFS).
                Err(error) => {
                    debug!(%error, "the programs' link");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        // The kernel takes its time to let go of a packet socket, and takes it for all of them at once.
        let socket = socket.into_inner();
        tokio::task::spawn_blocking(move || drop(socket));
    }

    fn watch_some(self: &Arc<Self>, socket: &OwnedFd, room: &mut [u8]) -> io::Result<()> {
        for taken in 0..IN_A_ROW {
            match recv(socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => self.take(room.get(..length).unwrap_or_default()),
                Err(nix::Error::EAGAIN) if taken > 0 => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, packet: &[u8]) {
        match packet::seen(packet) {
            Some(Seen::Opens { app, asked, .. })
                if self.loopback.as_ref().is_some_and(|loopback| !loopback.is_left((app, asked))) => {}
            Some(Seen::Opens { app, asked, sequence }) => self.open((app, asked), sequence, packet),
            // Its own kernel has answered.
            Some(Seen::Pings { .. }) if self.loopback.is_some() => {}
            Some(seen @ Seen::Pings { app, asked }) => {
                info!(%asked, "ping is not carried: it is answered with \"packet filtered\"");
                if let Some(refusal) = packet::refusal(seen, packet, code::EACCES) {
                    self.raw(app, refusal);
                }
            }
            None => {}
        }
    }

    /// Sends a packet to a program. One that its kernel has no room for is lost, as on any network.
    fn raw(&self, app: IpAddr, packet: Vec<u8>) {
        let raws = self.raws.read().unwrap_or_else(PoisonError::into_inner);
        let Some(raw) = raws.get(usize::from(app.is_ipv6())) else { return };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        for part in packet::sendable(packet, number) {
            if let Err(error) = raw.send_to(&part, &SocketAddr::new(app, 0).into()) {
                debug!(%error, %app, "a packet was lost");
            }
        }
    }

    /// Whether the pod carries what goes there. Link-local addresses mean nothing beyond the laptop's own link, but for
    /// those of a DNS cache on every node (NodeLocal DNSCache), as for the shim.
    fn is_pods(&self, asked: SocketAddr) -> bool {
        let is_link_local = match asked.ip() {
            IpAddr::V4(ip) => ip.is_link_local() && asked.port() != 53,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        !is_link_local && self.services.scope.is_pods(asked)
    }

    async fn dial(self: &Arc<Self>, asked: SocketAddr) -> Result<Stream, DialError> {
        if self.services.questions.reads(asked) {
            return self.services.pod.dial(asked).await;
        }
        match self.whose(Protocol::Tcp, asked) {
            Whose::Pods => self.services.pod.dial(asked).await,
            Whose::Laptops => laptop::dial(asked).await,
            Whose::Nobodys => Err(loopback::refused()),
        }
    }

    async fn datagrams_to(&self, asked: SocketAddr) -> Result<PodDatagrams, DialError> {
        match self.whose(Protocol::Udp, asked) {
            Whose::Pods => self.services.pod.datagrams(asked).await,
            Whose::Laptops => laptop::datagrams(asked).await,
            Whose::Nobodys => Err(loopback::refused()),
        }
    }

    /// If the holder ends before the run does: lets go of all sockets, which are all that keeps the gateway.
    async fn mourn(self: Arc<Self>) {
        self.end.cancelled().await;
        if self.holder.gone.is_cancelled() {
            warn!("the private network is gone: its holder was killed");
            self.raws.write().unwrap_or_else(PoisonError::into_inner).clear();
            self.holder.clear();
        }
    }
}
