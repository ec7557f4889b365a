//! Ends the TCP connections of a namespace whose link has gone.
//!
//! A connect() that waits for an answer is not told that the way there has gone: its kernel tries again and again, for two
//! minutes. So each connection is destroyed (`SOCK_DESTROY`, sock_diag(7)): whoever waits has ECONNABORTED at once. A kernel without that (`CONFIG_INET_DIAG_DESTROY`) says so, and it waits.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{MsgFlags, recv};

use tp_netfilter::netlink::{self, Batch};

// linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// All states of linux/tcp_states.h but LISTEN (10), which is for nobody from outside, and TIME_WAIT (6), which is over.
const STATES: u32 = 0xfff & !(1 << 10 | 1 << 6);
/// Where `struct inet_diag_msg` and `struct inet_diag_req_v2` have their `struct inet_diag_sockid`, and its length.
const ID_IN_ANSWER: usize = 4;
const ID_LEN: usize = 48;

/// Ends every connection, open or not yet. `socket` is one of [`netlink::open`] with sock_diag's protocol in that
/// namespace.
///
/// # Errors
/// Those of netlink; connections that were found before are ended.
pub(super) fn all(socket: &OwnedFd) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = family as u8;
        for id in list(socket, family)? {
            let mut batch = Batch::default();
            batch.request(SOCK_DESTROY, 0, &request(family, &id), |_| {});
            // It may have ended by itself meanwhile.
            let _ = batch.send(socket);
        }
    }
    Ok(())
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, id: &[u8]) -> Vec<u8> {
    [&[family, libc::IPPROTO_TCP as u8, 0, 0], STATES.to_ne_bytes().as_slice(), id].concat()
}

/// What names each connection: `struct inet_diag_sockid`.
fn list(socket: &OwnedFd, family: u8) -> io::Result<Vec<Vec<u8>>> {
    let mut batch = Batch::default();
    batch.dump(SOCK_DIAG_BY_FAMILY, &request(family, &[0; ID_LEN]));
    batch.send(socket)?;
    let mut found = Vec::new();
    let mut room = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT)?;
        for (kind, body) in netlink::messages(room.get(..length).unwrap_or_default()) {
            if i32::from(kind) == libc::NLMSG_DONE || i32::from(kind) == libc::NLMSG_ERROR {
                return Ok(found);
            }
            found.extend(body.get(ID_IN_ANSWER..ID_IN_ANSWER + ID_LEN).map(<[u8]>::to_vec));
        }
    }
}
