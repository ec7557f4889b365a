//! `--method trap`: a seccomp filter has a program's calls wait, and this answers them (seccomp_unotify(2)).
//!
//! # Theory of operation
//! The filter (`launcher/inside/src/filter.rs`) is on the program and all its children, whatever they are linked with. Of
//! a call that names an address the kernel tells the listener of the filter: the thread, the call's number, its arguments.
//! The launcher reads the address from the program's memory (process_vm_readv(2)), takes a copy of its socket
//! (pidfd_getfd(2)), and does for it what the shim's hooks do in a process: by the same rules ([`tp_abi::decide`]), with the
//! same [gate](crate::gate), [flows](crate::flows) and files.
//!
//! | call | answer |
//! |---|---|
//! | none of our business | the kernel makes it as it is |
//! | connect() | [made here](connect), to the park or a relay, on the copy, which is the same socket; its errno is the answer |
//! | a datagram sent or received with an address | [sent](send) and [received](receive) here, on the copy |
//! | names and `SO_ERROR` | [written](names) into the program's memory |
//! | opening resolv.conf or hosts | [a descriptor of the pod's](names) |
//!
//! One thread reads all notifications and answers at once what needs no waiting; what waits (a connect() of a blocking socket, a
//! recvfrom() without a datagram) is a task of its own on that thread.
//!
//! A thread whose call waits may take a signal. Then the call is over as far as the kernel is concerned, and is made anew
//! after the handler (`SA_RESTART`, signal(7)) or fails with `EINTR`. An answer that came too late for it is kept
//! ([`kept`]) for the same call of the same thread: what was done for it must not be done twice.
//! (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` would have signals wait instead, and with them an alarm(2) that is to end a
//! connect().)
//!
//! When the launcher is gone, so is the listener, and every call that would wait fails with `ENOSYS`.

mod call;
mod caught;
mod connect;
mod kept;
pub mod layout;
mod names;
mod receive;
mod send;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{debug, trace, warn};

use crate::questions;
use crate::services::Services;
use crate::sys;
use crate::sys::seccomp;

use call::Call;
use caught::{Caught, Listener, Reply, Step};
use kept::Kept;

/// Calls answered in a row before those that wait get their turn.
const IN_A_ROW: usize = 64;

/// Answers the calls that filters caught.
pub struct Trap {
    supervisor: Arc<Supervisor>,
    worker: Mutex<Option<Worker>>,
}

/// The thread of the notifications; it ends when this is dropped.
struct Worker {
    runtime: Handle,
    _stop_tx: oneshot::Sender<()>,
}

/// What answers are made of.
struct Supervisor {
    services: Arc<Services>,
    /// Where the files are that programs read in place of the laptop's.
    files: PathBuf,
    kept: Kept,
}

impl Trap {
    /// One for all filters of a run, whose folder is `folder`.
    #[must_use]
    pub fn new(folder: PathBuf, services: Arc<Services>) -> Arc<Self> {
        // Behind a SOCKS server there is no pod that has files; the shim's programs need none there.
        let files = if services.resolver.is_some() { folder } else { folder.join("trap") };
        let supervisor = Supervisor { services, files, kept: Kept::default() };
        Arc::new(Self { supervisor: Arc::new(supervisor), worker: Mutex::default() })
    }

    /// Answers the calls of a filter until nobody has it any more.
    ///
    /// # Errors
    /// If no thread can be started for it, or files cannot be written.
    pub fn adopt(&self, listener: OwnedFd) -> io::Result<()> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *worker {
            Some(worker) => worker,
            none => {
                self.supervisor.write_files()?;
                none.insert(Worker::start()?)
            }
        };
        seccomp::take_turns(&listener);
        worker.runtime.spawn(Arc::clone(&self.supervisor).serve(listener));
        Ok(())
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop_tx, stop_rx) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(stop_rx);
        };
        std::thread::Builder::new().name("trap".to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, _stop_tx: stop_tx })
    }
}

impl Supervisor {
    fn write_files(&self) -> io::Result<()> {
        if self.services.resolver.is_some() {
            return Ok(());
        }
        std::fs::create_dir(&self.files)?;
        questions::write_files(&self.files)
    }

    async fn serve(self: Arc<Self>, listener: OwnedFd) {
        let ended = match sys::watch(listener, Interest::READABLE) {
            Ok(listener) => self.answer_all(Arc::new(listener)).await,
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => debug!("a filter has no program left"),
            Err(error) => warn!(%error, "a filter's calls are not answered any more"),
            Ok(()) => {}
        }
    }

    async fn answer_all(self: &Arc<Self>, listener: Listener) -> io::Result<()> {
        loop {
            let mut ready = listener.readable().await?;
            for _ in 0..IN_A_ROW {
                match seccomp::receive(&*listener)? {
                    Some(notification) => {
                        let Some((width, call)) = call::read(&notification) else {
                            seccomp::proceed(&*listener, notification.id).ok();
                            continue;
                        };
                        let caught = Caught { listener: Arc::clone(&listener), notification, width };
                        self.start(caught, call).await;
                    }
                    None => {
                        ready.clear_ready();
                        break;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Answers at once, or has a task do it.
    async fn start(self: &Arc<Self>, caught: Caught, call: Call) {
        if let Some(reply) = self.kept.take(&caught.notification) {
            return self.give(&caught, reply);
        }
        let mut answering = Box::pin(Arc::clone(self).answer(caught, call));
        if poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx))).await.is_pending() {
            tokio::spawn(answering);
        }
    }

    async fn answer(self: Arc<Self>, caught: Caught, call: Call) {
        let (Ok(reply) | Err(reply)) = self.judge(&caught, call).await;
        trace!(thread = caught.notification.thread, ?call, ?reply, "caught");
        self.give(&caught, reply);
    }

    fn give(&self, caught: &Caught, reply: Reply) {
        if !caught.deliver(&reply) {
            self.kept.keep(&caught.notification, reply);
        }
    }

    /// Whether it is the pod's, or a nameserver whose questions are looked at.
    fn is_pods(&self, asked: SocketAddr) -> bool {
        self.services.scope.is_pods(asked) || self.services.questions.reads(asked)
    }

    async fn judge(&self, caught: &Caught, call: Call) -> Step<Reply> {
        match call {
            Call::Connect { fd, to } => self.connect(caught, fd, to).await,
            Call::Send { fd, data, flags, to } => self.send_to(caught, fd, data, flags, to).await,
            Call::SendMessage { fd, header, flags } => self.send_message(caught, fd, header, flags).await,
            Call::SendMessages { fd, headers, count, flags } => {
                self.send_messages(caught, fd, (headers, count), flags).await
            }
            Call::Receive { fd, data, flags, from, length } => {
                self.receive_from(caught, fd, data, flags, (from, length)).await
            }
            Call::ReceiveMessage { fd, header, flags } => {
                self.receive_message(caught, fd, header, flags).await
            }
            Call::ReceiveMessages { fd, headers, count, flags, timeout, wide_time } => {
                self.receive_messages(caught, fd, (headers, count), flags, (timeout, wide_time)).await
            }
            Call::PeerName { fd, name, length } => self.peer_name(caught, fd, name, length),
            Call::OwnName { fd, name, length } => self.own_name(caught, fd, name, length),
            Call::Error { fd, value, length } => self.error(caught, fd, value, length),
            Call::SetOption { fd, level, name, value } => names::set_option(caught, fd, (level, name), value),
            Call::Socket { domain, kind } => names::socket(domain, kind),
            Call::Open { path, flags } => self.open(caught, path, flags),
            Call::OpenHow { path, how } => self.open_how(caught, path, how),
            Call::Several { which, arguments } => Box::pin(self.several(caught, which, arguments)).await,
        }
    }

    /// socketcall(2) has the arguments of the call that it is in memory.
    async fn several(&self, caught: &Caught, which: u64, at: u64) -> Step<Reply> {
        let mut room = [0; 6 * 4];
        let wanted = room.get_mut(..4 * call::socketcall_arguments(which)).ok_or(Reply::Proceeds)?;
        let length = wanted.len();
        if caught.read(at, wanted)?.len() < length {
            return Err(Reply::Proceeds);
        }
        let (words, _) = room.as_chunks();
        let mut arguments = [0; 6];
        for (argument, word) in arguments.iter_mut().zip(words) {
            *argument = u64::from(u32::from_ne_bytes(*word));
        }
        match call::socketcall(which, arguments) {
            Some(Call::Socket { .. }) if arguments.get(2) != Some(&(libc::IPPROTO_MPTCP as u64)) => {
                Err(Reply::Proceeds)
            }
            Some(call) => self.judge(caught, call).await,
            None => Err(Reply::Proceeds),
        }
    }
}

/// A socket address as tp's messages spell it, as one of the standard library.
fn to_std(address: tp_abi::wire::Address) -> SocketAddr {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
    match address.ip {
        tp_abi::wire::Ip::V4(ip) => SocketAddrV4::new(Ipv4Addr::from(ip), address.port).into(),
        tp_abi::wire::Ip::V6(ip) => {
            SocketAddrV6::new(Ipv6Addr::from(ip), address.port, 0, address.scope).into()
        }
    }
}

/// The other way round.
fn to_abi(address: SocketAddr) -> tp_abi::wire::Address {
    use tp_abi::wire::{Address, Ip};
    match address {
        SocketAddr::V4(v4) => Address { ip: Ip::V4(v4.ip().octets()), port: v4.port(), scope: 0 },
        SocketAddr::V6(v6) => Address { ip: Ip::V6(v6.ip().octets()), port: v6.port(), scope: v6.scope_id() },
    }
}
