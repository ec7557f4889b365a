//! The direction from the stream to the network: whatever has come is sent at once.
//!
//! A datagram's price is the way that the kernel takes it: system call, route, rules, the pod's end of a pair of interfaces.
//! Datagrams of one length that came together take it as one packet, which the kernel takes apart where the way ends
//! (segmentation offload, `UDP_SEGMENT`, udp(7)): what the network and the service see is the same. Nobody waits for more.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;

use bytes::{Buf as _, BytesMut};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt as _, Interest};
use tokio::net::UdpSocket;

use crate::proto::DATAGRAM_MAX;

/// Bytes of a record's length.
const HEADER_LEN: usize = 2;
/// Bytes read at once.
const BUSY: usize = 64 * 1024;
const IDLE: usize = 2 * 1024;
/// Bytes of a read after which more are expected.
const MUCH: usize = 16 * 1024;
/// Datagrams that the kernel takes as one (`UDP_MAX_SEGMENTS` of older kernels), and bytes of them.
const AT_ONCE: usize = 64;
const AT_ONCE_BYTES: usize = 60_000;

/// Datagrams on their way out of the stream, as far as they have come.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: BytesMut,
    busy: bool,
    /// The kernel may take several datagrams as one.
    joined: bool,
}

/// Whole records in front: so many datagrams of that length, of which the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    count: usize,
    length: usize,
}

impl Outgoing {
    pub(super) fn new(socket: &UdpSocket) -> Self {
        let joined = getsockopt(socket, sockopt::UdpGsoSegment).is_ok();
        Self { bytes: BytesMut::new(), busy: false, joined }
    }

    /// Reads on until a datagram is whole; `false` at the stream's end. Cancel safe.
    ///
    /// # Errors
    /// The stream's, and `InvalidData` for a length that no datagram has.
    pub(super) async fn read(&mut self, client: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        while record(&self.bytes)?.is_none() {
            // An idle flow keeps no large buffer.
            if self.bytes.is_empty() && !self.busy {
                self.bytes = BytesMut::new();
            }
            self.bytes.reserve(if self.busy { BUSY } else { IDLE });
            let room = self.bytes.capacity().saturating_sub(self.bytes.len());
            let read = client.read_buf(&mut self.bytes).await?;
            self.busy = read >= room.min(MUCH);
            if read == 0 {
                return if self.bytes.is_empty() {
                    Ok(false)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
        Ok(true)
    }

    /// Sends one datagram, or several of a length, of those that are whole; `None` when none is. What is sent is forgotten,
    /// also where it fails.
    ///
    /// # Errors
    /// What is to be told about a datagram: this one's, or that of an earlier one.
    pub(super) async fn send(&mut self, socket: &UdpSocket) -> Option<io::Result<()>> {
        let mut run = first_run(&self.bytes, if self.joined { AT_ONCE } else { 1 })?;
        let mut sent = send(socket, &self.bytes, run).await;
        if run.count > 1 && sent.as_ref().is_err_and(is_too_much) {
            // One of those whose way has no room for a joined packet, or that asks for checksums before.
            self.joined = false;
            run = first_run(&self.bytes, 1)?;
            sent = send(socket, &self.bytes, run).await;
        }
        let taken = records(&self.bytes).take(run.count).map(|datagram| HEADER_LEN + datagram.len()).sum();
        self.bytes.advance(taken);
        Some(sent)
    }
}

/// Whether a joined packet failed for being one.
fn is_too_much(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO))
}

/// The datagram of the record in front, if it is whole.
fn record(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*header));
    if length > DATAGRAM_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram longer than UDP carries"));
    }
    Ok(rest.get(..length))
}

/// The datagrams of the whole records in front.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let datagram = record(bytes).ok()??;
        bytes = bytes.get(HEADER_LEN + datagram.len()..)?;
        Some(datagram)
    })
}

/// What can be sent at once; at most so many datagrams. `None` if no record is whole.
fn first_run(bytes: &[u8], most: usize) -> Option<Run> {
    let mut lengths = records(bytes).map(<[u8]>::len);
    let length = lengths.next()?;
    let mut run = Run { count: 1, length };
    if length == 0 {
        return Some(run);
    }
    let most = most.min(AT_ONCE_BYTES / length);
    for next in lengths {
        if run.count >= most || next == 0 || next > length {
            break;
        }
        run.count += 1;
        if next < length {
            break;
        }
    }
    Some(run)
}

/// Sends a run. The kernel reports an earlier one's ICMP error instead of sending: that costs one more try.
async fn send(socket: &UdpSocket, bytes: &[u8], run: Run) -> io::Result<()> {
    let parts: Vec<IoSlice<'_>> = records(bytes).take(run.count).map(IoSlice::new).collect();
    let length = u16::try_from(run.length).unwrap_or(u16::MAX);
    let joined = [ControlMessage::UdpGsoSegments(&length)];
    let control = if run.count > 1 { &joined[..] } else { &[] };
    let once = || {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg(socket.as_raw_fd(), &parts, control, flags, None::<&()>).map(drop).map_err(io::Error::from)
    };
    let Err(error) = socket.async_io(Interest::WRITABLE, once).await else { return Ok(()) };
    socket.async_io(Interest::WRITABLE, once).await?;
    // Sent in the end; the error was about another one, and is told all the same.
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(lengths: &[usize]) -> Vec<u8> {
        let record =
            |length: &usize| [&u16::try_from(*length).unwrap().to_be_bytes()[..], &vec![7; *length]].concat();
        lengths.iter().flat_map(record).collect()
    }

    #[test]
    fn only_datagrams_of_one_length_are_joined_and_a_shorter_one_is_the_last() {
        let cases: [(&[usize], usize, usize); 9] = [
            (&[5, 5, 5], 3, 5),
            (&[5, 5, 4, 5], 3, 5),
            (&[5, 5, 6], 2, 5),
            (&[5, 0, 5], 1, 5),
            (&[0, 0, 5], 1, 0),
            (&[DATAGRAM_MAX, 1], 1, DATAGRAM_MAX),
            (&[20_000; 4], 3, 20_000),
            (&[1; 100], AT_ONCE, 1),
            (&[5], 1, 5),
        ];
        for (lengths, count, length) in cases {
            assert_eq!(first_run(&stream(lengths), AT_ONCE), Some(Run { count, length }), "{lengths:?}");
            assert_eq!(first_run(&stream(lengths), 1), Some(Run { count: 1, length }), "{lengths:?}");
        }
        assert_eq!(first_run(&stream(&[5, 5])[..13], AT_ONCE), Some(Run { count: 1, length: 5 }));
        assert_eq!(first_run(&stream(&[5])[..6], AT_ONCE), None);
    }
}
