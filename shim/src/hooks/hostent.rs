//! gethostbyname(3) and its kin, the older way to look names up, still in use by many programs.
//!
//! The reentrant functions (glibc's `_r`) lay the result out in the caller's buffer and fail in three ways at once:
//! their own value, `*found` null, and `*h_errno`. The others do the same in a static buffer, as POSIX allows.

use super::addrinfo::{Outcome, lookup, loopback, whose};
use super::nameinfo::{NameRoom, Named, reverse};
use super::{errno, set_errno, set_h_errno};
use crate::config::{self, Config};
use crate::hostent::{Host, lay_out};
use crate::name::Whose;
use crate::real;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use libc::{hostent, size_t, socklen_t};
use tp_abi::decide;
use tp_abi::errno::{eai, host};
use tp_abi::sockaddr::unmapped;
use tp_abi::wire::{Address, Ip, MESSAGE_MAX, WANT_AS_TOLD, WANT_V4, WANT_V6};

unsafe extern "C" {
    /// inet_aton(3).
    fn inet_aton(text: *const c_char, address: *mut libc::in_addr) -> c_int;
    /// inet_pton(3).
    fn inet_pton(family: c_int, text: *const c_char, address: *mut c_void) -> c_int;
}

/// Why a buffer does not hold a host.
enum Trouble {
    /// It is libc's to say.
    Pass,
    /// The buffer is too small.
    TooSmall,
    /// This `h_errno`.
    Host(c_int),
}

/// Is the name a number, which libc answers without asking anybody?
///
/// # Safety
/// `name` must be a string.
unsafe fn is_number(name: *const c_char) -> bool {
    let mut bytes = [0_u32; 4];
    // SAFETY: the caller's promise; `bytes` holds an address of either family.
    unsafe {
        inet_aton(name, (&raw mut bytes).cast()) != 0
            || inet_pton(libc::AF_INET6, name, (&raw mut bytes).cast()) == 1
    }
}

/// # Safety
/// `name` must be a string.
unsafe fn by_name(
    config: &Config,
    name: *const c_char,
    family: c_int,
    entry: &mut hostent,
    room: &mut [u8],
) -> Result<(), Trouble> {
    let (want, address_len) = match family {
        libc::AF_INET => (WANT_V4 | WANT_AS_TOLD, 4),
        libc::AF_INET6 => (WANT_V6 | WANT_AS_TOLD, 16),
        _ => return Err(Trouble::Pass),
    };
    // SAFETY: the caller's promise.
    let (text, number) = unsafe { (CStr::from_ptr(name).to_bytes(), is_number(name)) };
    if number {
        return Err(Trouble::Pass);
    }
    if text.is_empty() {
        return Err(Trouble::Host(host::NO_RECOVERY));
    }
    let mut message = [0; MESSAGE_MAX];
    let outcome = match whose(text) {
        Whose::Loopback => loopback(&mut message),
        Whose::Node | Whose::Launcher => lookup(config, want, text, &mut message),
    };
    let (canonical, aliases, addresses) = match outcome {
        Outcome::Found(canonical, aliases, addresses) => (canonical, aliases, addresses),
        Outcome::Failed(error) => return Err(Trouble::Host(host::from_eai(error))),
        Outcome::Pass => return Err(Trouble::Pass),
    };
    let addresses = addresses.filter_map(|address| match (address.ip, address_len) {
        (Ip::V4([a, b, c, d]), 4) => Some([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (Ip::V6(ip), 16) => Some(ip),
        _ => None,
    });
    if addresses.clone().next().is_none() {
        return Err(Trouble::Host(host::from_eai(eai::NODATA)));
    }
    let name = if canonical.is_empty() { text } else { canonical };
    lay_out(&Host { name, aliases, family, address_len, addresses }, room, entry).ok_or(Trouble::TooSmall)
}

/// # Safety
/// `address` must have `length` readable bytes.
unsafe fn by_address(
    config: &Config,
    address: *const c_void,
    length: socklen_t,
    mut family: c_int,
    entry: &mut hostent,
    room: &mut [u8],
) -> Result<(), Trouble> {
    // SAFETY: the caller's promise, each read for its length alone.
    let (ip, bytes, address_len) = match (family, length) {
        (libc::AF_INET, 4) => {
            // SAFETY: as above.
            let ip = unsafe { address.cast::<[u8; 4]>().read() };
            let [a, b, c, d] = ip;
            (Ip::V4(ip), [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
        }
        (libc::AF_INET6, 16) => {
            // SAFETY: as above.
            let bytes = unsafe { address.cast::<[u8; 16]>().read() };
            match unmapped(bytes) {
                // As libc's resolver does: the answer is IPv4's.
                Ip::V4([a, b, c, d]) => {
                    family = libc::AF_INET;
                    (Ip::V4([a, b, c, d]), [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
                }
                ip @ Ip::V6(_) => (ip, bytes, 16),
            }
        }
        _ => return Err(Trouble::Pass),
    };
    if decide::own(ip).is_some() {
        return Err(Trouble::Pass);
    }
    let mut message: NameRoom = [0; _];
    let name = match reverse(config, Address { ip, port: 0, scope: 0 }, &mut message) {
        Named::As(name) => name,
        Named::Failed(error) => return Err(Trouble::Host(host::from_eai(error))),
        Named::Pass => return Err(Trouble::Pass),
    };
    let addresses = core::iter::once(bytes);
    lay_out(&Host { name, aliases: &[], family, address_len, addresses }, room, entry)
        .ok_or(Trouble::TooSmall)
}

/// Where a reentrant call wants its result.
struct Caller {
    entry: *mut hostent,
    room: *mut c_char,
    size: size_t,
    found: *mut *mut hostent,
    h_errno: *mut c_int,
}

impl Caller {
    /// Runs `fill` on the caller's buffer and answers as glibc's reentrant functions do: 0 and a result, 0 and none
    /// where the name is not known, an errno otherwise.
    ///
    /// # Safety
    /// As for gethostbyname_r(3).
    unsafe fn answer(
        self,
        fill: impl FnOnce(&mut hostent, &mut [u8]) -> Result<(), Trouble>,
        original: impl FnOnce() -> c_int,
    ) -> c_int {
        let before = errno();
        // SAFETY: the caller's promise: each pointer is valid, and `room` has `size` bytes.
        let filled = unsafe {
            let room = core::slice::from_raw_parts_mut(self.room.cast::<u8>(), self.size);
            fill(&mut *self.entry, room)
        };
        let (found, h_errno, result) = match filled {
            Ok(()) => {
                set_errno(before);
                (self.entry, 0, 0)
            }
            Err(Trouble::Pass) => return original(),
            Err(Trouble::TooSmall) => (ptr::null_mut(), host::INTERNAL, libc::ERANGE),
            Err(Trouble::Host(again @ host::TRY_AGAIN)) => (ptr::null_mut(), again, libc::EAGAIN),
            Err(Trouble::Host(bad @ host::INTERNAL)) => (ptr::null_mut(), bad, libc::EIO),
            Err(Trouble::Host(unknown)) => (ptr::null_mut(), unknown, 0),
        };
        // SAFETY: the caller's promise.
        unsafe {
            self.found.write(found);
            self.h_errno.write(h_errno);
        }
        if found.is_null() {
            // glibc's resolver leaves it there too, and CPython reads that one.
            set_h_errno(h_errno);
        }
        if result != 0 {
            set_errno(result);
        }
        result
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gethostbyname_r(
    name: *const c_char,
    entry: *mut hostent,
    room: *mut c_char,
    size: size_t,
    found: *mut *mut hostent,
    h_errno: *mut c_int,
) -> c_int {
    // SAFETY: for each call here, the caller's promise, that of gethostbyname_r(3).
    let original = || unsafe { real::gethostbyname_r(name, entry, room, size, found, h_errno) };
    let Some(config) = config::get() else { return original() };
    let caller = Caller { entry, room, size, found, h_errno };
    // SAFETY: as above.
    unsafe { caller.answer(|entry, room| by_name(config, name, libc::AF_INET, entry, room), original) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gethostbyname2_r(
    name: *const c_char,
    family: c_int,
    entry: *mut hostent,
    room: *mut c_char,
    size: size_t,
    found: *mut *mut hostent,
    h_errno: *mut c_int,
) -> c_int {
    // SAFETY: for each call here, the caller's promise, that of gethostbyname2_r(3).
    let original = || unsafe { real::gethostbyname2_r(name, family, entry, room, size, found, h_errno) };
    let Some(config) = config::get() else { return original() };
    let caller = Caller { entry, room, size, found, h_errno };
    // SAFETY: as above.
    unsafe { caller.answer(|entry, room| by_name(config, name, family, entry, room), original) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gethostbyaddr_r(
    address: *const c_void,
    length: socklen_t,
    family: c_int,
    entry: *mut hostent,
    room: *mut c_char,
    size: size_t,
    found: *mut *mut hostent,
    h_errno: *mut c_int,
) -> c_int {
    let original =
        // SAFETY: for each call here, the caller's promise, that of gethostbyaddr_r(3).
        || unsafe { real::gethostbyaddr_r(address, length, family, entry, room, size, found, h_errno) };
    let Some(config) = config::get() else { return original() };
    let caller = Caller { entry, room, size, found, h_errno };
    // SAFETY: as above.
    unsafe { caller.answer(|entry, room| by_address(config, address, length, family, entry, room), original) }
}

/// The result of the functions that are not reentrant.
struct Static(UnsafeCell<(hostent, [u8; MESSAGE_MAX])>);

// SAFETY: POSIX says that these functions need not be thread-safe (gethostbyname(3), "MT-Unsafe race:hostbyname"):
// two threads in them at once are the program's mistake, with libc as with the shim.
unsafe impl Sync for Static {}

static RESULT: Static = Static(UnsafeCell::new((
    hostent {
        h_name: ptr::null_mut(),
        h_aliases: ptr::null_mut(),
        h_addrtype: 0,
        h_length: 0,
        h_addr_list: ptr::null_mut(),
    },
    [0; MESSAGE_MAX],
)));

/// Runs `fill` on the static buffer and answers as gethostbyname(3) does.
///
/// # Safety
/// No other thread may be in one of these functions.
unsafe fn in_static(
    fill: impl FnOnce(&mut hostent, &mut [u8]) -> Result<(), Trouble>,
    original: impl FnOnce() -> *mut hostent,
) -> *mut hostent {
    let before = errno();
    // SAFETY: the caller's promise.
    let (entry, room) = unsafe { &mut *RESULT.0.get() };
    let h_errno = match fill(entry, room) {
        Ok(()) => {
            set_errno(before);
            return entry;
        }
        Err(Trouble::Pass) => return original(),
        Err(Trouble::TooSmall) => host::NO_RECOVERY,
        Err(Trouble::Host(h_errno)) => h_errno,
    };
    set_h_errno(h_errno);
    ptr::null_mut()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gethostbyname(name: *const c_char) -> *mut hostent {
    // SAFETY: for each call here, the caller's promise, that of gethostbyname(3).
    let original = || unsafe { real::gethostbyname(name) };
    let Some(config) = config::get() else { return original() };
    // SAFETY: as above.
    unsafe { in_static(|entry, room| by_name(config, name, libc::AF_INET, entry, room), original) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent {
    // SAFETY: for each call here, the caller's promise, that of gethostbyname2(3).
    let original = || unsafe { real::gethostbyname2(name, family) };
    let Some(config) = config::get() else { return original() };
    // SAFETY: as above.
    unsafe { in_static(|entry, room| by_name(config, name, family, entry, room), original) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gethostbyaddr(address: *const c_void, length: socklen_t, family: c_int) -> *mut hostent {
    // SAFETY: for each call here, the caller's promise, that of gethostbyaddr(3).
    let original = || unsafe { real::gethostbyaddr(address, length, family) };
    let Some(config) = config::get() else { return original() };
    // SAFETY: as above.
    unsafe { in_static(|entry, room| by_address(config, address, length, family, entry, room), original) }
}
