//! Socket calls made for a program on a copy of its socket: addresses and control messages are bytes, as the program gave
//! them or will get them.
//!
//! Nothing here waits, whatever the socket's own mode is.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What came with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of data, or of the whole datagram if `MSG_TRUNC` was among the flags.
    pub data: usize,
    /// Bytes of its source, which may be more than there was room for.
    pub name: usize,
    /// Bytes of control messages.
    pub control: usize,
    /// `MSG_*`.
    pub flags: i32,
}

/// Whether calls on the socket wait.
#[must_use]
pub fn waits(socket: &impl AsFd) -> bool {
    fcntl(socket, FcntlArg::F_GETFL).is_ok_and(|flags| flags & OFlag::O_NONBLOCK.bits() == 0)
}

/// connect(2) that does not wait. The mode is the socket's, and so other threads' too: it is changed for the moment of the
/// call alone.
///
/// # Errors
/// Those of connect(2); `EINPROGRESS` where it would wait.
pub fn connect(socket: &impl AsFd, address: &[u8]) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    let waits = !flags.contains(OFlag::O_NONBLOCK);
    if waits {
        fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    let length = address.len() as libc::socklen_t;
    // SAFETY: the pointer is to `length` readable bytes that outlive the call.
    let connected =
        check(unsafe { libc::connect(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), length) as isize });
    if waits {
        fcntl(socket, FcntlArg::F_SETFL(flags))?;
    }
    connected.map(drop)
}

/// sendmsg(2) that does not wait and raises no `SIGPIPE`. An empty address or control is none.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(socket: &impl AsFd, data: &[u8], to: &[u8], control: &[u8], flags: i32) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut header = header(&mut part);
    if !to.is_empty() {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len() as libc::socklen_t;
    }
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header's pointers are to slices of its lengths, which the kernel only reads here.
    check(unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, flags) })
}

/// recvmsg(2) that does not wait.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(
    socket: &impl AsFd,
    data: &mut [u8],
    name: &mut [u8],
    control: &mut [u8],
    flags: i32,
) -> io::Result<Received> {
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let mut header = header(&mut part);
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = name.len() as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header's pointers are to writable slices of its lengths.
    let data = check(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) })?;
    Ok(Received {
        data,
        name: header.msg_namelen as usize,
        control: header.msg_controllen,
        flags: header.msg_flags & !libc::MSG_CMSG_CLOEXEC,
    })
}

/// The socket's own address, in as much of `room` as it takes.
///
/// # Errors
/// Those of getsockname(2).
pub fn own_name<'r>(socket: &impl AsFd, room: &'r mut [u8]) -> io::Result<&'r [u8]> {
    let mut length = room.len() as libc::socklen_t;
    // SAFETY: the pointer is to `length` writable bytes.
    check(unsafe {
        libc::getsockname(socket.as_fd().as_raw_fd(), room.as_mut_ptr().cast(), &raw mut length) as isize
    })?;
    Ok(room.get(..length as usize).unwrap_or(room))
}

/// The address of the socket's peer, in as much of `room` as it takes.
///
/// # Errors
/// Those of getpeername(2).
pub fn peer_name<'r>(socket: &impl AsFd, room: &'r mut [u8]) -> io::Result<&'r [u8]> {
    let mut length = room.len() as libc::socklen_t;
    // SAFETY: the pointer is to `length` writable bytes.
    check(unsafe {
        libc::getpeername(socket.as_fd().as_raw_fd(), room.as_mut_ptr().cast(), &raw mut length) as isize
    })?;
    Ok(room.get(..length as usize).unwrap_or(room))
}

fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: the struct is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}
