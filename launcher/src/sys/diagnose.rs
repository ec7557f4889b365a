//! The sockets of a network namespace, as its kernel lists them (sock_diag(7)).

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

// linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u32 = 72;
const INET_DIAG_COOKIE: usize = 44;
const INET_DIAG_UID: usize = 64;
const INET_DIAG_INODE: usize = 68;
const INET_DIAG_MSG: usize = 72;
const INET_DIAG_SKV6ONLY: u16 = 11;
const ATTRIBUTE_HEADER: usize = 4;
// linux/unix_diag.h
const UNIX_REQUEST: u32 = 40;
const UNIX_DIAG_MSG: usize = 16;
const UNIX_DIAG_NAME: u16 = 0;
const UDIAG_SHOW_NAME: u32 = 1;

/// What a socket is at (net/tcp_states.h); of UDP there are the unconnected ones, which are `CLOSE`, and the others.
pub(crate) mod state {
    /// Bits of `ESTABLISHED` to `FIN_WAIT2` and of `CLOSE_WAIT` to `LAST_ACK`.
    pub(super) const CONNECTED: u32 = 0b11_0011_1110;
    pub(crate) const SYN_SENT: u8 = 2;
    pub(crate) const SYN_RECV: u8 = 3;
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const LISTEN: u8 = 10;
    pub(crate) const NEW_SYN_RECV: u8 = 12;
}

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its own address; IPv4 ones that an IPv6 socket has are as those of an IPv4 socket.
    pub(crate) own: SocketAddr,
    pub(crate) far: SocketAddr,
    pub(crate) state: u8,
    /// It is bound to all addresses of both families.
    pub(crate) is_dual: bool,
    /// Some process has a descriptor of it.
    pub(crate) is_held: bool,
    /// Its owner's user id.
    pub(crate) user: u32,
    /// `SO_COOKIE` (socket(7)).
    pub(crate) cookie: u64,
}

/// The cookies of all TCP sockets that are connected or about to be (`SO_COOKIE`, socket(7)). `socket` is a netlink socket of
/// the namespace.
///
/// # Errors
/// Those of send(2) and recv(2).
pub(crate) fn cookies(socket: &OwnedFd) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = question(family, Protocol::Tcp, libc::NLM_F_DUMP, state::CONNECTED, None);
        found.extend(all(socket, &question, |message| entry(message).map(|entry| entry.cookie))?);
    }
    Ok(found)
}

/// All sockets in that state. `socket` is a netlink socket of the namespace.
///
/// # Errors
/// Those of send(2) and recv(2).
pub(crate) fn list(socket: &OwnedFd, protocol: Protocol, state: u8) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let question = question(family, protocol, libc::NLM_F_DUMP, 1 << state, None);
        found.extend(all(socket, &question, entry)?);
    }
    Ok(found)
}

/// An abstract name of `AF_UNIX` (unix(7)), without its NUL, and the type of the socket that listens there.
pub(crate) type Abstract = (i32, Vec<u8>);

/// The abstract names at which somebody listens.
///
/// # Errors
/// Those of send(2) and recv(2).
pub(crate) fn abstract_listeners(socket: &OwnedFd) -> io::Result<BTreeSet<Abstract>> {
    let mut question = header(UNIX_REQUEST, libc::NLM_F_DUMP);
    question.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    question.extend((1_u32 << state::LISTEN).to_ne_bytes());
    question.extend([0; 4]);
    question.extend(UDIAG_SHOW_NAME.to_ne_bytes());
    question.resize(UNIX_REQUEST as usize, 0xff);
    Ok(all(socket, &question, abstract_name)?.into_iter().collect())
}

/// All answers to a question.
fn all<T>(socket: &OwnedFd, question: &[u8], parse: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    let mut room = vec![0; 64 * 1024];
    send(socket.as_raw_fd(), question, MsgFlags::empty())?;
    // The kernel fills its answers in as they are taken; none has to be waited for.
    loop {
        let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT)?;
        if !read(room.get(..length).unwrap_or_default(), parse, &mut found) {
            return Ok(found);
        }
    }
}

/// A socket that asks about this process's own namespace.
///
/// # Errors
/// Those of socket(2).
pub(crate) fn here() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?)
}

/// The TCP socket that would take a segment for `own` that comes from `far`.
///
/// # Errors
/// Those of send(2) and recv(2).
pub(crate) fn taker(socket: &OwnedFd, own: SocketAddr, far: SocketAddr) -> io::Result<Option<Entry>> {
    let family = if own.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let question = question(family, Protocol::Tcp, 0, u32::MAX, Some((own, far)));
    send(socket.as_raw_fd(), &question, MsgFlags::empty())?;
    let mut room = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT)?;
    let mut found: Vec<Entry> = Vec::new();
    read(room.get(..length).unwrap_or_default(), entry, &mut found);
    Ok(found.first().copied())
}

/// `struct nlmsghdr`.
fn header(length: u32, flags: i32) -> Vec<u8> {
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message
}

/// A request with a `struct inet_diag_req_v2`.
fn question(
    family: i32,
    protocol: Protocol,
    flags: i32,
    states: u32,
    ends: Option<(SocketAddr, SocketAddr)>,
) -> Vec<u8> {
    let protocol = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let mut message = header(REQUEST, flags);
    message.extend([family as u8, protocol as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    if let Some((own, far)) = ends {
        message.extend(own.port().to_be_bytes());
        message.extend(far.port().to_be_bytes());
        for ip in [own.ip(), far.ip()] {
            match ip {
                IpAddr::V4(ip) => message.extend([&ip.octets()[..], &[0; 12]].concat()),
                IpAddr::V6(ip) => message.extend(ip.octets()),
            }
        }
        // Any device, any cookie (INET_DIAG_NOCOOKIE).
        message.extend([0; 4]);
        message.extend([0xff; 8]);
    }
    message.resize(REQUEST as usize, 0);
    message
}

/// Reads answers of the kernel; whether there are more to come.
fn read<T>(mut messages: &[u8], parse: fn(&[u8]) -> Option<T>, found: &mut Vec<T>) -> bool {
    while let Some((length, rest)) = messages.split_first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        match rest.first_chunk().map(|kind| u16::from_ne_bytes(*kind)) {
            Some(SOCK_DIAG_BY_FAMILY) => {
                found.extend(messages.get(NLMSG_HEADER..length).and_then(parse));
            }
            Some(NLMSG_DONE | NLMSG_ERROR) | None => return false,
            Some(_) => {}
        }
        messages = messages.get(length.max(NLMSG_HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// A `struct inet_diag_msg` and its attributes.
fn entry(message: &[u8]) -> Option<Entry> {
    let family = libc::c_int::from(*message.first()?);
    let port = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let address = |at: usize, port| {
        let bytes = message.get(at..)?;
        Some(match family {
            libc::AF_INET => SocketAddr::from((*bytes.first_chunk::<4>()?, port)),
            libc::AF_INET6 => SocketAddr::from((*bytes.first_chunk::<16>()?, port)),
            _ => return None,
        })
    };
    let number = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let own = address(8, port(4)?)?;
    let v6_only = attribute(message.get(INET_DIAG_MSG..)?, INET_DIAG_SKV6ONLY);
    let v6_only = v6_only.is_some_and(|only| only.first() != Some(&0));
    Some(Entry {
        own: canonical(own),
        far: canonical(address(24, port(6)?)?),
        state: *message.get(1)?,
        is_dual: own.ip() == Ipv6Addr::UNSPECIFIED && !v6_only,
        is_held: number(INET_DIAG_INODE)? != 0,
        user: number(INET_DIAG_UID)?,
        // The lower half is the first one.
        cookie: u64::from(number(INET_DIAG_COOKIE)?) | u64::from(number(INET_DIAG_COOKIE + 4)?) << 32,
    })
}

/// An IPv4 address that an IPv6 socket has, as that of an IPv4 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A `struct unix_diag_msg` and its attributes, if the socket has an abstract name.
fn abstract_name(message: &[u8]) -> Option<Abstract> {
    let name = attribute(message.get(UNIX_DIAG_MSG..)?, UNIX_DIAG_NAME)?;
    Some((i32::from(*message.get(1)?), name.strip_prefix(b"\0")?.to_vec()))
}

/// What an attribute has in it.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((length, rest)) = attributes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_ne_bytes(*length)).max(ATTRIBUTE_HEADER);
        if rest.first_chunk().map(|kind| u16::from_ne_bytes(*kind)) == Some(wanted) {
            return attributes.get(ATTRIBUTE_HEADER..length);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, own: &[u8], far: &[u8], v6_only: Option<u8>) -> Vec<u8> {
        let mut bytes = (88_u32 + if v6_only.is_some() { 16 } else { 0 }).to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family as u8, state::LISTEN, 0, 0]);
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(80_u16.to_be_bytes());
        for address in [own, far] {
            bytes.extend(address);
            bytes.resize(bytes.len() + 16 - address.len(), 0);
        }
        bytes.resize(88, 0);
        if let Some(only) = v6_only {
            bytes.extend([5, 0, 8, 0, 7, 0, 0, 0, 5, 0, INET_DIAG_SKV6ONLY as u8, 0, only, 0, 0, 0]);
        }
        bytes
    }

    #[test]
    fn sockets_are_found_by_their_ends() {
        let mapped = |last| [&[0; 10][..], &[0xff, 0xff, 10, 0, 0, last]].concat();
        let answers = [
            message(libc::AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2], None),
            message(libc::AF_INET6, &mapped(3), &mapped(4), Some(0)),
            message(libc::AF_INET6, &[0; 16], &[0; 16], Some(0)),
            message(libc::AF_INET6, &[0; 16], &[0; 16], Some(1)),
        ];
        let mut found = Vec::new();
        assert!(read(&answers.concat(), entry, &mut found));
        let entry = |own: &str, far: &str, is_dual| Entry {
            own: own.parse().unwrap(),
            far: far.parse().unwrap(),
            state: state::LISTEN,
            is_dual,
            is_held: false,
            user: 0,
            cookie: 0,
        };
        let expected = [
            entry("10.0.0.1:40000", "10.0.0.2:80", false),
            entry("10.0.0.3:40000", "10.0.0.4:80", false),
            entry("[::]:40000", "[::]:80", true),
            entry("[::]:40000", "[::]:80", false),
        ];
        assert_eq!(found, expected);
        let mut done = 20_u32.to_ne_bytes().to_vec();
        done.extend(NLMSG_DONE.to_ne_bytes());
        assert!(!read(&done, super::entry, &mut found));
        assert!(read(&[], super::entry, &mut found));
    }

    #[test]
    fn the_kernel_tells_of_the_sockets_of_this_process() {
        let socket = here().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let known = |protocol, state, own| {
            list(&socket, protocol, state).unwrap().iter().any(|entry| entry.own == own)
        };
        assert!(known(Protocol::Tcp, state::LISTEN, own));
        assert!(known(Protocol::Udp, state::CLOSE, udp.local_addr().unwrap()));
        let far = "127.0.0.1:9".parse().unwrap();
        assert_eq!(taker(&socket, own, far).unwrap().unwrap().state, state::LISTEN);
        drop(listener);
        assert_eq!(taker(&socket, own, far).unwrap(), None);

        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("tp-test-{}", std::process::id());
        let at = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind_addr(&at).unwrap();
        assert!(abstract_listeners(&socket).unwrap().contains(&(libc::SOCK_STREAM, name.into_bytes())));
    }
}
