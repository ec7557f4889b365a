//! Names and numeric addresses as text.
//!
//! Which names are the machine's own is decided here (RFC 6761, 6.3: `localhost` and all below it mean loopback),
//! and addresses are written as numbers, so that libc's own `getaddrinfo` can be given them one by one. Pure.

use tp_abi::wire::{Address, Ip};

/// Longest text that [`numeric`] writes: eight groups, a scope of ten digits and a NUL.
pub(crate) const NUMERIC_MAX: usize = 8 * 5 + 11 + 1;

/// Whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// `localhost` or below it: loopback, without asking anybody.
    Loopback,
    /// The machine's own node name: `/etc/hosts` first, then the launcher.
    Node,
    /// The launcher's to find.
    Launcher,
}

/// Whose name is `name`, on a machine called `node`?
pub(crate) fn whose(name: &[u8], node: &[u8]) -> Whose {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let start = name.len().saturating_sub(b"localhost".len());
    if let Some((before, last)) = name.split_at_checked(start)
        && last.eq_ignore_ascii_case(b"localhost")
        && (before.is_empty() || before.ends_with(b"."))
    {
        return Whose::Loopback;
    }
    if !node.is_empty() && name.eq_ignore_ascii_case(node) { Whose::Node } else { Whose::Launcher }
}

/// Writes the address as numbers, as inet_pton(3) reads them, a scope as `%7`, and a NUL after it. The text is
/// without the NUL.
pub(crate) fn numeric(address: Address, room: &mut [u8; NUMERIC_MAX]) -> &[u8] {
    let mut text = Text::new(room);
    match address.ip {
        Ip::V4(bytes) => {
            let mut dot: &[u8] = b"";
            for byte in bytes {
                text.put(dot);
                text.decimal(u32::from(byte));
                dot = b".";
            }
        }
        Ip::V6(bytes) => {
            let mut colon: &[u8] = b"";
            for pair in bytes.as_chunks::<2>().0 {
                text.put(colon);
                text.hexadecimal(u16::from_be_bytes(*pair));
                colon = b":";
            }
            if address.scope != 0 {
                text.put(b"%");
                text.decimal(address.scope);
            }
        }
    }
    text.put(b"\0");
    let length = text.length.saturating_sub(1);
    room.get(..length).unwrap_or(&[])
}

/// Text under construction; what does not fit is cut.
pub(crate) struct Text<'r> {
    room: &'r mut [u8],
    length: usize,
}

impl<'r> Text<'r> {
    /// Starts at the start of `room`.
    pub(crate) const fn new(room: &'r mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    /// Appends bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.room.get_mut(self.length) {
                *place = *byte;
                self.length = self.length.saturating_add(1);
            }
        }
    }

    /// Appends a number.
    pub(crate) fn decimal(&mut self, number: u32) {
        let mut started = false;
        for power in [1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1] {
            let digit = (number / power % 10) as u8;
            started |= digit != 0 || power == 1;
            if started {
                self.put(&[b'0'.wrapping_add(digit)]);
            }
        }
    }

    fn hexadecimal(&mut self, number: u16) {
        for shift in [12, 8, 4, 0] {
            let digit = (number >> shift & 0xf) as u8;
            let base = if digit < 10 { b'0' } else { b'a'.wrapping_sub(10) };
            self.put(&[base.wrapping_add(digit)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_loopback_however_it_is_spelled() {
        for name in ["localhost", "LOCALHOST.", "app.localhost", "a.b.localhost."] {
            assert_eq!(whose(name.as_bytes(), b"box"), Whose::Loopback, "{name}");
        }
        for name in ["localhost.example", "mylocalhost", "localhos", "", ".", "backend"] {
            assert_eq!(whose(name.as_bytes(), b"box"), Whose::Launcher, "{name}");
        }
        assert_eq!(whose(b"Box", b"box"), Whose::Node);
        assert_eq!(whose(b"", b""), Whose::Launcher);
    }

    #[test]
    fn an_address_reads_back() {
        let mut room = [0xff; NUMERIC_MAX];
        for text in ["0.0.0.0", "10.96.0.7", "255.255.255.255"] {
            let ip: std::net::Ipv4Addr = text.parse().unwrap();
            let address = Address { ip: Ip::V4(ip.octets()), port: 0, scope: 0 };
            assert_eq!(numeric(address, &mut room), text.as_bytes());
        }
        for text in ["::", "fd00::1", "1:22:333:4444:ffff:abcd:9:0"] {
            let ip: std::net::Ipv6Addr = text.parse().unwrap();
            let address = Address { ip: Ip::V6(ip.octets()), port: 0, scope: 0 };
            let length = numeric(address, &mut room).len();
            let read: std::net::Ipv6Addr = std::str::from_utf8(&room[..length]).unwrap().parse().unwrap();
            assert_eq!(read, ip);
            assert_eq!(room[length], 0);
        }
    }

    #[test]
    fn the_longest_address_has_room_for_its_nul() {
        let mut room = [0xff; NUMERIC_MAX];
        let text = numeric(Address { ip: Ip::V6([0xff; 16]), port: 0, scope: u32::MAX }, &mut room);
        assert!(text.ends_with(b":ffff%4294967295"));
        let length = text.len();
        assert_eq!(room[length], 0);
    }
}
