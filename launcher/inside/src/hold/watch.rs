//! Sockets that see what asks to be answered: the first segment of a TCP connection, and pings.
//!
//! A packet socket sees what arrives before nftables drops it. A filter (bpf(2), the classic kind) runs in the kernel for
//! each packet of the link, so that bulk data costs a few instructions and wakes nobody.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::factory;

/// Bytes that are seen of a packet: headers, and what an ICMP error quotes of them.
const SEEN: u32 = 192;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;
const FIN_SYN_RST_ACK: u32 = 0x17;
const SYN: u32 = 0x02;
const ICMP_ECHO: u32 = 8;
const ICMPV6_ECHO_REQUEST: u32 = 128;
/// `PACKET_HOST`: not one of our own on its way out (linux/if_packet.h).
const TO_THIS_HOST: u32 = 0;
/// Where the filter finds what is beside a packet: `SKF_AD_OFF + SKF_AD_PKTTYPE` (linux/filter.h).
const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;

/// A socket for that link, from the IP header on.
pub(super) fn open(v6: bool, link: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol it sees nothing until it is bound, by when it has its filter.
    let made = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
    let program = if v6 { v6_filter() } else { v4_filter() };
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    factory::set(&made, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)?;
    bind(&made, v6, link)?;
    Ok(made)
}

fn bind(socket: &OwnedFd, v6: bool, link: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let protocol = if v6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a sockaddr_ll of `length` bytes that outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_BYTE_BEHIND_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
/// `X = 4 * (P[k] & 15)`, the length of an IPv4 header.
const LOAD_HEADER_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// `then` and `or_else` are how many instructions are left out.
const fn at(code: u32, k: u32, then: u8, or_else: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: then, jf: or_else, k }
}

fn v4_filter() -> Vec<libc::sock_filter> {
    vec![
        at(LOAD_BYTE, PACKET_TYPE, 0, 0),
        at(IF_EQUAL, TO_THIS_HOST, 0, 12),
        // A fragment but the first has no header behind.
        at(LOAD_HALF, 6, 0, 0),
        at(IF_ANY_BIT, 0x1fff, 10, 0),
        at(LOAD_HEADER_LENGTH, 0, 0, 0),
        at(LOAD_BYTE, 9, 0, 0),
        at(IF_EQUAL, IPPROTO_TCP, 0, 3),
        at(LOAD_BYTE_BEHIND_X, 13, 0, 0),
        at(AND, FIN_SYN_RST_ACK, 0, 0),
        at(IF_EQUAL, SYN, 3, 4),
        at(IF_EQUAL, IPPROTO_ICMP, 0, 3),
        at(LOAD_BYTE_BEHIND_X, 0, 0, 0),
        at(IF_EQUAL, ICMP_ECHO, 0, 1),
        at(RETURN, SEEN, 0, 0),
        at(RETURN, 0, 0, 0),
    ]
}

/// Extension headers are not looked behind: Linux puts none in front of what a program sends, unless it asks for them.
fn v6_filter() -> Vec<libc::sock_filter> {
    vec![
        at(LOAD_BYTE, PACKET_TYPE, 0, 0),
        at(IF_EQUAL, TO_THIS_HOST, 0, 9),
        at(LOAD_BYTE, 6, 0, 0),
        at(IF_EQUAL, IPPROTO_TCP, 0, 3),
        at(LOAD_BYTE, 40 + 13, 0, 0),
        at(AND, FIN_SYN_RST_ACK, 0, 0),
        at(IF_EQUAL, SYN, 3, 4),
        at(IF_EQUAL, IPPROTO_ICMPV6, 0, 3),
        at(LOAD_BYTE, 40, 0, 0),
        at(IF_EQUAL, ICMPV6_ECHO_REQUEST, 0, 1),
        at(RETURN, SEEN, 0, 0),
        at(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's machine would return (bpf(4) of BSD has its rules).
    fn run(program: &[libc::sock_filter], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut pc) = (0_u32, 0_usize, 0);
        loop {
            let step = program[pc];
            let (k, code) = (step.k as usize, u32::from(step.code));
            pc += 1;
            match code {
                LOAD_BYTE if step.k == PACKET_TYPE => a = TO_THIS_HOST,
                LOAD_BYTE => a = packet.get(k).copied().map_or(u32::MAX, u32::from),
                LOAD_BYTE_BEHIND_X => a = packet.get(x + k).copied().map_or(u32::MAX, u32::from),
                LOAD_HALF => a = u32::from(u16::from_be_bytes([packet[k], packet[k + 1]])),
                LOAD_HEADER_LENGTH => x = usize::from(packet[k] & 15) * 4,
                AND => a &= step.k,
                IF_EQUAL => pc += usize::from(if a == step.k { step.jt } else { step.jf }),
                IF_ANY_BIT => pc += usize::from(if a & step.k != 0 { step.jt } else { step.jf }),
                RETURN => return step.k,
                _ => unreachable!("{code:x}"),
            }
        }
    }

    fn v4(options: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x45 + (options / 4) as u8;
        packet[9] = protocol;
        packet.extend(payload);
        packet
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = protocol;
        packet.extend(payload);
        packet
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[13] = flags;
        header
    }

    #[test]
    fn only_what_opens_is_seen() {
        let (four, six) = (v4_filter(), v6_filter());
        for (flags, seen) in [(0x02, SEEN), (0xc2, SEEN), (0x12, 0), (0x10, 0), (0x03, 0), (0x04, 0)] {
            for options in [0, 8] {
                assert_eq!(run(&four, &v4(options, 6, &tcp(flags))), seen, "{flags:x}");
            }
            assert_eq!(run(&six, &v6(6, &tcp(flags))), seen, "{flags:x}");
        }
        for (kind, seen) in [(8, SEEN), (0, 0), (3, 0)] {
            assert_eq!(run(&four, &v4(0, 1, &[kind])), seen);
        }
        for (kind, seen) in [(128, SEEN), (129, 0), (135, 0)] {
            assert_eq!(run(&six, &v6(58, &[kind])), seen);
        }
        assert_eq!(run(&four, &v4(0, 17, &[0x02; 20])), 0);
        assert_eq!(run(&six, &v6(17, &[0x02; 20])), 0);
        let mut fragment = v4(0, 6, &tcp(0x02));
        fragment[7] = 1;
        assert_eq!(run(&four, &fragment), 0);
    }
}
