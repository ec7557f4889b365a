//! getaddrinfo(3): names are the pod's, numbers and `localhost` are the machine's.
//!
//! glibc's resolver never passes through hooked functions, so the whole call is taken over by its public name. The
//! result must be memory that libc's own freeaddrinfo() can free, whose layout is libc's secret; so for each address
//! that the launcher names, libc itself is asked for the number, and the lists it returns are joined. libc frees a
//! list node by node, so a joined list is freed whole, and what service names, socket types and flags mean stays
//! libc's to say.
//!
//! Invariants: errno is kept on success; a list that is not handed over is freed.

use super::{errno, set_errno};
use crate::answers::Answers;
use crate::ask::{Unanswered, exchange};
use crate::config::{self, Config};
use crate::name::{self, NUMERIC_MAX, Whose};
use crate::note::note;
use crate::{real, sys};
use core::ffi::{CStr, c_char, c_int};
use core::mem::MaybeUninit;
use core::ptr;
use libc::addrinfo;
use tp_abi::errno::eai;
use tp_abi::sockaddr::mapped;
use tp_abi::wire::{
    Address, AddressList, Answer, HEADER_LEN, Ip, MESSAGE_MAX, NAME_MAX, Question, WANT_CONFIGURED, WANT_V4,
    WANT_V6,
};

/// The hints of a caller that gives none (getaddrinfo(3), "a NULL hints argument").
const NO_HINTS: c_int = libc::AI_V4MAPPED | libc::AI_ADDRCONFIG;

/// Flags that are answered here, so that libc must not see them beside a number.
const ANSWERED: c_int = libc::AI_CANONNAME | libc::AI_ADDRCONFIG | libc::AI_V4MAPPED | libc::AI_ALL;

/// Names that were looked up.
static KNOWN: Answers = Answers::new();

/// What became of a lookup.
pub(super) enum Outcome<'r> {
    /// The canonical name, empty where there is none; its aliases, each with a NUL; and the addresses.
    Found(&'r [u8], &'r [u8], AddressList<'r>),
    /// This `EAI_*`.
    Failed(c_int),
    /// The name is libc's to find.
    Pass,
}

/// Asks the launcher for the addresses of a name.
pub(super) fn lookup<'r>(
    config: &Config,
    want: u8,
    name: &[u8],
    room: &'r mut [u8; MESSAGE_MAX],
) -> Outcome<'r> {
    if name.len() > NAME_MAX {
        return Outcome::Failed(eai::NONAME);
    }
    let answer = told(config, &Question::Lookup { want, name }, room)
        .and_then(|length| room.get(..length).and_then(Answer::decode).ok_or(Unanswered::Gone));
    let outcome = match answer {
        Ok(Answer::Addresses { canonical, aliases, addresses, .. }) => {
            Outcome::Found(canonical, aliases, addresses)
        }
        Ok(Answer::Failed(error)) if error < 0 => Outcome::Failed(error),
        Ok(Answer::Pass) => Outcome::Pass,
        Ok(_) => Outcome::Failed(eai::FAIL),
        Err(_) => Outcome::Failed(eai::AGAIN),
    };
    note(config, |line| line.text(b"lookup ").text(name).text(outcome.word()));
    outcome
}

/// Reads the answer to a question into `room`, the launcher's or the one that is still good: its length.
fn told(config: &Config, question: &Question<'_>, room: &mut [u8; MESSAGE_MAX]) -> Result<usize, Unanswered> {
    let mut asked = [0; HEADER_LEN + 1 + NAME_MAX];
    let length = question.encode(&mut asked).ok_or(Unanswered::Gone)?;
    let asked = asked.get(..length).ok_or(Unanswered::Gone)?;
    if let Some(known) = KNOWN.get(asked, sys::now(), room) {
        return Ok(known);
    }
    room.get_mut(..length).ok_or(Unanswered::Gone)?.copy_from_slice(asked);
    let length = exchange(config, None, room, length)?;
    let answer = room.get(..length).unwrap_or_default();
    if let Some(Answer::Addresses { seconds: seconds @ 1.., .. }) = Answer::decode(answer) {
        KNOWN.put(asked, answer, sys::now().saturating_add(seconds));
    }
    Ok(length)
}

impl Outcome<'_> {
    const fn word(&self) -> &'static [u8] {
        match self {
            Outcome::Found(..) => b" found",
            Outcome::Failed(_) => b" failed",
            Outcome::Pass => b" passed",
        }
    }
}

/// Whose name `name` is on this machine.
pub(super) fn whose(name: &[u8]) -> Whose {
    // SAFETY: `utsname` is arrays of characters, for which zero is a value.
    let mut machine: libc::utsname = unsafe { core::mem::zeroed() };
    name::whose(name, sys::node_name(&mut machine))
}

/// The databases of nsswitch.conf(5) for which libc may ask name servers: `networks` too, where the machine's file
/// says so (netstat(8) and route(8) look networks up) or where there is none.
const BY_DNS: [&CStr; 2] = [c"hosts", c"networks"];

/// Leaves libc only files for the lookups of its own that no hook sees (gethostent, getnetbyname, nscd's socket), so
/// that none of them asks the laptop's name servers. It is libc's own function for this (`<nss.h>`), and the
/// constructor runs while there is one thread.
pub(crate) fn keep_libc_from_the_network() {
    for database in BY_DNS {
        // SAFETY: two strings that end with NUL.
        let _ = unsafe { real::__nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
    }
}

/// A program that says where these are to be looked up (`getent -s dns`) would undo that. It is told that all is well:
/// the names that are not libc's go to the launcher in any case.
#[unsafe(no_mangle)]
unsafe extern "C" fn __nss_configure_lookup(database: *const c_char, line: *const c_char) -> c_int {
    // SAFETY: the caller's promise: a string, or null, which libc takes for none.
    let kept = !database.is_null() && BY_DNS.contains(&unsafe { CStr::from_ptr(database) });
    if kept && config::get().is_some() {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { real::__nss_configure_lookup(database, line) }
}

/// A call's arguments, `hints` as values.
#[derive(Clone, Copy)]
struct Call {
    node: *const c_char,
    service: *const c_char,
    flags: c_int,
    family: c_int,
    kind: c_int,
    protocol: c_int,
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut *mut addrinfo,
) -> c_int {
    // SAFETY: the caller's promise, that of getaddrinfo(3).
    let original = || unsafe { real::getaddrinfo(node, service, hints, found) };
    let Some(config) = config::get().filter(|_| !node.is_null()) else { return original() };
    // SAFETY: the caller's promise: null or readable hints.
    let (flags, family, kind, protocol) = unsafe { hints.as_ref() }.map_or((NO_HINTS, 0, 0, 0), |hints| {
        (hints.ai_flags, hints.ai_family, hints.ai_socktype, hints.ai_protocol)
    });
    if flags & libc::AI_NUMERICHOST != 0 {
        return original();
    }
    let call = Call { node, service, flags, family, kind, protocol };
    let before = errno();
    // SAFETY: the caller's promise.
    let result = unsafe { call.resolve(config, found, original) };
    if result == 0 {
        set_errno(before);
    }
    result
}

impl Call {
    /// # Safety
    /// As for getaddrinfo(3).
    unsafe fn resolve(
        self,
        config: &Config,
        found: *mut *mut addrinfo,
        original: impl Fn() -> c_int,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(self.node) }.to_bytes();
        let mut list = List::new();
        // libc judges flags, family, type and service, and says whether the name is a number.
        // SAFETY: the caller's promise; `node` is the caller's.
        match unsafe { self.number(self.node, self.flags & !libc::AI_ADDRCONFIG, &mut list) } {
            0 => {
                // libc's own `AI_ADDRCONFIG` would judge by the laptop's addresses.
                list.flag(self.flags);
                // SAFETY: the caller's promise.
                unsafe { found.write(list.give()) };
                return 0;
            }
            libc::EAI_NONAME if !name.is_empty() => {}
            error => return error,
        }
        let whose = whose(name);
        if whose != Whose::Launcher {
            let result = original();
            if result == 0 {
                return result;
            }
        }
        let mut room = [0; MESSAGE_MAX];
        let outcome = match whose {
            Whose::Loopback => loopback(&mut room),
            Whose::Node | Whose::Launcher => lookup(config, self.want(), name, &mut room),
        };
        match outcome {
            Outcome::Pass => original(),
            Outcome::Failed(error) => error,
            // SAFETY: the caller's promise.
            Outcome::Found(canonical, _, addresses) => unsafe {
                let canonical = if canonical.is_empty() { name } else { canonical };
                match self.list(&mut list, canonical, addresses) {
                    0 => {
                        list.flag(self.flags);
                        found.write(list.give());
                        0
                    }
                    error => error,
                }
            },
        }
    }

    /// The families to ask for.
    const fn want(self) -> u8 {
        let families = match self.family {
            libc::AF_INET => WANT_V4,
            libc::AF_INET6 if self.flags & libc::AI_V4MAPPED == 0 => WANT_V6,
            _ => WANT_V4 | WANT_V6,
        };
        families | if self.flags & libc::AI_ADDRCONFIG == 0 { 0 } else { WANT_CONFIGURED }
    }

    /// Asks libc for a number, and adds what it says to `list`.
    ///
    /// # Safety
    /// `text` must be a string, and the caller's `service` too.
    unsafe fn number(self, text: *const c_char, flags: c_int, list: &mut List) -> c_int {
        // SAFETY: `addrinfo` is integers and pointers, for which zero is a value.
        let mut hints: addrinfo = unsafe { core::mem::zeroed() };
        hints.ai_flags = flags | libc::AI_NUMERICHOST;
        hints.ai_family = self.family;
        hints.ai_socktype = self.kind;
        hints.ai_protocol = self.protocol;
        let mut nodes = ptr::null_mut();
        // SAFETY: the caller's promise, and `hints` and `nodes` are ours.
        let result = unsafe { real::getaddrinfo(text, self.service, &raw const hints, &raw mut nodes) };
        if result == 0 {
            list.join(nodes);
        }
        result
    }

    /// Makes the list of `addresses`.
    ///
    /// # Safety
    /// As for getaddrinfo(3).
    unsafe fn list(self, list: &mut List, canonical: &[u8], addresses: AddressList<'_>) -> c_int {
        let has_v6 = addresses.into_iter().any(|address| matches!(address.ip, Ip::V6(_)));
        for address in addresses {
            let Some(address) = self.spelled(address, has_v6) else { continue };
            let mut text = [0; NUMERIC_MAX];
            name::numeric(address, &mut text);
            // SAFETY: `numeric` ends the text with a NUL.
            match unsafe { self.number(text.as_ptr().cast(), self.flags & !ANSWERED, list) } {
                0 => {}
                error => return error,
            }
        }
        if list.first.is_null() {
            return eai::NODATA;
        }
        if self.flags & libc::AI_CANONNAME != 0 {
            return list.name(canonical);
        }
        0
    }

    /// The address as the family in the hints has it; [`None`] where it has none.
    const fn spelled(self, address: Address, has_v6: bool) -> Option<Address> {
        let mapping = self.flags & libc::AI_V4MAPPED != 0 && (self.flags & libc::AI_ALL != 0 || !has_v6);
        match (self.family, address.ip) {
            (libc::AF_UNSPEC, _) | (libc::AF_INET, Ip::V4(_)) | (libc::AF_INET6, Ip::V6(_)) => Some(address),
            (libc::AF_INET6, Ip::V4(ip)) if mapping => Some(Address { ip: Ip::V6(mapped(ip)), ..address }),
            _ => None,
        }
    }
}

/// 127.0.0.1 and ::1, for a `localhost` that `/etc/hosts` does not know.
pub(super) fn loopback(room: &mut [u8; MESSAGE_MAX]) -> Outcome<'_> {
    let v4 = Address { ip: Ip::V4([127, 0, 0, 1]), port: 0, scope: 0 };
    let v6 = Address { ip: Ip::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), ..v4 };
    let end = tp_abi::wire::put_address(room, 0, v6).and_then(|at| tp_abi::wire::put_address(room, at, v4));
    match end.and_then(|end| room.get(..end)) {
        Some(bytes) => Outcome::Found(&[], &[], AddressList::new(bytes)),
        None => Outcome::Failed(eai::FAIL),
    }
}

/// Nodes of libc's, freed unless they are given away.
struct List {
    first: *mut addrinfo,
    last: *mut addrinfo,
}

impl List {
    const fn new() -> Self {
        Self { first: ptr::null_mut(), last: ptr::null_mut() }
    }

    /// Appends a list that libc has just made.
    fn join(&mut self, nodes: *mut addrinfo) {
        // SAFETY: both lists are libc's and nobody else has them.
        unsafe {
            match self.last.as_mut() {
                Some(last) => last.ai_next = nodes,
                None => self.first = nodes,
            }
            let mut at = nodes;
            while let Some(node) = at.as_mut() {
                self.last = node;
                at = node.ai_next;
            }
        }
    }

    /// Gives the first node its canonical name: an `EAI_*` or 0.
    fn name(&mut self, canonical: &[u8]) -> c_int {
        let mut text = [MaybeUninit::new(0_u8); NAME_MAX + 1];
        for (to, from) in text.iter_mut().take(NAME_MAX).zip(canonical) {
            to.write(*from);
        }
        // SAFETY: all of `text` is initialised and its last byte is NUL; `first` is a node of ours.
        unsafe {
            let copy = libc::strdup(text.as_ptr().cast());
            if let Some(first) = self.first.as_mut() {
                first.ai_canonname = copy;
            }
            if copy.is_null() { libc::EAI_MEMORY } else { 0 }
        }
    }

    /// Says the caller's own flags in each node, as libc does.
    fn flag(&mut self, flags: c_int) {
        let mut at = self.first;
        // SAFETY: the list is libc's and nobody else has it.
        while let Some(node) = unsafe { at.as_mut() } {
            node.ai_flags = flags;
            at = node.ai_next;
        }
    }

    /// Hands the nodes over.
    fn give(&mut self) -> *mut addrinfo {
        core::mem::replace(&mut self.first, ptr::null_mut())
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if !self.first.is_null() {
            // SAFETY: the list is libc's and nobody else has it.
            unsafe { libc::freeaddrinfo(self.first) }
        }
    }
}
