//! A socket that datagrams of many clients come to, each with the address that it was sent to.
//!
//! Answers must come from the address and the port that the client spoke to. The address is said with each (`IP_PKTINFO`);
//! the port is the socket's own, or the rules put it in ([`steal`](crate::expose::steal)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Bytes of datagrams that the kernel keeps while the agent is at something else.
const KERNEL_ROOM: usize = 4 * 1024 * 1024;

/// One datagram, and between whom.
pub(super) struct Datagram {
    pub(super) peer: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// A socket that datagrams of many clients come to.
#[derive(Debug)]
pub(in crate::expose) struct Receiver {
    socket: UdpSocket,
}

impl Receiver {
    pub(in crate::expose) fn new(socket: Socket) -> io::Result<Self> {
        // Either tells the address that was asked for, also of a datagram that was led here.
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
        }
        // Without NET_ADMIN (in a pod of our own) it stays what the node allows everybody.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_ROOM);
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    pub(super) async fn receive(&self, room: &mut [u8]) -> io::Result<Datagram> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket, room)).await
    }

    /// Sends an answer of that address of the pod. One that the network does not take is lost, as any datagram.
    pub(super) async fn answer(&self, bytes: &[u8], peer: SocketAddr, of: IpAddr) {
        drop(self.socket.async_io(Interest::WRITABLE, || answer(&self.socket, bytes, peer, of)).await);
    }
}

fn receive(socket: &UdpSocket, room: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(room)];
    let fd = socket.as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let to = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::Ipv4OrigDstAddr(at) => Some(SocketAddrV4::from(SockaddrIn::from(at)).into()),
        ControlMessageOwned::Ipv6OrigDstAddr(at) => Some(SocketAddrV6::from(SockaddrIn6::from(at)).into()),
        _ => None,
    });
    let peer = message.address.as_ref().and_then(plain);
    let (Some(peer), Some(to)) = (peer, to) else { return Err(io::ErrorKind::InvalidData.into()) };
    let length = message.bytes;
    Ok(Datagram { peer, to, bytes: room.get(..length).unwrap_or_default().to_vec() })
}

fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|at| SocketAddrV4::from(*at).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|at| SocketAddrV6::from(*at).into()))
}

fn answer(socket: &UdpSocket, bytes: &[u8], peer: SocketAddr, of: IpAddr) -> io::Result<usize> {
    let (v4, v6);
    let from = match of {
        IpAddr::V4(ip) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
            ControlMessage::Ipv4PacketInfo(&v4)
        }
        IpAddr::V6(ip) => {
            v6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            ControlMessage::Ipv6PacketInfo(&v6)
        }
    };
    let to = SockaddrStorage::from(peer);
    debug_assert!(to.len() > 0);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &[from], flags, Some(&to))?)
}
