//! connect(2): TCP by the gate, UDP by a relay.
//!
//! The socket goes along with the question; the answer is a park, a loopback address at which nothing answers yet,
//! and the program's own connect() goes there. So blocking, EINPROGRESS, EALREADY, EISCONN, timeouts and signals are
//! all the kernel's. When the far end accepted, the launcher joins the socket; when it refused, the launcher makes
//! the socket fail and keeps the true errno, which is asked for here. Behind a SOCKS5 server a blocking socket needs none of
//! that ([`socks`]).
//!
//! Invariant: without an answer the call fails; it never goes to the address the program named.

use super::{errno, fail};
use crate::ask::{Sheet, Slip, Unanswered, ask, tell};
use crate::config::{self, Config, Kind, Server};
use crate::note::note;
use crate::real;
use crate::relays::{self, Towards};
use crate::socks::{self, Outcome, Target};
use crate::sys::{self, Errno};
use core::ffi::c_int;
use libc::{sockaddr as Sockaddr, socklen_t};
use tp_abi::decide::{self, Socket, Verdict};
use tp_abi::errno::LAUNCHER_GONE;
use tp_abi::sockaddr::{self, ROOM};
use tp_abi::wire::{Address, Answer, Question};

#[unsafe(no_mangle)]
unsafe extern "C" fn connect(fd: c_int, address: *const Sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller's promise, that of connect(2).
    unsafe { by_gate(fd, address, length) }
}

/// The name by which old objects call connect(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn __connect(fd: c_int, address: *const Sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller's promise, that of connect(2).
    unsafe { by_gate(fd, address, length) }
}

/// What connect(2) does, for those that connect by another name.
///
/// # Safety
/// As for connect(2).
pub(super) unsafe fn by_gate(fd: c_int, address: *const Sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller's promise.
    let original = || unsafe { real::connect(fd, address, length) };
    let Some(config) = config::get() else { return original() };
    // SAFETY: the caller's promise.
    let Some(to) = sockaddr::read(unsafe { bytes(address, length) }) else {
        // SAFETY: the caller's promise.
        return match unsafe { path(address, length) } {
            Some(path) if decide::is_name_service(path) => fail(libc::ENOENT),
            _ => original(),
        };
    };
    // Before the kernel is asked about the socket: a call that stays local should cost what it did.
    if decide::stays(to.address).is_some() {
        return original();
    }
    let Some(socket) = facts(fd) else { return original() };
    match decide::connect(socket, to) {
        Verdict::Pass(_) => original(),
        Verdict::Refuse(errno) => {
            note(config, |line| line.text(b"connect refused: ").address(to.address));
            fail(errno)
        }
        Verdict::Carry { asked, v6_socket } => carry(config, fd, asked, v6_socket, original),
        Verdict::Relay { asked, v6_spelling } => to_relay(config, fd, asked, v6_spelling, original),
    }
}

/// Connects a datagram socket to a relay of its own: what comes from elsewhere is the kernel's to drop, and an error
/// that the far end's network reports can be given to this socket alone.
fn to_relay(
    config: &Config,
    fd: c_int,
    asked: Address,
    v6_spelling: bool,
    original: impl FnOnce() -> c_int,
) -> c_int {
    let Some(cookie) = sys::cookie(fd) else { return fail(LAUNCHER_GONE) };
    match relays::connected(config, cookie, fd, asked) {
        Ok(Towards::Relay { relay, .. }) => {
            let mut room = [0; ROOM];
            let Some(relay) = sockaddr::spell(relay, v6_spelling, &mut room) else {
                return fail(LAUNCHER_GONE);
            };
            config::note_connected();
            // SAFETY: `relay` is a socket address of `relay.len()` bytes, at most ROOM.
            unsafe { real::connect(fd, relay.as_ptr().cast(), relay.len() as socklen_t) }
        }
        Ok(Towards::Itself) => original(),
        Err(errno) => fail(errno),
    }
}

fn carry(
    config: &Config,
    fd: c_int,
    asked: Address,
    v6_socket: bool,
    original: impl FnOnce() -> c_int,
) -> c_int {
    // A descriptor without a cookie is no socket that could be parked.
    let Some(cookie) = sys::cookie(fd) else { return fail(LAUNCHER_GONE) };
    let late = match config.server().filter(|_| sys::is_blocking(fd)) {
        None => None,
        Some(server) => match by_server(config, fd, cookie, server, asked, v6_socket) {
            Outcome::Connected => return 0,
            Outcome::Failed(errno) => return fail(errno),
            Outcome::Unsettled => None,
            Outcome::Late(errno) => Some(errno),
        },
    };
    let mut room: Slip = [0; _];
    let question = Question::Connect { cookie, asked, v6_socket };
    let answer = ask(config, &question, Some(fd), &mut room);
    note(config, |line| line.text(b"connect ").address(asked).text(b" ").text(word(&answer)));
    match answer {
        Ok(Answer::Park(park)) => to_park(config, fd, cookie, (park, v6_socket), late),
        Ok(Answer::Pass) => original(),
        Ok(Answer::Errno(errno)) => fail(errno),
        Err(Unanswered::Exhausted(errno)) => fail(errno),
        Ok(_) | Err(Unanswered::Gone) => fail(LAUNCHER_GONE),
    }
}

/// Opens the connection by the SOCKS5 server, without the gate.
fn by_server(
    config: &Config,
    fd: c_int,
    cookie: u64,
    server: Server,
    asked: Address,
    v6_socket: bool,
) -> Outcome {
    let mut room = [0; ROOM];
    // Where the socket does not reach it, the launcher does.
    let at = server.at(asked).and_then(|at| sockaddr::spell(at, v6_socket, &mut room));
    let Some(at) = at else { return Outcome::Unsettled };
    let mut slip: Sheet = [0; _];
    let target = if server.kind == Kind::TakesNames && socks::is_stand_in(asked) {
        let address = Address { port: 0, ..asked };
        match ask(config, &Question::Reverse { address }, None, &mut slip) {
            Ok(Answer::Name(name)) => Target::Name(name),
            _ => return Outcome::Unsettled,
        }
    } else {
        Target::Ip(asked.ip)
    };
    let outcome = socks::connect(fd, cookie, (at, server.kind), target, asked.port);
    note(config, |line| line.text(b"connect ").address(asked).text(b" by the server: ").text(how(outcome)));
    if outcome != Outcome::Connected {
        return outcome;
    }
    config::note_connected();
    if matches!(server.kind, Kind::Launcher(_)) {
        return outcome;
    }
    match tell(config, &Question::Opened { cookie, asked }) {
        Ok(()) => Outcome::Connected,
        Err(unanswered) => {
            socks::take_back(fd);
            Outcome::Failed(match unanswered {
                Unanswered::Exhausted(errno) => errno,
                Unanswered::Gone => LAUNCHER_GONE,
            })
        }
    }
}

const fn how(outcome: Outcome) -> &'static [u8] {
    match outcome {
        Outcome::Connected => b"open",
        Outcome::Failed(_) => b"refused",
        Outcome::Unsettled | Outcome::Late(_) => b"left to the gate",
    }
}

/// Has the kernel wait at the park; not if it is `late` already: then the connection is begun, and the call ends with that errno.
fn to_park(
    config: &Config,
    fd: c_int,
    cookie: u64,
    (park, v6_socket): (Address, bool),
    late: Option<c_int>,
) -> c_int {
    config::note_connected();
    let mut room = [0; ROOM];
    let Some(park) = sockaddr::spell(park, v6_socket, &mut room) else { return fail(LAUNCHER_GONE) };
    if let Some(errno) = late {
        return match sys::begin_to_connect(fd, park) {
            Ok(()) | Err(Errno(libc::EINPROGRESS)) => fail(errno),
            Err(Errno(errno)) => fail(errno),
        };
    }
    // SAFETY: `park` is a socket address of `park.len()` bytes, at most ROOM.
    let result = unsafe { real::connect(fd, park.as_ptr().cast(), park.len() as socklen_t) };
    if result == 0 {
        return 0;
    }
    let told = errno();
    if !decide::is_verdict(told) {
        return result;
    }
    match why(config, cookie) {
        Ok(Some(errno)) => {
            // A connect() that has told a failure leaves a socket that can be connected anew; the launcher left it shut.
            sys::disconnect(fd);
            fail(errno)
        }
        Ok(None) | Err(Unanswered::Exhausted(_)) => fail(told),
        Err(Unanswered::Gone) => fail(LAUNCHER_GONE),
    }
}

/// The true errno of a failed socket; [`None`] where the launcher knows of none, so that the kernel's stands.
pub(super) fn why(config: &Config, cookie: u64) -> Result<Option<c_int>, Unanswered> {
    let mut room: Slip = [0; _];
    match ask(config, &Question::Why { cookie }, None, &mut room)? {
        Answer::Errno(errno) => Ok(Some(errno)),
        Answer::Pass => Ok(None),
        _ => Err(Unanswered::Gone),
    }
}

/// What the kernel says about a socket; [`None`] for what is none.
pub(super) fn facts(fd: c_int) -> Option<Socket> {
    let option = |name| sys::option::<c_int>(fd, libc::SOL_SOCKET, name);
    Some(Socket {
        domain: option(libc::SO_DOMAIN)?,
        kind: option(libc::SO_TYPE)?,
        protocol: option(libc::SO_PROTOCOL)?,
    })
}

/// The bytes of a socket address that are of interest here.
///
/// # Safety
/// `address` must be null or point at `length` readable bytes.
pub(super) unsafe fn bytes<'a>(address: *const Sockaddr, length: socklen_t) -> &'a [u8] {
    // A length beyond an `int` is the kernel's to refuse.
    match usize::try_from(length) {
        Ok(length) if !address.is_null() && length <= 0x7fff_ffff => {
            // SAFETY: the caller's promise.
            unsafe { core::slice::from_raw_parts(address.cast(), length.min(ROOM)) }
        }
        _ => &[],
    }
}

/// The path in a socket address of unix(7).
///
/// # Safety
/// As for [`bytes`].
unsafe fn path<'a>(address: *const Sockaddr, length: socklen_t) -> Option<&'a [u8]> {
    let most = size_of::<libc::sockaddr_un>();
    let length = usize::try_from(length).ok().filter(|_| !address.is_null())?.min(most);
    // SAFETY: the caller's promise.
    sockaddr::path(unsafe { core::slice::from_raw_parts(address.cast::<u8>(), length) })
}

const fn word(answer: &Result<Answer<'_>, Unanswered>) -> &'static [u8] {
    match answer {
        Ok(Answer::Park(_)) => b"parked",
        Ok(Answer::Pass) => b"passed",
        Ok(Answer::Errno(_)) => b"refused",
        Ok(_) => b"misunderstood",
        Err(Unanswered::Gone) => b"failed: no launcher",
        Err(Unanswered::Exhausted(_)) => b"failed: out of descriptors",
    }
}
