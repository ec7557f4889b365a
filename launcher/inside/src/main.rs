//! `tp-inside`: started by tp and by its shim in place of a program, never by a person.
//!
//! It has no `main` of Rust's: that one ignores `SIGPIPE`, and the program would inherit it.
#![no_main]

use std::ffi::{c_char, c_int};

use tp_abi::env;
use tp_inside::{enter, hold, probe};

/// The entry that the C runtime calls.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    // A program that is started may have any arguments.
    let named = std::env::var_os(env::PROGRAM).is_some();
    let mut arguments = std::env::args_os().skip(1);
    let done = match arguments.next().filter(|_| !named).as_ref().and_then(|word| word.to_str()) {
        Some("hold") => hold::hold(arguments).map_err(|error| format!("the private network: {error}")),
        Some("volumes") => hold::volumes::hold(arguments).map_err(|error| format!("volumes: {error}")),
        Some("probe") => probe::probe(arguments),
        _ => {
            // On success this process has become the program.
            let Err(error) = enter::enter();
            eprintln!("tp: not started: {error}");
            return error.exit_code();
        }
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("tp: {error}");
            1
        }
    }
}
