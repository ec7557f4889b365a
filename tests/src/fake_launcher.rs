//! A launcher without a session: it answers the shim's questions by a script and opens sockets with a real gate.
//!
//! The shim's promises are about what a program sees, so the kernel's part is not faked: the parks are listeners
//! whose packets the kernel drops for their TTL (`IP_MINTTL`, ip(7)), sockets are joined by simultaneous open, and
//! made to fail by being taken back. Only what the pod would say is scripted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a broken script is a failed test"
)]

use crate::shim_under_test;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    listen, recvmsg, send, socket,
};
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io::{IoSliceMut, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use tp_abi::env;
use tp_abi::wire::{ADDRESS_LEN, Address, AddressList, Answer, Ip, MESSAGE_MAX, Question, put_address};

mod gate;

use gate::Gate;

/// What the pod says to a connect.
#[derive(Clone, Debug)]
pub enum Far {
    /// Accepts and sends back all it gets.
    Echo,
    /// Accepts, reads a request's head and answers with this body.
    Http(&'static str),
    /// Fails with this errno.
    Fails(i32),
    /// Says nothing until [`FakeLauncher::release`], then does as [`Far::Echo`].
    Held,
    /// No gate at all: this errno at once.
    Refuses(i32),
    /// Not tp's: the program connects by itself.
    Passes,
    /// An answer that is none.
    Garbage,
}

/// What the pod says to a name.
#[derive(Clone, Debug)]
pub enum Name {
    /// A canonical name, empty for none, and addresses.
    Is(&'static str, Vec<IpAddr>),
    /// This `EAI_*`.
    Fails(i32),
    /// Libc's to find.
    Passes,
}

/// What was asked, as a test compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `connect`: where to, and whether the socket is IPv6.
    Connect(SocketAddr, bool),
    /// The program has connected a socket itself: where to.
    Opened(SocketAddr),
    /// Where does this socket go?
    Peer,
    /// Why did this socket fail?
    Why,
    /// Addresses of a name; `WANT_*` bits.
    Lookup(String, u8),
    /// Name of an address.
    Reverse(IpAddr),
    /// May this file start?
    Exec(PathBuf),
    /// `sendto` and its kin, or `connect` of a datagram socket: where to.
    Flow(SocketAddr),
}

#[derive(Default)]
struct State {
    far: HashMap<SocketAddr, Far>,
    names: HashMap<String, Name>,
    /// Seconds for which an answer is good.
    names_stay: u32,
    reverse: HashMap<IpAddr, Name>,
    forbidden: HashMap<PathBuf, i32>,
    inside: HashMap<PathBuf, CString>,
    asked: Vec<Asked>,
    sockets: HashMap<u64, Parked>,
    released: bool,
}

struct Parked {
    asked: Address,
    waiting: bool,
    errno: Option<i32>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    gate: Gate,
}

/// The launcher; its socket goes when it is dropped.
pub struct FakeLauncher {
    shared: Arc<Shared>,
    folder: tempfile::TempDir,
    listener: Option<OwnedFd>,
}

impl FakeLauncher {
    /// Listens; nothing is scripted: every connect is refused by the pod and every name unknown.
    #[must_use]
    pub fn start() -> Self {
        Self::listen(64, |_| {})
    }

    /// Has room for one who asks, and takes no question before [`FakeLauncher::release`].
    #[must_use]
    pub fn standing_still() -> Self {
        Self::listen(0, |shared| {
            drop(shared.changed.wait_while(shared.state(), |state| !state.released).unwrap());
        })
    }

    fn listen(backlog: i32, before: impl FnOnce(&Shared) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&folder.path().join("s")).unwrap()).unwrap();
        listen(&listener, Backlog::new(backlog).unwrap()).unwrap();
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), gate: Gate::open() });
        let accepting = (Arc::clone(&shared), listener.try_clone().unwrap());
        thread::spawn(move || {
            let (shared, listener) = accepting;
            before(&shared);
            // Ends when the listener is shut down.
            while let Ok(client) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                // SAFETY: accept4 has just made this descriptor, and nobody else has it.
                let client = unsafe { OwnedFd::from_raw_fd(client) };
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(&client));
            }
        });
        Self { shared, folder, listener: Some(listener) }
    }

    /// Scripts what `address` says.
    pub fn far(&self, address: &str, far: Far) -> &Self {
        self.shared.state().far.insert(address.parse().unwrap(), far);
        self
    }

    /// Scripts what `name` is.
    pub fn name(&self, name: &str, canonical: &'static str, addresses: &[&str]) -> &Self {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.name_is(name, Name::Is(canonical, addresses))
    }

    /// Has what is said to names be good for so many seconds; nothing is, unless told so.
    pub fn names_stay(&self, seconds: u32) -> &Self {
        self.shared.state().names_stay = seconds;
        self
    }

    /// Scripts what becomes of a lookup of `name`.
    pub fn name_is(&self, name: &str, is: Name) -> &Self {
        self.shared.state().names.insert(name.to_owned(), is);
        self
    }

    /// Scripts the name of an address.
    pub fn reverse(&self, address: &str, is: Name) -> &Self {
        self.shared.state().reverse.insert(address.parse().unwrap(), is);
        self
    }

    /// Forbids a program's start.
    pub fn forbid(&self, file: &Path, errno: i32) -> &Self {
        self.shared.state().forbidden.insert(file.to_owned(), errno);
        self
    }

    /// Has `instead` started in a program's place.
    pub fn enter(&self, file: &Path, instead: &Path) -> &Self {
        let instead = CString::new(instead.as_os_str().as_encoded_bytes()).unwrap();
        self.shared.state().inside.insert(file.to_owned(), instead);
        self
    }

    /// Lets every [`Far::Held`] accept.
    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.changed.notify_all();
    }

    /// All that was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// All that was asked but for starts of programs.
    #[must_use]
    pub fn asked_of_the_network(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| !matches!(asked, Asked::Exec(_))).collect()
    }

    /// Waits until something was asked.
    pub fn wait_for(&self, asked: &Asked) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut state = self.shared.state();
        while !state.asked.contains(asked) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{asked:?} was never asked, only {:?}", state.asked);
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Dies: nobody answers at the path any more.
    pub fn die(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
    }

    /// A folder that lives as long as the launcher.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of the launcher's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// What the launcher puts into a child's environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let shim = shim_under_test().display().to_string();
        vec![
            (env::SOCKET, self.socket().display().to_string()),
            (env::GATE, format!("{},{}", self.shared.gate.v4_port(), self.shared.gate.v6_port())),
            (env::SHIM, shim.clone()),
            (env::LD_PRELOAD, shim),
        ]
    }

    /// A command under the shim.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.environment());
        // Cargo's own, which is no part of what a user's program finds.
        command.env_remove("LD_LIBRARY_PATH");
        command
    }

    /// Runs a Python program under the shim and gives what it prints. It must succeed.
    #[must_use]
    pub fn python(&self, program: &str) -> String {
        succeeded(self.command("/usr/bin/python3").args(["-c", program]))
    }

    /// Builds a C program of `apps/`.
    #[must_use]
    pub fn build(&self, name: &str) -> PathBuf {
        self.build_with(name, name, &[])
    }

    /// Compiles a program of `apps/` with more flags; it or the library is called `output`.
    #[must_use]
    pub fn build_with(&self, name: &str, output: &str, flags: &[&str]) -> PathBuf {
        let binary = self.folder.path().join(output);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps").join(format!("{name}.c"));
        succeeded(
            Command::new("cc")
                .args(["-g", "-O1", "-Wall", "-Werror", "-pthread", "-o"])
                .arg(&binary)
                .arg(source)
                .args(flags),
        );
        binary
    }
}

impl Drop for FakeLauncher {
    fn drop(&mut self) {
        self.die();
    }
}

/// Is the tool there that a case needs? A case that does not run says so; with the tool's name in `TP_REQUIRE` (a list
/// separated by commas) it fails instead.
#[must_use]
pub fn has_tool(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        assert!(!required(tool), "TP_REQUIRE names {tool}, and it is not there");
        eprintln!("not run: it needs {tool}");
    }
    there
}

/// Must the cases that need `what` run?
#[must_use]
pub fn required(what: &str) -> bool {
    std::env::var("TP_REQUIRE").is_ok_and(|list| list.split(',').any(|entry| entry == what))
}

/// Runs a command that must succeed, and gives what it prints.
pub fn succeeded(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{}", String::from_utf8_lossy(&stderr));
    stdout
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(self: Arc<Self>, client: &OwnedFd) {
        let mut room = [0; MESSAGE_MAX];
        let Some((length, attached)) = receive(client, &mut room) else { return };
        let question =
            Question::decode(&room[..length]).expect("the shim asks what the launcher understands");
        let mut list = [0; MESSAGE_MAX];
        let (answer, after) = self.answer(question, attached, &mut list);
        let mut out = [0; MESSAGE_MAX];
        let length = answer.map_or(3, |answer| answer.encode(&mut out).unwrap());
        let _ = send(client.as_raw_fd(), &out[..length], MsgFlags::MSG_NOSIGNAL);
        self.changed.notify_all();
        if let Some((socket, far)) = after {
            self.open(socket, &far);
        }
    }

    /// The answer, [`None`] for one that is none, and the socket that is to be opened after it.
    fn answer<'a>(
        &self,
        question: Question<'_>,
        attached: Option<OwnedFd>,
        list: &'a mut [u8],
    ) -> (Option<Answer<'a>>, Option<(OwnedFd, Far)>) {
        let mut state = self.state();
        let answer = match question {
            Question::Connect { cookie, asked, v6_socket } => {
                let to = socket_addr(asked);
                state.asked.push(Asked::Connect(to, v6_socket));
                return self.connect(&mut state, cookie, asked, attached.expect("the socket comes along"));
            }
            Question::Opened { cookie, asked } => {
                state.asked.push(Asked::Opened(socket_addr(asked)));
                state.sockets.insert(cookie, Parked { asked, waiting: false, errno: None });
                return (None, None);
            }
            Question::Peer { cookie } => {
                state.asked.push(Asked::Peer);
                state.sockets.get(&cookie).map_or(Answer::Pass, |parked| Answer::Peer(parked.asked))
            }
            Question::Why { cookie } => {
                state.asked.push(Asked::Why);
                let errno = state.sockets.get(&cookie).and_then(|parked| parked.errno);
                errno.map_or(Answer::Pass, Answer::Errno)
            }
            Question::Lookup { want, name } => {
                let name = String::from_utf8_lossy(name).into_owned();
                state.asked.push(Asked::Lookup(name.clone(), want));
                match state.names.get(&name) {
                    Some(Name::Is(canonical, addresses)) => Answer::Addresses {
                        seconds: state.names_stay,
                        canonical: canonical.as_bytes(),
                        aliases: b"",
                        addresses: put(list, addresses, want),
                    },
                    Some(Name::Fails(error)) => Answer::Failed(*error),
                    Some(Name::Passes) => Answer::Pass,
                    None => Answer::Failed(tp_abi::errno::eai::NONAME),
                }
            }
            Question::Reverse { address } => {
                let address = socket_addr(address).ip();
                state.asked.push(Asked::Reverse(address));
                match state.reverse.get(&address) {
                    Some(Name::Is(name, _)) => Answer::Name(name.as_bytes()),
                    Some(Name::Fails(error)) => Answer::Failed(*error),
                    Some(Name::Passes) => Answer::Pass,
                    None => Answer::Failed(tp_abi::errno::eai::NONAME),
                }
            }
            Question::Resolver => Answer::Pass,
            Question::Local { v6: false } => {
                Answer::Local(Address { ip: Ip::V4([10, 244, 0, 9]), port: 0, scope: 0 })
            }
            Question::Local { v6: true } => Answer::Pass,
            Question::Nameserver { .. } => Answer::Errno(libc::ENETUNREACH),
            // The pod of a script carries no datagrams.
            Question::Flow { asked } | Question::Connected { asked, .. } => {
                state.asked.push(Asked::Flow(socket_addr(asked)));
                Answer::Errno(libc::ENETUNREACH)
            }
            Question::Relayed { .. } => Answer::Pass,
            // A script enters nothing.
            Question::Enter | Question::Trapped { .. } => Answer::Errno(libc::EPERM),
            Question::Exec => {
                let file = attached.expect("the file comes along");
                let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
                state.asked.push(Asked::Exec(path.clone()));
                if let Some(instead) = state.inside.get(&path) {
                    list[..instead.count_bytes()].copy_from_slice(instead.to_bytes());
                    let instead = CStr::from_bytes_until_nul(list).unwrap();
                    return (Some(Answer::Enter(instead)), None);
                }
                state.forbidden.get(&path).copied().map_or(Answer::Pass, Answer::Errno)
            }
        };
        (Some(answer), None)
    }

    fn connect(
        &self,
        state: &mut State,
        cookie: u64,
        asked: Address,
        socket: OwnedFd,
    ) -> (Option<Answer<'static>>, Option<(OwnedFd, Far)>) {
        let far = state.far.get(&socket_addr(asked)).cloned();
        match far {
            Some(Far::Refuses(errno)) => return (Some(Answer::Errno(errno)), None),
            Some(Far::Passes) => return (Some(Answer::Pass), None),
            Some(Far::Garbage) => return (None, None),
            _ => {}
        }
        let park = Answer::Park(self.gate.park(asked));
        if state.sockets.get(&cookie).is_some_and(|parked| parked.waiting) {
            return (Some(park), None);
        }
        state.sockets.insert(cookie, Parked { asked, waiting: true, errno: None });
        (Some(park), Some((socket, far.unwrap_or(Far::Fails(libc::ECONNREFUSED)))))
    }

    /// Carries a parked socket to its far end, or makes it fail.
    fn open(&self, socket: OwnedFd, far: &Far) {
        let cookie = gate::cookie(&socket);
        if !gate::wait_until_parked(&socket) {
            return;
        }
        if matches!(far, Far::Held) {
            let state = self.changed.wait_while(self.state(), |state| !state.released).unwrap();
            drop(state);
        }
        {
            let mut state = self.state();
            let parked = state.sockets.get_mut(&cookie).unwrap();
            parked.waiting = false;
            if let Far::Fails(errno) = far {
                parked.errno = Some(*errno);
            }
        }
        if matches!(far, Far::Fails(_)) {
            gate::refuse(&socket);
            return;
        }
        let mut stream = self.gate.meet(&socket);
        drop(socket);
        match far {
            Far::Http(body) => answer_http(&mut stream, body),
            _ => echo(&mut stream),
        }
    }
}

fn echo(stream: &mut TcpStream) {
    let mut room = [0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut room) {
        if stream.write_all(&room[..length]).is_err() {
            break;
        }
    }
}

fn answer_http(stream: &mut TcpStream, body: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.extend(byte);
    }
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}

fn receive(client: &OwnedFd, room: &mut [u8]) -> Option<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(room)];
    let message =
        recvmsg::<UnixAddr>(client.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
            .ok()?;
    let attached = message.cmsgs().ok()?.find_map(|control| match control {
        // SAFETY: the kernel has just put this descriptor into our table.
        ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }),
        _ => None,
    });
    (message.bytes > 0).then_some((message.bytes, attached))
}

fn put<'a>(list: &'a mut [u8], addresses: &[IpAddr], want: u8) -> AddressList<'a> {
    let wanted = |address: &&IpAddr| match address {
        IpAddr::V4(_) => want & tp_abi::wire::WANT_V4 != 0,
        IpAddr::V6(_) => want & tp_abi::wire::WANT_V6 != 0,
    };
    let mut at = 0;
    for address in addresses.iter().filter(wanted) {
        let ip = match address {
            IpAddr::V4(ip) => Ip::V4(ip.octets()),
            IpAddr::V6(ip) => Ip::V6(ip.octets()),
        };
        at = put_address(list, at, Address { ip, port: 0, scope: 0 }).unwrap();
    }
    assert_eq!(at % ADDRESS_LEN, 0);
    AddressList::new(&list[..at])
}

/// The address as std has it.
fn socket_addr(address: Address) -> SocketAddr {
    let ip = match address.ip {
        Ip::V4(ip) => IpAddr::V4(Ipv4Addr::from(ip)),
        Ip::V6(ip) => IpAddr::V6(Ipv6Addr::from(ip)),
    };
    SocketAddr::new(ip, address.port)
}
