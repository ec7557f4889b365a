//! sendto(2), sendmsg(2) and sendmmsg(2): data that names its own destination.
//!
//! Datagrams to the cluster go to a relay of the launcher instead, from the program's own socket. TCP fast open
//! (`MSG_FASTOPEN`, tcp(7)) connects by sending; it goes by the gate as connect() does and then sends as if the
//! connection had been there. What is neither is refused: it would leave for the real network.
//!
//! Invariant: the caller's messages are read only, as the kernel would; addresses and control messages are exchanged on
//! copies.

use super::connect::{by_gate, bytes};
use super::datagram::{Place, Way, bring_through, must_change, way};
use super::fail;
use crate::config::{self, Config};
use crate::real;
use core::ffi::{c_int, c_uint, c_void};
use libc::{mmsghdr, msghdr, size_t, sockaddr as Sockaddr, socklen_t, ssize_t};
use tp_abi::control;

/// Messages of one sendmmsg(2) that are sent at once: their copies take 3 kB of the caller's stack.
const AT_ONCE: usize = 32;

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
        match way(config, fd, unsafe { bytes(to, length) }, flags) {
            Way::Pass => {}
            Way::Refuse(errno) => return fail(errno) as ssize_t,
            Way::Relay(place) => {
                // SAFETY: as above, and the place is an address of its length.
                return unsafe { real::sendto(fd, data, size, flags, place.address(), place.length()) };
            }
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
    if let Some(header) = unsafe { message.as_ref() }
        && let Some(config) = config::get()
    {
        let (mut place, mut room) = (Place::NONE, control::Room([0; _]));
        // SAFETY: the caller's promise; place and room live until the message is sent.
        match unsafe { prepared(config, fd, header, flags, &mut place, &mut room) } {
            Prepared::AsIs => {}
            Prepared::Refused(errno) => return fail(errno) as ssize_t,
            // SAFETY: the caller's promise.
            Prepared::Open => return unsafe { open_and_send(fd, header, flags) },
            // SAFETY: the caller's promise, about a copy of its message.
            Prepared::Copy(copy) => return unsafe { real::sendmsg(fd, &raw const copy, flags) },
        }
    }
    // SAFETY: the caller's promise.
    unsafe { real::sendmsg(fd, message, flags) }
}

/// A message ready to be sent.
enum Prepared {
    /// As the caller gave it.
    AsIs,
    /// Not at all.
    Refused(c_int),
    /// By the gate.
    Open,
    /// This one instead.
    Copy(msghdr),
}

/// # Safety
/// As for sendmsg(2). A copy points to `place` and `room`.
unsafe fn prepared(
    config: &Config,
    fd: c_int,
    header: &msghdr,
    flags: c_int,
    place: &mut Place,
    room: &mut control::Room,
) -> Prepared {
    if header.msg_name.is_null() {
        // SAFETY: the caller's promise.
        if !unsafe { must_change(config, fd, header) } {
            return Prepared::AsIs;
        }
    } else {
        // SAFETY: the caller's promise about the message's address.
        match way(config, fd, unsafe { bytes(header.msg_name.cast(), header.msg_namelen) }, flags) {
            Way::Pass => return Prepared::AsIs,
            Way::Refuse(errno) => return Prepared::Refused(errno),
            Way::Open => return Prepared::Open,
            Way::Relay(relay) => *place = relay,
        }
    }
    // SAFETY: a copy of integers and pointers.
    let mut copy = unsafe { core::ptr::read(header) };
    if !header.msg_name.is_null() {
        copy.msg_name = place.address().cast_mut().cast();
        copy.msg_namelen = place.length();
    }
    // SAFETY: the caller's promise; the room outlives the copy.
    if !unsafe { bring_through(&mut copy, room) } {
        return Prepared::Refused(libc::ENOBUFS);
    }
    Prepared::Copy(copy)
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
    // The kernel takes no more than this many (UIO_MAXIOV), so no more are looked at.
    let given = match usize::try_from(count.min(1024)) {
        // SAFETY: the caller's promise: `count` messages.
        Ok(count) if !messages.is_null() => unsafe { core::slice::from_raw_parts_mut(messages, count) },
        _ => &mut [],
    };
    let bare =
        |message: &mmsghdr| message.msg_hdr.msg_name.is_null() && message.msg_hdr.msg_control.is_null();
    match config::get() {
        // SAFETY: the caller's promise.
        Some(config) if !given.iter().all(bare) => unsafe { send_many(config, fd, given, flags) },
        // SAFETY: the caller's promise.
        _ => unsafe { real::sendmmsg(fd, messages, count, flags) },
    }
}

/// # Safety
/// As for sendmmsg(2).
unsafe fn send_many(config: &Config, fd: c_int, given: &mut [mmsghdr], flags: c_int) -> c_int {
    let mut sent: c_int = 0;
    for chunk in given.chunks_mut(AT_ONCE) {
        let mut left = chunk;
        while !left.is_empty() {
            // SAFETY: the caller's promise.
            let (result, ends) = unsafe { send_some(config, fd, left, flags) };
            let Ok(more) = usize::try_from(result) else {
                // sendmmsg(2) stops at the first that fails and says how many went before it.
                return if sent > 0 { sent } else { -1 };
            };
            sent = sent.saturating_add(result);
            left = left.get_mut(more..).unwrap_or(&mut []);
            if ends || more == 0 {
                return sent;
            }
        }
    }
    sent
}

/// Sends the first of `given`, at most [`AT_ONCE`]: what sendmmsg(2) gives, and whether that is the end of it.
///
/// # Safety
/// As for sendmmsg(2).
unsafe fn send_some(config: &Config, fd: c_int, given: &mut [mmsghdr], flags: c_int) -> (c_int, bool) {
    let mut places = [Place::NONE; AT_ONCE];
    let mut room = control::Room([0; _]);
    // SAFETY: `mmsghdr` is integers and pointers, for which zero is a value.
    let mut copies: [mmsghdr; AT_ONCE] = unsafe { core::mem::zeroed() };
    let mut ready = 0_usize;
    let mut room_is_taken = false;
    for ((copy, place), message) in copies.iter_mut().zip(&mut places).zip(given.iter_mut()) {
        if room_is_taken && !message.msg_hdr.msg_control.is_null() {
            break;
        }
        // SAFETY: the caller's promise; places and room live until the copies are sent.
        copy.msg_hdr = match unsafe { prepared(config, fd, &message.msg_hdr, flags, place, &mut room) } {
            // SAFETY: a copy of integers and pointers.
            Prepared::AsIs => unsafe { core::ptr::read(&raw const message.msg_hdr) },
            Prepared::Copy(copy) => copy,
            Prepared::Refused(errno) if ready == 0 => return (fail(errno), true),
            Prepared::Open if ready == 0 => {
                // SAFETY: the caller's promise.
                let sent = unsafe { open_and_send(fd, &message.msg_hdr, flags) };
                let Ok(length) = c_uint::try_from(sent) else { return (-1, true) };
                message.msg_len = length;
                return (1, true);
            }
            Prepared::Refused(_) | Prepared::Open => break,
        };
        room_is_taken |= copy.msg_hdr.msg_control == (&raw mut room.0).cast::<c_void>();
        ready = ready.saturating_add(1);
    }
    // SAFETY: the caller's promise, about copies of its messages.
    let result = unsafe { real::sendmmsg(fd, copies.as_mut_ptr(), ready as c_uint, flags) };
    let sent = usize::try_from(result).unwrap_or(0);
    for (message, copy) in given.iter_mut().zip(&copies).take(sent) {
        message.msg_len = copy.msg_len;
    }
    (result, sent < ready)
}
