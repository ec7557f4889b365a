//! What the launcher told the shim, copied once from the environment the process started with.
//!
//! Copied, because a program may wipe or overwrite its environment block (`setproctitle`, `clearenv`) and the
//! children it starts then must still carry the shim. Each value is kept as the whole `NAME=value` string with its
//! NUL, so that a child's environment can point at it.
//!
//! Invariants: written once, by the constructor or by whoever calls a hook before it (another object's
//! constructor), and only read afterwards. Waiting for that one writer is bounded; who waits in vain fails closed.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use tp_abi::env;
use tp_abi::wire::{Address, Ip};

/// Longest `sun_path` (unix(7)) without its NUL.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// `NAME=value` with a NUL, in place; empty where the variable is not set.
#[derive(Clone, Copy)]
pub(crate) struct Entry<const N: usize> {
    bytes: [u8; N],
    /// Bytes without the NUL.
    length: usize,
}

impl<const N: usize> Entry<N> {
    const EMPTY: Self = Self { bytes: [0; N], length: 0 };

    /// Copies `name`, `=` and `value`. [`None`] if they do not fit.
    fn set(&mut self, name: &str, value: &[u8]) -> Option<()> {
        let length = name.len().checked_add(1)?.checked_add(value.len())?;
        let place = self.bytes.get_mut(..length.checked_add(1)?)?;
        let source = name.bytes().chain([b'=']).chain(value.iter().copied()).chain([0]);
        for (to, from) in place.iter_mut().zip(source) {
            *to = from;
        }
        self.length = length;
        Some(())
    }

    /// `NAME=value` without its NUL; [`None`] where the variable is not set.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        self.bytes.get(..self.length).filter(|text| !text.is_empty())
    }

    /// The value alone.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        let text = self.text()?;
        let at = text.iter().position(|byte| *byte == b'=')?;
        text.get(at.checked_add(1)?..)
    }
}

/// The launcher's words to this process.
pub(crate) struct Config {
    /// [`env::SOCKET`].
    pub(crate) socket: Entry<{ env::SOCKET.len() + SOCKET_PATH_MAX + 2 }>,
    /// [`env::GATE`].
    pub(crate) gate: Entry<32>,
    /// [`env::PROXY`].
    pub(crate) proxy: Entry<96>,
    /// [`env::SHIM`].
    pub(crate) shim: Entry<1024>,
    /// [`env::LD_PRELOAD`] with the shim alone, for an environment that has none.
    pub(crate) preload: Entry<1024>,
    /// [`env::DEBUG`].
    pub(crate) debug: Entry<32>,
    /// Port of the IPv4 park; 0 where there is none.
    gate_v4: u16,
    /// Port of the IPv6 park; 0 where there is none.
    gate_v6: u16,
    /// What [`env::PROXY`] says.
    server: Option<Server>,
    /// [`env::CONNECTED`] is there.
    connected: bool,
    /// `TP_SOCKET` is there, so this process is the launcher's, even if the rest cannot be read.
    configured: bool,
}

impl Config {
    const EMPTY: Self = Self {
        socket: Entry::EMPTY,
        gate: Entry::EMPTY,
        proxy: Entry::EMPTY,
        shim: Entry::EMPTY,
        preload: Entry::EMPTY,
        debug: Entry::EMPTY,
        gate_v4: 0,
        gate_v6: 0,
        server: None,
        connected: false,
        configured: false,
    };

    /// Reads an environment; of a name that is there twice the first counts, as for getenv(3).
    fn read<'a>(&mut self, environment: impl Iterator<Item = &'a [u8]>) {
        for text in environment {
            let mut halves = text.splitn(2, |byte| *byte == b'=');
            let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
            if name == env::SOCKET.as_bytes() && !self.configured && !value.is_empty() {
                self.configured = true;
                // A path that no `sun_path` holds stays empty: every question then fails closed.
                let _ = self.socket.set(env::SOCKET, value);
            } else if name == env::GATE.as_bytes() && self.gate.length == 0 {
                let _ = self.gate.set(env::GATE, value);
                (self.gate_v4, self.gate_v6) = ports(value);
            } else if name == env::PROXY.as_bytes() && self.proxy.length == 0 {
                let _ = self.proxy.set(env::PROXY, value);
                self.server = Server::read(value);
            } else if name == env::SHIM.as_bytes() && self.shim.length == 0 {
                let _ = self.shim.set(env::SHIM, value);
                let _ = self.preload.set(env::LD_PRELOAD, value);
            } else if name == env::CONNECTED.as_bytes() {
                self.connected = true;
            } else if name == env::DEBUG.as_bytes() && self.debug.length == 0 {
                let _ = self.debug.set(env::DEBUG, value.get(..8).unwrap_or(value));
            }
        }
    }

    /// The launcher's socket.
    pub(crate) fn socket_path(&self) -> Option<&[u8]> {
        self.socket.value()
    }

    /// The SOCKS5 server by which the shim itself may open connections.
    pub(crate) const fn server(&self) -> Option<Server> {
        self.server
    }

    /// May a socket with this peer have been connected by that server? A program may also speak with it by itself.
    pub(crate) fn is_server(&self, peer: Address) -> bool {
        may_have_connected()
            && self.server.is_some_and(|server| server.address == Address { scope: 0, ..peer })
    }

    /// Does a socket with this peer wait at, or come through, the gate or the launcher's own server?
    pub(crate) fn is_gate(&self, peer: Address) -> bool {
        let server = self.server.filter(|server| matches!(server.kind, Kind::Launcher(_)));
        if server.is_some_and(|server| server.at(peer) == Some(Address { scope: 0, ..peer })) {
            return true;
        }
        match peer.ip {
            Ip::V4(ip) => {
                u32::from_ne_bytes(ip) == u32::from_ne_bytes(env::GATE_V4)
                    && peer.port == self.gate_v4
                    && self.gate_v4 != 0
            }
            Ip::V6(ip) => u128::from_be_bytes(ip) == 1 && peer.port == self.gate_v6 && self.gate_v6 != 0,
        }
    }
}

/// What [`env::PROXY`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Where it is.
    address: Address,
    /// Its port on `::1`; 0 if it is not there, too.
    v6_port: u16,
    /// Whose it is.
    pub(crate) kind: Kind,
}

/// What can be said to a SOCKS5 server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is anybody's.
    Plain,
    /// The same, and some addresses stand for names that it is to resolve.
    TakesNames,
    /// It is the launcher, whose replies have this as the bound address.
    Launcher([u8; 16]),
}

impl Server {
    fn read(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|byte| *byte == b',');
        let digits = parts.next()?;
        let ip = match digits.len() {
            8 => Ip::V4(number(digits)?),
            32 => Ip::V6(number(digits)?),
            _ => return None,
        };
        let port = port(parts.next()?);
        let word = parts.next();
        let v6_port = parts.next().map_or(0, self::port);
        let kind = match word {
            Some(word) if word == env::PROXY_NAMES.as_bytes() => Kind::TakesNames,
            Some(word) if word == env::PROXY_TP.as_bytes() => {
                Kind::Launcher(parts.next().filter(|sign| sign.len() == 32).and_then(number)?)
            }
            _ => Kind::Plain,
        };
        (port != 0).then_some(Self { address: Address { ip, port, scope: 0 }, v6_port, kind })
    }

    /// Where a socket reaches it that goes to `asked`. One that was connected to a v4-mapped address can never be connected by IPv6
    /// again, and if the server does not settle it, the gate connects it by the family of `asked`.
    pub(crate) const fn at(&self, asked: Address) -> Option<Address> {
        match (asked.ip, self.address.ip) {
            (Ip::V4(_), Ip::V4(_)) | (Ip::V6(_), Ip::V6(_)) => Some(self.address),
            (Ip::V6(_), Ip::V4(_)) if self.v6_port != 0 => Some(self.on_v6_loopback()),
            _ => None,
        }
    }

    const fn on_v6_loopback(&self) -> Address {
        Address { ip: Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), port: self.v6_port, scope: 0 }
    }
}

/// Bytes from hexadecimal digits.
fn number<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// `V4,V6` in decimal; what does not parse is 0.
fn ports(value: &[u8]) -> (u16, u16) {
    let mut halves = value.splitn(2, |byte| *byte == b',').map(port);
    (halves.next().unwrap_or(0), halves.next().unwrap_or(0))
}

fn port(text: &[u8]) -> u16 {
    core::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

struct Place(UnsafeCell<Config>);

// SAFETY: STATE lets exactly one thread write, and lets nobody read before it has finished.
unsafe impl Sync for Place {}

static CONFIG: Place = Place(UnsafeCell::new(Config::EMPTY));
static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static CONNECTED: AtomicBool = AtomicBool::new(false);

const UNREAD: u8 = 0;
const READING: u8 = 1;
const OFF: u8 = 2;
const ON: u8 = 3;

/// What a hook gets when a signal handler of the reading thread itself asks: configured, and nobody to ask.
static UNREADABLE: Config = Config { configured: true, ..Config::EMPTY };

/// The configuration; [`None`] if this process does not belong to a launcher.
pub(crate) fn get() -> Option<&'static Config> {
    let state = STATE.load(Ordering::Acquire);
    match if state < OFF { read_once() } else { state } {
        // SAFETY: ON is stored after the last write to CONFIG, and nothing writes it again.
        ON => Some(unsafe { &*CONFIG.0.get() }),
        OFF => None,
        _ => Some(&UNREADABLE),
    }
}

/// May this process have a socket that is connected to the cluster? Without one, nothing needs to be asked about a
/// socket on loopback. A socket comes by connect(2), by fork and exec, or in a message.
pub(crate) fn may_have_connected() -> bool {
    CONNECTED.load(Ordering::Relaxed)
}

/// It may, from now on.
pub(crate) fn note_connected() {
    CONNECTED.store(true, Ordering::Relaxed);
}

#[cold]
fn read_once() -> u8 {
    if let Err(mut state) = STATE.compare_exchange(UNREAD, READING, Ordering::Acquire, Ordering::Acquire) {
        for _ in 0..10_000 {
            if state >= OFF {
                break;
            }
            crate::sys::yield_now();
            state = STATE.load(Ordering::Acquire);
        }
        return state;
    }
    // SAFETY: this thread alone moved STATE from UNREAD, so nobody else reads or writes CONFIG now.
    let config = unsafe { &mut *CONFIG.0.get() };
    // SAFETY: `environ` is libc's own variable; at start-up nothing changes it at the same time.
    config.read(unsafe { crate::environment::strings(crate::environment::current()) });
    if config.connected {
        note_connected();
    }
    let state = if config.configured { ON } else { OFF };
    STATE.store(state, Ordering::Release);
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Config {
        /// The configuration that an environment gives.
        pub(crate) fn of(environment: &[&str]) -> Self {
            let mut config = Self::EMPTY;
            config.read(environment.iter().map(|text| text.as_bytes()));
            config
        }
    }

    #[test]
    fn reads_what_the_launcher_says() {
        let config =
            Config::of(&["PATH=/bin", "TP_SOCKET=/run/tp/s", "TP_GATE=4000,6000", "TP_SHIM=/lib/s.so"]);
        assert!(config.configured);
        assert_eq!(config.socket_path(), Some(&b"/run/tp/s"[..]));
        assert_eq!(config.preload.text(), Some(&b"LD_PRELOAD=/lib/s.so"[..]));
        assert_eq!(config.debug.text(), None);
        assert!(config.is_gate(Address { ip: Ip::V4(env::GATE_V4), port: 4000, scope: 0 }));
        assert!(!config.is_gate(Address { ip: Ip::V4([127, 0, 0, 1]), port: 4000, scope: 0 }));
        assert!(!config.is_gate(Address { ip: Ip::V4(env::GATE_V4), port: 6000, scope: 0 }));
        let loopback = Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(config.is_gate(Address { ip: loopback, port: 6000, scope: 0 }));
    }

    #[test]
    fn without_a_socket_the_process_is_nobodys() {
        assert!(!Config::of(&["TP_GATE=1,2", "TP_SHIM=/x"]).configured);
        assert!(!Config::of(&["TP_SOCKET=", "TP_SOCKETS=/a"]).configured);
    }

    #[test]
    fn a_path_too_long_for_a_socket_still_counts_as_configured() {
        let config = Config::of(&[&format!("TP_SOCKET=/{}", "a".repeat(SOCKET_PATH_MAX))]);
        assert!(config.configured);
        assert_eq!(config.socket_path(), None);
        let config = Config::of(&[&format!("TP_SOCKET=/{}", "a".repeat(SOCKET_PATH_MAX - 1))]);
        assert_eq!(config.socket_path().map(<[u8]>::len), Some(SOCKET_PATH_MAX));
    }

    #[test]
    fn a_server_is_read_with_and_without_names() {
        let server = |text: &str| Config::of(&["TP_SOCKET=/s", text]).server();
        let v4 = Address { ip: Ip::V4([127, 0, 0, 1]), port: 1080, scope: 0 };
        assert_eq!(
            server("TP_PROXY=7f000001,1080"),
            Some(Server { address: v4, v6_port: 0, kind: Kind::Plain })
        );
        assert_eq!(
            server("TP_PROXY=7f000001,1080,names"),
            Some(Server { address: v4, v6_port: 0, kind: Kind::TakesNames })
        );
        let v6 = Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let six = server("TP_PROXY=00000000000000000000000000000001,9").unwrap();
        assert_eq!((six.address.ip, six.address.port), (v6, 9));
        let sign = "0102030405060708090a0b0c0d0e0f10";
        let launcher = server(&format!("TP_PROXY=7f545001,7,tp,8,{sign}")).unwrap();
        assert_eq!(launcher.kind, Kind::Launcher([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]));
        let unsigned = ["TP_PROXY=7f545001,7,tp,8", "TP_PROXY=7f545001,7,tp,8,00", "TP_PROXY=7f545001,7,tp"];
        assert_eq!(unsigned.map(server), [None; 3]);
        assert_eq!(launcher.at(v4), Some(launcher.address));
        assert_eq!(launcher.at(six.address), Some(Address { ip: v6, port: 8, scope: 0 }));
        assert_eq!(
            (server(&format!("TP_PROXY=7f545001,7,tp,0,{sign}")).unwrap().at(six.address), six.at(v4)),
            (None, None)
        );
        let config = Config::of(&["TP_SOCKET=/s", &format!("TP_PROXY=7f545001,7,tp,8,{sign}")]);
        assert!(config.is_gate(launcher.address) && config.is_gate(Address { ip: v6, port: 8, scope: 1 }));
        assert!(!config.is_gate(v4) && !config.is_gate(six.address));
        for odd in ["", "7f000001", "7f000001,0", "7f00000g,1", "7f0000011,1", ",1080"] {
            assert_eq!(server(&format!("TP_PROXY={odd}")), None);
        }
    }

    #[test]
    fn a_port_of_zero_is_no_gate() {
        let config = Config::of(&["TP_SOCKET=/s", "TP_GATE=0,x"]);
        assert!(!config.is_gate(Address { ip: Ip::V4(env::GATE_V4), port: 0, scope: 0 }));
    }
}
