//! The launcher's side of the [holder](tp_inside::hold): starts it, gives it orders, and keeps sockets in store.
//!
//! A socket for a connection comes out of the store, which is filled up behind it, so that an open costs no round trip to
//! the holder as long as there are not hundreds at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tp_inside::orders::{Answer, Kind, Order, Place};
use tracing::warn;

use super::VifError;
use crate::holder;
use crate::sys::process::Within;

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
    process: holder::Holder,
    /// Order and answer are one turn.
    turn: tokio::sync::Mutex<()>,
    filling: tokio::sync::Mutex<()>,
    v4: Mutex<Vec<OwnedFd>>,
    v6: Mutex<Vec<OwnedFd>>,
    /// Cancelled when the holder has ended.
    pub(super) gone: CancellationToken,
}

impl Holder {
    /// Starts `inside` as the holder of a network in which programs have the addresses `own`; in namespaces if the run has
    /// some.
    pub(super) async fn start(
        inside: &Path,
        folder: &Path,
        own: &[IpAddr],
        within: Option<&Arc<Within>>,
    ) -> Result<(Arc<Self>, Made), VifError> {
        let refused = |step: &str| {
            let step = step.to_owned();
            move |source| VifError::Refused { step, source }
        };
        let own: Vec<_> = own.iter().map(IpAddr::to_string).collect();
        let arguments =
            ["hold".as_ref(), folder.as_os_str()].into_iter().chain(own.iter().map(AsRef::as_ref));
        let process =
            holder::Holder::start(inside, arguments, within).map_err(refused("the start of tp-inside"))?;
        let gone = process.gone.clone();
        let holder = Self {
            process,
            turn: Default::default(),
            filling: Default::default(),
            v4: Mutex::default(),
            v6: Mutex::default(),
            gone,
        };
        let (answer, descriptors) =
            holder.process.answer().await.map_err(refused("the start of tp-inside"))?;
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
        if self.process.send(&Order::End.encode()).is_ok() {
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
        self.process.send(&order.encode())?;
        match self.process.answer().await? {
            (Answer::Done, descriptors) => Ok(descriptors),
            (Answer::Refused { errno, .. }, _) => Err(io::Error::from_raw_os_error(errno)),
            (Answer::Ready { .. }, _) => Err(io::ErrorKind::InvalidData.into()),
        }
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
