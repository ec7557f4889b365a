//! One line a decision on standard error, when `TP_DEBUG` is set.
//!
//! `core::fmt` can panic and needs room, so a line is put together here in a small buffer and written at once: lines
//! of several threads do not mix, and what does not fit is cut.

use crate::config::Config;
use crate::sys;
use tp_abi::wire::Address;

/// A line under construction.
pub(crate) struct Line {
    bytes: [u8; 200],
    length: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; 200], length: 0 }
    }

    /// Appends text; what does not fit is cut.
    pub(crate) fn text(mut self, text: &[u8]) -> Self {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length = self.length.saturating_add(1);
            }
        }
        self
    }

    /// Appends a number in decimal.
    pub(crate) fn number(self, number: u64) -> Self {
        let mut digits = [0; 20];
        let mut rest = number;
        let mut used = 0_usize;
        for place in digits.iter_mut().rev() {
            *place = b'0'.wrapping_add((rest % 10) as u8);
            rest /= 10;
            used = used.saturating_add(1);
            if rest == 0 {
                break;
            }
        }
        self.text(digits.get(digits.len().saturating_sub(used)..).unwrap_or(&[]))
    }

    /// Appends an address and its port.
    pub(crate) fn address(self, address: Address) -> Self {
        let mut room = [0; crate::name::NUMERIC_MAX];
        let bare = Address { scope: 0, ..address };
        let line = self.text(b"[").text(crate::name::numeric(bare, &mut room)).text(b"]:");
        line.number(u64::from(address.port))
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

/// Writes the line that `fill` makes, if the program is to be debugged.
pub(crate) fn note(config: &Config, fill: impl FnOnce(Line) -> Line) {
    if config.debug.text().is_some() {
        sys::write_line(fill(Line::new().text(b"tp: ")).text(b"\n").bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tp_abi::wire::Ip;

    #[test]
    fn a_line_says_what_it_is_told() {
        let address = Address { ip: Ip::V4([10, 0, 0, 1]), port: 8080, scope: 0 };
        let line = Line::new().text(b"connect ").address(address).text(b" ").number(0).number(u64::MAX);
        assert_eq!(line.bytes(), b"connect [10.0.0.1]:8080 018446744073709551615");
    }

    #[test]
    fn a_line_too_long_is_cut() {
        let line = Line::new().text(&[b'a'; 300]).number(7);
        assert_eq!(line.bytes(), [b'a'; 200]);
    }
}
