//! Datagrams that have come to an exposed port. What one client says to one address of the pod is a flow: one stream to the
//! launcher, or one socket to the app.
//!
//! Answers must come from the address and the port that the client spoke to. The address is said with each (`IP_PKTINFO`);
//! the port is the socket's own, or the rules put it in ([`super::steal`]).

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, duplex};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::limits::Limit;
use crate::proto::{DATAGRAM_ERROR, DATAGRAM_MAX};
use crate::route::Visitor;

use super::arrivals::announce;
use super::port::{App, Port, Share};

/// A flow without a datagram for so long has ended.
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams of one flow that may wait; further ones are lost, as in a full network.
const WAITING: usize = 256;
/// Bytes between a flow and the app's socket.
const PIPE: usize = 128 * 1024;
/// Rest after recvmsg(2) failed.
const REST: Duration = Duration::from_millis(10);

/// One datagram, and between whom.
struct Datagram {
    peer: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// A socket that datagrams of many clients come to.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: UdpSocket,
}

impl Receiver {
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        // Either tells the address that was asked for, also of a datagram that was led here.
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
        }
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    async fn receive(&self, room: &mut [u8]) -> io::Result<Datagram> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket, room)).await
    }

    /// Sends an answer of that address of the pod. One that the network does not take is lost, as any datagram.
    async fn answer(&self, bytes: &[u8], peer: SocketAddr, of: IpAddr) {
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

/// Carries all flows of one socket until the port closes.
pub(super) async fn serve(port: Arc<Port>, receiver: Receiver, limit: Limit) {
    let receiver = Arc::new(receiver);
    let mut flows: HashMap<(SocketAddr, IpAddr), mpsc::Sender<Vec<u8>>> = HashMap::new();
    let mut sweep_at = 64;
    let mut room = vec![0; DATAGRAM_MAX];
    loop {
        let datagram = tokio::select! {
            received = receiver.receive(&mut room) => received,
            () = port.closed.cancelled() => return,
        };
        let Ok(datagram) = datagram else {
            sleep(REST).await;
            continue;
        };
        // Who speaks to the socket itself, past the rules, has no business here.
        if datagram.to.port() != port.number() {
            continue;
        }
        let key = (datagram.peer, datagram.to.ip());
        let known = flows.get(&key).filter(|flow| !flow.is_closed());
        let flow = match known {
            Some(flow) => flow.clone(),
            None => {
                let Some(permit) = limit.take() else { continue };
                if flows.len() >= sweep_at {
                    flows.retain(|_, flow| !flow.is_closed());
                    sweep_at = flows.len().saturating_mul(2).max(64);
                }
                let (datagrams_tx, datagrams_rx) = mpsc::channel(WAITING);
                let visitor = Visitor { peer: datagram.peer, to: datagram.to, kubelet: false };
                let (port, receiver) = (port.clone(), receiver.clone());
                tokio::spawn(async move {
                    flow(&port, &receiver, visitor, datagrams_rx).await;
                    drop(permit);
                });
                flows.insert(key, datagrams_tx.clone());
                datagrams_tx
            }
        };
        drop(flow.try_send(datagram.bytes));
    }
}

/// One flow, to its end.
async fn flow(port: &Port, receiver: &Receiver, visitor: Visitor, datagrams: mpsc::Receiver<Vec<u8>>) {
    let copies: Vec<_> = port.mirrors().into_iter().map(|share| copy(share, visitor)).collect();
    let carried = async {
        match port.owner() {
            Some(share) => tokio::select! {
                done = to_launcher(&share, receiver, visitor, datagrams, &copies) => done,
                () = share.left.cancelled() => Ok(()),
            },
            None => to_app(port.app(), receiver, visitor, datagrams, &copies).await,
        }
    };
    tokio::select! {
        // A flow that breaks off is begun anew by the client's next datagram.
        _ = carried => {}
        () = port.closed.cancelled() => {}
    }
}

async fn to_launcher(
    share: &Share,
    receiver: &Receiver,
    visitor: Visitor,
    datagrams: mpsc::Receiver<Vec<u8>>,
    copies: &[mpsc::Sender<Vec<u8>>],
) -> io::Result<()> {
    let stream = announce(share, visitor).await?;
    carry(stream, Some(receiver), visitor, datagrams, copies).await
}

async fn to_app(
    app: &App,
    receiver: &Receiver,
    visitor: Visitor,
    datagrams: mpsc::Receiver<Vec<u8>>,
    copies: &[mpsc::Sender<Vec<u8>>],
) -> io::Result<()> {
    let socket = app.datagrams(visitor).await?;
    let (near, far) = duplex(PIPE);
    tokio::select! {
        done = crate::datagrams::carry(far, &socket) => done,
        done = carry(near, Some(receiver), visitor, datagrams, copies) => done,
    }
}

/// A copy of a flow for a program that only listens in.
fn copy(share: Arc<Share>, visitor: Visitor) -> mpsc::Sender<Vec<u8>> {
    let (datagrams_tx, datagrams_rx) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let copied = async {
            let stream = announce(&share, visitor).await?;
            carry(stream, None, visitor, datagrams_rx, &[]).await
        };
        tokio::select! {
            // The flow goes on without it.
            _ = copied => {}
            () = share.left.cancelled() => {}
        }
    });
    datagrams_tx
}

/// Carries datagrams into a stream, and back if anybody is to have the answers, until it ends or is idle.
async fn carry(
    stream: impl AsyncRead + AsyncWrite,
    receiver: Option<&Receiver>,
    visitor: Visitor,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    copies: &[mpsc::Sender<Vec<u8>>],
) -> io::Result<()> {
    let (mut from_far, mut to_far) = tokio::io::split(stream);
    let active = Notify::new();
    let there = async {
        while let Some(datagram) = datagrams.recv().await {
            active.notify_one();
            for copy in copies {
                drop(copy.try_send(datagram.clone()));
            }
            let Ok(length) = u16::try_from(datagram.len()) else { continue };
            to_far.write_all(&length.to_be_bytes()).await?;
            to_far.write_all(&datagram).await?;
            to_far.flush().await?;
        }
        Ok(())
    };
    let back = async {
        let mut datagram = Vec::new();
        loop {
            let length = from_far.read_u16().await?;
            if length == DATAGRAM_ERROR {
                // The client's kernel would be told by ICMP, which is not ours to send.
                let _reason = from_far.read_u8().await?;
                continue;
            }
            datagram.resize(length.into(), 0);
            from_far.read_exact(&mut datagram).await?;
            active.notify_one();
            if let Some(receiver) = receiver {
                receiver.answer(&datagram, visitor.peer, visitor.to.ip()).await;
            }
        }
    };
    let idle = async { while timeout(IDLE, active.notified()).await.is_ok() {} };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
        () = idle => Ok(()),
    }
}
