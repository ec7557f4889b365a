//! Listens at a port by itself, in a pod that is tp's own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;

use super::intake::{Refused, step};
use super::steal::{make, no_such_family};
use super::wire::Protocol;

const BACKLOG: i32 = 4096;

/// Sockets at the port, of the families that the pod has.
pub(super) fn sockets(protocol: Protocol, port: u16) -> Result<Vec<Socket>, Refused> {
    let mut sockets = Vec::new();
    for at in
        [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))]
    {
        match bound(protocol, at) {
            Ok(socket) => sockets.push(socket),
            Err(error) if at.is_ipv6() && no_such_family(&error) => {}
            Err(error) => return Err(step(&format!("listen at {at}"))(error)),
        }
    }
    Ok(sockets)
}

fn bound(protocol: Protocol, at: SocketAddr) -> std::io::Result<Socket> {
    let made = make(protocol, at)?;
    if protocol == Protocol::Tcp {
        // Old connections of an earlier run are none's by now.
        made.set_reuse_address(true)?;
    }
    made.bind(&at.into())?;
    if protocol == Protocol::Tcp {
        made.listen(BACKLOG)?;
    }
    Ok(made)
}
