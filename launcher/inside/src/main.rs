//! `tp-inside`: started by tp and by its shim in place of a program, never by a person.
//!
//! It has no `main` of Rust's: that one ignores `SIGPIPE`, and the program would inherit it.
#![no_main]

use std::ffi::{c_char, c_int};

use tp_inside::enter;

/// The entry that the C runtime calls.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    // On success this process has become the program.
    let Err(error) = enter::enter();
    eprintln!("tp: not started: {error}");
    error.exit_code()
}
