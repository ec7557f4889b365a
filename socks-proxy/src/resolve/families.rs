//! Which address families the pod has: what `AI_ADDRCONFIG` of getaddrinfo(3) asks about.

use std::net::IpAddr;

use crate::link::Flags;

/// Which families the machine has an address of, loopback and link-local ones aside.
#[must_use]
pub fn configured() -> Flags {
    let mut flags = Flags::default();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            flags.ipv4 |= is_global(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            flags.ipv6 |= is_global(IpAddr::V6(v6.ip()));
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
