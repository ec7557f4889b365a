//! The program's own socket through a SOCKS5 server (RFC 1928), without the launcher between.
//!
//! Under `tp run --proxy` a blocking connect() has nothing to wait for but the server, and the kernel waits in recv(2) as it does in
//! connect(2). So the shim connects the socket to the server itself and talks with it there: no process takes a turn, and
//! nobody copies what the program sends. An event loop cannot be kept waiting, so a non-blocking socket goes by the gate.
//!
//! Invariants: the socket is connected when the server said so, and not before; one that is not is as it was, fit for
//! another connect(); not one byte behind the server's reply is read; what the server did not settle (it is not there, it speaks
//! something else, a signal came first) is left to the gate, which says it as it always does.

use crate::config::Kind;
use crate::sys::{self, Errno};
use core::ffi::c_int;
use tp_abi::errno::{from_reply, reply};
use tp_abi::wire::{Address, Ip, NAME_MAX};

const VERSION: u8 = 5;
const NO_PASSWORD: u8 = 0;
const GREETING: [u8; 3] = [VERSION, 1, NO_PASSWORD];
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Bytes of a request besides the address.
const AROUND: usize = 6;
/// The longest request: one with a name, which has its length in front.
const REQUEST_MAX: usize = AROUND + 1 + NAME_MAX;
/// Bytes of a reply up to the first one of the address.
const REPLY_START: usize = 5;

/// Where to, as the server is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// An address.
    Ip(Ip),
    /// A name, which the server resolves.
    Name(&'a [u8]),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server is connected to the target, and the socket to the server.
    Connected,
    /// The call fails with this errno.
    Failed(c_int),
    /// The gate is to try.
    Unsettled,
    /// The gate is to try, and nobody to wait for it: the call ends with this errno, as connect(2) does that was
    /// interrupted (`EINTR`) or took longer than the socket's own limit (`EINPROGRESS`).
    Late(c_int),
}

/// Connects the socket, which blocks and has this cookie, to the server at `server`, a socket address, and by it to the target.
pub(crate) fn connect(
    fd: c_int,
    cookie: u64,
    (server, kind): (&[u8], Kind),
    target: Target<'_>,
    port: u16,
) -> Outcome {
    // Of one that is under way, connected or failed the gate knows what is to be said, and there the kernel ends what has a clock
    // of its own.
    if !sys::is_fresh(fd) || has_own_clock(fd) {
        return Outcome::Unsettled;
    }
    match sys::connect(fd, server) {
        Ok(()) => {}
        // It is on its way or connected already, and the kernel has said so.
        Err(Errno(errno @ (libc::EISCONN | libc::EALREADY))) => return Outcome::Failed(errno),
        Err(Errno(errno)) => {
            take_back(fd);
            return left_to_the_gate(errno);
        }
    }
    let patience = Patience::of_connect(fd);
    let said = talk(fd, cookie, kind, target, port);
    if still(fd, cookie).is_err() {
        // Another thread has closed it, and whatever has its number now is none of our business.
        core::mem::forget(patience);
        return Outcome::Failed(libc::EBADF);
    }
    drop(patience);
    let together = matches!(kind, Kind::Launcher(_));
    if said == Ok(reply::SUCCEEDED) {
        return Outcome::Connected;
    }
    take_back(fd);
    match said {
        Ok(reply::COMMAND_NOT_SUPPORTED) if together => Outcome::Unsettled,
        Ok(code) => {
            // What tp alone says (errno values) is no other server's meaning.
            let means = together || code < reply::ERRNO;
            Outcome::Failed(from_reply(if means { code } else { reply::GENERAL_FAILURE }))
        }
        Err(Errno(SHUT)) => Outcome::Failed(SHUT),
        Err(Errno(errno)) => left_to_the_gate(errno),
    }
}

/// Whether the kernel is to give the connection up, or to send what is said, at another time than usually (tcp(7)).
fn has_own_clock(fd: c_int) -> bool {
    /// The kernel's own number of retries of a SYN.
    const RETRIES: c_int = 6;
    let option = |name| sys::option::<c_int>(fd, libc::IPPROTO_TCP, name);
    option(libc::TCP_USER_TIMEOUT) != Some(0)
        || option(libc::TCP_SYNCNT) != Some(RETRIES)
        || option(libc::TCP_CORK) != Some(0)
}

/// What connect(2) says when another thread shuts the socket down meanwhile.
const SHUT: c_int = libc::ECONNRESET;

const fn left_to_the_gate(errno: c_int) -> Outcome {
    match errno {
        libc::EINTR => Outcome::Late(libc::EINTR),
        libc::EAGAIN | libc::EINPROGRESS => Outcome::Late(libc::EINPROGRESS),
        _ => Outcome::Unsettled,
    }
}

/// Leaves the socket as it was. The kernel notes an error for what it cut off, of which connect(2) would not have told.
pub(crate) fn take_back(fd: c_int) {
    sys::disconnect(fd);
    let _none_of_the_programs = sys::option::<c_int>(fd, libc::SOL_SOCKET, libc::SO_ERROR);
}

/// Greeting and request, each with its answer, one after the other: servers may take what comes with the greeting for a part of
/// it. The launcher takes them `together`. Gives the reply's code.
fn talk(fd: c_int, cookie: u64, kind: Kind, target: Target<'_>, port: u16) -> Result<u8, Errno> {
    let sign = match kind {
        Kind::Launcher(sign) => Some(sign),
        Kind::Plain | Kind::TakesNames => None,
    };
    let mut room = [0; GREETING.len() + REQUEST_MAX];
    let message = message(&mut room, target, port).ok_or(Errno(libc::EPROTO))?;
    let (greeting, request) = message.split_at_checked(GREETING.len()).ok_or(Errno(libc::EPROTO))?;
    send(fd, if sign.is_some() { message } else { greeting })?;
    let mut method = [0; 2];
    receive(fd, &mut method)?;
    if method != [VERSION, NO_PASSWORD] {
        return Err(Errno(libc::EPROTO));
    }
    if sign.is_none() {
        still(fd, cookie)?;
        send(fd, request)?;
    }
    let mut start = [0; REPLY_START];
    receive(fd, &mut start)?;
    let [version, code, _, form, first] = start;
    // The first byte of the address has been read.
    let rest = match form {
        IPV4 => 4 + 2 - 1,
        IPV6 => 16 + 2 - 1,
        NAME => usize::from(first).saturating_add(2),
        _ => return Err(Errno(libc::EPROTO)),
    };
    if version != VERSION {
        return Err(Errno(libc::EPROTO));
    }
    still(fd, cookie)?;
    let mut bound = [0; 1 + NAME_MAX + 2];
    receive(fd, bound.get_mut(..rest).ok_or(Errno(libc::EPROTO))?)?;
    let shown = || [first].into_iter().chain(bound);
    match sign {
        // Somebody else has the launcher's port.
        Some(sign) if form != IPV6 || !sign.into_iter().eq(shown().take(sign.len())) => {
            Err(Errno(libc::EPROTO))
        }
        _ => Ok(code),
    }
}

/// Another thread may have closed the descriptor meanwhile, and its number be another file's.
fn still(fd: c_int, cookie: u64) -> Result<(), Errno> {
    match sys::cookie(fd) {
        Some(now) if now == cookie => Ok(()),
        _ => Err(Errno(libc::EBADF)),
    }
}

/// The greeting and the request.
fn message<'r>(
    room: &'r mut [u8; GREETING.len() + REQUEST_MAX],
    target: Target<'_>,
    port: u16,
) -> Option<&'r [u8]> {
    let length;
    let (kind, address): (u8, &[u8]) = match &target {
        Target::Ip(Ip::V4(ip)) => (IPV4, ip),
        Target::Ip(Ip::V6(ip)) => (IPV6, ip),
        Target::Name(name) => (NAME, name),
    };
    let counted: &[u8] = match target {
        Target::Name(name) => {
            length = [u8::try_from(name.len()).ok()?];
            &length
        }
        Target::Ip(_) => &[],
    };
    let parts = [&GREETING[..], &[VERSION, CONNECT, 0, kind], counted, address, &port.to_be_bytes()];
    let mut used = 0_usize;
    for (to, from) in room.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
        used = used.saturating_add(1);
    }
    room.get(..used)
}

fn send(fd: c_int, message: &[u8]) -> Result<(), Errno> {
    // So few bytes always fit the buffer of a socket that has sent nothing.
    match sys::send(fd, message) {
        Ok(sent) if sent == message.len() => Ok(()),
        Ok(_) => Err(Errno(libc::EPROTO)),
        Err(errno) => Err(errno),
    }
}

/// Fills `room`, and reads nothing else. The kernel goes on after a signal if the program wants it to, as with connect(2).
fn receive(fd: c_int, mut room: &mut [u8]) -> Result<(), Errno> {
    while !room.is_empty() {
        match sys::receive(fd, room) {
            Ok(0) if is_hung_up(fd) => return Err(Errno(libc::EPROTO)),
            Ok(0) => return Err(Errno(SHUT)),
            Ok(length) => room = room.get_mut(length..).unwrap_or_default(),
            // The server's doing, if anybody's.
            Err(Errno(libc::ECONNRESET)) => return Err(Errno(libc::EPROTO)),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Whether the end that was read is the server's, and not the program's own shutdown(2).
fn is_hung_up(fd: c_int) -> bool {
    const CLOSE_WAIT: u8 = 8;
    sys::option::<u8>(fd, libc::IPPROTO_TCP, libc::TCP_INFO) == Some(CLOSE_WAIT)
}

/// While it lives, receiving waits as long as connect(2) would, which goes by the limit for sending (socket(7)).
struct Patience {
    fd: c_int,
    before: Option<sys::Time>,
}

impl Patience {
    fn of_connect(fd: c_int) -> Self {
        let limit = |name| sys::option::<sys::Time>(fd, libc::SOL_SOCKET, name);
        let (connects, receives) = (limit(libc::SO_SNDTIMEO), limit(libc::SO_RCVTIMEO));
        let other = connects.filter(|connects| receives != Some(*connects));
        if let Some(connects) = &other {
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, connects);
        }
        Self { fd, before: receives.filter(|_| other.is_some()) }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            sys::set_option(self.fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, before);
        }
    }
}

/// Whether an address stands for a name that only the server resolves.
pub(crate) fn is_stand_in(address: Address) -> bool {
    let (first, bits) = tp_abi::env::STAND_INS;
    let [a, b] = first;
    let mask = u32::MAX.checked_shl(u32::BITS.wrapping_sub(bits)).unwrap_or(0);
    match address.ip {
        Ip::V4(ip) => (u32::from_be_bytes(ip) ^ u32::from_be_bytes([a, b, 0, 0])) & mask == 0,
        Ip::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(ip: [u8; 4]) -> Address {
        Address { ip: Ip::V4(ip), port: 80, scope: 0 }
    }

    #[test]
    fn requests_are_those_of_the_rfc() {
        let request_of = |target| {
            let mut room = [0; _];
            message(&mut room, target, 0x1234).unwrap().strip_prefix(&GREETING).unwrap().to_vec()
        };
        assert_eq!(request_of(Target::Ip(Ip::V4([10, 0, 0, 1]))), [5, 1, 0, 1, 10, 0, 0, 1, 0x12, 0x34]);
        let six = request_of(Target::Ip(Ip::V6([7; 16])));
        assert_eq!((&six[..5], six.len()), (&[5, 1, 0, 4, 7][..], 22));
        assert_eq!(request_of(Target::Name(b"web")), [5, 1, 0, 3, 3, b'w', b'e', b'b', 0x12, 0x34]);
        assert_eq!(request_of(Target::Name(&[b'a'; NAME_MAX])).len(), REQUEST_MAX);
    }

    #[test]
    fn stand_ins_are_told_from_other_addresses() {
        assert!(is_stand_in(v4([198, 18, 0, 1])) && is_stand_in(v4([198, 19, 255, 254])));
        assert!(!is_stand_in(v4([198, 20, 0, 1])) && !is_stand_in(v4([198, 17, 0, 1])));
    }
}
