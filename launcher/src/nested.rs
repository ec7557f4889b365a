//! A tp that is started in a `tp run` itself.
//!
//! It has the shim of the other run in it, which would put that run's variables back into everything that is started from
//! here, and have the other launcher decide where it goes. So tp leaves that shim: it starts itself anew without it. What
//! it makes is then a run like any other, beside the one that it is in.
//!
//! Nobody leaves a private network or a filter. In the one a run works as anywhere. In the other there can be no private
//! network: the launcher of the filter would answer the calls of programs in it, and has its relays elsewhere.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use tp_abi::env;

use crate::sys;

/// Starts this program anew if a shim is in it. Goes on if that cannot be done.
pub fn leave_shim() {
    if std::env::var_os(env::SOCKET).is_none() {
        return;
    }
    let environment = tp_inside::enter::plain_environment();
    let error = sys::process::execute(c"/proc/self/exe", &tp_inside::enter::arguments(), &environment);
    eprintln!("tp: the shim of the run that this is in cannot be left: {error}");
}

/// An address that is nobody's (RFC 5737), and a port of no use; nothing is sent there.
const NOBODY: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 9), 9);

/// Whether another run's filter is on this process: the kernel then knows a connected socket's peer to be a relay.
#[must_use]
pub fn is_filtered() -> bool {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return false };
    let Ok(own) = socket.local_addr() else { return false };
    let connected = socket.connect(NOBODY).is_ok();
    let relay = IpAddr::from(env::RELAY_V4);
    let known = procfs::net::udp().unwrap_or_default();
    connected
        && known.iter().any(|udp| udp.local_address.port() == own.port() && udp.remote_address.ip() == relay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_is_seen_where_there_is_none() {
        assert!(!is_filtered());
    }
}
