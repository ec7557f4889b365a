//! What is done with a call that names an address: left alone, refused, or carried by the launcher.
//!
//! Pure: kernel facts about the socket come in, a [`Verdict`] goes out, so that each rule is one line of a test.
//! The shim and the filter's supervisor both judge by these.
//!
//! Invariant: an address that is not the machine's own is never passed, whatever kind of socket asks; what cannot be
//! carried is refused, so that no packet leaves in silence.

use crate::control;
use crate::env::{HOSTS, RELAY_V4, RESOLV_CONF};
use crate::errno::code;
use crate::number::{
    AF_INET, AF_INET6, IP_UNICAST_IF, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPV6_PKTINFO,
    IPV6_UNICAST_IF, SO_BINDTODEVICE, SO_BINDTOIFINDEX, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET,
    TCP_FASTOPEN_CONNECT,
};
use crate::sockaddr::Spelled;
use crate::wire::{Address, Ip};

/// What the kernel says about a socket (socket(7): `SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL`).
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// `AF_INET`, `AF_INET6` or another.
    pub domain: i32,
    /// `SOCK_STREAM`, `SOCK_DGRAM` or another.
    pub kind: i32,
    /// `IPPROTO_TCP` or another.
    pub protocol: i32,
}

/// Why a call goes through as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 127.0.0.0/8 and ::1: the developer's own services.
    Loopback,
    /// 0.0.0.0 and ::, which Linux takes for loopback.
    Unspecified,
    /// Groups on the machine's own links.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 169.254.0.0/16 and fe80::/10: means nothing beyond one link, so nothing in the pod.
    LinkLocal,
    /// The kernel refuses it by itself: a family that the socket does not take.
    KernelRefuses,
    /// TCP ignores an address given with data on a socket that is not asked to open by it.
    AddressIgnored,
}

/// What is done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The original, unchanged.
    Pass(Reason),
    /// Fail with this errno.
    Refuse(i32),
    /// The launcher is asked.
    Carry {
        /// Where the program wants to go.
        asked: Address,
        /// The socket is `AF_INET6`.
        v6_socket: bool,
    },
    /// As [`Verdict::Carry`], for datagrams: they go by a relay, spelled as the program spelled the address.
    Relay {
        /// Where the program sends.
        asked: Address,
        /// The address is an `AF_INET6` one; an IPv6 socket takes both (ipv6(7)).
        v6_spelling: bool,
    },
}

impl Socket {
    /// A TCP socket. MPTCP is none: Linux does not finish a simultaneous open of it, so it would wait at the gate for
    /// ever; the hook of socket(2) makes it TCP.
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        matches!(self.domain, AF_INET | AF_INET6)
            && self.kind == SOCK_STREAM
            && matches!(self.protocol, 0 | IPPROTO_TCP)
    }

    /// A UDP socket; UDP-Lite is none, and neither is that of ping(8).
    #[must_use]
    pub const fn is_udp(self) -> bool {
        matches!(self.domain, AF_INET | AF_INET6)
            && self.kind == SOCK_DGRAM
            && matches!(self.protocol, 0 | IPPROTO_UDP)
    }
}

/// Why an address is the machine's own business; [`None`] if it is not.
#[must_use]
pub const fn own(ip: Ip) -> Option<Reason> {
    match ip {
        Ip::V4([127, ..]) | Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]) => {
            Some(Reason::Loopback)
        }
        Ip::V4([0, 0, 0, 0]) | Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => {
            Some(Reason::Unspecified)
        }
        Ip::V4([255, 255, 255, 255]) => Some(Reason::Broadcast),
        Ip::V4([224..=239, ..]) | Ip::V6([0xff, ..]) => Some(Reason::Multicast),
        Ip::V4([169, 254, ..]) | Ip::V6([0xfe, 0x80..=0xbf, ..]) => Some(Reason::LinkLocal),
        _ => None,
    }
}

/// As [`own`], of an address with its port. Clusters run a DNS cache on every node at a link-local address, which the pods'
/// resolv.conf then names (NodeLocal DNSCache, 169.254.20.10), so nameservers are not the machine's own there.
#[must_use]
pub const fn stays(address: Address) -> Option<Reason> {
    match (own(address.ip), address) {
        (Some(Reason::LinkLocal), Address { ip: Ip::V4(_), port: 53, .. }) => None,
        (reason, _) => reason,
    }
}

/// Does a service of the laptop listen at this path of unix(7) that resolves names? Programs that speak to one by
/// themselves (NSS modules, resolvectl) would get the laptop's answers; they all go on without it.
#[must_use]
pub fn is_name_service(path: &[u8]) -> bool {
    const PATHS: [&[u8]; 4] = [
        b"/nscd/socket",
        b"/systemd/resolve/io.systemd.Resolve",
        b"/systemd/resolve/io.systemd.Resolve.Monitor",
        b"/avahi-daemon/socket",
    ];
    let run = path.strip_prefix(b"/var").unwrap_or(path).strip_prefix(b"/run");
    run.is_some_and(|rest| PATHS.contains(&rest))
}

/// `connect(2)` to `to`.
#[must_use]
pub const fn connect(socket: Socket, to: Spelled) -> Verdict {
    if let Some(reason) = stays(to.address) {
        return Verdict::Pass(reason);
    }
    let v6_spelling = to.family == AF_INET6;
    if socket.is_udp() {
        return if v6_spelling && socket.domain == AF_INET {
            Verdict::Pass(Reason::KernelRefuses)
        } else {
            Verdict::Relay { asked: to.address, v6_spelling }
        };
    }
    if !socket.is_tcp() {
        return Verdict::Refuse(code::ENETUNREACH);
    }
    if socket.domain != to.family {
        return Verdict::Pass(Reason::KernelRefuses);
    }
    Verdict::Carry { asked: to.address, v6_socket: socket.domain == AF_INET6 }
}

/// `sendto(2)` and its kin with the address `to`; `opens` says that `MSG_FASTOPEN` is among the flags.
#[must_use]
pub const fn send(socket: Socket, to: Spelled, opens: bool) -> Verdict {
    if socket.is_tcp() && !opens {
        return Verdict::Pass(Reason::AddressIgnored);
    }
    connect(socket, to)
}

/// What an option set by `setsockopt(2)` would do to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit<'a> {
    /// Nothing that matters here.
    Fits,
    /// Keep it from its park or its relay: a program can do without.
    Unfit,
    /// The same, if there is a device of this name. One that is none is the kernel's to refuse: curl asks so whether
    /// something is a device or an address.
    UnfitDevice(&'a [u8]),
}

/// `setsockopt(2)` of a TCP or UDP socket. Fast open sends no SYN until there is data (tcp(7)); a device other than `lo` has no
/// way to loopback (socket(7)), and packets bound to one would leave by it, addressed to 127.84.80.2.
#[must_use]
pub fn option(level: i32, name: i32, value: &[u8]) -> Fit<'_> {
    let unfit = |unfit| if unfit { Fit::Unfit } else { Fit::Fits };
    match (level, name) {
        (IPPROTO_TCP, TCP_FASTOPEN_CONNECT)
        | (IPPROTO_IP, IP_UNICAST_IF)
        | (IPPROTO_IPV6, IPV6_UNICAST_IF) => Fit::Unfit,
        (IPPROTO_IPV6, IPV6_PKTINFO) => unfit(!control::is_loopbacks_v6(value)),
        (SOL_SOCKET, SO_BINDTODEVICE) => match value.split(|byte| *byte == 0).next() {
            None | Some(b"" | b"lo") => Fit::Fits,
            Some(device) => Fit::UnfitDevice(device),
        },
        (SOL_SOCKET, SO_BINDTOIFINDEX) => unfit(!control::is_loopback(value.first_chunk())),
        _ => Fit::Fits,
    }
}

/// Is this errno what became of the connection, and not the state of the call or of the descriptor?
#[must_use]
pub const fn is_verdict(errno: i32) -> bool {
    matches!(
        errno,
        code::ECONNREFUSED
            | code::ECONNRESET
            | code::ECONNABORTED
            | code::ETIMEDOUT
            | code::EHOSTUNREACH
            | code::ENETUNREACH
            | code::ENETDOWN
            | code::EACCES
            | code::EPERM
    )
}

/// Can datagrams from this address come from a relay, by the address alone? IPv6 has one loopback address for all.
#[must_use]
pub const fn may_be_relay(source: Address) -> bool {
    match source.ip {
        Ip::V4(ip) => u32::from_ne_bytes(ip) == u32::from_ne_bytes(RELAY_V4),
        Ip::V6(ip) => u128::from_be_bytes(ip) == 1,
    }
}

/// Is this what the kernel chooses for a socket that is connected to loopback and was not bound?
#[must_use]
pub const fn is_usual_source(ip: Ip) -> bool {
    matches!(ip, Ip::V4([127, 0, 0, 1]) | Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]))
}

/// The name, beside the launcher's socket, of the file that a program gets which opens `path` for reading.
#[must_use]
pub fn pods_file(path: &[u8]) -> Option<&'static str> {
    match path.strip_prefix(b"/etc/")? {
        b"resolv.conf" => Some(RESOLV_CONF),
        b"hosts" => Some(HOSTS),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::number::{IPPROTO_ICMP, IPPROTO_MPTCP, IPPROTO_SCTP, IPPROTO_UDPLITE, SOCK_RAW};

    const TCP4: Socket = Socket { domain: AF_INET, kind: SOCK_STREAM, protocol: IPPROTO_TCP };
    const TCP6: Socket = Socket { domain: AF_INET6, kind: SOCK_STREAM, protocol: IPPROTO_TCP };
    const UDP4: Socket = Socket { domain: AF_INET, kind: SOCK_DGRAM, protocol: IPPROTO_UDP };

    fn to(text: &str) -> Spelled {
        let (ip, family) = match text.parse().unwrap() {
            std::net::IpAddr::V4(ip) => (Ip::V4(ip.octets()), AF_INET),
            std::net::IpAddr::V6(ip) => (crate::sockaddr::unmapped(ip.octets()), AF_INET6),
        };
        Spelled { family, address: Address { ip, port: 80, scope: 0 } }
    }

    #[test]
    fn tcp_to_elsewhere_is_carried() {
        for text in ["10.96.0.7", "192.168.1.1", "8.8.8.8", "1.0.0.1", "172.16.0.1"] {
            let asked = to(text).address;
            assert_eq!(connect(TCP4, to(text)), Verdict::Carry { asked, v6_socket: false }, "{text}");
        }
        for text in ["fd00::7", "2001:db8::1", "::ffff:10.96.0.7", "::2"] {
            let asked = to(text).address;
            assert_eq!(connect(TCP6, to(text)), Verdict::Carry { asked, v6_socket: true }, "{text}");
        }
    }

    #[test]
    fn other_streams_are_not_tcp() {
        assert!(Socket { protocol: 0, ..TCP4 }.is_tcp());
        for protocol in [IPPROTO_MPTCP, IPPROTO_SCTP] {
            assert!(!Socket { protocol, ..TCP4 }.is_tcp());
        }
    }

    #[test]
    fn a_nameserver_at_a_link_local_address_is_the_nodes() {
        let at = |port| Spelled {
            address: Address { port, ..to("169.254.20.10").address },
            ..to("169.254.20.10")
        };
        assert_eq!(connect(TCP4, at(80)), Verdict::Pass(Reason::LinkLocal));
        assert!(matches!(connect(TCP4, at(53)), Verdict::Carry { .. }));
    }

    #[test]
    fn the_laptops_resolvers_are_known_by_their_paths() {
        for path in ["/run/nscd/socket", "/var/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"] {
            assert!(is_name_service(path.as_bytes()), "{path}");
        }
        for path in ["", "/run", "/nscd/socket", "/run/dbus/system_bus_socket", "/tmp/run/nscd/socket"] {
            assert!(!is_name_service(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn what_is_the_machines_own_passes() {
        for (text, reason) in [
            ("127.0.0.1", Reason::Loopback),
            ("127.84.80.1", Reason::Loopback),
            ("::1", Reason::Loopback),
            ("::ffff:127.0.0.1", Reason::Loopback),
            ("0.0.0.0", Reason::Unspecified),
            ("::", Reason::Unspecified),
            ("::ffff:0.0.0.0", Reason::Unspecified),
            ("224.0.0.251", Reason::Multicast),
            ("ff02::fb", Reason::Multicast),
            ("255.255.255.255", Reason::Broadcast),
            ("169.254.1.2", Reason::LinkLocal),
            ("fe80::1", Reason::LinkLocal),
            ("febf::1", Reason::LinkLocal),
        ] {
            for socket in [TCP4, TCP6, UDP4] {
                assert_eq!(connect(socket, to(text)), Verdict::Pass(reason), "{text}");
            }
        }
    }

    #[test]
    fn udp_goes_by_a_relay_in_the_spelling_of_the_program() {
        let udp6 = Socket { domain: AF_INET6, ..UDP4 };
        for (socket, text) in
            [(UDP4, "10.0.0.1"), (udp6, "10.0.0.1"), (udp6, "fd00::1"), (udp6, "::ffff:10.0.0.1")]
        {
            let Spelled { family, address: asked } = to(text);
            let relay = Verdict::Relay { asked, v6_spelling: family == AF_INET6 };
            assert_eq!(connect(socket, to(text)), relay, "{text}");
            assert_eq!(send(socket, to(text), false), relay, "{text}");
        }
        assert_eq!(connect(UDP4, to("fd00::1")), Verdict::Pass(Reason::KernelRefuses));
    }

    #[test]
    fn nothing_but_tcp_and_udp_leaves() {
        let raw = Socket { kind: SOCK_RAW, protocol: IPPROTO_ICMP, ..UDP4 };
        let ping = Socket { protocol: IPPROTO_ICMP, ..UDP4 };
        let lite = Socket { protocol: IPPROTO_UDPLITE, ..UDP4 };
        let sctp = Socket { protocol: IPPROTO_SCTP, ..TCP4 };
        for socket in [raw, ping, lite, sctp] {
            assert_eq!(connect(socket, to("10.0.0.1")), Verdict::Refuse(code::ENETUNREACH));
            assert_eq!(send(socket, to("10.0.0.1"), false), Verdict::Refuse(code::ENETUNREACH));
        }
    }

    #[test]
    fn a_family_that_the_socket_does_not_take_is_the_kernels_to_refuse() {
        assert_eq!(connect(TCP6, to("10.0.0.1")), Verdict::Pass(Reason::KernelRefuses));
        assert_eq!(connect(TCP4, to("fd00::1")), Verdict::Pass(Reason::KernelRefuses));
    }

    #[test]
    fn options_that_keep_a_socket_from_loopback_are_unfit() {
        for (level, name, value, fit) in [
            (IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &[1, 0, 0, 0][..], Fit::Unfit),
            (SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0", Fit::UnfitDevice(b"eth0")),
            (SOL_SOCKET, SO_BINDTODEVICE, b"lo", Fit::Fits),
            (SOL_SOCKET, SO_BINDTOIFINDEX, &[2, 0, 0, 0], Fit::Unfit),
            (SOL_SOCKET, SO_BINDTOIFINDEX, &[1, 0, 0, 0], Fit::Fits),
            (IPPROTO_IPV6, IPV6_PKTINFO, &[0; 20], Fit::Fits),
            (IPPROTO_IPV6, IPV6_PKTINFO, &[2; 20], Fit::Unfit),
            (SOL_SOCKET, IP_UNICAST_IF, &[0; 4], Fit::Fits),
        ] {
            assert_eq!(option(level, name, value), fit);
        }
    }

    #[test]
    fn two_files_are_the_pods() {
        assert_eq!(pods_file(b"/etc/hosts"), Some("hosts"));
        assert_eq!(pods_file(b"/etc/hosts.allow"), None);
    }

    #[test]
    fn only_fast_open_connects_by_sending() {
        let asked = to("10.0.0.1").address;
        assert_eq!(send(TCP4, to("10.0.0.1"), false), Verdict::Pass(Reason::AddressIgnored));
        assert_eq!(send(TCP4, to("10.0.0.1"), true), Verdict::Carry { asked, v6_socket: false });
    }
}
