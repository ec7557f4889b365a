//! One relay: the loopback socket that stands for a destination.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use socks_proxy::proto::DATAGRAM_MAX;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tp_abi::env::RELAY_V4;

use super::{Owner, Used};

/// Bytes that the kernel may hold for us; it takes as much of that as the system allows (net.core.rmem_max).
const BUFFER: usize = 4 << 20;
/// Datagrams taken before others get their turn.
const IN_A_ROW: usize = 64;

thread_local! {
    /// One room for all relays of a thread: thousands of them wait most of the time.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A relay.
#[derive(Debug)]
pub(super) struct Relay {
    socket: UdpSocket,
    pub(super) at: SocketAddr,
    pub(super) destination: SocketAddr,
    /// The one socket that may use it, if it is connected.
    pub(super) owner: Option<Owner>,
    /// That socket's address, when it has sent something.
    app: OnceLock<SocketAddr>,
    pub(super) used: Used,
    end: CancellationToken,
}

impl Relay {
    /// Opens a relay in the runtime that this is called in.
    pub(super) fn open(destination: SocketAddr, owner: Option<Owner>) -> io::Result<Self> {
        let ip = match destination {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(RELAY_V4)),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let address = SocketAddr::new(ip, 0);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let at = socket.local_addr()?;
        let (app, used, end) = (OnceLock::new(), Used::now(), CancellationToken::new());
        Ok(Self { socket, at, destination, owner, app, used, end })
    }

    /// Waits for datagrams, and gives some to `take` with their sender, for as long as it wants more.
    ///
    /// # Errors
    /// Why there will be no more.
    pub(super) async fn datagrams(&self, mut take: impl FnMut(SocketAddr, &[u8]) -> bool) -> io::Result<()> {
        let mut take = |from, datagram: &[u8]| {
            if self.owner.is_none() {
                return take(from, datagram);
            }
            let app = self.app.get_or_init(|| {
                // From here on the kernel drops what others send here.
                let _ = self.connect(from);
                from
            });
            *app != from || take(from, datagram)
        };
        loop {
            let ready = tokio::select! {
                ready = self.socket.ready(Interest::READABLE | Interest::ERROR) => ready?,
                () = self.ended() => return Err(io::Error::other("nobody used it")),
            };
            // An error on a connected relay: the app has closed its socket.
            if ready.is_error() {
                drop(self.socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())));
                self.socket.take_error()?.map_or(Ok(()), Err)?;
            }
            self.used.touch();
            match self.receive(&mut take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    /// Receives some datagrams, or all that are there and then `WouldBlock`.
    fn receive(&self, take: &mut impl FnMut(SocketAddr, &[u8]) -> bool) -> io::Result<()> {
        let mut room = ROOM.take();
        room.resize(DATAGRAM_MAX, 0);
        let mut received = Ok(());
        for _ in 0..IN_A_ROW {
            match self.socket.try_recv_from(&mut room) {
                Ok((length, from)) if take(from, room.get(..length).unwrap_or_default()) => {}
                Ok(_) => break,
                Err(error) => {
                    received = Err(error);
                    break;
                }
            }
        }
        ROOM.replace(room);
        received
    }

    /// Sends a datagram to an app. One that its kernel has no room for is lost, as on any network.
    pub(super) fn send(&self, app: SocketAddr, datagram: &[u8]) {
        let _lost = self.socket.try_send_to(datagram, app);
    }

    /// Lets in datagrams of this address alone.
    pub(super) fn connect(&self, app: SocketAddr) -> io::Result<()> {
        SockRef::from(&self.socket).connect(&app.into())
    }

    /// Lets in nobody's datagrams: whoever sends one hears from the kernel that the port is closed.
    pub(super) fn shut(&self) -> io::Result<()> {
        self.connect(self.at)
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    pub(super) fn end(&self) {
        self.end.cancel();
    }

    /// Whether something is there that was not taken yet.
    pub(super) fn has_unread(&self) -> bool {
        SockRef::from(&self.socket).peek(&mut [MaybeUninit::uninit(); 1]).is_ok()
    }
}
