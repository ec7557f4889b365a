//! Where an exposed port's clients come in: sockets, and the rules that lead there, whichever way it is.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::datagrams::Receiver;
use super::steal::Rules;
use super::wire::{Protocol, Way};
use super::{listen, pod, steal};

/// How long connections that are half open may take to become whole, once the rules are gone.
const HALF_OPEN: Duration = Duration::from_secs(3);
/// How often it is looked whether there are any.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Rest after accept(2) failed: it fails again at once while the process has no descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub(super) struct Refused {
    /// What was tried.
    pub(super) step: String,
    /// Its reason.
    pub(super) source: io::Error,
}

/// Says which step it was.
pub(super) fn step(step: &str) -> impl Fn(io::Error) -> Refused {
    move |source| Refused { step: step.to_owned(), source }
}

/// Sockets at which clients arrive.
#[derive(Debug)]
pub(super) enum Sockets {
    Tcp(Vec<TcpListener>),
    Udp(Vec<Receiver>),
}

/// Opens the port's way in.
pub(super) fn open(protocol: Protocol, port: u16, way: Way) -> Result<(Sockets, Option<Rules>), Refused> {
    let sockets = match way {
        Way::Listen => listen::sockets(protocol, port)?,
        Way::Steal | Way::Mirror => steal::sockets(protocol)?,
    };
    let addresses: io::Result<Vec<SocketAddr>> = sockets.iter().map(address).collect();
    let addresses = addresses.map_err(step("learn a socket's port"))?;
    let wrapped = wrap(protocol, sockets).map_err(step("watch a socket"))?;
    let rules = match way {
        Way::Listen => None,
        Way::Steal | Way::Mirror => Some(steal::lead(protocol, port, &addresses)?),
    };
    Ok((wrapped, rules))
}

fn address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn wrap(protocol: Protocol, sockets: Vec<Socket>) -> io::Result<Sockets> {
    let mut sockets = sockets.into_iter();
    Ok(match protocol {
        Protocol::Tcp => Sockets::Tcp(
            sockets.map(|socket| TcpListener::from_std(socket.into())).collect::<Result<_, _>>()?,
        ),
        Protocol::Udp => Sockets::Udp(sockets.try_fold(Vec::new(), |mut all, socket| {
            all.push(Receiver::new(socket)?);
            Ok::<_, io::Error>(all)
        })?),
    })
}

/// The next client of a listener.
pub(super) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(_) => sleep(ACCEPT_REST).await,
        }
    }
}

/// The clients that a listener's queue still has.
pub(super) fn waiting(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    let listener = listener.into_std();
    std::iter::from_fn(move || {
        let (client, peer) = listener.as_ref().ok()?.accept().ok()?;
        client.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(client).ok()?, peer))
    })
}

/// Returns when nobody is in the middle of connecting: the kernel would reset them with the listener.
pub(super) async fn until_none_is_half_open(port: u16) {
    let until = Instant::now() + HALF_OPEN;
    while pod::is_being_opened(port) && Instant::now() < until {
        sleep(LOOK_EVERY).await;
    }
}
