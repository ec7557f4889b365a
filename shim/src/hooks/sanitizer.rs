//! What AddressSanitizer asks for before it looks at anything: options.
//!
//! gcc links a program's AddressSanitizer as a shared library, which ends the program at once unless it is the first
//! library of all. A preloaded one is always before it. The sanitizer needs to be first so that nobody else's malloc
//! is; the shim has none, so that check has nothing to find here. The sanitizer takes its defaults from a function of
//! this name, which a program may define, and whose own definition comes first then.

use core::ffi::c_char;

#[unsafe(no_mangle)]
const extern "C" fn __asan_default_options() -> *const c_char {
    c"verify_asan_link_order=0".as_ptr()
}
