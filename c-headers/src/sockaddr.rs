//! Socket addresses as the kernel spells them, and as the launcher's messages do.
//!
//! A program hands over a `sockaddr` of any length and family; the messages carry an [`Address`], in which a
//! v4-mapped IPv6 address is IPv4, because that is where its packets would go (ipv6(7)). Layouts: `sockaddr_in` and
//! `sockaddr_in6` of ip(7) and ipv6(7). Pure; reads and writes bytes only.

use crate::number::{AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC};
use crate::wire::{Address, Ip};

/// Room for any address that is spelled here: that of a `sockaddr_in6`.
pub const ROOM: usize = 28;

/// Bytes of a `sockaddr_in`.
const V4_LEN: usize = 16;

/// The shortest `sockaddr_in6` that Linux takes: that of RFC 2133, without a scope.
const V6_SHORT: usize = 24;

/// An address as a program spelled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelled {
    /// `AF_INET` or `AF_INET6`.
    pub family: i32,
    /// Where it goes.
    pub address: Address,
}

/// The family of a `sockaddr`, if it is long enough to have one.
#[must_use]
pub fn family(bytes: &[u8]) -> Option<i32> {
    let (family, _) = bytes.split_first_chunk::<2>()?;
    Some(i32::from(u16::from_ne_bytes(*family)))
}

/// Reads an internet address; [`None`] for another family, and for one too short for the kernel to take.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Spelled> {
    let family = family(bytes)?;
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match family {
        AF_INET if bytes.len() >= V4_LEN => {
            let ip = Ip::V4(*bytes.get(4..)?.first_chunk()?);
            Some(Spelled { family, address: Address { ip, port, scope: 0 } })
        }
        AF_INET6 if bytes.len() >= V6_SHORT => {
            let ip = unmapped(*bytes.get(8..)?.first_chunk()?);
            let scope = match (ip, bytes.get(V6_SHORT..).and_then(<[u8]>::first_chunk)) {
                (Ip::V6(_), Some(scope)) => u32::from_ne_bytes(*scope),
                _ => 0,
            };
            Some(Spelled { family, address: Address { ip, port, scope } })
        }
        _ => None,
    }
}

/// Spells `address` for a socket of the family; [`None`] where that family cannot say it.
#[must_use]
pub fn spell(address: Address, v6_socket: bool, room: &mut [u8; ROOM]) -> Option<&[u8]> {
    let family = if v6_socket { AF_INET6 } else { AF_INET };
    let length = if v6_socket { ROOM } else { V4_LEN };
    room.fill(0);
    put(room, 0, &u16::try_from(family).ok()?.to_ne_bytes())?;
    put(room, 2, &address.port.to_be_bytes())?;
    match (address.ip, v6_socket) {
        (Ip::V4(ip), false) => put(room, 4, &ip)?,
        (Ip::V4(ip), true) => put(room, 8, &mapped(ip))?,
        (Ip::V6(ip), true) => {
            put(room, 8, &ip)?;
            put(room, V6_SHORT, &address.scope.to_ne_bytes())?;
        }
        (Ip::V6(_), false) => return None,
    }
    room.get(..length)
}

/// The v4-mapped spelling of an IPv4 address (RFC 4291, 2.5.5.2).
#[must_use]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The address itself, IPv4 if it was v4-mapped.
#[must_use]
pub const fn unmapped(ip: [u8; 16]) -> Ip {
    match ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Ip::V4([a, b, c, d]),
        _ => Ip::V6(ip),
    }
}

/// Reads where a datagram goes. An IPv4 socket takes `AF_UNSPEC` for `AF_INET` there (ip(7)).
#[must_use]
pub fn destination(domain: i32, bytes: &[u8]) -> Option<Spelled> {
    if domain == AF_INET && family(bytes) == Some(AF_UNSPEC) {
        let mut room = [0; ROOM];
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        put(&mut room, 0, &(AF_INET as u16).to_ne_bytes())?;
        return read(room.get(..bytes.len())?);
    }
    read(bytes)
}

/// The path in a socket address of unix(7).
#[must_use]
pub fn path(bytes: &[u8]) -> Option<&[u8]> {
    (family(bytes)? == AF_UNIX).then_some(())?;
    bytes.get(2..)?.split(|byte| *byte == 0).next()
}

fn put(room: &mut [u8; ROOM], at: usize, bytes: &[u8]) -> Option<()> {
    let place = room.get_mut(at..)?.get_mut(..bytes.len())?;
    for (to, from) in place.iter_mut().zip(bytes) {
        *to = *from;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    const V4: Address = Address { ip: Ip::V4([10, 96, 0, 7]), port: 80, scope: 0 };
    const V6: Address =
        Address { ip: Ip::V6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]), port: 443, scope: 3 };

    #[test]
    fn what_is_spelled_reads_back() {
        for (address, v6_socket) in [(V4, false), (V4, true), (V6, true)] {
            let mut room = [0xff; ROOM];
            let bytes = spell(address, v6_socket, &mut room).unwrap();
            assert_eq!(read(bytes).unwrap().address, address);
            assert_eq!(read(bytes).unwrap().family == AF_INET6, v6_socket);
        }
    }

    #[test]
    fn a_datagrams_address_needs_no_family_on_an_ipv4_socket() {
        let mut room = [0; ROOM];
        let mut bytes = spell(V4, false, &mut room).unwrap().to_vec();
        bytes[..2].fill(0);
        assert_eq!(destination(AF_INET, &bytes).unwrap().address, V4);
        assert_eq!(destination(AF_INET6, &bytes), None);
        assert_eq!(destination(AF_INET, &bytes[..8]), None);
        assert_eq!(destination(AF_INET, &[0; 64]), None);
    }

    #[test]
    fn a_path_ends_at_its_nul() {
        assert_eq!(path(b"\x01\x00/run/a\0b"), Some(&b"/run/a"[..]));
        assert_eq!(path(b"\x01\x00"), Some(&b""[..]));
        assert_eq!(path(b"\x02\x00/run/a"), None);
    }

    #[test]
    fn the_bytes_are_those_of_the_manual_page() {
        let mut room = [0; ROOM];
        let bytes = spell(V4, false, &mut room).unwrap();
        assert_eq!(&bytes[2..8], &[0, 80, 10, 96, 0, 7]);
        assert_eq!(bytes.len(), 16);
    }

    #[test]
    fn an_ipv6_address_has_no_ipv4_spelling() {
        assert_eq!(spell(V6, false, &mut [0; ROOM]), None);
    }

    #[test]
    fn an_address_the_kernel_would_not_take_is_none_of_ours() {
        let mut room = [0; ROOM];
        let whole = spell(V6, true, &mut room).unwrap();
        assert_eq!(read(&whole[..23]), None);
        assert_eq!(read(&whole[..24]).unwrap().address.scope, 0);
        assert_eq!(read(&whole[..1]), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[1, 0, b'/', b't', b'm', b'p', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
