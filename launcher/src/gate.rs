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
//!   (unknown) --open--> Waiting --pod accepted--> Open --both ends closed--> (unknown)
//!                          |  \--given up (watch)--> (unknown)
//!                          +--pod refused--> failed(errno) --told--> (unknown)
//! ```
//!
//! What a connect() of a known socket means, the kernel's socket tells ([`Stage`]), since connect(`AF_UNSPEC`) and
//! shutdown() are the app's own and pass by here:
//!
//! - `Busy`, on its way or connected: it is sent to the park, and the kernel says `EALREADY` or `EISCONN`.
//! - `Fresh`: an attempt that was under way is over; its dial is given up, and there is a new one. (Only where two
//!   threads connect one socket to one place, neither may have begun yet: they share the attempt.)
//! - `Ended`, with a failure that no connect() has told: it is told now ([`refuse::standing`]), and the next connect()
//!   dials.
//!
//! An attempt has a number, so that what comes late from an old one touches no new one.
//!
//! A blocking app needs no park: it waits at the other end of a connection for the pod's word ([`Gate::admit`]), and is known
//! from then on as any other.
//!
//! Must not: answer before the pod did; touch the data (that is [`relay`](socks_proxy::relay)); name sockets by
//! descriptor.

pub(crate) mod app_end;
mod holders;
mod left;
mod meet;
mod opened;
mod park;
mod refuse;
pub(crate) mod splice;
mod table;
mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tp_abi::errno::{code, reply, to_reply};
use tracing::{Instrument as _, debug, info, info_span};

use crate::pod::{DialError, Pod, Stream};
use crate::sys::diagnose::Entry;
use crate::sys::socket::{self, Stage};

use app_end::AppEnd;
use left::Left;
use opened::Opened;
pub use park::{ParkError, Parks};
use table::{Attempt, Progress, Socket, Table, Waiting};
use watch::Watched;

/// How long the kernel's own SYN retries go on by default (net.ipv4.tcp_syn_retries = 6: 127 s) and a bit. A dial
/// that lasts longer has nobody waiting any more.
pub(crate) const DIAL_LIMIT: Duration = Duration::from_secs(135);

/// Failures remembered for sockets that were never asked about again.
const FAILED_KEPT: u64 = 16_384;
const FAILED_FOR: Duration = Duration::from_secs(600);

/// Opens the sockets of the apps.
pub struct Gate {
    parks: Parks,
    pod: Arc<dyn Pod>,
    runtime: Handle,
    table: Mutex<Table>,
    /// The errno of the last attempt, until a connect() has told it.
    failed: moka::sync::Cache<u64, i32>,
    /// gate --there is a dial--> watch
    dialing: Arc<Notify>,
    left: Left,
    opened: Mutex<Opened>,
    /// An app left, and the pod may not know yet.
    untold: AtomicBool,
}

/// What an answer to an app sets going.
#[derive(Debug)]
#[must_use = "an attempt that does not begin never ends"]
pub struct Opening {
    attempt: Attempt,
    waiting: Waiting,
    asked: SocketAddr,
    parked: SocketAddr,
}

impl Gate {
    /// A gate whose connections go to `pod`, carried by the runtime that this is called in.
    #[must_use]
    pub fn new(parks: Parks, pod: Arc<dyn Pod>) -> Arc<Self> {
        let runtime = Handle::current();
        let dialing = Arc::new(Notify::new());
        let gate = Arc::new(Self {
            parks,
            pod,
            runtime: runtime.clone(),
            table: Mutex::default(),
            failed: moka::sync::Cache::builder().max_capacity(FAILED_KEPT).time_to_live(FAILED_FOR).build(),
            dialing: Arc::clone(&dialing),
            left: Left::new(),
            opened: Mutex::default(),
            untold: AtomicBool::new(false),
        });
        runtime.spawn(watch::watch(Arc::downgrade(&gate), dialing));
        gate
    }

    /// Where the app `asker` must connect `socket` while it is opened to `asked`, and what has to [begin](Self::begin)
    /// then; nothing for a socket that is under way. `v6_socket` says how the park must be spelled.
    ///
    /// # Errors
    /// The errno for the app where its connect() fails at once.
    pub fn open(
        &self,
        asker: Pid,
        cookie: u64,
        socket: OwnedFd,
        asked: SocketAddr,
        v6_socket: bool,
    ) -> Result<(SocketAddr, Option<Opening>), i32> {
        if !socket::cookie(&socket).is_ok_and(|actual| actual == cookie) {
            return Err(code::EACCES);
        }
        let parked = self.parks.place(asked, v6_socket).ok_or(code::ENETUNREACH)?;
        let mut table = self.table();
        match socket::stage(&socket).map_err(|_| code::EACCES)? {
            Stage::Busy => return Ok((parked, None)),
            Stage::Ended => {
                if let Some(errno) = self.failed.remove(&cookie) {
                    return Err(refuse::standing(&socket, errno));
                }
            }
            Stage::Fresh => self.failed.invalidate(&cookie),
        }
        if let Some(Socket { attempt, asked: before, .. }) = table.sockets.get(&cookie) {
            let attempt = *attempt;
            if *before == asked && table.waiting(attempt).is_some_and(|waiting| !waiting.watched.parked) {
                return Ok((parked, None));
            }
            table.give_up(attempt);
        }
        let attempt = Attempt { cookie, number: table.next() };
        let waiting = Waiting {
            socket: Arc::new(socket),
            given_up: CancellationToken::new(),
            meeting: false,
            watched: Watched::new(asker),
        };
        let progress = Progress::Waiting(waiting.clone());
        table.sockets.insert(cookie, Socket { attempt, asked, progress });
        Ok((parked, Some(Opening { attempt, waiting, asked, parked })))
    }

    /// Dials.
    pub fn begin(self: &Arc<Self>, opening: Opening) {
        let Opening { attempt, asked, .. } = opening;
        let span = info_span!("connection", id = format_args!("{:x}", attempt.cookie), %asked);
        self.runtime.spawn(Arc::clone(self).carry(opening).instrument(span));
        self.dialing.notify_one();
    }

    /// The app's socket at the other end of a connection on loopback.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(crate) fn other_end(&self, ours: &TcpStream) -> io::Result<Entry> {
        self.left.other_end(ours)
    }

    /// Whether [`Gate::other_end`] works, tried with the socket that listens at `at`.
    pub(crate) fn knows_sockets(&self, at: SocketAddr) -> bool {
        self.left.is_told(at)
    }

    /// An app has connected its socket itself.
    pub fn opened(&self, cookie: u64, asked: SocketAddr) {
        info!(id = format_args!("{cookie:x}"), %asked, "opened by the app");
        self.failed.invalidate(&cookie);
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).add(cookie, asked);
    }

    /// The address that the socket asked for, if it is one of ours.
    #[must_use]
    pub fn asked(&self, cookie: u64) -> Option<SocketAddr> {
        let known = self.table().sockets.get(&cookie).map(|socket| socket.asked);
        known.or_else(|| self.opened.lock().unwrap_or_else(PoisonError::into_inner).asked(cookie))
    }

    /// Why the last connect of the socket failed, if it was the far end's doing.
    #[must_use]
    pub fn failure(&self, cookie: u64) -> Option<i32> {
        // Who asks was woken by a refusal, which ends before the next connect().
        let _table = self.table();
        self.failed.get(&cookie)
    }

    /// Who a connection comes from, as the far end sees it: [`Pod::own_address`].
    #[must_use]
    pub fn own_address(&self, v6: bool) -> Option<IpAddr> {
        self.pod.own_address(v6)
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
            if self.untold.load(Ordering::Relaxed) {
                self.pod.settle().await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            debug!("connections were cut off: their far ends did not finish in time");
        }
    }

    fn has_last_words(&self) -> bool {
        self.table().sockets.values().any(|socket| socket.progress.may_have_last_words())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(self: Arc<Self>, Opening { attempt, waiting, asked, parked }: Opening) {
        let opened = tokio::select! {
            biased;
            () = waiting.given_up.cancelled() => {
                info!("given up");
                return;
            }
            opened = self.open_or_refuse(attempt, &waiting.socket, asked, parked) => opened,
        };
        // The copy goes first: from here on only the app holds its socket, and its close is its close.
        drop(waiting);
        let Some((app, pod)) = opened else { return };
        let is_current = match self.table().current(attempt) {
            Some(known) => {
                known.progress = Progress::Open(app.clone());
                true
            }
            None => false,
        };
        if !is_current {
            // The app turned to somebody else in this very moment, and must not be taken for them.
            info!("given up");
            pod.reset_on_close();
            return;
        }
        self.relay(attempt, app, pod).await;
    }

    /// Opens an app's socket that waits at the other end of `app` for an answer: the message that `said` makes of a SOCKS reply.
    ///
    /// # Errors
    /// Those of writing it.
    pub(crate) async fn admit(
        &self,
        mut app: TcpStream,
        cookie: u64,
        asked: SocketAddr,
        said: impl Fn(u8) -> Vec<u8>,
    ) -> io::Result<()> {
        let number = self.table().next();
        let dialed = tokio::select! {
            biased;
            dialed = self.dial(asked) => dialed,
            () = gone(&app) => {
                info!("given up");
                return Ok(());
            }
        };
        let pod = match dialed {
            Ok(pod) => pod,
            Err(errno) => {
                info!(errno, "refused");
                return app.write_all(&said(to_reply(errno))).await;
            }
        };
        let app = AppEnd::new(app);
        let attempt = Attempt { cookie, number };
        {
            let mut table = self.table();
            if table.sockets.get(&cookie).is_some_and(|known| known.attempt.number > number) {
                // Interrupted in this very moment, it has asked anew.
                drop(table);
                info!("given up");
                pod.reset_on_close();
                return Ok(());
            }
            table.sockets.insert(cookie, Socket { attempt, asked, progress: Progress::Open(app.clone()) });
        }
        self.failed.invalidate(&cookie);
        let told = app.clone().write_all(&said(reply::SUCCEEDED)).await;
        match told {
            Ok(()) => self.relay(attempt, app, pod).await,
            Err(_) => {
                pod.reset_on_close();
                self.table().forget(attempt);
            }
        }
        told
    }

    async fn dial(&self, asked: SocketAddr) -> Result<Stream, i32> {
        match tokio::time::timeout(DIAL_LIMIT, self.pod.dial(asked)).await {
            Ok(Ok(pod)) => Ok(pod),
            Ok(Err(DialError { errno, reason })) => {
                debug!(%reason, "dial failed");
                Err(errno)
            }
            Err(_elapsed) => Err(code::ETIMEDOUT),
        }
    }

    async fn relay(&self, attempt: Attempt, mut app: AppEnd, mut pod: Stream) {
        info!("open");
        let relayed = app.relay(&mut pod, |ours| self.left.is_left(ours)).await;
        // A transfer that was cut off must not look complete to either end.
        if relayed.error.is_some() {
            pod.reset_on_close();
        } else {
            app.has_ended();
        }
        if relayed.left {
            self.untold.store(true, Ordering::Relaxed);
            pod.leave();
        }
        info!(
            app_to_pod = relayed.a_to_b,
            pod_to_app = relayed.b_to_a,
            error = relayed.error.map(|(side, error)| format!("{side:?}: {error}")),
            "closed"
        );
        self.table().forget(attempt);
    }

    async fn open_or_refuse(
        &self,
        attempt: Attempt,
        socket: &OwnedFd,
        asked: SocketAddr,
        parked: SocketAddr,
    ) -> Option<(AppEnd, Stream)> {
        let errno = match self.meet_at_the_pods_word(attempt, socket, asked, parked).await {
            Ok(opened) => return Some(opened),
            Err(errno) => errno,
        };
        info!(errno, "refused");
        if let Err(error) = meet::until_parked(socket).await {
            debug!(%error, "the app's socket was gone");
        }
        let mut table = self.table();
        // An app that has taken its socket back meanwhile is told nothing.
        let waits = socket::stage(socket).is_ok_and(|stage| stage == Stage::Busy);
        if table.forget(attempt) && waits {
            self.failed.insert(attempt.cookie, errno);
            refuse::refuse(socket);
        }
        None
    }

    async fn meet_at_the_pods_word(
        &self,
        attempt: Attempt,
        socket: &OwnedFd,
        asked: SocketAddr,
        parked: SocketAddr,
    ) -> Result<(AppEnd, Stream), i32> {
        let dialed = tokio::select! {
            dialed = self.dial(asked) => dialed,
            never = self.notice(attempt, socket) => match never {},
        };
        let pod = dialed?;
        if let Some(waiting) = self.table().waiting(attempt) {
            waiting.meeting = true;
        }
        let app = meet::meet(socket, parked).await.map_err(|error| {
            debug!(%error, "could not meet the app's socket");
            if socket::is_exhausted(&error) { code::ENOBUFS } else { code::ECONNRESET }
        })?;
        Ok((AppEnd::new(app), pod))
    }
}

/// Waits until the app gives up. It says nothing before it is answered, but what it asked may still be noted as something to read.
async fn gone(app: &TcpStream) {
    loop {
        let noted = app.readable().await;
        match noted.and_then(|()| app.try_read(&mut [0])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
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
