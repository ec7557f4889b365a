//! The launcher's half of the simultaneous open.
//!
//! # Theory of operation
//! The app's socket is in `SYN_SENT` towards the park. A second socket of ours, bound to the park's address and
//! port, connect()s to the app's address: its SYN reaches a socket that sent one itself, and both become
//! `ESTABLISHED` within that one call on loopback.
//!
//! The app may not have called connect() yet: the launcher's answer and the dial's race, and a thread can lose the
//! processor in between. No event tells it, so the state is looked at, closely at first and then each millisecond.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::park;
use crate::sys::socket::{TcpState, tcp_state};

/// How long an app may take from the answer to its connect().
const APP_LIMIT: Duration = Duration::from_secs(10);
/// How long the open itself may take; it is one round trip through loopback.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
const QUICK_LOOKS: u32 = 64;

/// Waits until the app's socket is on its way to the park, then connects it. Gives the launcher's end.
pub(super) async fn meet(socket: &OwnedFd, parked: SocketAddr) -> io::Result<TcpStream> {
    until_parked(socket).await?;
    let app = super::own_address(socket)?;
    let ours = park::at_reused_port(parked)?;
    ours.set_nonblocking(true)?;
    ours.set_tcp_nodelay(true)?;
    // The app may be connected before this task goes on, and the launcher killed between.
    ours.set_linger(Some(Duration::ZERO))?;
    let ours = TcpSocket::from_std_stream(ours.into());
    tokio::time::timeout(OPEN_LIMIT, ours.connect(app))
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Waits until the app's connect() to the park has begun.
pub(super) async fn until_parked(socket: &OwnedFd) -> io::Result<()> {
    let wait = async {
        let mut looks = 0;
        loop {
            match tcp_state(socket)? {
                TcpState::SynSent => return Ok(()),
                TcpState::Closed => {}
                TcpState::Other(state) => {
                    return Err(io::Error::other(format!("the app's socket is in TCP state {state}")));
                }
            }
            looks += 1;
            if looks < QUICK_LOOKS {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::time::timeout(APP_LIMIT, wait)
        .await
        .unwrap_or_else(|_elapsed| Err(io::Error::from(io::ErrorKind::TimedOut)))
}
