//! Who has a port on this machine.
//!
//! A program that cannot have its port says "address in use", if it says anything, long after the pod's port was taken for
//! it; so it is looked up before. The kernel lists sockets by inode (proc_net(5)), and a process has its own as links in
//! /proc/PID/fd, which are shown of this user's processes only.

use std::net::SocketAddr;

use procfs::net::TcpState;
use procfs::process::{FDTarget, all_processes};
use socks_proxy::expose::wire::Protocol;

/// The holder of a port: a program's name and its process, if that is one of this user's; [`None`] if the port is free.
#[must_use]
pub fn holder(protocol: Protocol, port: u16) -> Option<String> {
    let inode = bound(protocol).into_iter().find(|(at, _)| at.port() == port && matters(at))?.1;
    Some(name_of(inode).unwrap_or_else(|| "a program of another user".to_owned()))
}

/// A program that listens on all addresses, or on a loopback one, would meet it there.
fn matters(at: &SocketAddr) -> bool {
    at.ip().is_unspecified() || at.ip().is_loopback()
}

fn bound(protocol: Protocol) -> Vec<(SocketAddr, u64)> {
    match protocol {
        Protocol::Tcp => [procfs::net::tcp(), procfs::net::tcp6()]
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.state == TcpState::Listen)
            .map(|entry| (entry.local_address, entry.inode))
            .collect(),
        Protocol::Udp => [procfs::net::udp(), procfs::net::udp6()]
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| (entry.local_address, entry.inode))
            .collect(),
    }
}

fn name_of(inode: u64) -> Option<String> {
    let has = |target: &FDTarget| matches!(target, FDTarget::Socket(known) if *known == inode);
    let owner = all_processes().ok()?.flatten().find(|process| {
        process.fd().is_ok_and(|mut open| open.any(|fd| fd.is_ok_and(|fd| has(&fd.target))))
    })?;
    let name = owner.stat().ok()?.comm;
    Some(format!("{name} (process {})", owner.pid))
}

/// The first port that everybody may listen on (`net.ipv4.ip_unprivileged_port_start`, ip-sysctl of the kernel's
/// documentation).
#[must_use]
pub fn first_unprivileged() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Whether programs of this user may listen on the port.
#[must_use]
pub fn may_listen(port: u16) -> bool {
    port >= first_unprivileged() || nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_port_that_is_listened_on_has_a_holder_with_a_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let held = holder(Protocol::Tcp, port).unwrap();
        assert!(held.ends_with(&format!("(process {})", std::process::id())), "{held}");
        drop(listener);
        assert_eq!(holder(Protocol::Tcp, port), None);
        let socket = UdpSocket::bind("[::]:0").unwrap();
        assert!(holder(Protocol::Udp, socket.local_addr().unwrap().port()).is_some());
    }
}
