//! The gate: connects an app's own socket, in the kernel, exactly when the far end really accepted.
//!
//! # Theory of operation
//! TCP knows the simultaneous open (RFC 9293, 3.5): two sockets that send each other a SYN become connected without
//! a listener. The gate uses it on loopback, so that the app's socket needs no stand-in, no `dup2` and no hook on
//! what waits for it.
//!
//! | step | who | what |
//! |---|---|---|
//! | park | launcher | keeps listeners ([`park::Parks`]) that drop every SYN; answers the app's question with their address |
//! | wait | app | connect()s its socket there. `SYN_SENT`: a blocking call blocks, a non-blocking one has `EINPROGRESS` |
//! | dial | launcher | asks the pod for the connection |
//! | meet | launcher | on success ([`meet`]): binds the park's address, connect()s to the app's: both are `ESTABLISHED` |
//! | refuse | launcher | on failure ([`refuse`]): makes the kernel fail the app's connect, and keeps the errno |
//!
//! States of a socket, by its cookie (`SO_COOKIE` survives dup, fork, exec and `SCM_RIGHTS`; a descriptor number
//! does not):
//!
//! ```text
//!   (unknown) --open--> Pending --pod accepted--> Open --both ends closed--> (unknown)
//!                          |                        
//!                          +--pod refused--> Failed(errno) --open--> Pending
//! ```
//!
//! - `Pending`: another connect() finds the same park, and the kernel says `EALREADY`.
//! - `Open`: getpeername() is answered from here; another connect() finds the park, the kernel says `EISCONN`.
//! - `Failed`: the errno is told to whoever asks. A connect() before anybody asked is told too, as the kernel reports a
//!   pending error; the one after that dials anew.
//!
//! Must not: answer before the pod did; touch the data (that is [`relay`](socks_proxy::relay)); name sockets by
//! descriptor.

mod app_end;
mod meet;
mod park;
mod refuse;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tp_abi::errno::code;
use tracing::{Instrument as _, debug, info, info_span};

use crate::pod::{DialError, Pod, Stream};
use crate::sys;

use app_end::AppEnd;
pub use park::{ParkError, Parks};

/// How long the kernel's own SYN retries go on by default (net.ipv4.tcp_syn_retries = 6: 127 s) and a bit. A dial
/// that lasts longer has nobody waiting any more.
const DIAL_LIMIT: Duration = Duration::from_secs(135);

/// Failures remembered for sockets that were never asked about again.
const FAILED_KEPT: u64 = 16_384;
const FAILED_FOR: Duration = Duration::from_secs(600);

/// Opens the sockets of the apps.
pub struct Gate {
    parks: Parks,
    pod: Arc<dyn Pod>,
    runtime: Handle,
    sockets: Mutex<HashMap<u64, Socket>>,
    failed: moka::sync::Cache<u64, Failure>,
}

/// A failed connect. The kernel reports a failure once, and so does the gate.
#[derive(Clone, Debug)]
struct Failure {
    errno: i32,
    told: Arc<AtomicBool>,
}

impl Failure {
    fn new(errno: i32) -> Self {
        Self { errno, told: Arc::new(AtomicBool::new(false)) }
    }
}

#[derive(Clone, Debug)]
struct Socket {
    asked: SocketAddr,
    parked: SocketAddr,
    progress: Progress,
}

#[derive(Clone, Debug)]
enum Progress {
    Dialing,
    /// The pod has connected. The app may have written and ended before the gate learns that both sockets met.
    Meeting,
    Open(AppEnd),
}

impl Progress {
    /// Whether something that an app wrote before it closed its socket may be on its way.
    fn may_have_last_words(&self) -> bool {
        match self {
            Self::Dialing => false,
            Self::Meeting => true,
            Self::Open(end) => end.is_closed_by_app(),
        }
    }
}

impl Gate {
    /// A gate whose connections go to `pod`, carried by the runtime that this is called in.
    #[must_use]
    pub fn new(parks: Parks, pod: Arc<dyn Pod>) -> Arc<Self> {
        Arc::new(Self {
            parks,
            pod,
            runtime: Handle::current(),
            sockets: Mutex::new(HashMap::new()),
            failed: moka::sync::Cache::builder().max_capacity(FAILED_KEPT).time_to_live(FAILED_FOR).build(),
        })
    }

    /// Starts to open `socket` to `asked` and says where the app must connect it meanwhile. `v6_socket` says how the
    /// park must be spelled. A socket that is on its way already keeps its park and its dial.
    ///
    /// # Errors
    /// The errno for the app where its socket cannot be parked.
    pub fn open(
        self: &Arc<Self>,
        cookie: u64,
        socket: OwnedFd,
        asked: SocketAddr,
        v6_socket: bool,
    ) -> Result<SocketAddr, i32> {
        if !sys::socket::cookie(&socket).is_ok_and(|actual| actual == cookie) {
            return Err(code::EACCES);
        }
        if let Some(failure) = self.failed.get(&cookie)
            && !failure.told.swap(true, Ordering::Relaxed)
        {
            return Err(failure.errno);
        }
        let parked = {
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = sockets.get(&cookie) {
                return Ok(known.parked);
            }
            let parked = self.parks.place(asked, v6_socket).ok_or(code::ENETUNREACH)?;
            park::make_droppable(&socket, v6_socket).map_err(|_| code::EACCES)?;
            sockets.insert(cookie, Socket { asked, parked, progress: Progress::Dialing });
            parked
        };
        let span = info_span!("connection", id = format_args!("{cookie:x}"), %asked);
        self.runtime.spawn(Arc::clone(self).carry(cookie, socket, asked, parked).instrument(span));
        Ok(parked)
    }

    /// The address that the socket asked for, if it is one of ours.
    #[must_use]
    pub fn asked(&self, cookie: u64) -> Option<SocketAddr> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).get(&cookie).map(|socket| socket.asked)
    }

    /// Why the last connect of the socket failed, if it was the far end's doing.
    #[must_use]
    pub fn failure(&self, cookie: u64) -> Option<i32> {
        self.failed.get(&cookie).map(|failure| {
            failure.told.store(true, Ordering::Relaxed);
            failure.errno
        })
    }

    /// The ports of the parks, for the shim.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        self.parks.ports()
    }

    /// Waits until what the apps wrote before they closed their sockets is delivered, at most for `limit`.
    /// Connections that some process still holds open are not waited for.
    pub async fn drain(&self, limit: Duration) {
        let drained = async {
            while self.has_last_words() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            debug!("connections were cut off: their far ends did not finish in time");
        }
    }

    fn has_last_words(&self) -> bool {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.values().any(|socket| socket.progress.may_have_last_words())
    }

    fn advance(&self, cookie: u64, progress: Progress) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = sockets.get_mut(&cookie) {
            socket.progress = progress;
        }
    }

    fn forget(&self, cookie: u64) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).remove(&cookie);
    }

    async fn carry(self: Arc<Self>, cookie: u64, socket: OwnedFd, asked: SocketAddr, parked: SocketAddr) {
        let outcome = self.meet_at_the_pods_word(cookie, &socket, asked, parked).await;
        match outcome {
            Ok((mut app, mut pod)) => {
                // The duplicate goes first: from here on only the app holds its socket, and its close is its close.
                drop(socket);
                self.advance(cookie, Progress::Open(app.clone()));
                self.failed.invalidate(&cookie);
                info!("open");
                let relayed = socks_proxy::relay::relay(&mut app, &mut pod).await;
                // A transfer that was cut off must not look complete to either end.
                if relayed.error.is_some() {
                    pod.reset_on_close();
                } else {
                    app.has_ended();
                }
                info!(
                    app_to_pod = relayed.a_to_b,
                    pod_to_app = relayed.b_to_a,
                    error = relayed.error.map(|(side, error)| format!("{side:?}: {error}")),
                    "closed"
                );
                self.forget(cookie);
            }
            Err(errno) => {
                info!(errno, "refused");
                self.failed.insert(cookie, Failure::new(errno));
                self.forget(cookie);
                if let Err(error) = refuse::refuse(&socket).await {
                    debug!(%error, "the app's socket was gone");
                }
            }
        }
    }

    async fn meet_at_the_pods_word(
        &self,
        cookie: u64,
        socket: &OwnedFd,
        asked: SocketAddr,
        parked: SocketAddr,
    ) -> Result<(AppEnd, Stream), i32> {
        let pod = match tokio::time::timeout(DIAL_LIMIT, self.pod.dial(asked)).await {
            Ok(Ok(pod)) => pod,
            Ok(Err(DialError { errno, reason })) => {
                debug!(%reason, "dial failed");
                return Err(errno);
            }
            Err(_elapsed) => return Err(code::ETIMEDOUT),
        };
        self.advance(cookie, Progress::Meeting);
        let app = meet::meet(socket, parked).await.map_err(|error| {
            debug!(%error, "could not meet the app's socket");
            code::ECONNRESET
        })?;
        Ok((AppEnd::new(app), pod))
    }
}

/// The app's own address, without the v4-mapped spelling that a v6 socket gives it.
fn own_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = socket2::SockRef::from(socket)
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok(unmapped(address))
}

/// `::ffff:a.b.c.d` as `a.b.c.d`.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => {
            ip.to_ipv4_mapped().map_or(address, |v4| SocketAddr::new(IpAddr::V4(v4), address.port()))
        }
        IpAddr::V4(_) => address,
    }
}
