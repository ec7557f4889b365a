//! Names of the environment variables by which the launcher configures the shim in every process of the tree.
//!
//! The environment is the one channel that survives fork and exec without a descriptor that the program could close.

/// Path of the launcher's `AF_UNIX` `SOCK_SEQPACKET` listener.
pub const SOCKET: &str = "TP_SOCKET";

/// Beside [`SOCKET`]: the pod's resolv.conf.
pub const RESOLV_CONF: &str = "resolv.conf";

/// Beside [`SOCKET`]: the pod's hosts file.
pub const HOSTS: &str = "hosts";

/// Beside [`SOCKET`]: the folder at which the file system with the pod's volumes is mounted.
pub const VOLUMES: &str = "root";

/// Beside [`SOCKET`]: paths, each with a NUL behind it, that were made on the laptop for mounts of the pod's, in order.
pub const MADE: &str = "made";

/// The gate's ports as `V4,V6` in decimal: the park on [`GATE_V4`] and on `::1`. `0` where the family is missing.
pub const GATE: &str = "TP_GATE";

/// A SOCKS5 server (RFC 1928) by which the shim may open connections itself: its address in hexadecimal digits, a comma, its
/// port in decimal; then `,names` if it is given names for the addresses of [`STAND_INS`], or, if it is the launcher, `,tp,`, its
/// port on `::1` (0 if there is none), a comma, and the IPv6 address in hexadecimal digits that its replies have as the bound one
/// (`BND.ADDR`): the port may be somebody else's when the launcher has gone. It asks for no password.
pub const PROXY: &str = "TP_PROXY";

/// Behind the address in [`PROXY`]: the server resolves names as it connects, so [`STAND_INS`] stand for them.
pub const PROXY_NAMES: &str = "names";

/// Behind the address in [`PROXY`]: it is the launcher. Greeting and request go to it in one message, replies have errno values
/// ([`crate::errno::reply::ERRNO`]), and `COMMAND_NOT_SUPPORTED` leaves the matter to the gate.
pub const PROXY_TP: &str = "tp";

/// First two bytes of the first address, and how many bits the addresses have in common, that stand for names which only a
/// SOCKS5 server resolves: 198.18.0.0/15, set aside for tests of networks by RFC 2544, so that no real host has one.
pub const STAND_INS: ([u8; 2], u32) = ([198, 18], 15);

/// Absolute path of the shim itself, so that it can put itself back into `LD_PRELOAD` of an emptied environment.
pub const SHIM: &str = "TP_SHIM";

/// Any value: this process, or one before it by whose exec it came, has connected sockets to the cluster. The shim sets it
/// for the children, which may have inherited some.
pub const CONNECTED: &str = "TP_CONNECTED";

/// Any value: the shim writes one line a decision to standard error.
pub const DEBUG: &str = "TP_DEBUG";

/// Absolute path of the program that `tp-inside` is to start when it has entered ([`crate::wire::Answer::Enter`]).
pub const PROGRAM: &str = "TP_PROGRAM";

/// The dynamic loader's list of objects to load first (ld.so(8)).
pub const LD_PRELOAD: &str = "LD_PRELOAD";

/// The variables that a child must inherit for the shim to work there, `LD_PRELOAD` aside.
pub const CARRIED: [&str; 6] = [SOCKET, GATE, PROXY, SHIM, CONNECTED, DEBUG];

/// IPv4 address on which the launcher parks sockets. It is loopback, but not the one anything else listens on, so a
/// socket whose peer is this address and the gate's port is known to be parked without asking anybody.
pub const GATE_V4: [u8; 4] = [127, 84, 80, 1];

/// IPv4 address of the relays, at which the launcher takes datagrams for the cluster. Nothing else has it, so that the
/// source of a datagram tells by itself that it comes from a relay.
pub const RELAY_V4: [u8; 4] = [127, 84, 80, 2];
