//! execl(3), execlp(3) and execle(3), whose arguments are a list in the call itself.
//!
//! Stable Rust cannot define a variadic function, and copying the list would need memory for any number of arguments.
//! But the calling conventions put all but the first few on the stack, one after the other; so the entry points
//! below push those few right before the rest, and what stands there then is `argv`, NULL and all, with execle's
//! environment behind the NULL. x86-64: System V psABI, 3.2.3 (after the path, five in registers). AArch64:
//! AAPCS64, 6.8.2 (seven). When the exec fails, the stack is put back and the result returned.

use crate::environment::current;
use crate::real::Strings;
use core::ffi::{c_char, c_int};

/// Defines an entry point that gathers its list and calls `$with(path, argv)`.
macro_rules! listed {
    ($name:ident => $with:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "pop r10", // the return address, which stands between registers and stack
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push r10", // and aligns the stack to 16 for the call
                "call {with}",
                "pop r10",
                "add rsp, 40",
                "jmp r10",
                with = sym $with,
            )
        }

        #[cfg(target_arch = "aarch64")]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "sub sp, sp, #64",
                "str x30, [sp]",
                "str x1, [sp, #8]",
                "stp x2, x3, [sp, #16]",
                "stp x4, x5, [sp, #32]",
                "stp x6, x7, [sp, #48]",
                "add x1, sp, #8",
                "bl {with}",
                "ldr x30, [sp]",
                "add sp, sp, #64",
                "ret",
                with = sym $with,
            )
        }
    };
}

listed!(execl => path_and_list);
listed!(execlp => file_and_list);
listed!(execle => path_list_and_environment);

unsafe extern "C" fn path_and_list(path: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's promise, that of execl(3).
    unsafe { super::execve(path, arguments, current()) }
}

unsafe extern "C" fn file_and_list(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's promise, that of execlp(3).
    unsafe { super::execvp(file, arguments) }
}

unsafe extern "C" fn path_list_and_environment(path: *const c_char, arguments: Strings) -> c_int {
    let mut at = arguments;
    // SAFETY: the caller's promise, that of execle(3): a NULL ends the list, and the environment comes after it.
    unsafe {
        while !(*at).is_null() {
            at = at.add(1);
        }
        super::execve(path, arguments, at.add(1).cast::<Strings>().read())
    }
}
