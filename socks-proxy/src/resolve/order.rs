//! In which order the pod would try a name's addresses: RFC 6724, section 6, with the tables of glibc.
//!
//! The rules compare each destination with the source address that the kernel would take for it, and these are the
//! pod's: the laptop's libc would judge by the laptop's. As in glibc, the kernel itself is asked: a UDP socket that is
//! connected sends nothing, and its own address is the source. The tables are glibc's defaults (gai.conf(5)), since the
//! programs are glibc's: its precedences are those of RFC 3484, with IPv4 after every IPv6. Rules 3, 4 and 7 need facts
//! that pods have none of (deprecated, home and tunnelled addresses).

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

/// An address and what the pod would use it with.
#[derive(Clone, Copy, Debug)]
struct Destination {
    address: IpAddr,
    source: Option<Source>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    address: IpAddr,
    /// Bits of its network's prefix.
    prefix: u32,
}

/// The addresses, most preferred first; equals stay in their order.
#[must_use]
pub fn ordered(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.len() < 2 {
        return addresses;
    }
    let own = prefixes();
    let source = |address| {
        let source = source(address)?;
        let prefix = own.iter().find(|(known, _)| *known == source).map_or(0, |(_, prefix)| *prefix);
        Some(Source { address: source, prefix })
    };
    sorted(addresses.into_iter().map(|address| Destination { address, source: source(address) }).collect())
}

/// The bytes for the wire: 16 an address, IPv4 as v4-mapped.
#[must_use]
pub fn encode(addresses: &[IpAddr]) -> Vec<u8> {
    addresses.iter().flat_map(|address| wide(*address).octets()).collect()
}

/// The source that the kernel takes for a destination; `None` where there is no way.
fn source(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // The port does not matter, but must not be 0.
    socket.connect(SocketAddr::new(destination, 53)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The pod's own addresses and the lengths of their networks' prefixes.
fn prefixes() -> Vec<(IpAddr, u32)> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let (Some(address), Some(mask)) = (interface.address, interface.netmask) else { continue };
        if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            found.push((IpAddr::V4(address.ip()), mask.ip().to_bits().leading_ones()));
        } else if let (Some(address), Some(mask)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
            found.push((IpAddr::V6(address.ip()), mask.ip().to_bits().leading_ones()));
        }
    }
    found
}

fn sorted(mut destinations: Vec<Destination>) -> Vec<IpAddr> {
    destinations.sort_by(compare);
    destinations.into_iter().map(|destination| destination.address).collect()
}

/// Less is preferred.
fn compare(one: &Destination, other: &Destination) -> Ordering {
    let by = |judge: fn(&Destination) -> bool| judge(other).cmp(&judge(one));
    by(|it| it.source.is_some()) // Rule 1
        .then_with(|| by(|it| it.source.is_some_and(|source| scope(it.address) == scope(source.address)))) // Rule 2
        .then_with(|| by(|it| it.source.is_some_and(|source| label(it.address) == label(source.address)))) // Rule 5
        .then_with(|| precedence(other.address).cmp(&precedence(one.address))) // Rule 6
        .then_with(|| scope(one.address).cmp(&scope(other.address))) // Rule 8
        .then_with(|| match one.address.is_ipv4() == other.address.is_ipv4() {
            true => other.common().cmp(&one.common()), // Rule 9
            false => Ordering::Equal,
        })
}

impl Destination {
    /// The bits that it has in common with its source; of IPv4 only within the source's own network, as in glibc.
    fn common(&self) -> u32 {
        match (self.address, self.source) {
            (IpAddr::V4(to), Some(Source { address: IpAddr::V4(from), prefix })) => {
                let common = (to.to_bits() ^ from.to_bits()).leading_zeros();
                if common >= prefix { common } else { 0 }
            }
            (IpAddr::V6(to), Some(Source { address: IpAddr::V6(from), .. })) => {
                (to.to_bits() ^ from.to_bits()).leading_zeros()
            }
            _ => 0,
        }
    }
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// RFC 6724, 3.1 and 3.2: link-local 2, site-local 5, global 14.
fn scope(address: IpAddr) -> u8 {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_link_local() => 2,
        IpAddr::V6(v6) if v6.is_multicast() => v6.octets()[1] & 0xf,
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unicast_link_local() => 2,
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfec0 => 5,
        _ => 14,
    }
}

/// glibc's `default_labels`.
fn label(address: IpAddr) -> u8 {
    match wide(address).segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => 0,
        [0, 0, 0, 0, 0, 0xffff, ..] => 4,
        [0, 0, 0, 0, 0, 0, ..] => 3,
        [0x2002, ..] => 2,
        [0xfec0..=0xfeff, ..] => 5,
        [0xfc00..=0xfdff, ..] => 6,
        [0x2001, 0, ..] => 7,
        _ => 1,
    }
}

/// glibc's `default_precedence`.
fn precedence(address: IpAddr) -> u8 {
    match wide(address).segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => 50,
        [0, 0, 0, 0, 0, 0xffff, ..] => 10,
        [0, 0, 0, 0, 0, 0, ..] => 20,
        [0x2002, ..] => 30,
        _ => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Destinations with their sources, `-` for none; sources' prefixes are 24 and 64.
    fn order(pairs: &[(&str, &str)]) -> Vec<String> {
        let destination = |(address, source): &(&str, &str)| {
            let source = source
                .parse()
                .ok()
                .map(|address: IpAddr| Source { address, prefix: if address.is_ipv4() { 24 } else { 64 } });
            Destination { address: address.parse().unwrap(), source }
        };
        sorted(pairs.iter().map(destination).collect()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rule_1_what_the_pod_has_no_way_to_comes_last() {
        assert_eq!(order(&[("2001:db8::1", "-"), ("10.0.0.1", "10.244.0.8")]), ["10.0.0.1", "2001:db8::1"]);
    }

    #[test]
    fn rule_2_a_source_of_the_same_reach_is_better() {
        let pairs = [("2001:db8::1", "fe80::2"), ("198.51.100.1", "10.244.0.8")];
        assert_eq!(order(&pairs), ["198.51.100.1", "2001:db8::1"]);
    }

    #[test]
    fn rule_5_a_private_source_does_not_fit_a_public_destination() {
        let pairs = [("2001:db8::1", "fd00::8"), ("192.0.2.80", "10.244.0.8")];
        assert_eq!(order(&pairs), ["192.0.2.80", "2001:db8::1"]);
    }

    #[test]
    fn rule_6_ipv6_goes_before_ipv4_where_both_fit() {
        let pairs = [("10.96.0.7", "10.244.0.8"), ("fd00:10:96::7", "fd00:10:244::8")];
        assert_eq!(order(&pairs), ["fd00:10:96::7", "10.96.0.7"]);
    }

    #[test]
    fn rule_9_the_nearer_address_of_a_family_goes_first_and_equals_keep_their_order() {
        let far_near = [("fd00:1::1", "fd00:10:244::8"), ("fd00:10:244::9", "fd00:10:244::8")];
        assert_eq!(order(&far_near), ["fd00:10:244::9", "fd00:1::1"]);
        let same_net = [("10.244.1.1", "10.244.0.8"), ("10.244.0.9", "10.244.0.8")];
        assert_eq!(order(&same_net), ["10.244.0.9", "10.244.1.1"]);
        // Beyond the source's own network glibc does not compare IPv4.
        let elsewhere = [("192.0.2.1", "10.244.0.8"), ("10.96.0.1", "10.244.0.8")];
        assert_eq!(order(&elsewhere), ["192.0.2.1", "10.96.0.1"]);
    }

    #[test]
    fn the_kernel_is_asked_for_sources() {
        assert_eq!(source([127, 0, 0, 2].into()), Some([127, 0, 0, 1].into()));
        let loopbacks: Vec<IpAddr> = vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()];
        assert_eq!(ordered(loopbacks.clone()), [loopbacks[1], loopbacks[0]], "the same address is nearest");
        assert_eq!(encode(&[[1, 2, 3, 4].into()]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4]);
    }
}
