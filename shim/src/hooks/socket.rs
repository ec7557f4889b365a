//! socket(2), getpeername(2), getsockopt(2) and setsockopt(2): a socket that can go by the gate, and what a program is
//! told about it.
//!
//! The kernel knows the park, not where the program wanted to go, and knows why the launcher made a socket fail, not
//! why the far end did. The launcher knows both, by the socket's cookie.

use super::connect::{bytes, facts, why};
use crate::ask::{Slip, ask};
use crate::config::{self, Config};
use crate::{real, relays, sys};
use core::ffi::{c_int, c_void};
use libc::{sockaddr as Sockaddr, socklen_t};
use tp_abi::decide::{self, Fit};
use tp_abi::sockaddr::{self, ROOM};
use tp_abi::wire::{Address, Answer, Question};

/// MPTCP (protocol 262, mptcp(7) of Linux) falls back to TCP with a peer that does not speak it, so a program that asks
/// for it must live with TCP; and TCP is what the gate can open.
#[unsafe(no_mangle)]
unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let protocol = if is_internet(domain) && protocol == libc::IPPROTO_MPTCP && config::get().is_some() {
        libc::IPPROTO_TCP
    } else {
        protocol
    };
    // SAFETY: three numbers.
    unsafe { real::socket(domain, kind, protocol) }
}

const fn is_internet(family: c_int) -> bool {
    matches!(family, libc::AF_INET | libc::AF_INET6)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getpeername(fd: c_int, address: *mut Sockaddr, length: *mut socklen_t) -> c_int {
    let before = if length.is_null() {
        0
    } else {
        // SAFETY: not null, so the caller's promise is that it can be read.
        unsafe { length.read() }
    };
    // SAFETY: the caller's promise.
    let result = unsafe { real::getpeername(fd, address, length) };
    if result == 0
        && let Some(config) = config::get()
    {
        let mut room = [0; ROOM];
        // SAFETY: the kernel has just written through both pointers.
        let written = unsafe { bytes(address, (*length).min(before)) };
        if let Some(peer) = true_peer(config, fd, written, &mut room) {
            // SAFETY: the kernel has just written through both pointers: the caller's buffer has `before` bytes.
            unsafe { give(peer, address, before, length) };
        }
    }
    result
}

/// Writes an address as the kernel does: as much as fits, and its whole length.
///
/// # Safety
/// `address` must point at `room` writable bytes, and `length` must be writable.
pub(super) unsafe fn give(bytes: &[u8], address: *mut Sockaddr, room: socklen_t, length: *mut socklen_t) {
    let fits = bytes.len().min(room as usize);
    // SAFETY: the caller's promise.
    unsafe {
        address.cast::<u8>().copy_from(bytes.as_ptr(), fits);
        length.write(bytes.len() as socklen_t);
    }
}

/// Whether a socket with this peer comes by the launcher.
pub(super) fn is_ours(config: &Config, fd: c_int, peer: Address) -> bool {
    config.is_gate(peer) || behind_relay(config, fd, peer).is_some()
}

/// The destination of a datagram socket that is connected to a relay.
fn behind_relay(config: &Config, fd: c_int, peer: Address) -> Option<Address> {
    let datagrams = || sys::option(fd, libc::SOL_SOCKET, libc::SO_TYPE) == Some(libc::SOCK_DGRAM);
    (decide::may_be_relay(peer) && datagrams()).then(|| relays::behind(config, peer)).flatten()
}

/// Where the program asked to go, if the socket's peer is the gate, the SOCKS5 server or a relay. `written` is what the kernel said, as far as the
/// program had room for it.
fn true_peer<'r>(config: &Config, fd: c_int, written: &[u8], room: &'r mut [u8; ROOM]) -> Option<&'r [u8]> {
    let kernels = match sockaddr::read(written) {
        Some(whole) => whole,
        None if sockaddr::family(written).is_some_and(|family| !is_internet(family)) => return None,
        None => {
            let length = sys::peer(fd, room)?;
            sockaddr::read(room.get(..length)?)?
        }
    };
    let v6_spelling = kernels.family == libc::AF_INET6;
    if !config.is_gate(kernels.address) && !config.is_server(kernels.address) {
        return sockaddr::spell(behind_relay(config, fd, kernels.address)?, v6_spelling, room);
    }
    let mut slip: Slip = [0; _];
    match ask(config, &Question::Peer { cookie: sys::cookie(fd)? }, None, &mut slip) {
        Ok(Answer::Peer(asked)) => sockaddr::spell(asked, v6_spelling, room),
        _ => None,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { real::getsockopt(fd, level, name, value, length) };
    if (result, level, name) == (0, libc::SOL_SOCKET, libc::SO_ERROR) {
        // SAFETY: the kernel has just written through `length`, and `*length` bytes through `value`.
        unsafe {
            if *length as usize == size_of::<c_int>() {
                let told = value.cast::<c_int>().read_unaligned();
                value.cast::<c_int>().write_unaligned(true_error(fd, told));
            }
        }
    }
    result
}

/// The far end's errno instead of the gate's; the kernel's where the launcher knows of none.
fn true_error(fd: c_int, told: c_int) -> c_int {
    if !decide::is_verdict(told) || !facts(fd).is_some_and(decide::Socket::is_tcp) {
        return told;
    }
    let Some((config, cookie)) = config::get().zip(sys::cookie(fd)) else { return told };
    why(config, cookie).ok().flatten().unwrap_or(told)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    // SAFETY: the caller's promise: `value` has `length` bytes.
    let unfit = || unfit(fd, level, name, unsafe { bytes(value.cast(), length) });
    if config::get().is_some()
        && unfit()
        && facts(fd).is_some_and(|socket| socket.is_tcp() || socket.is_udp())
    {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { real::setsockopt(fd, level, name, value, length) }
}

fn unfit(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> bool {
    match decide::option(level, name, value) {
        Fit::Fits => false,
        Fit::Unfit => true,
        Fit::UnfitDevice(device) => sys::is_device(fd, device),
    }
}
