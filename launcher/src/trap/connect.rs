//! connect(2), as `shim/src/hooks/connect.rs` has it.
//!
//! The kernel's connect() is called here, on a copy of the program's socket: to the park for TCP, to a relay for UDP. It
//! never waits here; where the program's socket does, the answer does: until the kernel has connected it to the gate, or the
//! gate has failed it, or its `SO_SNDTIMEO` is over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use tokio::io::Interest;
use tp_abi::decide::{self, Verdict};
use tp_abi::errno::{LAUNCHER_GONE, code};
use tp_abi::sockaddr::{self, ROOM};
use tracing::info;

use super::caught::{Caught, Reply, Step, facts};
use super::layout::Block;
use super::{Supervisor, to_abi, to_std};
use crate::sys::message;
use crate::sys::process::process_of;
use crate::sys::socket::{self, TcpState, tcp_state};

/// The longest address of any family that connect(2) takes (`struct sockaddr_storage`).
const LONGEST: usize = 128;

impl Supervisor {
    pub(super) async fn connect(&self, caught: &Caught, fd: i32, to: Block) -> Step<Reply> {
        let address = caught.read_block(to, LONGEST)?;
        self.connect_to(caught, fd, &address).await
    }

    /// As connect(2) does, for those that connect by another name.
    pub(super) async fn connect_to(&self, caught: &Caught, fd: i32, address: &[u8]) -> Step<Reply> {
        let Some(to) = sockaddr::read(address) else {
            let path = sockaddr::path(address);
            let service = path.is_some_and(decide::is_name_service);
            return Err(if service { Reply::Fails(libc::ENOENT) } else { Reply::Proceeds });
        };
        // Before the kernel is asked about the socket: a call that stays local should cost little.
        if decide::stays(to.address).is_some() {
            return Err(Reply::Proceeds);
        }
        // A connect() that a signal interrupts goes on.
        let socket = caught.copy(fd)?;
        let (asked, v6) = match decide::connect(facts(&socket)?, to) {
            Verdict::Pass(_) => return Err(Reply::Proceeds),
            Verdict::Refuse(errno) => {
                info!(asked = %to_std(to.address), "connect refused: neither TCP nor UDP");
                return Err(Reply::Fails(errno));
            }
            Verdict::Carry { asked, v6_socket } => (asked, v6_socket),
            Verdict::Relay { asked, v6_spelling } => {
                return self.connect_datagrams(caught, fd, socket, to_std(asked), v6_spelling);
            }
        };
        if !self.is_pods(to_std(asked)) {
            return Err(Reply::Proceeds);
        }
        self.carry(caught, &socket, to_std(asked), v6).await
    }

    fn connect_datagrams(
        &self,
        caught: &Caught,
        fd: i32,
        socket: OwnedFd,
        asked: SocketAddr,
        v6_spelling: bool,
    ) -> Step<Reply> {
        if !self.is_pods(asked) {
            return Err(Reply::Proceeds);
        }
        // By this libc sorts a name's addresses (RFC 6724), of which it tells nobody else.
        let has = |v6| self.services.gate.own_address(v6).is_some();
        if !has(asked.is_ipv6()) && has(!asked.is_ipv6()) {
            return Err(Reply::Fails(code::ENETUNREACH));
        }
        let process = process_of(caught.notification.thread).map_err(|_gone| Reply::Gone)?;
        let copy = socket.try_clone().map_err(|_full| Reply::Fails(code::ENOBUFS))?;
        let way = self.services.flows.connected(asked, copy, (process, fd)).map_err(Reply::Fails)?;
        let mut room = [0; ROOM];
        let relay = spell(way.relay, v6_spelling, &mut room)?;
        Ok(Reply::of(message::connect(&socket, relay)))
    }

    async fn carry(&self, caught: &Caught, socket: &OwnedFd, asked: SocketAddr, v6: bool) -> Step<Reply> {
        let cookie = socket::cookie(socket).map_err(|_none| Reply::Fails(LAUNCHER_GONE))?;
        let copy = socket.try_clone().map_err(|_full| Reply::Fails(code::ENOBUFS))?;
        let gate = &self.services.gate;
        let (parked, opening) = gate.open(caught.thread(), cookie, copy, asked, v6).map_err(Reply::Fails)?;
        let mut room = [0; ROOM];
        let park = spell(parked, v6, &mut room)?;
        let told = message::connect(socket, park);
        if let Some(opening) = opening {
            gate.begin(opening);
        }
        let told = match told {
            Err(under_way) if is_under_way(&under_way) && message::waits(socket) => {
                let limit = socket::limit(socket, libc::SO_SNDTIMEO).ok().flatten();
                let outcome =
                    caught.until(socket, Interest::WRITABLE, limit, || outcome(socket, park)).await?;
                // What the kernel says when SO_SNDTIMEO is over.
                outcome.map_err(|error| match error.kind() {
                    io::ErrorKind::WouldBlock => under_way,
                    _ => error,
                })
            }
            told => told,
        };
        Ok(match told {
            Ok(()) => Reply::returns(0),
            Err(error) => Reply::Fails(self.true_errno(socket, cookie, &error)),
        })
    }

    /// The far end's errno for what the kernel says of a failed connect(); the socket can be connected anew then.
    fn true_errno(&self, socket: &OwnedFd, cookie: u64, told: &io::Error) -> i32 {
        let told = told.raw_os_error().unwrap_or(LAUNCHER_GONE);
        if !decide::is_verdict(told) {
            return told;
        }
        match self.services.gate.failure(cookie) {
            Some(errno) => {
                let _ = socket::disconnect(socket);
                errno
            }
            None => told,
        }
    }
}

/// Where a socket is of whose connect() the program waits for the end.
fn outcome(socket: &OwnedFd, park: &[u8]) -> io::Result<()> {
    match tcp_state(socket)? {
        TcpState::SynSent => Err(io::ErrorKind::WouldBlock.into()),
        TcpState::Closed => {
            // Another thread may have fetched the error.
            let error = match socket::take_error(socket)? {
                0 => code::ECONNABORTED,
                error => error,
            };
            // As connect() leaves a socket that it has failed.
            let _ = socket::disconnect(socket);
            Err(io::Error::from_raw_os_error(error))
        }
        // For the kernel the socket is "connecting" until a connect() has said that it is connected.
        TcpState::Other(_) => match message::connect(&socket.as_fd(), park) {
            Err(error) if error.raw_os_error() == Some(libc::EISCONN) => Ok(()),
            connected => connected,
        },
    }
}

fn is_under_way(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EALREADY))
}

/// Spells an address of ours for the program's socket.
pub(super) fn spell(address: SocketAddr, v6: bool, room: &mut [u8; ROOM]) -> Step<&[u8]> {
    sockaddr::spell(to_abi(address), v6, room).ok_or(Reply::Fails(LAUNCHER_GONE))
}
