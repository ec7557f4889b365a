//! The library that `tp run` preloads into a program: it turns a program's connects, lookups and starts of other
//! programs into questions to the launcher.
//!
//! A dynamic program reaches the network through a handful of libc functions. `ld.so` lets an object of `LD_PRELOAD`
//! define them first, so the hooks here see each call with the program's own arguments, and nothing else of the
//! program changes: the socket stays the program's own and the kernel connects it (the launcher's gate).
//!
//! Invariants, of every line in this crate:
//! - no heap, no lock, no thread (but for getaddrinfo_a's), no descriptor that outlives a call, no thread-local of ours:
//!   a program may fork, vfork, close every descriptor or call from a signal handler at any time;
//! - no panic: proven when it links (build.rs);
//! - what cannot be asked fails closed: a program under a dead launcher gets an errno (or a name that it was told before,
//!   while that is good), never the real network;
//! - `errno` changes only when a call fails.
#![cfg_attr(not(test), no_std)]
// The hooks are left out of the unit tests, which must not hook themselves, and with them most users of the rest.
#![cfg_attr(test, allow(dead_code))]

mod answers;
mod ask;
mod config;
mod environment;
mod hostent;
mod leases;
mod name;
mod note;
mod program;
mod relays;
mod resolver;
mod seqlock;
mod socks;
mod sys;

#[cfg(not(test))]
mod hooks;
#[cfg(not(test))]
mod real;

/// Runs when `ld.so` has loaded the shim, before the program's own code.
#[cfg(not(test))]
extern "C" fn construct() {
    if config::get().is_some() {
        real::resolve();
        hooks::addrinfo::keep_libc_from_the_network();
    }
}

// SAFETY: `.init_array` holds pointers to functions that `ld.so` calls once; `construct` takes no arguments, which
// the C calling convention allows for a caller that passes three.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        /// Defined nowhere: see build.rs.
        fn tp_shim_has_a_reachable_panic() -> !;
    }
    // SAFETY: a shim in which this line is reachable does not link.
    unsafe { tp_shim_has_a_reachable_panic() }
}
