//! sendto(2), sendmsg(2) and sendmmsg(2): data that names its own destination.
//!
//! Datagrams are not carried, so one to an address that is not the machine's own is refused: it would leave for the
//! real network. TCP fast open (`MSG_FASTOPEN`, tcp(7)) connects by sending; it goes by the gate as connect() does
//! and then sends as if the connection had been there.

use super::connect::{by_gate, bytes, facts};
use super::fail;
use crate::config::{self, Config};
use crate::decide::{self, Verdict};
use crate::note::note;
use crate::real;
use crate::sockaddr::{self, Spelled};
use core::ffi::{c_int, c_uint, c_void};
use libc::{mmsghdr, msghdr, size_t, sockaddr as Sockaddr, socklen_t, ssize_t};

/// What is done with data that has an address.
enum Way {
    /// The original as it is.
    Pass,
    /// Fail with this errno.
    Refuse(c_int),
    /// Connect to the address, then send without it.
    Open,
}

/// # Safety
/// `to` must be null or point at `length` readable bytes.
unsafe fn way(config: &Config, fd: c_int, to: *const Sockaddr, length: socklen_t, flags: c_int) -> Way {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(to, length) };
    if bytes.is_empty() {
        return Way::Pass;
    }
    let Some(socket) = facts(fd) else { return Way::Pass };
    let Some(spelled) = destination(socket.domain, bytes) else { return Way::Pass };
    match decide::send(socket, spelled, flags & libc::MSG_FASTOPEN != 0) {
        Verdict::Pass(_) => Way::Pass,
        Verdict::Carry { .. } => Way::Open,
        Verdict::Refuse(errno) => {
            note(config, |line| line.text(b"send refused: ").address(spelled.address));
            Way::Refuse(errno)
        }
    }
}

/// An IPv4 datagram socket takes `AF_UNSPEC` for `AF_INET` (ip(7)), so it must be read as such here.
fn destination(domain: c_int, bytes: &[u8]) -> Option<Spelled> {
    if domain == libc::AF_INET && sockaddr::family(bytes) == Some(libc::AF_UNSPEC) {
        let mut room = [0; sockaddr::ROOM];
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        let [low, high] = (libc::AF_INET as u16).to_ne_bytes();
        let [first, second, ..] = &mut room;
        (*first, *second) = (low, high);
        return sockaddr::read(room.get(..bytes.len())?);
    }
    sockaddr::read(bytes)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendto(
    fd: c_int,
    data: *const c_void,
    size: size_t,
    flags: c_int,
    to: *const Sockaddr,
    length: socklen_t,
) -> ssize_t {
    // SAFETY: for each call here, the caller's promise, that of sendto(2).
    if !to.is_null()
        && let Some(config) = config::get()
    {
        // SAFETY: as above.
        match unsafe { way(config, fd, to, length, flags) } {
            Way::Pass => {}
            Way::Refuse(errno) => return fail(errno) as ssize_t,
            Way::Open => {
                // SAFETY: as above.
                if unsafe { by_gate(fd, to, length) } != 0 {
                    return -1;
                }
                let flags = flags & !libc::MSG_FASTOPEN;
                // SAFETY: as above; no address is allowed.
                return unsafe { real::sendto(fd, data, size, flags, core::ptr::null(), 0) };
            }
        }
    }
    // SAFETY: as above.
    unsafe { real::sendto(fd, data, size, flags, to, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise: null or a message.
    let header = unsafe { message.as_ref() };
    if let Some(header) = header
        && !header.msg_name.is_null()
        && let Some(config) = config::get()
    {
        // SAFETY: the caller's promise about the message's address.
        match unsafe { way(config, fd, header.msg_name.cast(), header.msg_namelen, flags) } {
            Way::Pass => {}
            Way::Refuse(errno) => return fail(errno) as ssize_t,
            // SAFETY: the caller's promise.
            Way::Open => return unsafe { open_and_send(fd, header, flags) },
        }
    }
    // SAFETY: the caller's promise.
    unsafe { real::sendmsg(fd, message, flags) }
}

/// # Safety
/// As for sendmsg(2).
unsafe fn open_and_send(fd: c_int, header: &msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's promise.
    if unsafe { by_gate(fd, header.msg_name.cast(), header.msg_namelen) } != 0 {
        return -1;
    }
    // SAFETY: a copy of integers and pointers.
    let mut bare = unsafe { core::ptr::read(header) };
    bare.msg_name = core::ptr::null_mut();
    bare.msg_namelen = 0;
    // SAFETY: the caller's promise; no address is allowed.
    unsafe { real::sendmsg(fd, &raw const bare, flags & !libc::MSG_FASTOPEN) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    let mut allowed = count;
    if !messages.is_null()
        && let Some(config) = config::get()
    {
        // The kernel takes no more than this many (UIO_MAXIOV), so no more are looked at.
        for index in 0..count.min(1024) {
            // SAFETY: the caller's promise: `count` messages.
            let message = unsafe { &mut *messages.add(index as usize) };
            let header = &message.msg_hdr;
            if header.msg_name.is_null() {
                continue;
            }
            // SAFETY: the caller's promise about the message's address.
            match unsafe { way(config, fd, header.msg_name.cast(), header.msg_namelen, flags) } {
                Way::Pass => {}
                Way::Refuse(errno) if index == 0 => return fail(errno),
                Way::Open if index == 0 => {
                    // SAFETY: the caller's promise.
                    let sent = unsafe { open_and_send(fd, header, flags) };
                    let Ok(length) = c_uint::try_from(sent) else { return -1 };
                    message.msg_len = length;
                    return 1;
                }
                // sendmmsg(2) stops at the first that fails and says how many went before it.
                Way::Refuse(_) | Way::Open => {
                    allowed = index;
                    break;
                }
            }
        }
    }
    // SAFETY: the caller's promise; fewer messages are allowed.
    unsafe { real::sendmmsg(fd, messages, allowed, flags) }
}
