//! getnameinfo(3): the name of an address is the pod's to say; the service's name stays libc's.

use super::{errno, set_errno};
use crate::ask::ask;
use crate::config::{self, Config};
use crate::real;
use core::ffi::{c_char, c_int};
use libc::{sockaddr as Sockaddr, socklen_t};
use tp_abi::errno::eai;
use tp_abi::wire::{Address, Answer, NAME_MAX, Question};
use tp_abi::{decide, sockaddr};

/// Room for a question about an address and its answer.
pub(super) type NameRoom = [u8; NAME_MAX + 65];

/// `INET6_ADDRSTRLEN` and `%` with an interface's name (`IF_NAMESIZE`), rounded up.
const NUMBER_MAX: usize = 46 + 18;

/// What became of a question for a name.
pub(super) enum Named<'r> {
    /// It has this name.
    As(&'r [u8]),
    /// This `EAI_*`.
    Failed(c_int),
    /// The name is libc's to find.
    Pass,
}

/// Asks the launcher for the name of an address.
pub(super) fn reverse<'r>(config: &Config, address: Address, room: &'r mut NameRoom) -> Named<'r> {
    let question = Question::Reverse { address: Address { port: 0, ..address } };
    match ask(config, &question, None, room) {
        Ok(Answer::Name(name)) if !name.is_empty() => Named::As(name),
        Ok(Answer::Failed(error)) if error < 0 => Named::Failed(error),
        Ok(Answer::Pass) => Named::Pass,
        Ok(_) => Named::Failed(eai::FAIL),
        Err(_) => Named::Failed(eai::AGAIN),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getnameinfo(
    address: *const Sockaddr,
    length: socklen_t,
    host: *mut c_char,
    host_len: socklen_t,
    service: *mut c_char,
    service_len: socklen_t,
    flags: c_int,
) -> c_int {
    let original =
        // SAFETY: the caller's promise, that of getnameinfo(3).
        || unsafe { real::getnameinfo(address, length, host, host_len, service, service_len, flags) };
    if host.is_null() || host_len == 0 || flags & libc::NI_NUMERICHOST != 0 {
        return original();
    }
    // SAFETY: the caller's promise: `address` has `length` bytes.
    let bytes = unsafe { super::connect::bytes(address, length) };
    let Some((config, asked)) = config::get().zip(sockaddr::read(bytes)) else { return original() };
    if decide::own(asked.address.ip).is_some() {
        return original();
    }
    let before = errno();
    // The number, and with it libc's word on flags, length and service.
    let mut number = [0_u8; NUMBER_MAX];
    let numeric = flags & !libc::NI_NAMEREQD | libc::NI_NUMERICHOST;
    let (at, size) = (number.as_mut_ptr().cast(), number.len() as socklen_t);
    // SAFETY: the caller's promise, and `number` is ours.
    let result = unsafe { real::getnameinfo(address, length, at, size, service, service_len, numeric) };
    if result != 0 {
        return result;
    }
    let mut room: NameRoom = [0; _];
    let name = match reverse(config, asked.address, &mut room) {
        Named::As(name) => name,
        Named::Pass => return original(),
        Named::Failed(eai::NONAME | eai::NODATA) if flags & libc::NI_NAMEREQD == 0 => {
            number.split(|byte| *byte == 0).next().unwrap_or(&[])
        }
        Named::Failed(eai::NODATA) => return eai::NONAME,
        Named::Failed(error) => return error,
    };
    if name.len() >= host_len as usize {
        return libc::EAI_OVERFLOW;
    }
    // SAFETY: `host` has `host_len` bytes, more than the name's.
    unsafe {
        host.cast::<u8>().copy_from(name.as_ptr(), name.len());
        host.add(name.len()).write(0);
    }
    set_errno(before);
    0
}
