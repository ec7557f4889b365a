//! The two ends of the programs' link, and what is routed over it.
//!
//! ```text
//!   app                                   gateway
//!   lo  127.0.0.1, ::1                    lo   every address (`local` default routes)
//!   eth0  the pod's addresses  <- veth -> tp0  the way to the pod's addresses
//! ```
//!
//! Neither end asks for the other's hardware address, which is its own (`IFF_NOARP`: the kernel then takes the device's
//! address for every neighbour's), so that nothing has to be resolved and no table of neighbours can be full.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use tp_netfilter::netlink::{Attributes, Batch, LO};

/// The number of the link in both namespaces; low ones may be taken by devices that some kernels make in each.
pub(super) const LINK: u32 = 64;

/// The most that a veth takes: a segment of TCP, or a datagram, is one packet.
const MTU: u32 = 65_535;
/// Locally administered, and the same at both ends.
const HARDWARE: [u8; 6] = [0x02, 0x74, 0x70, 0, 0, 1];
/// Where the default routes point; nobody has these addresses, and nobody needs to.
const VIA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const VIA_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

// linux/if_link.h, linux/veth.h
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
// linux/rtnetlink.h
const RTNH_F_ONLINK: u32 = 4;

/// What the links are made of.
pub(super) struct Links<'a> {
    /// The pod's addresses.
    pub(super) own: &'a [IpAddr],
    /// The kernel knows IPv6.
    pub(super) v6: bool,
}

impl Links<'_> {
    /// Makes the link, and the gateway's side of it. `socket` is one of the gateway's, `app` the other namespace.
    pub(super) fn make(&self, socket: &OwnedFd, app: &OwnedFd) -> io::Result<()> {
        let mut batch = Batch::default();
        let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        batch.request(libc::RTM_NEWLINK, create, &link(LINK, 0), |body| {
            device(body, "tp0");
            body.nest(libc::IFLA_LINKINFO, |info| {
                info.put(libc::IFLA_INFO_KIND, b"veth");
                info.nest(libc::IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&link(LINK, 0));
                        device(peer, "eth0");
                        peer.put(libc::IFLA_NET_NS_FD, &app.as_raw_fd().to_ne_bytes());
                    });
                });
            });
        });
        self.up(&mut batch);
        for own in self.own {
            route(&mut batch, *own, prefix(*own), libc::RTN_UNICAST, LINK, None);
        }
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            if any.is_ipv4() || self.v6 {
                route(&mut batch, any, 0, libc::RTN_LOCAL, LO, None);
            }
        }
        batch.send(socket)
    }

    /// The programs' side. `socket` is one of their namespace's.
    pub(super) fn furnish(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut batch = Batch::default();
        self.up(&mut batch);
        for own in self.own {
            address(&mut batch, *own);
            let (any, via) = match own {
                IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), VIA_V4.into()),
                IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), VIA_V6.into()),
            };
            route(&mut batch, any, 0, libc::RTN_UNICAST, LINK, Some((via, *own)));
        }
        batch.send(socket)
    }

    fn up(&self, batch: &mut Batch) {
        if self.v6 {
            // No link-local address: it would be one that the pod does not have.
            batch.request(libc::RTM_SETLINK, 0, &link(LINK, 0), |body| {
                body.nest(libc::IFLA_AF_SPEC, |families| {
                    families.nest(family(Ipv6Addr::UNSPECIFIED.into()).into(), |inet6| {
                        inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
                    });
                });
            });
        }
        batch.request(libc::RTM_SETLINK, 0, &link(LINK, libc::IFF_UP | libc::IFF_NOARP), |_| {});
        batch.request(libc::RTM_SETLINK, 0, &link(LO, libc::IFF_UP), |_| {});
    }
}

/// Takes the programs' default routes away, which is done at once: to take a link away the kernel waits for all its
/// processors. `socket` is one of their namespace's.
pub(super) fn cut(socket: &OwnedFd, own: &[IpAddr]) -> io::Result<()> {
    let mut batch = Batch::default();
    for own in own {
        let mut header = vec![family(*own), 0, 0, 0, libc::RT_TABLE_MAIN, 0, libc::RT_SCOPE_NOWHERE, 0];
        header.extend([0; 4]);
        batch.request(libc::RTM_DELROUTE, 0, &header, |body| body.put(libc::RTA_OIF, &LINK.to_ne_bytes()));
    }
    batch.send(socket)
}

/// Takes the link away, and with it what both sides route over it. `socket` is one of the gateway's.
pub(super) fn remove(socket: &OwnedFd) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.request(libc::RTM_DELLINK, 0, &link(LINK, 0), |_| {});
    batch.send(socket)
}

/// `struct ifinfomsg`; of the flags, those given are set and no other is changed.
fn link(index: u32, flags: i32) -> Vec<u8> {
    let flags = flags.to_ne_bytes();
    [[0; 4], index.to_ne_bytes(), flags, flags].concat()
}

fn device(body: &mut Attributes, name: &str) {
    body.name(libc::IFLA_IFNAME, name);
    body.put(libc::IFLA_MTU, &MTU.to_ne_bytes());
    body.put(libc::IFLA_ADDRESS, &HARDWARE);
}

fn address(batch: &mut Batch, own: IpAddr) {
    let flags = if own.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let mut header = vec![family(own), prefix(own), flags, libc::RT_SCOPE_UNIVERSE];
    header.extend(LINK.to_ne_bytes());
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.request(libc::RTM_NEWADDR, create, &header, |body| {
        body.put(libc::IFA_LOCAL, &octets(own));
        body.put(libc::IFA_ADDRESS, &octets(own));
    });
}

/// A route to `to` of `prefix` bits over a link, by way of a gateway with an own address where that is given.
fn route(batch: &mut Batch, to: IpAddr, prefix: u8, kind: u8, over: u32, by: Option<(IpAddr, IpAddr)>) {
    let scope = match (kind, by) {
        (libc::RTN_LOCAL, _) => libc::RT_SCOPE_HOST,
        (_, None) => libc::RT_SCOPE_LINK,
        (_, Some(_)) => libc::RT_SCOPE_UNIVERSE,
    };
    let mut header = vec![family(to), prefix, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, scope, kind];
    let flags = if by.is_some() { RTNH_F_ONLINK } else { 0 };
    header.extend(flags.to_ne_bytes());
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    batch.request(libc::RTM_NEWROUTE, create, &header, |body| {
        if prefix > 0 {
            body.put(libc::RTA_DST, &octets(to));
        }
        body.put(libc::RTA_OIF, &over.to_ne_bytes());
        if let Some((via, own)) = by {
            body.put(libc::RTA_GATEWAY, &octets(via));
            body.put(libc::RTA_PREFSRC, &octets(own));
        }
    });
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
