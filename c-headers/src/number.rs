//! Numbers of the kernel's socket interface (the headers of linux/socket.h, linux/in.h, linux/tcp.h), which are the same
//! on every architecture that tp runs on.
//!
//! They are written out because this crate has no dependencies; a test in the shim holds them against `libc`.

/// No family in particular.
pub const AF_UNSPEC: i32 = 0;
/// unix(7).
pub const AF_UNIX: i32 = 1;
/// ip(7).
pub const AF_INET: i32 = 2;
/// ipv6(7).
pub const AF_INET6: i32 = 10;

/// A stream.
pub const SOCK_STREAM: i32 = 1;
/// Datagrams.
pub const SOCK_DGRAM: i32 = 2;
/// raw(7).
pub const SOCK_RAW: i32 = 3;

/// ip(7), as a level of options.
pub const IPPROTO_IP: i32 = 0;
/// icmp(7).
pub const IPPROTO_ICMP: i32 = 1;
/// tcp(7).
pub const IPPROTO_TCP: i32 = 6;
/// udp(7).
pub const IPPROTO_UDP: i32 = 17;
/// ipv6(7), as a level of options.
pub const IPPROTO_IPV6: i32 = 41;
/// sctp(7).
pub const IPPROTO_SCTP: i32 = 132;
/// udplite(7).
pub const IPPROTO_UDPLITE: i32 = 136;
/// Multipath TCP.
pub const IPPROTO_MPTCP: i32 = 262;

/// socket(7), as a level of options.
pub const SOL_SOCKET: i32 = 1;
/// socket(7): the device by which everything leaves.
pub const SO_BINDTODEVICE: i32 = 25;
/// socket(7): the same by its number.
pub const SO_BINDTOIFINDEX: i32 = 62;
/// tcp(7): connect() waits for data.
pub const TCP_FASTOPEN_CONNECT: i32 = 30;
/// ip(7): where a packet arrived, or leaves.
pub const IP_PKTINFO: i32 = 8;
/// ip(7): the device of packets that no route has one for.
pub const IP_UNICAST_IF: i32 = 50;
/// ipv6(7): as [`IP_PKTINFO`].
pub const IPV6_PKTINFO: i32 = 50;
/// ipv6(7): as [`IP_UNICAST_IF`].
pub const IPV6_UNICAST_IF: i32 = 76;
