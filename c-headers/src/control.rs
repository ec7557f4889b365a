//! Control messages that say by which interface and from which address a datagram leaves (`IP_PKTINFO` of ip(7),
//! `IPV6_PKTINFO` of ipv6(7)).
//!
//! A server that answers from the address it was asked at puts them on each datagram. On the way to a relay an
//! interface or address other than loopback's is none that the kernel could use: it would refuse the call, or hand the
//! packet to a network card. They are left out there, on a copy; the program's own memory is not touched.
//!
//! Pure: bytes in, bytes out. Layout: `struct cmsghdr` of cmsg(3), each aligned to a `size_t`.

use crate::number::{IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO};

/// Room for the control messages of one datagram; those that programs send have less than 100 bytes.
pub const ROOM: usize = 512;

/// Control messages on their way, aligned as the kernel reads them.
#[repr(C, align(8))]
pub struct Room(pub [u8; ROOM]);

/// The interface that loopback is in every network namespace (`LOOPBACK_IFINDEX` of Linux).
const LO: u32 = 1;

const ALIGN: usize = size_of::<usize>();
/// Where `cmsg_level` and `cmsg_type` are, behind `cmsg_len`, and where the body begins.
const LEVEL: usize = size_of::<usize>();
const KIND: usize = LEVEL + 4;
const HEADER: usize = KIND + 4;

/// Is there anything that must not go to a relay?
#[must_use]
pub fn must_change(control: &[u8]) -> bool {
    Messages(control).any(|message| !goes(message))
}

/// Copies what may go to a relay; the length of the copy, or [`None`] if it has no room.
#[must_use]
pub fn copy(control: &[u8], room: &mut Room) -> Option<usize> {
    let mut at = 0_usize;
    for message in Messages(control).filter(|message| goes(message)) {
        let end = at.checked_add(message.len())?;
        for (to, from) in room.0.get_mut(at..end)?.iter_mut().zip(message) {
            *to = *from;
        }
        at = end.checked_next_multiple_of(ALIGN)?;
    }
    (at <= ROOM).then_some(at)
}

/// Each message with its header, as far as they are what they claim to be; the kernel refuses others.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from_ne_bytes(*self.0.first_chunk()?);
        if length < HEADER {
            return None;
        }
        let message = self.0.get(..length)?;
        self.0 = length.checked_next_multiple_of(ALIGN).and_then(|next| self.0.get(next..)).unwrap_or(&[]);
        Some(message)
    }
}

/// May this message go to a relay?
fn goes(message: &[u8]) -> bool {
    let int = |at: usize| message.get(at..).and_then(<[u8]>::first_chunk).map(|int| i32::from_ne_bytes(*int));
    let kind = int(LEVEL).zip(int(KIND));
    let body = message.get(HEADER..).unwrap_or(&[]);
    match kind {
        Some((IPPROTO_IP, IP_PKTINFO)) => {
            // ipi_ifindex, then ipi_spec_dst.
            let (interface, address) = (body.first_chunk(), body.get(4..).and_then(<[u8]>::first_chunk::<4>));
            is_loopback(interface) && matches!(address, Some([127, ..] | [0, 0, 0, 0]))
        }
        Some((IPPROTO_IPV6, IPV6_PKTINFO)) => is_loopbacks_v6(body),
        _ => true,
    }
}

/// Does this `in6_pktinfo` name no interface and address, or those of loopback?
#[must_use]
pub fn is_loopbacks_v6(info: &[u8]) -> bool {
    let address = info.first_chunk::<16>().map(|address| u128::from_be_bytes(*address));
    let mapped = matches!(address, Some(mapped) if mapped >> 24 == 0x00ff_ff7f);
    let interface = info.get(16..).and_then(<[u8]>::first_chunk);
    is_loopback(interface) && (mapped || matches!(address, Some(0 | 1)))
}

/// Is this interface loopback, or none in particular?
#[must_use]
pub fn is_loopback(interface: Option<&[u8; 4]>) -> bool {
    matches!(interface.map(|index| u32::from_ne_bytes(*index)), Some(0 | LO))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn message(level: i32, kind: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER + body.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    fn v4(interface: u32, address: [u8; 4]) -> Vec<u8> {
        let body = [&interface.to_ne_bytes()[..], &address, &[0; 4]].concat();
        message(IPPROTO_IP, IP_PKTINFO, &body)
    }

    fn v6(interface: u32, address: &str) -> Vec<u8> {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        let body = [&address.octets()[..], &interface.to_ne_bytes()].concat();
        message(IPPROTO_IPV6, IPV6_PKTINFO, &body)
    }

    #[test]
    fn loopback_and_no_address_at_all_stay() {
        for stays in
            [v4(0, [0; 4]), v4(1, [127, 0, 0, 1]), v6(0, "::"), v6(1, "::1"), v6(0, "::ffff:127.0.0.1")]
        {
            assert!(!must_change(&stays));
        }
        assert!(!must_change(&message(IPPROTO_IP, 1, &[0; 4])));
        assert!(!must_change(&[]));
    }

    #[test]
    fn interfaces_and_addresses_of_the_laptop_are_left_out_and_nothing_else() {
        let tos = message(IPPROTO_IP, 1, &[8, 0, 0, 0]);
        let segment = message(17, 103, &[0, 1]);
        for goes in [v4(2, [0; 4]), v4(0, [10, 0, 0, 1]), v6(0, "fd00::2"), v6(3, "::")] {
            let control = [&tos[..], &goes, &segment].concat();
            assert!(must_change(&control));
            let mut room = Room([0xff; ROOM]);
            let length = copy(&control, &mut room).unwrap();
            assert_eq!(Messages(&room.0[..length]).count(), 2);
            assert!(room.0.starts_with(&tos[..HEADER + 4]));
            assert!(!must_change(&room.0[..length]));
        }
    }

    #[test]
    fn what_does_not_fit_is_none() {
        let long = message(IPPROTO_IP, 7, &[0; ROOM]);
        assert_eq!(copy(&long, &mut Room([0; ROOM])), None);
    }

    #[test]
    fn a_length_that_is_none_ends_it() {
        let mut broken = v4(2, [0; 4]);
        broken[0] = 200;
        assert!(!must_change(&broken));
        broken[0] = 3;
        assert!(!must_change(&broken));
    }
}
