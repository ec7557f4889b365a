//! Where datagrams to the cluster go, and whose the datagrams are that come: the launcher's answers, leased.
//!
//! A program's datagram socket is never exchanged. What it sends to an address in the cluster goes to a relay, a
//! loopback socket that the launcher keeps for that destination, and what comes from the relay is the destination's.
//! So the kernel still filters, queues, wakes and reports errors for the program's own socket, and the data path costs
//! a look into a table.
//!
//! Invariant: a lease ends long before the launcher takes a relay away (`launcher/src/flows.rs`), so that a port that
//! somebody else may have by then is never believed to be a relay.

use crate::ask::{Slip, Unanswered, ask};
use crate::config::Config;
use crate::leases::{Endpoint, Lease, Table};
use crate::note::note;
use crate::sys::now;
use core::ffi::c_int;
use tp_abi::decide;
use tp_abi::errno::LAUNCHER_GONE;
use tp_abi::wire::{Address, Answer, Question};

/// Seconds that an answer is good.
const LEASE: u32 = 10;
/// Seconds that "this port of `::1` is no relay" is good.
const NOT_ONE: u32 = 5;

/// Seconds after its end in which a lease still serves who cannot ask; with it less than a relay is kept unused.
const SPARE: u32 = 30;

/// By destination.
static TO: Table = Table::new();
/// By relay.
static FROM: Table = Table::new();

/// Marks of a [`Lease`].
const RELAYED: u16 = 1;
const CONNECTED: u16 = 2;

/// Where datagrams to a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Towards {
    /// There as they are: the destination is not the pod's.
    Itself,
    /// To the launcher.
    Relay {
        /// The relay that all sockets share which are not connected.
        relay: Address,
        /// There are sockets that are connected to this destination by other relays.
        connected: bool,
    },
}

/// Where datagrams to `asked` go, if that is known without asking.
pub(crate) fn known(asked: Address) -> Option<Towards> {
    known_since(asked, now())
}

/// Where datagrams to `asked` went, by a lease that was good at `then`.
fn known_since(asked: Address, then: u32) -> Option<Towards> {
    let Lease { to, mark } = TO.get(Endpoint::of(asked), then)?;
    Some(if mark & RELAYED == 0 {
        Towards::Itself
    } else {
        Towards::Relay { relay: to.address(), connected: mark & CONNECTED != 0 }
    })
}

/// Where datagrams to `asked` go; else the errno of the call that asks.
pub(crate) fn towards(config: &Config, asked: Address) -> Result<Towards, c_int> {
    if let Some(known) = known(asked) {
        return Ok(known);
    }
    question(config, asked, &Question::Flow { asked }, None).or_else(|errno| match errno {
        // A program without a descriptor to spare sends as before: the relay lives as long as it is sent to.
        libc::EMFILE | libc::ENFILE => known_since(asked, now().saturating_sub(SPARE)).ok_or(errno),
        _ => Err(errno),
    })
}

/// The relay for a socket that is about to be connected to `asked`.
pub(crate) fn connected(config: &Config, cookie: u64, fd: c_int, asked: Address) -> Result<Towards, c_int> {
    question(config, asked, &Question::Connected { cookie, fd, asked }, Some(fd))
}

fn question(
    config: &Config,
    asked: Address,
    question: &Question<'_>,
    fd: Option<c_int>,
) -> Result<Towards, c_int> {
    let mut room: Slip = [0; _];
    let answer = ask(config, question, fd, &mut room);
    note(config, |line| line.text(b"datagrams to ").address(asked).text(b" ").text(word(&answer)));
    let destination = Endpoint::of(asked);
    match answer {
        Ok(Answer::Relay { relay, connected }) => {
            // The relay of one connected socket is nobody else's way to the destination.
            if fd.is_none() {
                let mark = RELAYED | if connected { CONNECTED } else { 0 };
                lease(&TO, destination, Lease { to: Endpoint::of(relay), mark }, LEASE);
            } else if let Some(shared) = TO.get(destination, now()) {
                let shared = Lease { mark: shared.mark | CONNECTED, ..shared };
                lease(&TO, destination, shared, LEASE);
            }
            lease(&FROM, Endpoint::of(relay), Lease { to: destination, mark: RELAYED }, LEASE);
            Ok(Towards::Relay { relay, connected })
        }
        Ok(Answer::Pass) => {
            lease(&TO, destination, Lease { to: destination, mark: 0 }, LEASE);
            Ok(Towards::Itself)
        }
        Ok(Answer::Errno(errno)) | Err(Unanswered::Exhausted(errno)) => Err(errno),
        Ok(_) | Err(Unanswered::Gone) => Err(LAUNCHER_GONE),
    }
}

/// The destination whose datagrams come from `source`, if that is a relay.
pub(crate) fn behind(config: &Config, source: Address) -> Option<Address> {
    if !decide::may_be_relay(source) {
        return None;
    }
    let key = Endpoint::of(source);
    let known =
        |then| FROM.get(key, then).map(|Lease { to, mark }| (mark & RELAYED != 0).then(|| to.address()));
    if let Some(known) = known(now()) {
        return known;
    }
    let mut room: Slip = [0; _];
    match ask(config, &Question::Relayed { relay: Address { scope: 0, ..source } }, None, &mut room) {
        Ok(Answer::Peer(asked)) => {
            lease(&FROM, key, Lease { to: Endpoint::of(asked), mark: RELAYED }, LEASE);
            Some(asked)
        }
        Ok(_) => {
            lease(&FROM, key, Lease { to: key, mark: 0 }, NOT_ONE);
            None
        }
        Err(_) => known(now().saturating_sub(SPARE)).flatten(),
    }
}

fn lease(table: &Table, key: Endpoint, lease: Lease, seconds: u32) {
    table.put(key, lease, now().saturating_add(seconds));
}

const fn word(answer: &Result<Answer<'_>, Unanswered>) -> &'static [u8] {
    match answer {
        Ok(Answer::Relay { .. }) => b"relayed",
        Ok(Answer::Pass) => b"passed",
        Ok(Answer::Errno(_)) => b"refused",
        Ok(_) => b"misunderstood",
        Err(Unanswered::Gone) => b"failed: no launcher",
        Err(Unanswered::Exhausted(_)) => b"failed: out of descriptors",
    }
}
