//! dlopen(3), dlmopen(3) and dlsym(3), where they would lead past the preload.
//!
//! `RTLD_DEEPBIND` has a library look for its symbols in itself and its own dependencies first, libc among them: it
//! would call libc's `connect` and not the shim's (PHP loads its extensions so). The flag is taken away. A library in
//! a link-map namespace of its own gets another libc and no preload at all: that is refused, in words of dlerror(3).
//! And whoever takes `connect` out of libc's own handle, as the foreign-function interfaces of many languages do, gets
//! what a program that is linked to libc gets: the hook.
//!
//! libc takes from the return address who calls, and so where to search (`DT_RUNPATH`, `$ORIGIN`), which namespace is
//! meant, and what comes next. So the entry points jump to the original, on the caller's own stack, and nothing comes
//! in between.

use crate::config;
use crate::real;
use core::ffi::{c_char, c_int, c_long, c_void};

/// `<dlfcn.h>`.
const LM_ID_BASE: c_long = 0;
/// What dlerror(3) says was not found, of a library for another namespace.
const REFUSED: &core::ffi::CStr = c"a namespace without tp's shim (dlmopen)";

/// Defines an entry point that jumps to what `$target` gives, after an instruction for each architecture.
macro_rules! jumping {
    ($name:ident, $target:ident, $x86:literal, $arm:literal) => {
        #[cfg(target_arch = "x86_64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "push rdi",
                "push rsi",
                "push rdx", // and aligns the stack to 16 for the call
                "call {target}",
                "pop rdx",
                "pop rsi",
                "pop rdi",
                $x86,
                "jmp rax",
                target = sym $target,
            )
        }

        #[cfg(target_arch = "aarch64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "stp x0, x1, [sp, #-32]!",
                "stp x2, x30, [sp, #16]",
                "bl {target}",
                "mov x16, x0",
                "ldp x2, x30, [sp, #16]",
                "ldp x0, x1, [sp], #32",
                $arm,
                "br x16",
                target = sym $target,
            )
        }
    };
}

// RTLD_DEEPBIND is 8 (bits/dlfcn.h), and the flags are the last argument.
jumping!(dlopen, dlopen_target, "and esi, 0xfffffff7", "and w1, w1, #0xfffffff7");
jumping!(dlmopen, dlmopen_target, "and edx, 0xfffffff7", "and w2, w2, #0xfffffff7");
jumping!(dlsym, dlsym_target, "", "");

extern "C" fn dlopen_target() -> *mut c_void {
    real::dlopen_itself()
}

extern "C" fn dlmopen_target(namespace: c_long) -> *mut c_void {
    if namespace == LM_ID_BASE || config::get().is_none() {
        real::dlmopen_itself()
    } else {
        refuse as *mut c_void
    }
}

/// Fails as dlopen does of a file that is not there.
extern "C" fn refuse(_namespace: c_long, _file: *const c_char, _flags: c_int) -> *mut c_void {
    // SAFETY: a string and flags as dlopen(3) has them.
    unsafe { real::dlopen(REFUSED.as_ptr(), libc::RTLD_LAZY) }
}

extern "C" fn dlsym_target(handle: *mut c_void) -> *mut c_void {
    if handle == libc::RTLD_DEFAULT || handle == libc::RTLD_NEXT || config::get().is_none() {
        real::dlsym_itself()
    } else {
        dlsym_of_handle as *mut c_void
    }
}

/// dlsym of a library's own handle: the hook, where that would be libc's function.
unsafe extern "C" fn dlsym_of_handle(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: the caller's promise, that of dlsym(3).
    let found = unsafe { real::dlsym(handle, name) };
    if found.is_null() || object_of(found) != object_of(libc::__errno_location as *const c_void) {
        return found;
    }
    // SAFETY: as above. What libc has under this name, the program at large has as well.
    let hook = unsafe { real::dlsym(libc::RTLD_DEFAULT, name) };
    if object_of(hook) == object_of(dlsym_of_handle as *const c_void) { hook } else { found }
}

/// Where the library or program begins that an address is in.
fn object_of(address: *const c_void) -> *const c_void {
    // SAFETY: `Dl_info` is pointers, for which zero is a value.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: dladdr looks the address up and does not follow it.
    unsafe { libc::dladdr(address, &raw mut info) };
    info.dli_fbase
}
