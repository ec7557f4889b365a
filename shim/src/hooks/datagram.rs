//! What is done with data that names its own destination, for the hooks that send.
//!
//! The kernel is asked about the socket only when the destination is a new one: what it says about a destination that has
//! a relay changes nothing, since TCP ignores an address that comes with data.

use super::connect::facts;
use crate::config::Config;
use crate::note::note;
use crate::relays::{self, Towards};
use crate::sys;
use core::ffi::{c_int, c_void};
use libc::{msghdr, sockaddr as Sockaddr, socklen_t};
use tp_abi::control;
use tp_abi::decide::{self, Verdict};
use tp_abi::errno::LAUNCHER_GONE;
use tp_abi::sockaddr::{self, Spelled};
use tp_abi::wire::Address;

/// What is done with data that has an address.
pub(super) enum Way {
    /// The original as it is.
    Pass,
    /// Fail with this errno.
    Refuse(c_int),
    /// Connect to the address, then send without it.
    Open,
    /// Send it to this address instead.
    Relay(Place),
}

/// A relay's address as the socket takes it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    bytes: [u8; sockaddr::ROOM],
    length: usize,
}

impl Place {
    /// No address.
    pub(super) const NONE: Self = Self { bytes: [0; _], length: 0 };

    fn of(relay: Address, v6_spelling: bool) -> Option<Self> {
        let mut bytes = [0; _];
        let length = sockaddr::spell(relay, v6_spelling, &mut bytes)?.len();
        Some(Self { bytes, length })
    }

    /// For as long as `self` stays where it is.
    pub(super) const fn address(&self) -> *const Sockaddr {
        self.bytes.as_ptr().cast()
    }

    pub(super) const fn length(&self) -> socklen_t {
        self.length as socklen_t
    }
}

/// What is done with data for the address `to`, sent with these flags.
pub(super) fn way(config: &Config, fd: c_int, to: &[u8], flags: c_int) -> Way {
    let opens = flags & libc::MSG_FASTOPEN != 0;
    if let Some(Spelled { family, address }) = sockaddr::read(to) {
        if decide::stays(address).is_some() {
            return Way::Pass;
        }
        if !opens && let Some(known) = relays::known(address) {
            return by_relay(config, fd, address, known, family == libc::AF_INET6);
        }
    }
    if to.is_empty() {
        return Way::Pass;
    }
    let Some(socket) = facts(fd) else { return Way::Pass };
    let Some(spelled) = sockaddr::destination(socket.domain, to) else { return Way::Pass };
    match decide::send(socket, spelled, opens) {
        Verdict::Pass(_) => Way::Pass,
        Verdict::Carry { .. } => Way::Open,
        Verdict::Relay { asked, v6_spelling } => match relays::towards(config, asked) {
            Ok(towards) => by_relay(config, fd, asked, towards, v6_spelling),
            Err(errno) => Way::Refuse(errno),
        },
        Verdict::Refuse(errno) => {
            note(config, |line| line.text(b"send refused: ").address(spelled.address));
            Way::Refuse(errno)
        }
    }
}

fn by_relay(config: &Config, fd: c_int, asked: Address, towards: Towards, v6_spelling: bool) -> Way {
    let Towards::Relay { relay, connected } = towards else { return Way::Pass };
    // A socket that is connected to the destination takes answers from its own relay alone.
    let own = connected.then(|| relay_of(config, fd)).flatten();
    let relay = match own {
        Some((own, behind)) if behind == asked => own,
        _ => relay,
    };
    Place::of(relay, v6_spelling).map_or(Way::Refuse(LAUNCHER_GONE), Way::Relay)
}

/// The relay that the socket is connected to, and the destination behind it.
fn relay_of(config: &Config, fd: c_int) -> Option<(Address, Address)> {
    let mut room = [0; sockaddr::ROOM];
    let length = sys::peer(fd, &mut room)?;
    let peer = sockaddr::read(room.get(..length)?)?.address;
    Some((peer, relays::behind(config, peer)?))
}

/// Exchanges the control messages of a message to a relay for those that can go there; `false` if there is no room.
///
/// # Safety
/// As for sendmsg(2), about the control messages; `room` must outlive the use of `header`.
pub(super) unsafe fn bring_through(header: &mut msghdr, room: &mut control::Room) -> bool {
    // SAFETY: the caller's promise.
    let given = unsafe { control_of(header) };
    if !control::must_change(given) {
        return true;
    }
    let Some(length) = control::copy(given, room) else { return false };
    header.msg_control = (&raw mut room.0).cast::<c_void>();
    header.msg_controllen = length as _;
    true
}

/// Must the control messages of a message without an address change, since its socket is connected to a relay?
///
/// # Safety
/// As for sendmsg(2), about the control messages.
pub(super) unsafe fn must_change(config: &Config, fd: c_int, header: &msghdr) -> bool {
    // SAFETY: the caller's promise.
    control::must_change(unsafe { control_of(header) }) && relay_of(config, fd).is_some()
}

/// # Safety
/// As for sendmsg(2), about the control messages.
unsafe fn control_of(header: &msghdr) -> &[u8] {
    let length = header.msg_controllen;
    // What is longer than the kernel takes (optmem_max, socket(7)) is the kernel's to refuse.
    if header.msg_control.is_null() || length > 0x10_0000 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(header.msg_control.cast(), length) }
}
