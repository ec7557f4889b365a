//! Makes the link itself refuse a shim that could panic.
//!
//! The panic handler (src/lib.rs) calls a function that exists nowhere. While any path can reach a panic, the
//! handler stays in the object and its call stays undefined; `-z defs` makes an undefined symbol an error. A shared
//! object links without that by default and fails in the program that loads it, which is too late.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
}
