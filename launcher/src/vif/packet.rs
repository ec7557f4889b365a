//! The packets that the launcher itself reads and writes: those that ask, and answers that are not a connection's.
//!
//! Pure: bytes in, bytes out. What is read comes from the program's kernel, or from the program itself (raw sockets exist
//! in its network), and may be anything.

use std::net::{IpAddr, SocketAddr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, LaxNetSlice, LaxSlicedPacket, PacketBuilder, PacketBuilderStep,
    TransportSlice,
};
use tp_abi::errno::code;

const TTL: u8 = 64;
/// The next header of a packet that is a part (RFC 8200, 4.5).
const FRAGMENT: u8 = 44;

/// What a packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A TCP connection.
    Opens {
        /// The program's socket.
        app: SocketAddr,
        /// Where it wants to go.
        asked: SocketAddr,
        /// The number of its SYN.
        sequence: u32,
    },
    /// An answer to a ping.
    Pings {
        /// The program's own address.
        app: IpAddr,
        /// Whom it pings.
        asked: IpAddr,
    },
}

/// Reads a packet from its IP header on; its end may be missing.
#[must_use]
pub fn seen(packet: &[u8]) -> Option<Seen> {
    let sliced = LaxSlicedPacket::from_ip(packet).ok()?;
    let (app, asked): (IpAddr, IpAddr) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(v4) => (v4.header().source_addr().into(), v4.header().destination_addr().into()),
        LaxNetSlice::Ipv6(v6) => (v6.header().source_addr().into(), v6.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    match sliced.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() => {
            Some(Seen::Opens {
                app: SocketAddr::new(app, tcp.source_port()),
                asked: SocketAddr::new(asked, tcp.destination_port()),
                sequence: tcp.sequence_number(),
            })
        }
        TransportSlice::Icmpv4(icmp) if matches!(icmp.icmp_type(), Icmpv4Type::EchoRequest(_)) => {
            Some(Seen::Pings { app, asked })
        }
        TransportSlice::Icmpv6(icmp) if matches!(icmp.icmp_type(), Icmpv6Type::EchoRequest(_)) => {
            Some(Seen::Pings { app, asked })
        }
        _ => None,
    }
}

/// What the program's kernel must hear so that a connect() or a datagram fails with `errno`: the reset or the ICMP message
/// that a network would answer with. [`None`] for the silence after which the kernel says `ETIMEDOUT` by itself. `packet`
/// is the program's, from its IP header on.
///
/// ICMP has no word for some errors; then it is the nearest one.
#[must_use]
pub fn refusal(seen: Seen, packet: &[u8], errno: i32) -> Option<Vec<u8>> {
    match (seen, errno) {
        (_, code::ETIMEDOUT) => None,
        (Seen::Opens { app, asked, sequence }, code::ECONNREFUSED | code::ECONNRESET) => {
            Some(reset(app, asked, sequence))
        }
        (Seen::Opens { app, asked, .. }, errno) => Some(unreachable(app.ip(), asked.ip(), packet, errno)),
        (Seen::Pings { app, asked }, errno) => Some(unreachable(app, asked, packet, errno)),
    }
}

fn reset(app: SocketAddr, asked: SocketAddr, sequence: u32) -> Vec<u8> {
    let tcp = from(asked.ip(), app.ip())
        .map(|ip| ip.tcp(asked.port(), app.port(), 0, 0).rst().ack(sequence.wrapping_add(1)));
    let mut packet = Vec::new();
    // Writing to memory fails for nothing that is built here.
    let _ = tcp.map(|tcp| tcp.write(&mut packet, &[]));
    packet
}

/// "Destination unreachable" (RFC 792, RFC 4443) about a packet of the program, as `errno` of icmp(7) and of
/// `icmpv6_err_convert` in the kernel.
fn unreachable(app: IpAddr, asked: IpAddr, about: &[u8], errno: i32) -> Vec<u8> {
    let mut packet = Vec::new();
    let Some(ip) = from(asked, app) else { return packet };
    let _ = if app.is_ipv4() {
        let reason = match errno {
            code::ECONNREFUSED => DestUnreachableHeader::Port,
            code::EHOSTUNREACH => DestUnreachableHeader::Host,
            code::EACCES | code::EPERM => DestUnreachableHeader::FilterProhibited,
            _ => DestUnreachableHeader::Network,
        };
        ip.icmpv4(Icmpv4Type::DestinationUnreachable(reason)).write(&mut packet, about)
    } else {
        let reason = match errno {
            code::ECONNREFUSED => DestUnreachableCode::Port,
            code::EHOSTUNREACH => DestUnreachableCode::Address,
            code::EACCES | code::EPERM => DestUnreachableCode::Prohibited,
            _ => DestUnreachableCode::NoRoute,
        };
        ip.icmpv6(Icmpv6Type::DestinationUnreachable(reason)).write(&mut packet, about)
    };
    packet
}

/// The longest packet that the programs' link takes.
const MTU: usize = 65_535;
/// Bytes of an IPv6 header, of a fragment's, and of what a fragment carries (RFC 8200, 4.5).
const V6_HEADER: usize = 40;
const FRAGMENT_MAX: usize = 65_480;

/// The packet as it can be sent: the longest datagrams of IPv6 do not fit into one. `number` tells its parts from those of
/// others.
#[must_use]
pub fn sendable(packet: Vec<u8>, number: u32) -> Vec<Vec<u8>> {
    match packet.split_at_checked(V6_HEADER) {
        Some((header, payload)) if packet.len() > MTU => fragments(header, payload, number),
        _ => vec![packet],
    }
}

fn fragments(header: &[u8], payload: &[u8], number: u32) -> Vec<Vec<u8>> {
    let (start, addresses) = header.split_at_checked(8).unwrap_or_default();
    let next = start.get(6).copied().unwrap_or_default();
    let mut offset: u16 = 0;
    let mut all = Vec::new();
    let mut chunks = payload.chunks(FRAGMENT_MAX).peekable();
    while let Some(chunk) = chunks.next() {
        let length = u16::try_from(chunk.len()).unwrap_or_default();
        let more = u16::from(chunks.peek().is_some());
        let mut packet = start.get(..4).unwrap_or_default().to_vec();
        packet.extend((length + 8).to_be_bytes());
        packet.extend([FRAGMENT, TTL]);
        packet.extend(addresses);
        packet.extend([next, 0]);
        // The offset is in units of 8 bytes, which leaves the last bits free.
        packet.extend((offset | more).to_be_bytes());
        packet.extend(number.to_be_bytes());
        packet.extend(chunk);
        all.push(packet);
        offset = offset.saturating_add(length);
    }
    all
}

/// A datagram that the program receives; [`None`] if it is longer than its network carries.
#[must_use]
pub fn datagram(sender: SocketAddr, receiver: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let udp = from(sender.ip(), receiver.ip())?.udp(sender.port(), receiver.port());
    let mut packet = Vec::with_capacity(udp.size(payload.len()));
    udp.write(&mut packet, payload).ok()?;
    Some(packet)
}

/// What ICMP said of a datagram of `app` to `asked`.
#[must_use]
pub fn undelivered(app: SocketAddr, asked: SocketAddr, errno: i32) -> Option<Vec<u8>> {
    Some(unreachable(app.ip(), asked.ip(), &datagram(app, asked, &[])?, errno))
}

/// The start of a packet; [`None`] for addresses of two families.
fn from(sender: IpAddr, receiver: IpAddr) -> Option<PacketBuilderStep<IpHeaders>> {
    match (sender, receiver) {
        (IpAddr::V4(sender), IpAddr::V4(receiver)) => {
            Some(PacketBuilder::ipv4(sender.octets(), receiver.octets(), TTL))
        }
        (IpAddr::V6(sender), IpAddr::V6(receiver)) => {
            Some(PacketBuilder::ipv6(sender.octets(), receiver.octets(), TTL))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const V4: (&str, &str) = ("10.244.0.6:40000", "10.96.0.7:80");
    const V6: (&str, &str) = ("[fd00::6]:40000", "[fd00::7]:80");

    fn syn(app: SocketAddr, asked: SocketAddr) -> Vec<u8> {
        let mut packet = Vec::new();
        let tcp = from(app.ip(), asked.ip()).unwrap().tcp(app.port(), asked.port(), 77, 64_000);
        tcp.syn().write(&mut packet, &[]).unwrap();
        packet
    }

    #[test]
    fn what_opens_is_seen_even_if_its_end_is_missing() {
        for (app, asked) in [V4, V6] {
            let (app, asked) = (at(app), at(asked));
            let mut packet = syn(app, asked);
            packet.extend([1; 100]);
            let expected = Seen::Opens { app, asked, sequence: 77 };
            assert_eq!(seen(&packet), Some(expected));
            for length in 0..packet.len() {
                assert!(matches!(seen(&packet[..length]), None | Some(Seen::Opens { .. })));
            }
        }
    }

    #[test]
    fn a_closed_port_is_a_reset_that_acknowledges_the_syn() {
        for (app, asked) in [V4, V6] {
            let (app, asked) = (at(app), at(asked));
            let packet = syn(app, asked);
            let refused = refusal(seen(&packet).unwrap(), &packet, code::ECONNREFUSED).unwrap();
            let sliced = LaxSlicedPacket::from_ip(&refused).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
            assert!(tcp.rst() && tcp.ack() && !tcp.syn());
            assert_eq!(tcp.acknowledgment_number(), 78);
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
        }
    }

    #[test]
    fn other_errors_are_icmp_about_the_packet_and_a_timeout_is_silence() {
        for ((app, asked), codes) in [
            (V4, [(code::ENETUNREACH, 0), (code::EHOSTUNREACH, 1), (code::EACCES, 13)]),
            (V6, [(code::ENETUNREACH, 0), (code::EHOSTUNREACH, 3), (code::EACCES, 1)]),
        ] {
            let packet = syn(at(app), at(asked));
            let seen = seen(&packet).unwrap();
            assert_eq!(refusal(seen, &packet, code::ETIMEDOUT), None);
            for (errno, code) in codes {
                let refused = refusal(seen, &packet, errno).unwrap();
                let header = if at(app).is_ipv4() { 20 } else { 40 };
                assert_eq!(refused[header + 1], code, "{errno}");
                assert_eq!(refused[header + 8..], packet);
            }
        }
    }

    #[test]
    fn datagrams_up_to_the_longest_are_built() {
        for (app, asked, longest) in [(V4.0, V4.1, 65_535 - 28), (V6.0, V6.1, 65_535 - 8)] {
            for length in [0, 1, longest] {
                let built = datagram(at(asked), at(app), &vec![7; length]).unwrap();
                let sliced = LaxSlicedPacket::from_ip(&built).unwrap();
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
                assert_eq!(udp.payload(), vec![7; length]);
            }
            assert_eq!(datagram(at(asked), at(app), &vec![7; longest + 1]), None);
        }
        assert_eq!(datagram(at(V4.0), at(V6.0), b"x"), None);
    }

    #[test]
    fn what_is_longer_than_the_link_takes_goes_in_parts() {
        let whole = datagram(at(V6.1), at(V6.0), &[7; 65_507]).unwrap();
        let parts = sendable(whole.clone(), 9);
        let payloads: Vec<u8> = parts.iter().flat_map(|part| part[48..].to_vec()).collect();
        assert_eq!(payloads, whole[40..]);
        for (part, offset) in parts.iter().zip([1_u16, 65_480]) {
            assert!(part.len() <= MTU);
            assert_eq!(part[4..6], (part.len() as u16 - 40).to_be_bytes());
            assert_eq!(part[6..8], [FRAGMENT, TTL]);
            assert_eq!(
                part[40..],
                [&[17, 0][..], &offset.to_be_bytes(), &[0, 0, 0, 9], &part[48..]].concat()
            );
        }
        assert_eq!(parts.len(), 2);
        let short = datagram(at(V4.1), at(V4.0), &[7; 65_507]).unwrap();
        assert_eq!(sendable(short.clone(), 9), [short]);
    }
}
