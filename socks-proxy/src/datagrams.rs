//! One UDP flow in a byte stream: each datagram with its length (16 bits, big-endian) in front.
//!
//! SOCKS5's own UDP ASSOCIATE needs UDP between client and proxy, and a port-forward carries TCP only. The socket
//! is connected, so the kernel tells of a closed port (ICMP) as an error, and only the destination's datagrams come
//! in. Datagrams keep their borders; like UDP, the flow makes no promise about those that the network drops.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use crate::dial::code;
use crate::limits::DATAGRAMS_IDLE;
use crate::proto::{DATAGRAM_ERROR, DATAGRAM_MAX};

mod outgoing;

use outgoing::Outgoing;

/// Datagrams moved from the network before the stream's side gets its turn.
const IN_A_ROW: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket connected to the first of `addresses` that takes it.
///
/// # Errors
/// The last address' reason as a reply code.
pub async fn connect(addresses: &[SocketAddr]) -> Result<UdpSocket, u8> {
    let mut failed = tp_abi::errno::reply::HOST_UNREACHABLE;
    for address in addresses {
        match connect_one(*address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = code(&error),
        }
    }
    Err(failed)
}

async fn connect_one(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Carries datagrams both ways until the client ends the stream, or none came for [`DATAGRAMS_IDLE`].
///
/// # Errors
/// Those of the client's stream, and `InvalidData` for a length that no datagram has.
pub async fn carry(client: impl AsyncRead + AsyncWrite + Unpin, socket: &UdpSocket) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let mut outgoing = Outgoing::new(socket);
    let mut idle_at = Instant::now() + DATAGRAMS_IDLE;
    loop {
        tokio::select! {
            // Both arms can be dropped half way: `outgoing` keeps what was read, readiness takes nothing.
            whole = outgoing.read(&mut from_client) => {
                if !whole? {
                    return to_client.shutdown().await;
                }
                while let Some(sent) = outgoing.send(socket).await {
                    if let Err(error) = sent {
                        to_client.write_all(&failure(&error)).await?;
                        to_client.flush().await?;
                    }
                }
            }
            arrived = arrival(socket) => {
                let frames = match arrived {
                    Ok(()) => receive(socket),
                    Err(error) => failure(&error).to_vec(),
                };
                to_client.write_all(&frames).await?;
                to_client.flush().await?;
            }
            () = sleep_until(idle_at) => return to_client.shutdown().await,
        }
        idle_at = Instant::now() + DATAGRAMS_IDLE;
    }
}

/// Waits until a datagram is there. Cancel safe.
///
/// # Errors
/// What ICMP said about an earlier datagram. It raises EPOLLERR without EPOLLIN, so waiting for a datagram alone
/// would sleep through it.
pub(crate) async fn arrival(socket: &UdpSocket) -> io::Result<()> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            // Readiness is edge-triggered: it is cleared first, so that an error after this one is seen as well.
            drop(socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())));
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
        }
        if ready.is_readable() {
            return Ok(());
        }
    }
}

/// What the network has brought, as frames.
fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut scratch = SCRATCH.take();
    scratch.resize(DATAGRAM_MAX, 0);
    let mut frames = Vec::new();
    for _ in 0..IN_A_ROW {
        match socket.try_recv(&mut scratch) {
            Ok(length) => {
                frames.extend(u16::try_from(length).unwrap_or(0).to_be_bytes());
                frames.extend(scratch.get(..length).unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => frames.extend(failure(&error)),
        }
    }
    SCRATCH.replace(scratch);
    frames
}

fn failure(error: &io::Error) -> [u8; 3] {
    let [high, low] = DATAGRAM_ERROR.to_be_bytes();
    [high, low, code(error)]
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    async fn flow() -> (tokio::io::DuplexStream, UdpSocket) {
        let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let socket = connect(&[service.local_addr().unwrap()]).await.unwrap();
        let (laptop, pod) = duplex(256 * 1024);
        tokio::spawn(async move { carry(pod, &socket).await });
        (laptop, service)
    }

    async fn frame(laptop: &mut tokio::io::DuplexStream) -> Vec<u8> {
        let length = laptop.read_u16().await.unwrap();
        let mut datagram = vec![0; usize::from(length)];
        laptop.read_exact(&mut datagram).await.unwrap();
        datagram
    }

    #[tokio::test]
    async fn datagrams_keep_their_borders_both_ways_the_empty_and_the_longest_too() {
        let (mut laptop, service) = flow().await;
        let mut got = vec![0; 70_000];
        for length in [0, 1, 26_000, DATAGRAM_MAX] {
            let sent = vec![7; length];
            laptop.write_u16(u16::try_from(length).unwrap()).await.unwrap();
            laptop.write_all(&sent).await.unwrap();
            let (received, from) = service.recv_from(&mut got).await.unwrap();
            assert!(got[..received] == sent);
            service.send_to(&sent, from).await.unwrap();
            assert!(frame(&mut laptop).await == sent);
        }
    }

    #[tokio::test]
    async fn datagrams_that_came_together_keep_their_order_and_borders() {
        let (mut laptop, service) = flow().await;
        let lengths = [&[1200; 20][..], &[700, 1200, 1200, 1201, 0, 0], &[9; 20], &[20_000; 3]].concat();
        let mut records = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            records.extend(u16::try_from(*length).unwrap().to_be_bytes());
            records.resize(records.len() + length, u8::try_from(number).unwrap());
        }
        laptop.write_all(&records).await.unwrap();
        let mut got = vec![0; 70_000];
        for (number, length) in lengths.iter().enumerate() {
            let received = service.recv(&mut got).await.unwrap();
            assert!(got[..received] == vec![u8::try_from(number).unwrap(); *length], "{number}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_told_and_the_flow_stays_open() {
        let (mut laptop, service) = flow().await;
        let address = service.local_addr().unwrap();
        drop(service);
        laptop.write_all(b"\0\x01x").await.unwrap();
        assert_eq!(laptop.read_u16().await.unwrap(), DATAGRAM_ERROR);
        assert_eq!(laptop.read_u8().await.unwrap(), tp_abi::errno::reply::CONNECTION_REFUSED);

        let service = UdpSocket::bind(address).await.unwrap();
        laptop.write_all(b"\0\x01y").await.unwrap();
        let mut got = [0; 2];
        assert_eq!(service.recv(&mut got).await.unwrap(), 1);
        assert_eq!(got[0], b'y');
    }

    #[tokio::test]
    async fn a_length_that_no_datagram_has_ends_the_flow() {
        let (mut laptop, _service) = flow().await;
        laptop.write_all(&[0xFF, 0xFF, 5]).await.unwrap();
        assert_eq!(laptop.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_flow_ends() {
        let (mut laptop, _service) = flow().await;
        let started = Instant::now();
        assert_eq!(laptop.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(started.elapsed() >= DATAGRAMS_IDLE);
    }
}
