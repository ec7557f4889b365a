//! The steps to a private network one by one, as [`probe`](crate::probe) tries them: where a machine refuses one, that one is
//! told.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;
use nix::unistd::{getegid, geteuid};

use tp_netfilter::netlink::{self, LO};
use tp_netfilter::nftables;

use super::links::Links;
use super::{map, rules as tables, watch};

/// This process gets a user namespace.
pub(crate) fn users() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    map(uid.as_raw(), gid.as_raw())
}

/// This process gets a network namespace.
pub(crate) fn network() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// This process gets two network namespaces, of which it gives the one and is in the other.
pub(crate) fn networks() -> io::Result<OwnedFd> {
    network()?;
    let app = std::fs::File::open("/proc/self/ns/net")?;
    network()?;
    Ok(app.into())
}

/// They are linked.
pub(crate) fn link(app: &OwnedFd) -> io::Result<()> {
    let links = Links { own: &[IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))], v6: false };
    links.make(&netlink::open(SockProtocol::NetlinkRoute)?, app)
}

/// Packets are seen.
pub(crate) fn packets() -> io::Result<()> {
    watch::open(false, LO).map(drop)
}

/// Packets are dropped.
pub(crate) fn rules() -> io::Result<()> {
    install(&[])
}

/// Datagrams are led to one socket.
pub(crate) fn tproxy() -> io::Result<()> {
    install(&[(Ipv4Addr::LOCALHOST, 1).into()])
}

/// Packets that a socket takes are told from others, by rules that go with who made them: in a namespace of their own, as
/// in a run, since the table has one name.
pub(crate) fn sockets() -> io::Result<()> {
    network()?;
    tables::install_loopback(&nftables::open()?, &[])
}

fn install(receivers: &[SocketAddr]) -> io::Result<()> {
    tables::install(&nftables::open()?, receivers)
}

/// This process gets a mount namespace, and a file over another in it.
pub(crate) fn mounts() -> io::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    Ok(mount(Some("/dev/null"), "/etc/hosts", NONE, MsFlags::MS_BIND, NONE)?)
}
