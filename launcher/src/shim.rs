//! Answers the shims' questions.
//!
//! Each question is one connection of one message each way ([`tp_abi::wire`]): a shim keeps no descriptor that its
//! program could close or inherit. The listener is a socket file in a folder that only this user can enter, and the
//! kernel names the peer's user besides (`SO_PEERCRED`): another user's question is not read.
//!
//! An app's event loop stands still while it asks, so what can be answered at once is, without a task or a wake-up between,
//! on a thread of its own that never waits behind the connections; what an answer sets going begins after it. A question
//! that takes longer (a lookup takes as long as the pod's nameserver does) goes on as a task.
//!
//! A launcher that has no descriptor left answers all the same, out of a reserve of one: connect() then fails with
//! `ENOBUFS`, as with a kernel that has no memory for another connection.

pub(crate) mod entry;

use std::ffi::CString;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::sync::{Semaphore, oneshot};
use tp_abi::errno::{code, eai};
use tp_abi::wire::{
    self, ADDRESS_LEN, ADDRESSES_MAX, Address, AddressList, Answer, HEADER_LEN, Ip, MESSAGE_MAX, NAME_MAX,
    Question, WANT_AS_TOLD, WANT_CONFIGURED, WANT_V4, WANT_V6, put_address,
};
use tracing::{debug, warn};

use crate::flows::Way;
use crate::gate::{Opening, unmapped};
use crate::method;
use crate::names::Names;
use crate::placement::{Entry, Place, Placement};
use crate::pod::Want;
use crate::resolver::Resolver;
use crate::services::Services;
use crate::sys;
use crate::vif::Vif;

/// A shim sends its question at once; a peer that does not is no shim.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of aliases in one answer: what the most addresses and the longest name leave of a message.
const ALIASES_MAX: usize = MESSAGE_MAX - HEADER_LEN - NAME_MAX - 3 - ADDRESSES_MAX * ADDRESS_LEN;
/// Questions answered at one time; further ones wait in the socket's backlog.
const AT_ONCE: usize = 4096;

/// Where the shims ask, until it is dropped.
pub struct Server {
    path: PathBuf,
    /// run --the end, by being dropped--> the thread of the questions
    _stop_tx: oneshot::Sender<()>,
}

impl Server {
    /// Answers questions on a socket file in `folder`, which must be this user's alone.
    ///
    /// # Errors
    /// Those of bind(2), and of starting a thread.
    pub fn start(folder: &Path, answers: Arc<Answers>) -> io::Result<Self> {
        let path = folder.join("shim");
        let listener = sys::socket::listen_seqpacket(&path)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop_tx, stop_rx) = oneshot::channel();
        std::thread::Builder::new().name("shim".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, answers) => {
                        if let Err(error) = served {
                            warn!(%error, "shims are not answered any more");
                        }
                    }
                    _ = stop_rx => {}
                }
            });
        })?;
        Ok(Self { path, _stop_tx: stop_tx })
    }

    /// The path for the shim ([`tp_abi::env::SOCKET`]).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Those who know the answers.
pub struct Answers {
    /// Connections, datagrams, names.
    pub services: Arc<Services>,
    /// Who is started how.
    pub placement: Placement,
    /// Where the shim is, which programs must find there.
    pub shim: PathBuf,
}

async fn serve(listener: OwnedFd, answers: Arc<Answers>) -> io::Result<()> {
    let listener = sys::watch(listener, Interest::READABLE)?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut reserve = sys::socket::reserve().ok();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        match listener.async_io(Interest::READABLE, |fd| sys::socket::accept(fd.as_raw_fd())).await {
            Ok(connection) => {
                let mut conversation = Box::pin(answer_one(connection, Arc::clone(&answers)));
                if poll_fn(|cx| Poll::Ready(conversation.as_mut().poll(cx))).await.is_pending() {
                    tokio::spawn(conversation.map(|()| drop(place)));
                }
                reserve = reserve.or_else(|| sys::socket::reserve().ok());
            }
            // The descriptor given up is the one for this question; it comes back with the next that is free.
            Err(error) if sys::socket::is_exhausted(&error) && reserve.take().is_some() => {
                warn!(%error, "there is hardly a descriptor left");
            }
            Err(error) => {
                // Those in use come back as connections close.
                warn!(%error, "cannot take a shim's question");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn answer_one(connection: OwnedFd, answers: Arc<Answers>) {
    if let Err(error) = converse(connection, &answers).await {
        debug!(%error, "a shim's question was not answered");
    }
}

async fn converse(connection: OwnedFd, answers: &Answers) -> io::Result<()> {
    let peer = sys::socket::peer(&connection)?;
    if peer.uid != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!("process {} is of another user ({})", peer.pid, peer.uid)));
    }
    let mut message = [0; MESSAGE_MAX];
    // A shim asks in the moment in which it has connected, so the question is mostly there; an app's event loop stands
    // still until it is answered.
    let (length, attached) = match sys::socket::receive(connection.as_raw_fd(), &mut message) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&connection, &mut message).await?,
        received => received?,
    };
    let bytes = message.get(..length).unwrap_or_default();
    let question = Question::decode(bytes)
        .ok_or_else(|| io::Error::other(format!("process {} sent no question of ours", peer.pid)))?;
    debug!(pid = peer.pid, "asked: {}", Spoken(question));
    let mut reply = [0; MESSAGE_MAX];
    let asker = Pid::from_raw(peer.pid);
    let mut beside = Beside::default();
    let length = answer(asker, question, attached, answers, &mut reply, &mut beside)
        .await
        .ok_or(io::ErrorKind::InvalidData)?;
    let reply = reply.get(..length).unwrap_or_default();
    if reply.is_empty() {
        return Ok(());
    }
    let descriptors = beside.enters.as_ref().map(|vif| vif.namespaces().as_slice()).unwrap_or_default();
    let sent = sys::socket::reply(connection.as_raw_fd(), reply, descriptors);
    if let Some(opening) = beside.opens {
        answers.services.gate.begin(opening);
    }
    sent
}

/// Waits for a question that is not there yet.
async fn wait(connection: &OwnedFd, message: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let connection = sys::watch(connection.as_fd(), Interest::READABLE)?;
    let receive = connection.async_io(Interest::READABLE, |fd| sys::socket::receive(fd.as_raw_fd(), message));
    tokio::time::timeout(QUESTION_LIMIT, receive)
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A question as a person reads it in the log.
struct Spoken<'a>(Question<'a>);

impl fmt::Display for Spoken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Question::Connect { cookie, asked, .. } => {
                write!(f, "connect {cookie:x} to {}", from_wire(asked))
            }
            Question::Opened { cookie, asked } => {
                write!(f, "nothing: {cookie:x} is connected to {}", from_wire(asked))
            }
            Question::Peer { cookie } => write!(f, "the peer of {cookie:x}"),
            Question::Why { cookie } => write!(f, "why {cookie:x} failed"),
            Question::Lookup { name, .. } => write!(f, "addresses of {}", name.escape_ascii()),
            Question::Reverse { address } => write!(f, "the name of {}", from_wire(address).ip()),
            Question::Exec => write!(f, "may a program be started"),
            Question::Resolver => write!(f, "the resolver's settings"),
            Question::Local { v6 } => write!(f, "the pod's address, IPv{}", if v6 { 6 } else { 4 }),
            Question::Nameserver { address } => write!(f, "the nameserver {}", from_wire(address)),
            Question::Flow { asked } => write!(f, "datagrams to {}", from_wire(asked)),
            Question::Connected { cookie, asked, .. } => {
                write!(f, "datagrams of {cookie:x} to {}", from_wire(asked))
            }
            Question::Relayed { relay } => write!(f, "who is behind {}", from_wire(relay)),
            Question::Enter => write!(f, "what to enter"),
            Question::Trapped { .. } => write!(f, "a filter is on"),
        }
    }
}

/// What goes with an answer.
#[derive(Default)]
struct Beside {
    /// Begins when the answer is sent.
    opens: Option<Opening>,
    /// Its namespaces are attached.
    enters: Option<Arc<Vif>>,
}

/// Encodes the answer to process `asker` into `reply` and gives its length, 0 if none is wanted; [`None`] if there is none that fits. A question without its descriptor comes from a launcher that had no room
/// for it: the kernel drops what it cannot install (unix(7), `MSG_CTRUNC`).
async fn answer(
    asker: Pid,
    question: Question<'_>,
    attached: Option<OwnedFd>,
    answers: &Answers,
    reply: &mut [u8],
    beside: &mut Beside,
) -> Option<usize> {
    let answer = match question {
        Question::Connect { asked, .. } | Question::Flow { asked } | Question::Connected { asked, .. }
            if !answers.services.scope.is_pods(from_wire(asked)) =>
        {
            Answer::Pass
        }
        Question::Connect { cookie, asked, v6_socket } => {
            let opened = match attached {
                Some(socket) => {
                    answers.services.gate.open(asker, cookie, socket, from_wire(asked), v6_socket)
                }
                None => Err(code::ENOBUFS),
            };
            opened.map_or_else(Answer::Errno, |(parked, opening)| {
                beside.opens = opening;
                Answer::Park(to_wire(parked))
            })
        }
        Question::Opened { cookie, asked } => {
            answers.services.gate.opened(cookie, from_wire(asked));
            return Some(0);
        }
        Question::Peer { cookie } => {
            answers.services.gate.asked(cookie).map_or(Answer::Pass, |asked| Answer::Peer(to_wire(asked)))
        }
        Question::Why { cookie } => answers.services.gate.failure(cookie).map_or(Answer::Pass, Answer::Errno),
        Question::Lookup { want, name } => return lookup(&answers.services.names, want, name, reply).await,
        Question::Reverse { address } => {
            return match answers.services.names.reverse(from_wire(address).ip()).await {
                Ok(name) if name.len() <= NAME_MAX => Answer::Name(name.as_bytes()).encode(reply),
                Ok(_too_long) => Answer::Failed(eai::FAIL).encode(reply),
                Err(error) => Answer::Failed(error.eai).encode(reply),
            };
        }
        Question::Exec => return may_start(asker, attached, answers, reply).await,
        Question::Enter => enter(asker, answers, beside).await,
        Question::Trapped { listener } => match answers.placement.trapped(asker, listener) {
            Ok(()) => Answer::Pass,
            Err(error) => {
                warn!(%error, "a filter is out of reach");
                Answer::Errno(error.raw_os_error().unwrap_or(code::EPERM))
            }
        },
        Question::Resolver => match &answers.services.resolver {
            Some(known) => return resolver(known, reply),
            None => Answer::Pass,
        },
        Question::Local { v6 } => answers
            .services
            .gate
            .own_address(v6)
            .map_or(Answer::Pass, |ip| Answer::Local(to_wire(SocketAddr::new(ip, 0)))),
        Question::Nameserver { address } => nameserver(&answers.services, from_wire(address)),
        Question::Flow { asked } => way(answers.services.flows.shared(from_wire(asked))),
        Question::Connected { asked, fd, .. } => match attached {
            Some(socket) => {
                way(answers.services.flows.connected(from_wire(asked), socket, (asker.as_raw(), fd)))
            }
            None => Answer::Errno(code::ENOBUFS),
        },
        Question::Relayed { relay } => {
            let behind = answers.services.flows.behind(from_wire(relay));
            behind.map_or(Answer::Pass, |asked| Answer::Peer(to_wire(asked)))
        }
    };
    answer.encode(reply)
}

/// Judges a start aside from all other questions: the file may be on a slow disk, or on one that a program of the run
/// serves (fuse(4)), and nobody may be reading what is said of it.
async fn may_start(
    asker: Pid,
    attached: Option<OwnedFd>,
    answers: &Answers,
    reply: &mut [u8],
) -> Option<usize> {
    let Some(file) = attached else { return Answer::Errno(code::ENFILE).encode(reply) };
    let shim = answers.shim.clone();
    let home = answers.placement.home().surroundings.clone();
    let judge = move || method::find_descriptor(file, asker, &shim, &home);
    let (program, judged) = tokio::task::spawn_blocking(judge).await.ok()?;
    match answers.placement.place(&program, judged).await {
        Ok(Place::Shim) => Answer::Pass.encode(reply),
        Ok(Place::Inside) => {
            let path = CString::new(answers.placement.inside().as_os_str().as_encoded_bytes()).ok()?;
            Answer::Enter(&path).encode(reply)
        }
        Err(refusal) => {
            // The shim is answered, whether somebody reads this or not.
            let told = move || writeln!(io::stderr(), "tp: not started: {}", refusal.explained());
            let _ = tokio::task::spawn_blocking(told).await;
            Answer::Errno(code::EPERM).encode(reply)
        }
    }
}

async fn enter(asker: Pid, answers: &Answers, beside: &mut Beside) -> Answer<'static> {
    match answers.placement.entry_of(asker).await {
        Ok(Entry::Vif(vif)) => {
            beside.enters = Some(Arc::clone(vif));
            Answer::Namespaces
        }
        Ok(Entry::Trap) => Answer::Trap,
        Err(lacks) => {
            warn!(%lacks, "there is nothing to enter");
            Answer::Errno(code::EPERM)
        }
    }
}

fn resolver(resolver: &Resolver, reply: &mut [u8]) -> Option<usize> {
    let settings = resolver.settings();
    let mut list = [0; ADDRESSES_MAX * ADDRESS_LEN];
    let mut end = 0;
    for nameserver in &settings.nameservers {
        end = put_address(&mut list, end, to_wire(*nameserver))?;
    }
    let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    let resolver = wire::Resolver {
        options: settings.glibc_options,
        timeout: byte(settings.timeout.as_secs()),
        attempts: byte(settings.attempts.into()),
        ndots: byte(settings.ndots as u64),
        nameservers: AddressList::new(list.get(..end)?),
        search: resolver.search(),
    };
    Answer::Resolver(resolver).encode(reply)
}

/// A program may ask a nameserver of its own choice. One on the laptop's loopback is the laptop's, unless the pod uses that
/// address itself.
fn nameserver(services: &Services, address: SocketAddr) -> Answer<'static> {
    let Some(resolver) = &services.resolver else { return Answer::Errno(code::ENETUNREACH) };
    let own = address.ip().is_loopback() || address.ip().is_unspecified();
    if !resolver.is_pods(address) && (own || !services.scope.is_pods(address)) {
        return Answer::Pass;
    }
    match services.nameservers.at(address) {
        Ok(here) => Answer::Nameserver(to_wire(here)),
        Err(error) => {
            warn!(%address, %error, "cannot speak for a nameserver");
            Answer::Errno(code::ENETUNREACH)
        }
    }
}

fn way(found: Result<Way, i32>) -> Answer<'static> {
    let relay = |way: Way| Answer::Relay { relay: to_wire(way.relay), connected: way.connected };
    found.map_or_else(Answer::Errno, relay)
}

async fn lookup(names: &Names, want: u8, name: &[u8], reply: &mut [u8]) -> Option<usize> {
    let Ok(name) = std::str::from_utf8(name) else { return Answer::Failed(eai::NONAME).encode(reply) };
    let want = Want {
        v4: want & WANT_V4 != 0,
        v6: want & WANT_V6 != 0,
        configured: want & WANT_CONFIGURED != 0,
        as_told: want & WANT_AS_TOLD != 0,
    };
    let known = names.lookup(name, want).await;
    match &known.said {
        Ok(found) => {
            let mut list = [0; ADDRESSES_MAX * ADDRESS_LEN];
            let mut end = 0;
            for ip in found.addresses.iter().take(ADDRESSES_MAX) {
                end = put_address(&mut list, end, to_wire(SocketAddr::new(*ip, 0)))?;
            }
            let canonical = as_spelled(&found.canonical, name);
            let canonical = if canonical.len() <= NAME_MAX { &canonical } else { name };
            let mut aliases = Vec::new();
            for alias in found.aliases.iter().map(|alias| as_spelled(alias, name)) {
                // They share the message with the addresses, which go first.
                if aliases.len() + alias.len() < ALIASES_MAX {
                    aliases.extend(alias.bytes().chain([0]));
                }
            }
            let (canonical, addresses) = (canonical.as_bytes(), AddressList::new(list.get(..end)?));
            let rest = known.until.saturating_duration_since(Instant::now()).as_secs();
            let seconds = u32::try_from(rest).unwrap_or(u32::MAX);
            Answer::Addresses { seconds, canonical, aliases: &aliases, addresses }.encode(reply)
        }
        Err(error) => {
            debug!(name, %error, "lookup failed");
            Answer::Failed(error.eai).encode(reply)
        }
    }
}

/// A name that a nameserver gave for `asked`, with the program's own capitals: nameservers give a question back as it was
/// spelled, and questions are asked once for all spellings.
fn as_spelled(given: &str, asked: &str) -> String {
    match given.split_at_checked(asked.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(asked) => format!("{asked}{rest}"),
        _ => given.to_owned(),
    }
}

fn from_wire(address: Address) -> SocketAddr {
    match address.ip {
        Ip::V4(bytes) => SocketAddr::new(IpAddr::V4(Ipv4Addr::from(bytes)), address.port),
        Ip::V6(bytes) => {
            unmapped(SocketAddrV6::new(Ipv6Addr::from(bytes), address.port, 0, address.scope).into())
        }
    }
}

fn to_wire(address: SocketAddr) -> Address {
    match address {
        SocketAddr::V4(v4) => Address { ip: Ip::V4(v4.ip().octets()), port: v4.port(), scope: 0 },
        SocketAddr::V6(v6) => Address { ip: Ip::V6(v6.ip().octets()), port: v6.port(), scope: v6.scope_id() },
    }
}
