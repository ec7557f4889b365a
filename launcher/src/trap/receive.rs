//! recvfrom(2), recvmsg(2) and recvmmsg(2) with room for an address, as `shim/src/hooks/receive.rs` has them.
//!
//! The kernel tells a relay's address as a datagram's source, and the program's memory is written by the kernel after we have
//! answered. So what a UDP socket receives with its source is received here, on the copy, and written into the program's
//! memory: data, the destination behind the relay, control messages and flags. All UDP sockets are treated so: a thread may wait
//! for datagrams before another sends the first to the cluster.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::Instant;
use tp_abi::sockaddr::{self, ROOM};

use super::caught::{Caught, Reply, Step, facts};
use super::layout::{self, Block, Header, PARTS_MAX, Width};
use super::send::{MESSAGES_MAX, read_header};
use super::{Supervisor, to_abi};
use crate::sys::message::{self, Received};
use crate::sys::socket;

/// More than any datagram has.
const DATAGRAM: u64 = 0x1_0000;
/// Control messages that one datagram can have here; the kernel limits its own to `optmem_max` (20 kB, socket(7)).
const CONTROL: u64 = 0x1_0000;

/// Where a message goes.
struct Place {
    parts: Vec<Block>,
    /// How much room there is for the source.
    name: usize,
    /// How much there is for control messages.
    control: usize,
}

/// A datagram that was received.
struct Datagram {
    data: Vec<u8>,
    /// The true source, whole.
    source: Vec<u8>,
    control: Vec<u8>,
    received: Received,
}

impl Supervisor {
    pub(super) async fn receive_from(
        &self,
        caught: &Caught,
        fd: i32,
        data: Block,
        flags: i32,
        (from, length): (u64, u64),
    ) -> Step<Reply> {
        let room = u32::from_ne_bytes(caught.read_all(length)?).cast_signed();
        let name = usize::try_from(room).map_err(|_negative| Reply::Proceeds)?;
        let socket = udp(caught, fd)?;
        let place = Place { parts: vec![data], name, control: 0 };
        let datagram = self.receive(caught, &socket, &place, flags, limit(&socket)).await?;
        let mut writes = scatter(&place.parts, &datagram.data);
        writes.push((from, cut(&datagram.source, name)));
        writes.push((length, (datagram.source.len() as u32).to_ne_bytes().into()));
        Ok(Reply::Returns(datagram.received.data as i64, writes))
    }

    pub(super) async fn receive_message(&self, caught: &Caught, fd: i32, at: u64, flags: i32) -> Step<Reply> {
        let header = read_header(caught, at)?;
        if header.name.at == 0 {
            return Err(Reply::Proceeds);
        }
        let place = read_place(caught, &header)?;
        let socket = udp(caught, fd)?;
        let datagram = self.receive(caught, &socket, &place, flags, limit(&socket)).await?;
        let writes = tell(caught.width, at, &header, &place, &datagram);
        Ok(Reply::Returns(datagram.received.data as i64, writes))
    }

    /// recvmmsg(2) looks at its time-out after each datagram alone, and so does this; an error after the first is kept from
    /// the caller, and would come with its next call.
    pub(super) async fn receive_messages(
        &self,
        caught: &Caught,
        fd: i32,
        (at, count): (u64, u64),
        flags: i32,
        (timeout, wide_time): (u64, bool),
    ) -> Step<Reply> {
        let mut messages = Vec::new();
        for number in 0..count.min(MESSAGES_MAX) {
            let at = at.saturating_add(number * caught.width.next_header());
            messages.push((at, read_header(caught, at)?));
        }
        if messages.iter().all(|(_, header)| header.name.at == 0) {
            return Err(Reply::Proceeds);
        }
        let deadline = read_time(caught, timeout, wide_time)?.map(|limit| Instant::now() + limit);
        let socket = udp(caught, fd)?;
        let mut flags = flags;
        let wait_for_one = flags & libc::MSG_WAITFORONE != 0;
        flags &= !libc::MSG_WAITFORONE;
        let (mut writes, mut count) = (Vec::new(), 0);
        for (at, header) in &messages {
            let place = read_place(caught, header)?;
            let datagram = match self.receive(caught, &socket, &place, flags, limit(&socket)).await {
                Ok(datagram) => datagram,
                Err(failed) if count == 0 => return Err(failed),
                Err(Reply::Gone) => return Err(Reply::Gone),
                Err(_) => break,
            };
            writes.extend(tell(caught.width, *at, header, &place, &datagram));
            let length = datagram.received.data as u32;
            writes.push((at + caught.width.length_at(), length.to_ne_bytes().into()));
            count += 1;
            if wait_for_one {
                flags |= libc::MSG_DONTWAIT;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
        }
        Ok(Reply::Returns(count, writes))
    }

    /// Receives one datagram, waiting for it where the program's own call would.
    async fn receive(
        &self,
        caught: &Caught,
        socket: &OwnedFd,
        place: &Place,
        flags: i32,
        limit: Option<Duration>,
    ) -> Step<Datagram> {
        let length = place.parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.length));
        let mut data = vec![0; length.min(DATAGRAM) as usize];
        let mut name = [0; ROOM];
        let mut control = vec![0; place.control];
        let take = || {
            match message::receive(socket, &mut data, &mut name, &mut control, flags) {
                // A socket that was shut down wakes who waits, and has nothing.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && socket::is_shut(socket) => {
                    Ok(Received::default())
                }
                received => received,
            }
        };
        let waits = flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) == 0 && message::waits(socket);
        let received = if waits {
            caught.until(socket, Interest::READABLE, limit, take).await?
        } else {
            let mut take = take;
            take()
        };
        let received = received.map_err(|error| Reply::failed(&error))?;
        // With MSG_TRUNC more is told than was there to copy.
        data.truncate(received.data);
        control.truncate(received.control);
        let source = self.source(name.get(..received.name).unwrap_or(&name));
        Ok(Datagram { data, source, control, received })
    }

    /// The destination behind a relay, in the spelling that the kernel chose; another source as it is.
    fn source(&self, kernels: &[u8]) -> Vec<u8> {
        let read = sockaddr::read(kernels);
        let truth = read.and_then(|source| Some((source, self.behind(source.address)?)));
        let mut room = [0; ROOM];
        let spelled = truth.and_then(|(source, truth)| {
            sockaddr::spell(to_abi(truth), source.family == libc::AF_INET6, &mut room)
        });
        spelled.unwrap_or(kernels).to_vec()
    }
}

/// The socket, if it is one of UDP; others are the kernel's.
fn udp(caught: &Caught, fd: i32) -> Step<OwnedFd> {
    let socket = caught.socket(fd)?;
    if facts(&socket)?.is_udp() { Ok(socket) } else { Err(Reply::Proceeds) }
}

fn limit(socket: &OwnedFd) -> Option<Duration> {
    socket::limit(socket, libc::SO_RCVTIMEO).ok().flatten()
}

fn read_place(caught: &Caught, header: &Header) -> Step<Place> {
    if header.parts.length > PARTS_MAX {
        return Err(Reply::Proceeds);
    }
    let name = i32::try_from(header.name.length).map_err(|_negative| Reply::Proceeds)?;
    let length = header.parts.length * caught.width.part() as u64;
    let parts = caught.read_block(Block { length, ..header.parts }, usize::MAX)?;
    let control = if header.control.at == 0 { 0 } else { header.control.length.min(CONTROL) };
    Ok(Place {
        parts: layout::parts(caught.width, &parts),
        name: if header.name.at == 0 { 0 } else { name as usize },
        control: control as usize,
    })
}

/// A `struct timespec`; [`None`] for a null pointer.
fn read_time(caught: &Caught, at: u64, wide: bool) -> Step<Option<Duration>> {
    if at == 0 {
        return Ok(None);
    }
    let (seconds, nanoseconds) = if wide || caught.width == Width::W64 {
        let bytes: [u8; 16] = caught.read_all(at)?;
        let (words, _) = bytes.as_chunks();
        let mut words = words.iter().map(|word| i64::from_ne_bytes(*word));
        (words.next().unwrap_or(0), words.next().unwrap_or(0))
    } else {
        let bytes: [u8; 8] = caught.read_all(at)?;
        let (words, _) = bytes.as_chunks();
        let mut words = words.iter().map(|word| i64::from(i32::from_ne_bytes(*word)));
        (words.next().unwrap_or(0), words.next().unwrap_or(0))
    };
    match (u64::try_from(seconds), u32::try_from(nanoseconds)) {
        (Ok(seconds), Ok(nanoseconds @ 0..1_000_000_000)) => Ok(Some(Duration::new(seconds, nanoseconds))),
        _ => Err(Reply::Fails(libc::EINVAL)),
    }
}

/// What is written for a message that was received: its data, its source, its control messages, its flags.
fn tell(width: Width, at: u64, header: &Header, place: &Place, datagram: &Datagram) -> Vec<(u64, Vec<u8>)> {
    let mut writes = scatter(&place.parts, &datagram.data);
    if header.name.at != 0 {
        writes.push((header.name.at, cut(&datagram.source, place.name)));
        let length = (datagram.source.len() as u32).to_ne_bytes();
        writes.push((at + width.name_length_at(), length.into()));
    }
    let control = cut(&layout::control(Width::W64, width, &datagram.control), place.control);
    writes.push((at + width.control_length_at(), width.size(control.len())));
    if header.control.at != 0 {
        writes.push((header.control.at, control));
    }
    writes.push((at + width.flags_at(), datagram.received.flags.to_ne_bytes().into()));
    writes
}

/// Data for the places that a program has for it, one behind the other.
fn scatter(parts: &[Block], mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut writes = Vec::new();
    for part in parts {
        let fits = data.len().min(usize::try_from(part.length).unwrap_or(usize::MAX));
        let (here, rest) = data.split_at(fits);
        if !here.is_empty() {
            writes.push((part.at, here.to_vec()));
        }
        data = rest;
    }
    writes
}

fn cut(bytes: &[u8], room: usize) -> Vec<u8> {
    bytes.iter().take(room).copied().collect()
}
