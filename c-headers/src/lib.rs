//! What the shim and the launcher agree on, and nothing else.
//!
//! The shim runs inside other people's programs, without `std`, without a heap and without a right to panic; the
//! launcher is an ordinary Rust program. Both must read the same bytes, the same environment names and the same
//! errno table, so these live here: no dependencies, no unsafe, no I/O, and every access to a slice is checked, so
//! that the shim's link-time proof of "no panic" covers this crate too.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod control;
pub mod decide;
pub mod env;
pub mod errno;
pub mod number;
pub mod sockaddr;
pub mod wire;
