//! sendto(2), sendmsg(2) and sendmmsg(2), as `shim/src/hooks/{send,datagram}.rs` have them.
//!
//! A datagram to the cluster is read from the program's memory and sent from its own socket, of which the launcher has a
//! copy, to the relay of its destination. TCP fast open (`MSG_FASTOPEN`, tcp(7)) connects by the gate, and what is left
//! to send is sent here.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tp_abi::control;
use tp_abi::decide::{self, Verdict};
use tp_abi::sockaddr::{self, ROOM};
use tracing::info;

use super::caught::{Caught, Reply, Step, facts};
use super::connect::spell;
use super::layout::{self, Header, PARTS_MAX};
use super::layout::{Block, Width};
use super::names::peer_of;
use super::{Supervisor, to_std};
use crate::sys::{message, socket};

/// More than any datagram has; what is longer fails with `EMSGSIZE`.
const DATAGRAM: usize = 0xffff;
/// Bytes of a stream that are sent at once.
const CHUNK: u64 = 0x10_0000;
/// Control messages beyond this are the kernel's to refuse (`optmem_max`, socket(7)).
const CONTROL: usize = 0x1_0000;
/// The kernel takes no more messages at once (`UIO_MAXIOV`).
pub(super) const MESSAGES_MAX: u64 = 1024;

/// A message to send.
struct Message {
    /// Its address; empty if it has none.
    to: Vec<u8>,
    parts: Vec<Block>,
    /// As 64-bit programs have them.
    control: Vec<u8>,
}

/// What is done with a message.
enum Way {
    /// The kernel sends it, from the program's memory.
    Proceeds,
    /// It is connected by the gate and sent then.
    Opens(OwnedFd),
    /// It is sent there.
    Relay(OwnedFd, Vec<u8>),
    /// It is sent as it is, without what cannot go to a relay.
    Bare(OwnedFd),
}

impl Message {
    fn read(caught: &Caught, header: &Header) -> Step<Self> {
        if header.parts.length > PARTS_MAX {
            return Err(Reply::Proceeds);
        }
        let named = header.name.at != 0;
        let to = if named { read_address(caught, header.name)? } else { Vec::new() };
        let given = if header.control.at == 0 { Block { at: 0, length: 0 } } else { header.control };
        let control = caught.read_block(given, CONTROL)?;
        let control = layout::control(caught.width, Width::W64, &control);
        let length = header.parts.length * caught.width.part() as u64;
        let parts = caught.read_block(Block { length, ..header.parts }, usize::MAX)?;
        Ok(Self { to, parts: layout::parts(caught.width, &parts), control })
    }

    /// Without an address and anything that could not go to a relay, it is the kernel's.
    fn is_plain(&self) -> bool {
        self.to.is_empty() && !control::must_change(&self.control)
    }

    fn length(&self) -> u64 {
        self.parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.length))
    }
}

impl Supervisor {
    pub(super) async fn send_to(
        &self,
        caught: &Caught,
        fd: i32,
        data: Block,
        flags: i32,
        to: Block,
    ) -> Step<Reply> {
        let to = read_address(caught, to)?;
        let message = Message { to, parts: vec![data], control: Vec::new() };
        self.send_one(caught, fd, &message, flags).await.map(Reply::returns)
    }

    pub(super) async fn send_message(&self, caught: &Caught, fd: i32, at: u64, flags: i32) -> Step<Reply> {
        let header = read_header(caught, at)?;
        if header.name.at == 0 && header.control.at == 0 {
            return Err(Reply::Proceeds);
        }
        let message = Message::read(caught, &header)?;
        self.send_one(caught, fd, &message, flags).await.map(Reply::returns)
    }

    /// sendmmsg(2) stops at the first that fails and says how many went before it.
    pub(super) async fn send_messages(
        &self,
        caught: &Caught,
        fd: i32,
        (at, count): (u64, u64),
        flags: i32,
    ) -> Step<Reply> {
        let mut messages = Vec::new();
        for number in 0..count.min(MESSAGES_MAX) {
            let at = at.saturating_add(number * caught.width.next_header());
            messages.push((at, Message::read(caught, &read_header(caught, at)?)?));
        }
        if messages.iter().all(|(_, message)| message.is_plain()) {
            return Err(Reply::Proceeds);
        }
        let mut writes = Vec::new();
        for (at, message) in &messages {
            let sent = match self.send_one(caught, fd, message, flags).await {
                // The first is the kernel's, and so are all: they go to one socket.
                Err(Reply::Proceeds) if writes.is_empty() => return Err(Reply::Proceeds),
                Err(Reply::Proceeds) => self.send_plain(caught, fd, message, flags).await,
                sent => sent,
            };
            match sent {
                Ok(length) => {
                    let length = u32::try_from(length).unwrap_or(u32::MAX);
                    writes.push((at + caught.width.length_at(), length.to_ne_bytes().to_vec()));
                }
                Err(failed) if writes.is_empty() => return Err(failed),
                Err(_) => break,
            }
        }
        Ok(Reply::Returns(writes.len() as i64, writes))
    }

    /// Sends a message; gives how much of it was sent.
    async fn send_one(&self, caught: &Caught, fd: i32, message: &Message, flags: i32) -> Step<i64> {
        match self.way(caught, fd, message, flags)? {
            Way::Proceeds => Err(Reply::Proceeds),
            Way::Opens(socket) => {
                match self.connect_to(caught, fd, &message.to).await? {
                    Reply::Returns(0, _) => {}
                    failed => return Err(failed),
                }
                stream(caught, &socket, message, flags & !libc::MSG_FASTOPEN).await
            }
            Way::Relay(socket, relay) => datagram(caught, &socket, message, &relay, flags).await,
            Way::Bare(socket) => datagram(caught, &socket, message, &[], flags).await,
        }
    }

    /// Sends one of several messages that the kernel would send as it is.
    async fn send_plain(&self, caught: &Caught, fd: i32, message: &Message, flags: i32) -> Step<i64> {
        datagram(caught, &caught.socket(fd)?, message, &message.to, flags).await
    }

    fn way(&self, caught: &Caught, fd: i32, message: &Message, flags: i32) -> Step<Way> {
        if message.is_plain() {
            return Ok(Way::Proceeds);
        }
        let opens = flags & libc::MSG_FASTOPEN != 0;
        let local = |address| decide::stays(address).is_some();
        if sockaddr::read(&message.to).is_some_and(|to| local(to.address)) {
            return Ok(Way::Proceeds);
        }
        let socket = caught.socket(fd)?;
        if message.to.is_empty() {
            let behind = peer_of(&socket).and_then(|peer| self.behind(peer.address));
            return Ok(behind.map_or(Way::Proceeds, |_| Way::Bare(socket)));
        }
        let facts = facts(&socket)?;
        let Some(to) = sockaddr::destination(facts.domain, &message.to) else { return Ok(Way::Proceeds) };
        match decide::send(facts, to, opens) {
            Verdict::Pass(_) => Ok(Way::Proceeds),
            Verdict::Carry { .. } => Ok(Way::Opens(socket)),
            Verdict::Refuse(errno) => {
                info!(asked = %to_std(to.address), "send refused: neither TCP nor UDP");
                Err(Reply::Fails(errno))
            }
            Verdict::Relay { asked, v6_spelling } => {
                let asked = to_std(asked);
                if !self.is_pods(asked) {
                    return Ok(Way::Proceeds);
                }
                let relay = self.relay(&socket, asked)?;
                let mut room = [0; ROOM];
                let relay = spell(relay, v6_spelling, &mut room)?.to_vec();
                Ok(Way::Relay(socket, relay))
            }
        }
    }

    /// A socket that is connected to the destination takes answers from its own relay alone.
    fn relay(&self, socket: &OwnedFd, asked: SocketAddr) -> Step<SocketAddr> {
        let way = self.services.flows.shared(asked).map_err(Reply::Fails)?;
        let own = way.connected.then(|| peer_of(socket)).flatten();
        let own = own.filter(|own| self.behind(own.address) == Some(asked));
        Ok(own.map_or(way.relay, |own| to_std(own.address)))
    }

    /// The destination behind a relay.
    pub(super) fn behind(&self, relay: tp_abi::wire::Address) -> Option<SocketAddr> {
        let relay = tp_abi::wire::Address { scope: 0, ..relay };
        decide::may_be_relay(relay).then(|| self.services.flows.behind(to_std(relay))).flatten()
    }
}

/// Sends one datagram, waiting for room in the socket's buffer as the program's own call would.
async fn datagram(caught: &Caught, socket: &OwnedFd, message: &Message, to: &[u8], flags: i32) -> Step<i64> {
    let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
    if length > DATAGRAM {
        return Err(Reply::Fails(libc::EMSGSIZE));
    }
    let mut room = control::Room([0; _]);
    let goes = control::copy(&message.control, &mut room).ok_or(Reply::Fails(libc::ENOBUFS))?;
    let goes = room.0.get(..goes).unwrap_or_default();
    let mut data = vec![0; length];
    if caught.gather(&message.parts, &mut data)? < length {
        return Err(Reply::Fails(libc::EFAULT));
    }
    send(caught, socket, &data, to, goes, flags).await
}

/// Sends what a stream's message has, all of it where the program's call would wait for that.
async fn stream(caught: &Caught, socket: &OwnedFd, message: &Message, flags: i32) -> Step<i64> {
    let mut sent: i64 = 0;
    for part in &message.parts {
        let end = part.at.saturating_add(part.length);
        let mut at = part.at;
        while at < end {
            let mut data = vec![0; (end - at).min(CHUNK) as usize];
            let there = caught.gather(&[Block { at, length: data.len() as u64 }], &mut data)?;
            data.truncate(there);
            match send(caught, socket, &data, &[], &[], flags).await {
                Ok(more @ 1..) => {
                    sent += more;
                    at += more.unsigned_abs();
                }
                Ok(_) => return Ok(sent),
                Err(failed) if sent == 0 => return Err(failed),
                Err(_) => return Ok(sent),
            }
        }
    }
    Ok(sent)
}

async fn send(
    caught: &Caught,
    socket: &OwnedFd,
    data: &[u8],
    to: &[u8],
    control: &[u8],
    flags: i32,
) -> Step<i64> {
    let take = || message::send(socket, data, to, control, flags);
    let sent = if flags & libc::MSG_DONTWAIT == 0 && message::waits(socket) {
        let limit = socket::limit(socket, libc::SO_SNDTIMEO).ok().flatten();
        caught.until(socket, Interest::WRITABLE, limit, take).await?
    } else {
        take()
    };
    sent.map(|sent| sent as i64).map_err(|error: io::Error| Reply::failed(&error))
}

fn read_address(caught: &Caught, to: Block) -> Step<Vec<u8>> {
    // Longer than any address is the kernel's to refuse; what is behind an internet address does not matter.
    if to.length > 128 {
        return Err(Reply::Proceeds);
    }
    caught.read_block(to, 128)
}

pub(super) fn read_header(caught: &Caught, at: u64) -> Step<Header> {
    let mut room = [0; 64];
    let bytes = caught.read(at, room.get_mut(..caught.width.header()).unwrap_or_default())?;
    layout::header(caught.width, bytes).ok_or(Reply::Proceeds)
}
