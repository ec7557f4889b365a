//! The functions of libc that the shim takes over, one module a family: C in, C out.
//!
//! Each hook is thin: it collects what the kernel and the caller say, asks `decide` or the launcher, and either calls
//! the original or fails. `include/tp_hooks.h` of tp-abi lists every name; a test holds the two together.

use core::ffi::c_int;

pub(crate) mod addrinfo;
pub(crate) mod addrinfo_a;
pub(crate) mod connect;
mod datagram;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod hostent;
pub(crate) mod loader;
pub(crate) mod nameinfo;
pub(crate) mod receive;
pub(crate) mod resolv;
pub(crate) mod sanitizer;
pub(crate) mod send;
pub(crate) mod socket;
pub(crate) mod sockname;

/// Sets errno and gives -1, the way a libc function fails.
pub(crate) fn fail(errno: c_int) -> c_int {
    set_errno(errno);
    -1
}

/// The thread's errno.
pub(crate) fn errno() -> c_int {
    // SAFETY: libc gives a valid place for as long as the thread lives.
    unsafe { *libc::__errno_location() }
}

/// Sets the thread's errno.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno }
}

/// Sets the thread's `h_errno` (netdb.h).
pub(crate) fn set_h_errno(h_errno: c_int) {
    unsafe extern "C" {
        /// Where the thread's `h_errno` is.
        fn __h_errno_location() -> *mut c_int;
    }
    // SAFETY: libc gives a valid place for as long as the thread lives.
    unsafe { *__h_errno_location() = h_errno }
}
