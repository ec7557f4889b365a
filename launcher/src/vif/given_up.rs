//! Notices that a program has given a connection up while the pod still dials for it, so that the dial ends too.
//!
//! A socket that is closed in `SYN_SENT` tells nobody. So while there are dials that last, the sockets of the programs'
//! namespace that are in that state are listed (sock_diag(7)): a dial whose socket is not among them has nobody left.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv, send};
use tracing::{debug, warn};

use super::Network;
use super::connections::Ends;
use crate::gate::unmapped;

/// How soon a dial that lasts is looked at, and how often.
const EVERY: Duration = Duration::from_millis(100);
/// Looks take at most one part in this many of the time.
const SHARE: u32 = 20;

// linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h, net/tcp_states.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_HEADER: usize = 16;
const TCP_SYN_SENT: u32 = 2;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Looks until the network's end. `socket` is of the programs' namespace.
pub(super) async fn watch(network: Arc<Network>, socket: OwnedFd) {
    loop {
        tokio::select! {
            () = network.dialing.notified() => {}
            () = network.end.cancelled() => return,
        }
        let mut pause = EVERY;
        loop {
            // A dial is looked at when it has lasted for a while, and its socket is known to be there.
            let waiting = network.connections.waiting();
            if waiting.is_empty() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = network.end.cancelled() => return,
            }
            let began = Instant::now();
            match opening(&socket) {
                Ok(opening) => {
                    for (ends, sequence) in waiting.into_iter().filter(|(ends, _)| !opening.contains(ends)) {
                        network.connections.give_up(ends, sequence);
                    }
                }
                Err(error) => warn!(%error, "programs that give up are not noticed"),
            }
            pause = EVERY.max(began.elapsed() * SHARE);
        }
        debug!("no dial lasts");
    }
}

/// The ends of all TCP sockets that are being connected.
fn opening(socket: &OwnedFd) -> io::Result<HashSet<Ends>> {
    let mut found = HashSet::new();
    let mut room = vec![0; 64 * 1024];
    for family in [libc::AF_INET, libc::AF_INET6] {
        send(socket.as_raw_fd(), &question(family as u8), MsgFlags::empty())?;
        // The kernel fills its answers in as they are taken; none has to be waited for.
        loop {
            let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT)?;
            if !read(room.get(..length).unwrap_or_default(), &mut found) {
                break;
            }
        }
    }
    Ok(found)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn question(family: u8) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut message = 72_u32.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend((1_u32 << TCP_SYN_SENT).to_ne_bytes());
    message.resize(72, 0);
    message
}

/// Reads answers of the kernel; whether there are more to come.
fn read(mut messages: &[u8], found: &mut HashSet<Ends>) -> bool {
    while let Some((length, rest)) = messages.split_first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        match rest.first_chunk().map(|kind| u16::from_ne_bytes(*kind)) {
            Some(SOCK_DIAG_BY_FAMILY) => found.extend(messages.get(NLMSG_HEADER..).and_then(ends)),
            Some(NLMSG_DONE | NLMSG_ERROR) | None => return false,
            Some(_) => {}
        }
        messages = messages.get(length.max(NLMSG_HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// The addresses of a `struct inet_diag_msg`.
fn ends(message: &[u8]) -> Option<Ends> {
    let family = libc::c_int::from(*message.first()?);
    let port = |at: usize| Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?));
    let address = |at: usize, port| {
        let bytes = message.get(at..)?;
        Some(match family {
            libc::AF_INET => SocketAddr::from((*bytes.first_chunk::<4>()?, port)),
            libc::AF_INET6 => unmapped(SocketAddr::from((*bytes.first_chunk::<16>()?, port))),
            _ => return None,
        })
    };
    Some((address(8, port(4)?)?, address(24, port(6)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, app: &[u8], asked: &[u8]) -> Vec<u8> {
        let mut bytes = 88_u32.to_ne_bytes().to_vec();
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family as u8, 2, 0, 0]);
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(80_u16.to_be_bytes());
        for address in [app, asked] {
            bytes.extend(address);
            bytes.resize(bytes.len() + 16 - address.len(), 0);
        }
        bytes.resize(88, 0);
        bytes
    }

    #[test]
    fn sockets_are_found_by_their_ends() {
        let mapped = |last| [&[0; 10][..], &[0xff, 0xff, 10, 0, 0, last]].concat();
        let answers = [
            message(libc::AF_INET, &[10, 0, 0, 1], &[10, 0, 0, 2]),
            message(libc::AF_INET6, &mapped(3), &mapped(4)),
        ];
        let mut found = HashSet::new();
        assert!(read(&answers.concat(), &mut found));
        let ends = |app: &str, asked: &str| (app.parse().unwrap(), asked.parse().unwrap());
        assert_eq!(
            found,
            [ends("10.0.0.1:40000", "10.0.0.2:80"), ends("10.0.0.3:40000", "10.0.0.4:80")].into()
        );
        let mut done = 20_u32.to_ne_bytes().to_vec();
        done.extend(NLMSG_DONE.to_ne_bytes());
        assert!(!read(&done, &mut found));
        assert!(read(&[], &mut found));
    }
}
