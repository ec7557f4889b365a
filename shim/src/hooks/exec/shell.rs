//! system(3), popen(3) and wordexp(3), which start `/bin/sh` inside libc: past every hook, with the program's `environ`.
//!
//! There is no argument in which that shell could be given another environment. So when a program has emptied its
//! own, the launcher's variables are put back into it, by libc's putenv(3) and setenv(3), and stay: another thread may
//! be reading, and another call may come. These functions allocate, as the three themselves do; a child of vfork()
//! and a signal handler may call neither.

use super::{Program, Verdict, fail};
use crate::config;
use crate::environment;
use crate::real;
use core::ffi::{c_char, c_int, c_void};

/// What libc starts (`_PATH_BSHELL`).
const SHELL: *const c_char = c"/bin/sh".as_ptr();
/// What waitpid(2) says of a child that ended with 127: POSIX's answer of system() where there is no shell.
const NO_SHELL: c_int = 127 << 8;
/// `<wordexp.h>`: no command substitution.
const WRDE_NOCMD: c_int = 4;

/// Makes `environ` right for a shell. `Err` is the launcher's errno, if it forbids the shell.
fn prepare() -> Result<(), c_int> {
    let Some(config) = config::get() else { return Ok(()) };
    let mut room = [0; _];
    // SAFETY: the path is a string that ends with NUL.
    match unsafe { Program::path(SHELL).judged(config, &mut room) } {
        Verdict::Free => {}
        Verdict::Forbidden(errno) => return Err(errno),
        // libc starts no other program than this.
        Verdict::Inside(_) => return Err(libc::EPERM),
    }
    environment::put_back(
        config,
        |text| {
            // SAFETY: the string is the configuration's, which stays as it is for the life of the process.
            unsafe { real::putenv(text.cast_mut()) };
        },
        |preload| {
            // SAFETY: both are strings that end with NUL, and setenv copies them.
            unsafe { real::setenv(c"LD_PRELOAD".as_ptr(), preload, 1) };
        },
    );
    Ok(())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn system(command: *const c_char) -> c_int {
    match prepare() {
        // Is there a shell? Not for this program.
        Err(_) if command.is_null() => 0,
        Err(_) => NO_SHELL,
        // SAFETY: the caller's promise, that of system(3).
        Ok(()) => unsafe { real::system(command) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn popen(command: *const c_char, kind: *const c_char) -> *mut libc::FILE {
    match prepare() {
        Err(errno) => {
            fail(errno);
            core::ptr::null_mut()
        }
        // SAFETY: the caller's promise, that of popen(3).
        Ok(()) => unsafe { real::popen(command, kind) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn _IO_popen(command: *const c_char, kind: *const c_char) -> *mut libc::FILE {
    // SAFETY: the caller's promise; it is the same function.
    unsafe { popen(command, kind) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn _IO_proc_open(
    file: *mut libc::FILE,
    command: *const c_char,
    kind: *const c_char,
) -> *mut libc::FILE {
    match prepare() {
        Err(errno) => {
            fail(errno);
            core::ptr::null_mut()
        }
        // SAFETY: the caller's promise, that of the half of popen(3) which starts the shell.
        Ok(()) => unsafe { real::_IO_proc_open(file, command, kind) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn wordexp(words: *const c_char, expanded: *mut c_void, flags: c_int) -> c_int {
    // Most words need no shell: libc itself says so of those that do.
    let forbidden = if prepare().is_err() { WRDE_NOCMD } else { 0 };
    // SAFETY: the caller's promise, that of wordexp(3).
    unsafe { real::wordexp(words, expanded, flags | forbidden) }
}
