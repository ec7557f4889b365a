//! dlopen(3) and dlmopen(3), where they would load a library past the preload.
//!
//! `RTLD_DEEPBIND` has a library look for its symbols in itself and its own dependencies first, libc among them: it
//! would call libc's `connect` and not the shim's (PHP loads its extensions so). The flag is taken away. A library in
//! a link-map namespace of its own gets another libc and no preload at all: that is refused, in words of dlerror(3).
//!
//! libc takes from the return address who calls, and so where to search (`DT_RUNPATH`, `$ORIGIN`) and which namespace
//! is meant. So the entry points jump to the original, on the caller's own stack, and nothing comes in between.

use crate::config;
use crate::real;
use core::ffi::{c_char, c_int, c_long, c_void};

/// `<dlfcn.h>`.
const LM_ID_BASE: c_long = 0;
/// What dlerror(3) says was not found, of a library for another namespace.
const REFUSED: &core::ffi::CStr = c"a namespace without tp's shim (dlmopen)";

/// Defines an entry point that takes `RTLD_DEEPBIND` (8) from the register of the flags and jumps to what `$target`
/// gives.
macro_rules! jumping {
    ($name:ident, $x86:literal, $arm:literal, $target:ident) => {
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
                concat!("and ", $x86, ", 0xfffffff7"),
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
                concat!("and ", $arm, ", ", $arm, ", #0xfffffff7"),
                "br x16",
                target = sym $target,
            )
        }
    };
}

jumping!(dlopen, "esi", "w1", dlopen_target);
jumping!(dlmopen, "edx", "w2", dlmopen_target);

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
