//! Where posix_spawn(3) finds a relative path: in the folder that its file actions change to.
//!
//! The child goes there before it opens the program, so the file that the launcher is asked about must be looked for
//! there too (Rust's `Command::current_dir` starts programs so). The actions are opaque to callers; in glibc they are
//! an array (posix/spawn_int.h), of one layout since 2.29, which brought these actions.

use crate::sys::{self, Errno, Owned};
use core::ffi::{c_char, c_int, c_void};

const CHDIR: c_int = 3;
const FCHDIR: c_int = 4;

/// `posix_spawn_file_actions_t`, up to what is used of it.
#[repr(C)]
struct Actions {
    allocated: c_int,
    used: c_int,
    list: *const Action,
}

/// `struct __spawn_action`.
#[repr(C)]
struct Action {
    tag: c_int,
    what: What,
}

#[repr(C)]
union What {
    path: *const c_char,
    fd: c_int,
    /// The largest: a descriptor, a path, flags and a mode.
    opened: [u64; 3],
}

/// The folder that the child is in when it starts the program; [`None`] if it is the caller's own.
///
/// # Safety
/// `actions` must be null or made by posix_spawn_file_actions_init(3).
pub(super) unsafe fn folder(actions: *const c_void) -> Result<Option<Owned>, Errno> {
    let mut folder: Option<Owned> = None;
    // SAFETY: the caller's promise, and the layout above.
    let Some(actions) = (unsafe { actions.cast::<Actions>().as_ref() }) else { return Ok(None) };
    for index in 0..usize::try_from(actions.used).unwrap_or(0) {
        // SAFETY: there are `used` actions in the list, and `tag` says which member counts.
        let (from, path) = unsafe {
            let action = &*actions.list.add(index);
            match action.tag {
                CHDIR => (folder.as_ref().map_or(libc::AT_FDCWD, Owned::fd), action.what.path),
                FCHDIR => (action.what.fd, c".".as_ptr()),
                _ => continue,
            }
        };
        // SAFETY: a path of the caller's, or the constant.
        folder = Some(unsafe { sys::open(from, path.cast(), libc::O_PATH | libc::O_DIRECTORY) }?);
    }
    Ok(folder)
}
