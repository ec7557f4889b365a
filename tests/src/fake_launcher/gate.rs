//! The gate of the fake launcher: parks, simultaneous open, refusal (the kernel facts are in design notes and in
//! `tests/platform`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a kernel that refuses is a failed test"
)]

use nix::libc;
use socket2::{Domain, SockRef, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};
use tp_abi::env::GATE_V4;
use tp_abi::wire::{Address, Ip};

const IPV6_MINHOPCOUNT: libc::c_int = 73;
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// Two listeners that never answer: their queues are full, and they drop what comes from near.
pub(super) struct Gate {
    v4: Socket,
    v6: Socket,
    _queued: [Socket; 2],
}

impl Gate {
    pub(super) fn open() -> Self {
        let v4 = bound(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(GATE_V4)), 0));
        set_option(&v4, libc::IPPROTO_IP, libc::IP_MINTTL, 255);
        let v6 = bound(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0));
        set_option(&v6, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255);
        let queued = [&v4, &v6].map(|park| {
            park.listen(0).unwrap();
            let at = address_of(park);
            let one = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
            match at {
                SocketAddr::V4(_) => one.set_ttl_v4(255).unwrap(),
                SocketAddr::V6(_) => one.set_unicast_hops_v6(255).unwrap(),
            }
            one.connect(&at.into()).unwrap();
            one
        });
        Self { v4, v6, _queued: queued }
    }

    pub(super) fn v4_port(&self) -> u16 {
        address_of(&self.v4).port()
    }

    pub(super) fn v6_port(&self) -> u16 {
        address_of(&self.v6).port()
    }

    /// Where a socket waits that wants to go to `asked`.
    pub(super) fn park(&self, asked: Address) -> Address {
        let (ip, port) = match asked.ip {
            Ip::V4(_) => (Ip::V4(GATE_V4), self.v4_port()),
            Ip::V6(_) => (Ip::V6(Ipv6Addr::LOCALHOST.octets()), self.v6_port()),
        };
        Address { ip, port, scope: 0 }
    }

    /// Joins a parked socket.
    pub(super) fn meet(&self, socket: &OwnedFd) -> TcpStream {
        let parked = own_address(socket);
        let park = if parked.is_ipv4() { &self.v4 } else { &self.v6 };
        let ours = bound(address_of(park));
        ours.connect(&parked.into()).unwrap();
        ours.into()
    }
}

/// A socket of the launcher's on an address that others of its sockets have too.
fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// The address that a socket has, IPv4 if it is v4-mapped.
fn own_address(socket: &OwnedFd) -> SocketAddr {
    let address = SockRef::from(socket).local_addr().unwrap().as_socket().unwrap();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Waits until the program's own connect() has begun. The kernel tells nobody when it does; `false` if the program
/// gave the socket up before, or has not begun after a time that no test leaves it.
pub(super) fn wait_until_parked(socket: &OwnedFd) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        // SAFETY: `tcp_info` is integers, for which zero is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info);
        match info.tcpi_state {
            TCP_SYN_SENT => return true,
            TCP_CLOSE => std::thread::yield_now(),
            _ => return false,
        }
    }
    false
}

/// Makes a parked socket fail: it is taken back, which leaves ECONNRESET as its error. (The real gate shuts it once more,
/// and takes that back at the next connect().)
pub(super) fn refuse(socket: &OwnedFd) {
    nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
}

/// The socket's name in questions.
pub(super) fn cookie(socket: &OwnedFd) -> u64 {
    let mut cookie = 0_u64;
    option(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie);
    cookie
}

fn option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &mut T) {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap();
    // SAFETY: the kernel writes at most `length` bytes; callers pass integers and structs of integers.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, std::ptr::from_mut(value).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    // SAFETY: the kernel reads one int.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
