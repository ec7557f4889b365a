//! getsockname(2): the address from which a program's connection comes.
//!
//! The kernel knows loopback, by which the socket is joined with the launcher; the far end sees the pod's address, and
//! so must a program that tells others where it can be reached (FTP, Redis Cluster, "connect a datagram socket and look
//! at its name"). The port stays the socket's own.
//!
//! Invariant: a socket that was bound to an address keeps it, and one that is not on its way to the cluster, or whose
//! launcher knows no other address, is as the kernel says.

use super::connect::{bytes, facts};
use super::socket::{give, is_ours};
use crate::ask::{Slip, ask};
use crate::config::{self, Config};
use crate::{real, sys};
use core::ffi::c_int;
use libc::{sockaddr as Sockaddr, socklen_t};
use tp_abi::decide;
use tp_abi::sockaddr::{self, ROOM};
use tp_abi::wire::{Address, Answer, Ip, Question};

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockname(fd: c_int, address: *mut Sockaddr, length: *mut socklen_t) -> c_int {
    // SAFETY: if not null, the caller's promise is that it can be read.
    let before = unsafe { length.as_ref() }.copied().unwrap_or(0);
    // SAFETY: the caller's promise.
    let result = unsafe { real::getsockname(fd, address, length) };
    if result == 0
        && let Some(config) = config::get()
        && config::may_have_connected()
    {
        let mut room = [0; ROOM];
        // SAFETY: the kernel has just written through both pointers.
        let written = unsafe { bytes(address, (*length).min(before)) };
        if let Some(name) = true_name(config, fd, written, &mut room) {
            // SAFETY: as above; the caller's buffer has `before` bytes.
            unsafe { give(name, address, before, length) };
        }
    }
    result
}

/// The socket's name in the pod, if it has one. `written` is what the kernel said, as far as there was room.
fn true_name<'r>(config: &Config, fd: c_int, written: &[u8], room: &'r mut [u8; ROOM]) -> Option<&'r [u8]> {
    // A buffer too short for an address is no question of where somebody is.
    let kernels = sockaddr::read(written)?;
    if !decide::is_usual_source(kernels.address.ip) || !is_to_the_cluster(config, fd) {
        return None;
    }
    let question = Question::Local { v6: matches!(kernels.address.ip, Ip::V6(_)) };
    let mut slip: Slip = [0; _];
    match ask(config, &question, None, &mut slip) {
        Ok(Answer::Local(own)) => {
            let own = Address { port: kernels.address.port, ..own };
            sockaddr::spell(own, kernels.family == libc::AF_INET6, room)
        }
        _ => None,
    }
}

fn is_to_the_cluster(config: &Config, fd: c_int) -> bool {
    const SYN_SENT: u8 = 2;
    let mut room = [0; ROOM];
    if let Some(length) = sys::peer(fd, &mut room) {
        let peer = room.get(..length).and_then(sockaddr::read);
        return peer.is_some_and(|peer| is_ours(config, fd, peer.address));
    }
    // On its way it has no peer for the kernel yet, and the launcher knows whether it is one of its own.
    if !facts(fd).is_some_and(decide::Socket::is_tcp)
        || sys::option::<u8>(fd, libc::IPPROTO_TCP, libc::TCP_INFO) != Some(SYN_SENT)
    {
        return false;
    }
    let Some(cookie) = sys::cookie(fd) else { return false };
    let mut slip: Slip = [0; _];
    matches!(ask(config, &Question::Peer { cookie }, None, &mut slip), Ok(Answer::Peer(_)))
}
