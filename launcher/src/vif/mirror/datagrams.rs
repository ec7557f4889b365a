//! Datagrams from the laptop to a program's UDP port, and back.
//!
//! Each client of the laptop has a socket of its own inside, connected to the program's port, so that the program can tell
//! them apart and its answers find their way.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use socks_proxy::proto::DATAGRAM_MAX;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tp_inside::orders::Kind;
use tracing::debug;

use super::{Network, locked};

/// A client that was quiet for so long is another one when it comes back, as in many a NAT.
const IDLE: Duration = Duration::from_secs(60);
/// Clients at one time; each is a descriptor.
const CLIENTS_MAX: usize = 1000;

type Clients = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

pub(super) fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

/// Carries until it is dropped.
pub(super) async fn carry(network: &Arc<Network>, outside: UdpSocket, to: SocketAddr) {
    let outside = Arc::new(outside);
    let clients = Clients::default();
    let mut answers = tokio::task::JoinSet::new();
    let mut room = vec![0; DATAGRAM_MAX];
    loop {
        let (length, client) = match outside.recv_from(&mut room).await {
            Ok(received) => received,
            // What ICMP said of an answer to a client that is gone.
            Err(error) => {
                debug!(%error, "datagrams");
                continue;
            }
        };
        let known = locked(&clients).get(&client).cloned();
        let inside = match known {
            Some(inside) => inside,
            None if locked(&clients).len() >= CLIENTS_MAX => continue,
            None => match connect(network, to).await {
                Ok(inside) => {
                    let inside = Arc::new(inside);
                    locked(&clients).insert(client, Arc::clone(&inside));
                    let (clients, back) = (Arc::clone(&clients), Arc::clone(&outside));
                    let from = Arc::clone(&inside);
                    answers.spawn(async move {
                        answer(&from, &back, client).await;
                        locked(&clients).remove(&client);
                    });
                    inside
                }
                Err(error) => {
                    debug!(%error, "no socket for a client");
                    continue;
                }
            },
        };
        // One that the program's port refuses (ICMP) is lost, as on any network.
        let _ = inside.send(room.get(..length).unwrap_or_default()).await;
        while answers.try_join_next().is_some() {}
    }
}

/// Takes the program's answers to one client to it, until there have been none for long.
async fn answer(inside: &UdpSocket, outside: &UdpSocket, client: SocketAddr) {
    let mut room = vec![0; DATAGRAM_MAX];
    while let Ok(Ok(length)) = timeout(IDLE, inside.recv(&mut room)).await {
        let _ = outside.send_to(room.get(..length).unwrap_or_default(), client).await;
    }
}

async fn connect(network: &Arc<Network>, to: SocketAddr) -> io::Result<UdpSocket> {
    let kind = if to.is_ipv6() { Kind::Udp6 } else { Kind::Udp4 };
    let socket = Socket::from(network.inside(kind).await?);
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}
