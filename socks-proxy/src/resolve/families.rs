//! Which address families the pod has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::Flags;

/// Which families the machine has an address of, loopback and link-local ones aside: those by which it gets anywhere.
#[must_use]
pub fn configured() -> Flags {
    of(is_global)
}

/// Which families glibc finds configured for `AI_ADDRCONFIG` (getaddrinfo(3)): those of any address but the two of
/// `localhost`, a link-local one included.
#[must_use]
pub fn seen_by_glibc() -> Flags {
    of(|address| address != Ipv4Addr::LOCALHOST && address != Ipv6Addr::LOCALHOST)
}

/// Which families the machine has an address of that counts.
fn of(counts: fn(IpAddr) -> bool) -> Flags {
    let mut flags = Flags::default();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            flags.ipv4 |= counts(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            flags.ipv6 |= counts(v6.ip().into());
        }
    }
    flags
}

fn is_global(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !link_local
}
