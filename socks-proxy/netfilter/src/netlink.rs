//! Netlink messages (netlink(7)): a batch of requests in one send, each acknowledged.
//!
//! Links, addresses and rules of a namespace are made by a few dozen messages of fixed shapes, in two protocols of which
//! one (nf_tables) no crate of ours writes. What they share, attributes and nests, is this.
//!
//! The kernel works a batch off within the send, so its answers are there when that returns: nothing here waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The number of the loopback link in every network namespace.
pub const LO: u32 = 1;

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
const ALIGNMENT: usize = 4;

/// A socket of that protocol in the namespace of this process.
///
/// # Errors
/// Those of socket(2).
pub fn open(protocol: SockProtocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// Requests to be sent together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: u32,
    acknowledged: u32,
}

impl Batch {
    /// Adds a request: the protocol's own header, and what `fill` puts behind it. It is acknowledged.
    pub fn request(&mut self, kind: u16, flags: i32, header: &[u8], fill: impl FnOnce(&mut Attributes)) {
        self.acknowledged += 1;
        self.add(kind, libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags, header, fill);
    }

    /// Adds a message that the kernel does not answer.
    pub fn mark(&mut self, kind: u16, header: &[u8]) {
        self.add(kind, libc::NLM_F_REQUEST, header, |_| {});
    }

    /// Adds a request that is answered with a list.
    pub fn dump(&mut self, kind: u16, header: &[u8]) {
        self.add(kind, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, header, |_| {});
    }

    fn add(&mut self, kind: u16, flags: i32, header: &[u8], fill: impl FnOnce(&mut Attributes)) {
        self.messages += 1;
        let mut body = Attributes(header.to_vec());
        fill(&mut body);
        let length = u32::try_from(HEADER_LEN + body.0.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body.0);
    }

    /// Sends all.
    ///
    /// # Errors
    /// Those of send(2), and what the kernel said to the first request that it refused.
    pub fn send(self, socket: &impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        send(socket.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        let mut left = self.acknowledged;
        let mut room = vec![0; 1 << 16];
        while left > 0 {
            let length = recv(socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT)?;
            for error in errors(room.get(..length).unwrap_or_default()) {
                match error {
                    0 => left = left.saturating_sub(1),
                    errno => return Err(io::Error::from_raw_os_error(-errno)),
                }
            }
        }
        Ok(())
    }
}

/// The error of each acknowledgement; 0 is none.
fn errors(bytes: &[u8]) -> Vec<i32> {
    let acknowledgements = messages(bytes).filter(|(kind, _)| libc::c_int::from(*kind) == libc::NLMSG_ERROR);
    acknowledgements.filter_map(|(_, body)| Some(i32::from_ne_bytes(*body.first_chunk()?))).collect()
}

/// What the kernel wrote: the kind of each message, and what is behind its header.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER_LEN..length.min(bytes.len()))?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Attributes behind a header (`struct nlattr`).
#[derive(Debug)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// One attribute.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |inside| inside.0.extend(value));
    }

    /// One with a name, with the NUL that the kernel wants.
    pub fn name(&mut self, kind: u16, name: &str) {
        self.attribute(kind, |inside| inside.0.extend(name.bytes().chain([0])));
    }

    /// One that holds others.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.attribute(kind | libc::NLA_F_NESTED as u16, fill);
    }

    /// Bytes as they are: a header inside a nest.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_know_their_length() {
        let mut batch = Batch::default();
        batch.request(16, 0, &[9; 4], |body| {
            body.put(1, &[7]);
            body.nest(2, |inside| inside.name(3, "lo"));
        });
        let expected: &[u8] = &[
            9, 9, 9, 9, // the protocol's header
            5, 0, 1, 0, 7, 0, 0, 0, // one byte
            12, 0, 2, 0x80, 7, 0, 3, 0, b'l', b'o', 0, 0, // a name in a nest
        ];
        assert_eq!(batch.bytes.get(HEADER_LEN..), Some(expected));
        assert_eq!(batch.bytes.first(), Some(&40));
    }

    #[test]
    fn the_kernels_errors_are_found_among_its_answers() {
        let message = |kind: u16, error: i32| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        let answers = [message(2, 0), message(3, 5), message(2, -libc::EPERM)].concat();
        assert_eq!(errors(&answers), [0, -libc::EPERM]);
        assert_eq!(errors(&[1, 0, 0, 0]), []);
    }

    #[test]
    fn the_kernel_answers_at_once() {
        let socket = open(SockProtocol::NetlinkRoute).unwrap();
        let mut batch = Batch::default();
        // No such link.
        batch.request(libc::RTM_DELLINK, 0, &[0; 16], |_| {});
        assert!(batch.send(&socket).is_err());
    }
}
