//! Socket calls of the gate and of the shim's listener.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr, accept4, bind, listen, recvmsg, sendmsg, socket,
};

/// States of a TCP socket that the gate tells apart (include/net/tcp_states.h, reported by `TCP_INFO`, tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// A SYN was sent and nothing came back: the app waits at the park.
    SynSent,
    /// Neither connected nor on the way.
    Closed,
    /// Any other state.
    Other(u8),
}

const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// The state of a TCP socket.
///
/// # Errors
/// Those of getsockopt(2); `EOPNOTSUPP` or `ENOPROTOOPT` where the socket is not TCP.
pub fn tcp_state(socket: &impl AsFd) -> io::Result<TcpState> {
    // Only the first byte of struct tcp_info is wanted, and the kernel copies as much as is asked for.
    let state: u8 = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(match state {
        TCP_SYN_SENT => TcpState::SynSent,
        TCP_CLOSE => TcpState::Closed,
        other => TcpState::Other(other),
    })
}

/// What a TCP socket is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not connected: connect() begins anew.
    Fresh,
    /// On its way or connected: connect() says `EALREADY` or `EISCONN`.
    Busy,
    /// A failure or the far end closed both its directions, and nobody has taken it back since.
    Ended,
}

/// The stage of a TCP socket. poll(2) tells it: a socket without a connection hangs up.
///
/// # Errors
/// Those of poll(2).
pub fn stage(socket: &impl AsFd) -> io::Result<Stage> {
    let mut polled = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the pointer is to one pollfd that outlives the call, which waits for nothing.
    check(unsafe { libc::poll(&raw mut polled, 1, 0) })?;
    let hung_up = polled.revents & libc::POLLHUP != 0;
    Ok(match (hung_up, polled.revents & libc::POLLRDHUP != 0) {
        (false, _) => Stage::Busy,
        (true, false) => Stage::Fresh,
        (true, true) => Stage::Ended,
    })
}

/// Whether nothing will come to the socket any more (`POLLRDHUP` of poll(2)).
pub fn is_shut(socket: &impl AsFd) -> bool {
    let mut polled = libc::pollfd { fd: socket.as_fd().as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the pointer is to one pollfd that outlives the call, which waits for nothing.
    check(unsafe { libc::poll(&raw mut polled, 1, 0) }).is_ok() && polled.revents & libc::POLLRDHUP != 0
}

/// Shuts both directions down (shutdown(2)).
///
/// # Errors
/// Those of shutdown(2): `ENOTCONN` for a socket that is not connected, which is shut all the same.
pub fn shut(socket: &OwnedFd) -> io::Result<()> {
    Ok(nix::sys::socket::shutdown(socket.as_raw_fd(), Shutdown::Both)?)
}

/// The error that waits at a socket, which it does no more after this (`SO_ERROR`, socket(7)).
///
/// # Errors
/// Those of getsockopt(2).
pub fn take_error(socket: &impl AsFd) -> io::Result<i32> {
    get_option(socket, libc::SOL_SOCKET, libc::SO_ERROR)
}

/// Whether an error says that this process or the system has no more descriptors or memory for sockets.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| exhausted.contains(&errno))
}

/// Makes the kernel drop every packet to this socket whose TTL (IPv4) or hop limit (IPv6) is under 255: those of
/// loopback start at 64, so a listener with this set never answers a SYN (ip(7) `IP_MINTTL`, ipv6(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub fn drop_all_packets(socket: &impl AsFd, v6: bool) -> io::Result<()> {
    const IPV6_MINHOPCOUNT: libc::c_int = 73;
    if v6 {
        set_option(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MINTTL, 255)
    }
}

/// Has a listener give out connections only when something has been said on them (tcp(7) `TCP_DEFER_ACCEPT`), or after a second.
///
/// # Errors
/// Those of setsockopt(2).
pub fn defer_accept(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1)
}

/// Takes a socket back to "not connected" and wakes whoever waits for it with an error (connect(2), `AF_UNSPEC`).
///
/// # Errors
/// Those of connect(2).
pub fn disconnect(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: sockaddr is plain data for which all zeroes is a value; AF_UNSPEC is 0.
    let unspecified: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the pointer is to a sockaddr of `length` bytes that outlives the call; the descriptor is borrowed.
    check(unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const unspecified, length) }).map(drop)
}

/// The kernel's own number for a socket, unique for the life of the system and the same for every descriptor of it
/// (`SO_COOKIE`, socket(7)).
///
/// # Errors
/// Those of getsockopt(2).
pub fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    get_option(socket, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// What the rules of [`tp_abi::decide`] ask about a socket.
///
/// # Errors
/// Those of getsockopt(2): `ENOTSOCK` for what is none.
pub fn facts(socket: &impl AsFd) -> io::Result<tp_abi::decide::Socket> {
    let option = |name| get_option(socket, libc::SOL_SOCKET, name);
    Ok(tp_abi::decide::Socket {
        domain: option(libc::SO_DOMAIN)?,
        kind: option(libc::SO_TYPE)?,
        protocol: option(libc::SO_PROTOCOL)?,
    })
}

/// How long a call on the socket waits (`SO_RCVTIMEO` and `SO_SNDTIMEO`, socket(7)); [`None`] for as long as it takes.
///
/// # Errors
/// Those of getsockopt(2).
pub fn limit(socket: &impl AsFd, option: libc::c_int) -> io::Result<Option<std::time::Duration>> {
    let limit: libc::timeval = get_option(socket, libc::SOL_SOCKET, option)?;
    let seconds = std::time::Duration::from_secs(limit.tv_sec.unsigned_abs());
    let limit = seconds + std::time::Duration::from_micros(limit.tv_usec.unsigned_abs());
    Ok((!limit.is_zero()).then_some(limit))
}

/// The process and user at the other end of an `AF_UNIX` connection, as they were at connect time (`SO_PEERCRED`).
///
/// # Errors
/// Those of getsockopt(2).
pub fn peer(socket: &impl AsFd) -> io::Result<libc::ucred> {
    get_option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED)
}

/// A listening `AF_UNIX` `SOCK_SEQPACKET` socket at `path`.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2); `ENAMETOOLONG` for a path over 107 bytes (unix(7)).
pub fn listen_seqpacket(path: &std::path::Path) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// Accepts one connection, non-blocking and close-on-exec.
///
/// # Errors
/// Those of accept(2).
pub fn accept(listener: RawFd) -> io::Result<OwnedFd> {
    let fd = accept4(listener, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4 just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that is good for nothing but to be given up when there is no other.
///
/// # Errors
/// Those of socket(2).
pub fn reserve() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Receives one message and the first descriptor that came with it; further ones are closed. None comes where this
/// process has no room for one.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    receive_all(socket, buffer).map(|(length, received)| (length, received.into_iter().next()))
}

/// Receives one message and the descriptors that came with it, as many as this process has room for.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive_all(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    // As many as one message can have (SCM_MAX_FD, unix(7)), so that none is installed and not seen here.
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket,
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    let mut received = Vec::new();
    // An error is MSG_CTRUNC: the kernel had no descriptor number for what came.
    for part in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel just installed these descriptors for us, each once; owning them closes the unused.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, received))
}

/// Sends one message with descriptors; a message of a connection that nothing was sent on always has room.
///
/// # Errors
/// Those of sendmsg(2).
pub fn reply(socket: RawFd, message: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    send(socket, message, descriptors).map(drop)
}

/// Sends what there is room for of a message, with descriptors; its length.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(socket: RawFd, message: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let descriptors: Vec<RawFd> = descriptors.iter().map(OwnedFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(socket, &[IoSlice::new(message)], control, flags, None)?)
}

fn get_option<T: Copy>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    // SAFETY: callers use T that is plain data (integers, ucred), for which all zeroes is a value.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes, which is what the kernel is told.
    check(unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is readable for `length` bytes and outlives the call.
    check(unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length)
    })
    .map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
