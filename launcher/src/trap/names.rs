//! What a program is told about its sockets, and the files that are the pod's: as `shim/src/hooks/{socket,sockname,files}.rs`
//! have it.

use std::fs::OpenOptions;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use socket2::{Domain, Protocol, Type};
use tp_abi::decide::{self, Fit, Socket};
use tp_abi::env::GATE_V4;
use tp_abi::sockaddr::{self, ROOM, Spelled};
use tp_abi::wire::{Address, Ip};

use super::caught::{Caught, Reply, Step, facts};
use super::connect::spell;
use super::layout::Block;
use super::{Supervisor, to_std};
use crate::sys::message;
use crate::sys::socket::{self, TcpState, tcp_state};

/// `/etc/resolv.conf` and a NUL.
const PATH: usize = 17;
/// A value of an option that is looked at: the name of a device (`IFNAMSIZ`), an `in6_pktinfo`.
const VALUE: usize = 20;
const LINUX_O_LARGEFILE: i32 = 0o100_000;

impl Supervisor {
    pub(super) fn peer_name(&self, caught: &Caught, fd: i32, name: u64, length: u64) -> Step<Reply> {
        let socket = caught.socket(fd)?;
        let peer = peer_of(&socket).ok_or(Reply::Proceeds)?;
        let cluster = self.true_peer(&socket, peer).ok_or(Reply::Proceeds)?;
        tell(caught, cluster, peer.family == libc::AF_INET6, name, length)
    }

    /// Where the program asked to go, if the peer that the kernel knows is the gate or a relay.
    fn true_peer(&self, socket: &OwnedFd, peer: Spelled) -> Option<SocketAddr> {
        if self.is_gate(peer.address) {
            return self.services.gate.asked(socket::cookie(socket).ok()?);
        }
        let is_udp = || socket::facts(socket).is_ok_and(Socket::is_udp);
        (decide::may_be_relay(peer.address) && is_udp())
            .then(|| self.services.flows.behind(to_std(peer.address)))
            .flatten()
    }

    fn is_gate(&self, address: Address) -> bool {
        let (v4, v6) = self.services.gate.ports();
        match address.ip {
            Ip::V4(ip) => ip == GATE_V4 && address.port == v4,
            Ip::V6(ip) => u128::from_be_bytes(ip) == 1 && address.port == v6,
        }
    }

    pub(super) fn own_name(&self, caught: &Caught, fd: i32, name: u64, length: u64) -> Step<Reply> {
        let socket = caught.socket(fd)?;
        let mut room = [0; ROOM];
        let kernels = message::own_name(&socket, &mut room).ok().and_then(sockaddr::read);
        let kernels = kernels.ok_or(Reply::Proceeds)?;
        if !decide::is_usual_source(kernels.address.ip) || !self.is_to_the_cluster(&socket) {
            return Err(Reply::Proceeds);
        }
        let v6 = matches!(kernels.address.ip, Ip::V6(_));
        let own: IpAddr = self.services.gate.own_address(v6).ok_or(Reply::Proceeds)?;
        let own = SocketAddr::new(own, kernels.address.port);
        tell(caught, own, kernels.family == libc::AF_INET6, name, length)
    }

    fn is_to_the_cluster(&self, socket: &OwnedFd) -> bool {
        if let Some(peer) = peer_of(socket) {
            return self.true_peer(socket, peer).is_some();
        }
        // On its way it has no peer for the kernel yet.
        socket::facts(socket).is_ok_and(Socket::is_tcp)
            && tcp_state(socket).is_ok_and(|state| state == TcpState::SynSent)
            && socket::cookie(socket).is_ok_and(|cookie| self.services.gate.asked(cookie).is_some())
    }

    /// getsockopt(2) of `SO_ERROR`, which takes the error away from the socket.
    pub(super) fn error(&self, caught: &Caught, fd: i32, value: u64, length: u64) -> Step<Reply> {
        let room = u32::from_ne_bytes(caught.read_all(length)?);
        let socket = caught.socket(fd)?;
        if !facts(&socket)?.is_tcp() || room < 4 || room > i32::MAX as u32 {
            return Err(Reply::Proceeds);
        }
        let told = socket::take_error(&socket).map_err(|error| Reply::failed(&error))?;
        let failure = || self.services.gate.failure(socket::cookie(&socket).ok()?);
        let error = if decide::is_verdict(told) { failure().unwrap_or(told) } else { told };
        let writes = vec![(value, error.to_ne_bytes().into()), (length, 4_u32.to_ne_bytes().into())];
        Ok(Reply::Returns(0, writes))
    }

    pub(super) fn open(&self, caught: &Caught, path: u64, flags: i32) -> Step<Reply> {
        const NOT_READING: i32 =
            libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH | libc::O_DIRECTORY;
        if flags & NOT_READING != 0 {
            return Err(Reply::Proceeds);
        }
        let mut room = [0; PATH];
        // Files are the program's own, whoever may look into it.
        let path = caught.read(path, &mut room).map_err(|_| Reply::Proceeds)?;
        let end = path.iter().position(|byte| *byte == 0).ok_or(Reply::Proceeds)?;
        let name = path.get(..end).and_then(decide::pods_file).ok_or(Reply::Proceeds)?;
        let mut options = OpenOptions::new();
        let kept = libc::O_NONBLOCK | libc::O_NOFOLLOW | LINUX_O_LARGEFILE;
        options.read(true).custom_flags(flags & kept);
        let file = options.open(self.files.join(name)).map_err(|_none| Reply::Proceeds)?;
        Ok(Reply::Opens { file: file.into(), close_on_exec: flags & libc::O_CLOEXEC != 0 })
    }

    pub(super) fn open_how(&self, caught: &Caught, path: u64, how: Block) -> Step<Reply> {
        if how.length < 8 {
            return Err(Reply::Proceeds);
        }
        let flags = u64::from_ne_bytes(caught.read_all(how.at).map_err(|_| Reply::Proceeds)?);
        self.open(caught, path, i32::try_from(flags).map_err(|_more| Reply::Proceeds)?)
    }
}

/// setsockopt(2) of what would keep a socket from loopback.
pub(super) fn set_option(caught: &Caught, fd: i32, (level, name): (i32, i32), value: Block) -> Step<Reply> {
    let length = value.length.min(VALUE as u64);
    let given = caught.read_block(Block { length, ..value }, VALUE)?;
    let unfit = match decide::option(level, name, &given) {
        Fit::Fits => false,
        Fit::Unfit => true,
        Fit::UnfitDevice(device) => {
            std::str::from_utf8(device).is_ok_and(|device| nix::net::if_::if_nametoindex(device).is_ok())
        }
    };
    let socket = if unfit { caught.socket(fd)? } else { return Err(Reply::Proceeds) };
    let facts = facts(&socket)?;
    Ok(if facts.is_tcp() || facts.is_udp() { Reply::returns(0) } else { Reply::Proceeds })
}

/// socket(2) of MPTCP, which falls back to TCP with a peer that does not speak it; TCP is what the gate can open.
pub(super) fn socket(domain: i32, kind: i32) -> Step<Reply> {
    if !matches!(domain, libc::AF_INET | libc::AF_INET6) {
        return Err(Reply::Proceeds);
    }
    let flags = kind & (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    let made = socket2::Socket::new_raw(Domain::from(domain), Type::from(kind), Some(Protocol::TCP));
    let file = made.map_err(|error| Reply::failed(&error))?.into();
    Ok(Reply::Opens { file, close_on_exec: flags & libc::SOCK_CLOEXEC != 0 })
}

pub(super) fn peer_of(socket: &OwnedFd) -> Option<Spelled> {
    let mut room = [0; ROOM];
    message::peer_name(&socket.as_fd(), &mut room).ok().and_then(sockaddr::read)
}

/// Writes an address as the kernel does: as much as fits, and its whole length.
fn tell(caught: &Caught, address: SocketAddr, v6: bool, name: u64, length: u64) -> Step<Reply> {
    let room = u32::from_ne_bytes(caught.read_all(length)?);
    let fits = usize::try_from(room.cast_signed()).map_err(|_negative| Reply::Proceeds)?;
    let mut spelled = [0; ROOM];
    let address = spell(address, v6, &mut spelled)?;
    let told = address.iter().take(fits).copied().collect();
    let whole = (address.len() as u32).to_ne_bytes().into();
    Ok(Reply::Returns(0, vec![(name, told), (length, whole)]))
}
