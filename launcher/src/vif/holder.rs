//! The launcher's side of the [holder](tp_inside::hold): starts it, gives it orders, and keeps sockets in store.
//!
//! A socket for a connection comes out of the store, which is filled up behind it, so that an open costs no round trip to
//! the holder as long as there are not hundreds at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tp_inside::orders::{Answer, Kind, MESSAGE_MAX, Order, Place};
use tracing::{debug, warn};

use super::VifError;
use crate::sys;

/// Sockets of a family that are kept in store, and how few are left when more are ordered.
const STORE: u8 = 64;
const LOW: usize = 16;
/// How long the holder may take to end; it only has to leave.
const END_LIMIT: Duration = Duration::from_secs(1);

/// What the holder has made at its start.
pub(super) struct Made {
    /// User, network of the app, mount.
    pub(super) namespaces: [OwnedFd; 3],
    /// Of the gateway, for IPv4 and IPv6.
    pub(super) families: Vec<Family>,
    /// Of the programs' loopback.
    pub(super) loopback: Vec<Family>,
    pub(super) diagnose: OwnedFd,
}

/// The sockets that all connections of a family share.
pub(super) struct Family {
    pub(super) watch: OwnedFd,
    pub(super) receive: OwnedFd,
    pub(super) raw: OwnedFd,
}

impl Family {
    /// Where datagrams are received.
    pub(super) fn receives_at(&self) -> Option<SocketAddr> {
        socket2::SockRef::from(&self.receive).local_addr().ok()?.as_socket()
    }
}

/// A running holder.
pub(super) struct Holder {
    socket: AsyncFd<OwnedFd>,
    /// Order and answer are one turn.
    turn: tokio::sync::Mutex<()>,
    filling: tokio::sync::Mutex<()>,
    v4: Mutex<Vec<OwnedFd>>,
    v6: Mutex<Vec<OwnedFd>>,
    /// Cancelled when the holder has ended.
    pub(super) gone: CancellationToken,
}

impl Holder {
    /// Starts `inside` as the holder of a network in which programs have the addresses `own`.
    pub(super) async fn start(
        inside: &Path,
        folder: &Path,
        own: &[IpAddr],
    ) -> Result<(Arc<Self>, Made), VifError> {
        let refused = |step: &str| {
            let step = step.to_owned();
            move |source| VifError::Refused { step, source }
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .map_err(io::Error::from)
            .map_err(refused("a pair of sockets"))?;
        nix::fcntl::fcntl(&its, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
            .map_err(io::Error::from)
            .map_err(refused("a pair of sockets"))?;
        let mut command = Command::new(inside);
        command.arg("hold").arg(folder).args(own.iter().map(IpAddr::to_string)).env_clear();
        // It may outlive the launcher, and whoever reads what that writes waits for the end of all writers.
        command.stdin(Stdio::from(its)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(refused("the start of tp-inside"))?;
        drop(command);
        let socket = sys::watch(ours, Interest::READABLE).map_err(refused("a descriptor"))?;
        let gone = CancellationToken::new();
        tokio::spawn(wait(child, gone.clone()));
        let holder = Self {
            socket,
            turn: Default::default(),
            filling: Default::default(),
            v4: Mutex::default(),
            v6: Mutex::default(),
            gone,
        };
        let (answer, descriptors) = holder.answer().await.map_err(refused("the start of tp-inside"))?;
        match answer {
            Answer::Ready { v6 } => {
                let made = Made::new(v6, descriptors);
                let made = made.ok_or_else(|| io::ErrorKind::InvalidData.into());
                Ok((Arc::new(holder), made.map_err(refused("the start of tp-inside"))?))
            }
            Answer::Refused { errno, step } => {
                Err(VifError::Refused { step, source: io::Error::from_raw_os_error(errno) })
            }
            Answer::Done => Err(refused("the start of tp-inside")(io::ErrorKind::InvalidData.into())),
        }
    }

    /// New sockets.
    ///
    /// # Errors
    /// What the holder's kernel said, or that it has ended.
    pub(super) async fn sockets(&self, place: Place, kind: Kind, count: u8) -> io::Result<Vec<OwnedFd>> {
        let _turn = self.turn.lock().await;
        let made = self.order(Order::Sockets { place, kind, count }).await?;
        // The kernel drops those for which this process has no room (unix(7), MSG_CTRUNC).
        if made.is_empty() { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(made) }
    }

    /// Binds the run's files anew.
    ///
    /// # Errors
    /// Those of mount(2).
    pub(super) async fn files(&self) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        self.order(Order::Files).await.map(drop)
    }

    /// Ends the network, and waits until the holder has ended.
    pub(super) async fn end(&self) {
        // It may have ended before.
        if self.send(Order::End).is_ok() {
            let _ = tokio::time::timeout(END_LIMIT, self.gone.cancelled()).await;
        }
    }

    /// A TCP socket in the gateway that can have any address.
    ///
    /// # Errors
    /// As for [`Self::sockets`].
    pub(super) async fn tcp(self: &Arc<Self>, v6: bool) -> io::Result<OwnedFd> {
        loop {
            let (socket, left) = self.take(v6);
            if left == LOW {
                let holder = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = holder.fill(v6).await {
                        warn!(%error, "no sockets of the private network");
                    }
                });
            }
            match socket {
                Some(socket) => return Ok(socket),
                None => self.fill(v6).await?,
            }
        }
    }

    /// Lets go of what is in store.
    pub(super) fn clear(&self) {
        self.store(false).clear();
        self.store(true).clear();
    }

    fn take(&self, v6: bool) -> (Option<OwnedFd>, usize) {
        let mut store = self.store(v6);
        (store.pop(), store.len())
    }

    fn store(&self, v6: bool) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        let store = if v6 { &self.v6 } else { &self.v4 };
        store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fill(&self, v6: bool) -> io::Result<()> {
        let _filling = self.filling.lock().await;
        // Whoever came before may have filled it.
        if self.store(v6).len() <= LOW {
            let kind = if v6 { Kind::Tcp6 } else { Kind::Tcp4 };
            let made = self.sockets(Place::Gateway, kind, STORE).await?;
            self.store(v6).extend(made);
        }
        Ok(())
    }

    /// Whoever calls this has the turn.
    async fn order(&self, order: Order) -> io::Result<Vec<OwnedFd>> {
        self.send(order)?;
        match self.answer().await? {
            (Answer::Done, descriptors) => Ok(descriptors),
            (Answer::Refused { errno, .. }, _) => Err(io::Error::from_raw_os_error(errno)),
            (Answer::Ready { .. }, _) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn send(&self, order: Order) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        send(self.socket.as_raw_fd(), &order.encode(), flags)?;
        Ok(())
    }

    async fn answer(&self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let mut message = [0; MESSAGE_MAX];
        let receive = self
            .socket
            .async_io(Interest::READABLE, |fd| sys::socket::receive_all(fd.as_raw_fd(), &mut message));
        let (length, descriptors) = tokio::select! {
            received = receive => received?,
            () = self.gone.cancelled() => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let answer = Answer::decode(message.get(..length).unwrap_or_default());
        Ok((answer.ok_or(io::ErrorKind::UnexpectedEof)?, descriptors))
    }
}

impl Made {
    fn new(v6: bool, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next();
        let namespaces = [next()?, next()?, next()?];
        let mut families = || {
            let family = |_| Some(Family { watch: next()?, receive: next()?, raw: next()? });
            (0..=u8::from(v6)).map(family).collect::<Option<_>>()
        };
        let (families, loopback) = (families()?, families()?);
        Some(Self { namespaces, families, loopback, diagnose: next()? })
    }
}

async fn wait(mut child: Child, gone: CancellationToken) {
    let ended = child.wait().await;
    debug!(?ended, "the holder of the private network ended");
    gone.cancel();
}
