//! posix_spawn(3) in its four spellings; libc's own call none of the exec family.
//!
//! `pidfd_spawn` and `pidfd_spawnp` are new in glibc 2.39. Where libc has none they fail with `ENOSYS`, which is what
//! those who look for them at run time expect of an old kernel.

use super::{Program, actions, exhausted, start};
use crate::real::{self, Strings};
use crate::sys::Owned;
use core::ffi::{CStr, c_char, c_int, c_void};

/// [`start`] for the functions that give an errno and look for a path where their file actions lead; `searched` says
/// whether they look in `PATH`.
///
/// # Safety
/// As for [`start`], and for `actions` as for [`actions::folder`].
unsafe fn spawn(
    file: *const c_char,
    actions: *const c_void,
    environment: Strings,
    searched: bool,
    original: impl FnOnce(*const c_char, Strings) -> c_int + Copy,
) -> c_int {
    // SAFETY: the caller's promise.
    let (folder, text) = match unsafe { (actions::folder(actions), file.is_null()) } {
        (folder, true) => (folder, c"".to_bytes()),
        // SAFETY: the caller's promise.
        (folder, false) => (folder, unsafe { CStr::from_ptr(file) }.to_bytes()),
    };
    let folder = match folder.map_err(exhausted) {
        Ok(folder) => folder,
        Err(Some(errno)) => return errno,
        // The original will say what is wrong with the folder.
        Err(None) => None,
    };
    let program = if searched && !text.contains(&b'/') {
        Program::Named(file)
    } else {
        Program::At(folder.as_ref().map_or(libc::AT_FDCWD, Owned::fd), file)
    };
    // SAFETY: the caller's promise.
    unsafe { start(&program, environment, |with| original(file, with), original) }
        .unwrap_or_else(|errno| errno)
}

/// Defines a function of the family: the type of what it makes, and whether it looks in `PATH`.
macro_rules! spawning {
    ($name:ident, $made:ty, $searched:literal) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            made: *mut $made,
            file: *const c_char,
            actions: *const c_void,
            attributes: *const c_void,
            arguments: Strings,
            environment: Strings,
        ) -> c_int {
            // SAFETY: the caller's promise, that of posix_spawn(3), which gives its errno.
            unsafe {
                spawn(file, actions, environment, $searched, |file, with| {
                    real::$name(made, file, actions, attributes, arguments, with)
                })
            }
        }
    };
}

spawning!(posix_spawn, libc::pid_t, false);
spawning!(posix_spawnp, libc::pid_t, true);
spawning!(pidfd_spawn, c_int, false);
spawning!(pidfd_spawnp, c_int, true);
