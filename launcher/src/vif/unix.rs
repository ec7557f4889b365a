//! Abstract names of `AF_UNIX` sockets (unix(7)), which are a network namespace's own: X11, D-Bus and others listen at such
//! names. Those with a path are files, and work by themselves.
//!
//! A name at which somebody listens on the laptop is listened at inside, too, and one of a program's on the laptop. As for
//! [ports](super::mirror), nothing tells when one comes or goes, so they are looked for. Who connects is carried to the
//! other side, message by message, with the descriptors that go along (`SCM_RIGHTS`). The peer of either end is tp then
//! (`SO_PEERCRED`), whose user is the program's.
//!
//! In a stream, descriptors may arrive with bytes that were sent before theirs, as they may when a reader takes both at once.
//!
//! Sockets of datagrams are not carried: they have no listeners, and answers would need the sender's name.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, bind, connect, listen, shutdown, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;
use tp_inside::orders::Kind;
use tracing::{Instrument as _, debug, info_span, warn};

use super::Network;
use crate::sys;
use crate::sys::diagnose::{self, Abstract};

/// How often names are looked for.
const EVERY: Duration = Duration::from_millis(50);
/// Looks take at most one part in this many of the time.
const SHARE: u32 = 25;
/// As large a message as a socket takes by default (net.core.wmem_default) and a bit.
const MESSAGE_MAX: usize = 256 * 1024;
/// A listener with too many connections that wait is tried again for so long (there is no event for it).
const FULL: (u32, Duration) = (500, Duration::from_millis(10));

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Laptop,
    Inside,
}

/// The names of both sides.
pub(super) struct Names {
    laptop: OwnedFd,
    inside: OwnedFd,
    /// Names that are ours on a side, and lead to the other.
    ours: HashMap<(Side, Abstract), DropGuard>,
}

impl Names {
    /// `inside` is a netlink socket of the programs' namespace.
    pub(super) fn new(inside: OwnedFd) -> io::Result<Self> {
        Ok(Self { laptop: diagnose::here()?, inside, ours: HashMap::new() })
    }

    /// Looks once.
    pub(super) async fn look(&mut self, network: &Arc<Network>) -> io::Result<()> {
        let laptop = diagnose::abstract_listeners(&self.laptop)?;
        let inside = diagnose::abstract_listeners(&self.inside)?;
        let own = |side: Side, names: BTreeSet<Abstract>| -> BTreeSet<Abstract> {
            names.into_iter().filter(|name| !self.ours.contains_key(&(side, name.clone()))).collect()
        };
        // Both before anything of ours goes, which is still in these lists and would be taken for a program's.
        let (laptop, inside) = (own(Side::Laptop, laptop), own(Side::Inside, inside));
        for (names, here) in [(laptop, Side::Inside), (inside, Side::Laptop)] {
            self.ours.retain(|(side, name), _| *side != here || names.contains(name));
            for name in names {
                if !self.ours.contains_key(&(here, name.clone())) {
                    self.open(network, here, name).await;
                }
            }
        }
        Ok(())
    }

    async fn open(&mut self, network: &Arc<Network>, here: Side, name: Abstract) {
        let shown = String::from_utf8_lossy(&name.1).into_owned();
        match listener(network, here, &name).await {
            Ok(listener) => {
                let end = network.end.child_token();
                let span = info_span!("abstract", name = shown, ?here);
                let (network, until, to) = (Arc::clone(network), end.clone(), name.clone());
                tokio::spawn(
                    async move {
                        tokio::select! {
                            () = accept(network, listener, here, to) => {}
                            () = until.cancelled() => {}
                        }
                    }
                    .instrument(span),
                );
                self.ours.insert((here, name), end.drop_guard());
            }
            // It has been taken in this moment, or is not listened at here.
            Err(error) => debug!(%error, name = shown, ?here, "an abstract name cannot be had"),
        }
    }

    /// Looks until the network's end.
    pub(super) async fn watch(mut self, network: Arc<Network>) {
        let mut pause = EVERY;
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = network.end.cancelled() => return,
            }
            let began = Instant::now();
            if let Err(error) = self.look(&network).await {
                warn!(%error, "abstract names of sockets are not seen");
                return;
            }
            pause = EVERY.max(began.elapsed() * SHARE);
        }
    }
}

async fn made(network: &Network, side: Side, kind: i32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match (side, kind) {
        (Side::Laptop, libc::SOCK_STREAM) => Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?),
        (Side::Laptop, _) => Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?),
        (Side::Inside, libc::SOCK_STREAM) => network.inside(Kind::UnixStream).await,
        (Side::Inside, _) => network.inside(Kind::UnixSeqPacket).await,
    }
}

async fn listener(network: &Network, side: Side, (kind, name): &Abstract) -> io::Result<AsyncFd<OwnedFd>> {
    let made = made(network, side, *kind).await?;
    bind(made.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    listen(&made, Backlog::MAXCONN)?;
    sys::watch(made, Interest::READABLE)
}

async fn accept(network: Arc<Network>, listener: AsyncFd<OwnedFd>, here: Side, name: Abstract) {
    let there = if here == Side::Laptop { Side::Inside } else { Side::Laptop };
    loop {
        let accept = |fd: &OwnedFd| sys::socket::accept(fd.as_raw_fd());
        match listener.async_io(Interest::READABLE, accept).await {
            Ok(client) => {
                let (network, name) = (Arc::clone(&network), name.clone());
                let carry = async move {
                    tokio::select! {
                        carried = carry(&network, client, there, &name) => debug!(?carried, "closed"),
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

/// Carries a connection to the name on the other side.
async fn carry(network: &Network, client: OwnedFd, there: Side, (kind, name): &Abstract) -> io::Result<()> {
    let server = made(network, there, *kind).await?;
    let at = UnixAddr::new_abstract(name)?;
    let (tries, pause) = FULL;
    for left in (0..tries).rev() {
        match connect(server.as_raw_fd(), &at) {
            Err(nix::Error::EAGAIN) if left > 0 => sleep(pause).await,
            Err(error) => return Err(error.into()),
            Ok(()) => break,
        }
    }
    let both = Interest::READABLE | Interest::WRITABLE;
    let (client, server) = (sys::watch(client, both)?, sys::watch(server, both)?);
    tokio::try_join!(copy(&client, &server), copy(&server, &client)).map(drop)
}

/// Copies one way, until that has ended.
async fn copy(from: &AsyncFd<OwnedFd>, to: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut room = vec![0; MESSAGE_MAX];
    loop {
        let receive = |fd: &OwnedFd| sys::socket::receive_all(fd.as_raw_fd(), &mut room);
        let (length, descriptors) = from.async_io(Interest::READABLE, receive).await?;
        if length == 0 {
            return Ok(shutdown(to.as_raw_fd(), Shutdown::Write)?);
        }
        let mut rest = room.get(..length).unwrap_or_default();
        let mut along = descriptors.as_slice();
        while !rest.is_empty() {
            let send = |fd: &OwnedFd| sys::socket::send(fd.as_raw_fd(), rest, along);
            let sent = to.async_io(Interest::WRITABLE, send).await?;
            rest = rest.get(sent..).unwrap_or_default();
            // They have gone with the first byte.
            along = &[];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn descriptors_go_along_with_their_bytes() {
        let pair = || {
            let (ours, far) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let both = Interest::READABLE | Interest::WRITABLE;
            (sys::watch(OwnedFd::from(ours), both).unwrap(), far)
        };
        let ((from, mut sender), (to, mut receiver)) = (pair(), pair());
        let (mut kept, given) = UnixStream::pair().unwrap();
        sys::socket::send(sender.as_raw_fd(), b"with", &[given.into()]).unwrap();
        sender.write_all(b"after").unwrap();
        drop(sender);
        copy(&from, &to).await.unwrap();
        let mut room = [0; 16];
        let (length, came) = sys::socket::receive(receiver.as_raw_fd(), &mut room).unwrap();
        assert_eq!(room[..length], b"with"[..]);
        receiver.read_exact(&mut room[..5]).unwrap();
        UnixStream::from(came.unwrap()).write_all(b"x").unwrap();
        kept.read_exact(&mut [0]).unwrap();
        assert_eq!(receiver.read(&mut room).unwrap(), 0);
    }
}
