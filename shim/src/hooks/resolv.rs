//! The resolver functions below getaddrinfo (resolver(3)): raw DNS messages to the name servers of `resolv.conf`.
//!
//! They send from inside libc, where no hook sees it, so a program that asks for a TXT or SRV record by them would ask
//! the laptop's name server. Raw DNS messages are not carried, so the questions fail as they do when no name server
//! answers: `TRY_AGAIN`, and the program may come back.

use super::{fail, set_h_errno};
use crate::{config, real};
use core::ffi::{c_char, c_int, c_void};
use tp_abi::errno::{code, host};

macro_rules! refused {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> c_int {
                if config::get().is_some() {
                    set_h_errno(host::TRY_AGAIN);
                    return fail(code::ENETUNREACH);
                }
                // SAFETY: the caller's promise, that of the function of that name.
                unsafe { real::$name($($arg),*) }
            }
        )*
    };
}

refused! {
    fn res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn res_nquery(state: *mut c_void, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn __res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn __res_nquery(state: *mut c_void, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn res_nsearch(state: *mut c_void, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn __res_search(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn __res_nsearch(state: *mut c_void, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn res_nquerydomain(state: *mut c_void, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn __res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn __res_nquerydomain(state: *mut c_void, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int);
    fn res_send(question: *const u8, length: c_int, answer: *mut u8, size: c_int);
    fn res_nsend(state: *mut c_void, question: *const u8, length: c_int, answer: *mut u8, size: c_int);
    fn __res_send(question: *const u8, length: c_int, answer: *mut u8, size: c_int);
    fn __res_nsend(state: *mut c_void, question: *const u8, length: c_int, answer: *mut u8, size: c_int);
}
