//! `tp-inside`: started by tp and by its shim in place of a program, never by a person.
//!
//! It has no `main` of Rust's: that one ignores `SIGPIPE`, and the program would inherit it.
#![no_main]

use std::ffi::{c_char, c_int};

use tp_abi::env;
use tp_inside::{enter, hold};

/// The entry that the C runtime calls.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    let mut arguments = std::env::args_os().skip(1);
    // A program that is started may have any arguments.
    if std::env::var_os(env::PROGRAM).is_none() && arguments.next().is_some_and(|word| word == "hold") {
        return match hold::hold(arguments) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("tp: the private network: {error}");
                1
            }
        };
    }
    // On success this process has become the program.
    let Err(error) = enter::enter();
    eprintln!("tp: not started: {error}");
    error.exit_code()
}
