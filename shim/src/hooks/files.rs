//! Opening `/etc/resolv.conf` and `/etc/hosts`: the pod's, for programs that resolve names by themselves.
//!
//! The launcher keeps both beside its socket. libc's own readers open them from inside and are not seen here; what they
//! read is covered by the hooks of the functions that they serve.
//!
//! Every file that a program opens comes by here, so all others cost a look at the path's first bytes. Only opens for
//! reading are changed, and only of exactly these paths. Variadic functions are taken with a fixed third argument: System
//! V's x86-64 and Linux's aarch64 pass it alike, and whether it was given is for libc to know.

use super::{errno, set_errno};
use crate::config::{self, SOCKET_PATH_MAX};
use crate::real;
use core::ffi::{CStr, c_char, c_int};
use libc::{FILE, mode_t};
use tp_abi::decide;

/// Room for the run's folder, a file's name and a NUL.
type Path = [u8; SOCKET_PATH_MAX + 16];

/// The pod's file in place of `path`; [`None`] if it is another, or not this process's.
///
/// # Safety
/// `path` must be null or a string.
unsafe fn pods(path: *const c_char, room: &mut Path) -> Option<*const c_char> {
    // SAFETY: the caller's promise; each byte is read only if those before it are none of them NUL.
    unsafe {
        if path.is_null() || *path != b'/' as c_char || *path.add(1) != b'e' as c_char {
            return None;
        }
        let name = decide::pods_file(CStr::from_ptr(path).to_bytes())?;
        in_folder(config::get()?.socket_path()?, name, room)
    }
}

/// The path of `name` beside the launcher's socket, with a NUL.
fn in_folder(socket: &[u8], name: &str, room: &mut Path) -> Option<*const c_char> {
    let slash = socket.iter().rposition(|byte| *byte == b'/')?;
    let folder = socket.get(..=slash)?;
    let length = folder.len().checked_add(name.len())?.checked_add(1)?;
    let place = room.get_mut(..length)?;
    for (to, from) in place.iter_mut().zip(folder.iter().copied().chain(name.bytes()).chain([0])) {
        *to = from;
    }
    Some(room.as_ptr().cast())
}

/// Opens the pod's file in place of `path` where it is there, and `path` otherwise.
///
/// # Safety
/// `path` must be null or a string.
unsafe fn either<T: Opened>(path: *const c_char, reads: bool, open: impl Fn(*const c_char) -> T) -> T {
    let mut room: Path = [0; _];
    // SAFETY: the caller's promise.
    if reads && let Some(pods) = unsafe { pods(path, &mut room) } {
        let before = errno();
        let opened = open(pods);
        // A run without a pod (`--proxy`) has none.
        if opened.is_open() || errno() != libc::ENOENT {
            return opened;
        }
        set_errno(before);
    }
    open(path)
}

/// What opening a file gives.
trait Opened {
    fn is_open(&self) -> bool;
}

impl Opened for c_int {
    fn is_open(&self) -> bool {
        *self >= 0
    }
}

impl Opened for *mut FILE {
    fn is_open(&self) -> bool {
        !self.is_null()
    }
}

const fn reads(flags: c_int) -> bool {
    flags & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH) == libc::O_RDONLY
}

/// # Safety
/// `mode` must be a string.
unsafe fn mode_reads(mode: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    mode.first() == Some(&b'r') && !mode.split(|byte| *byte == b',').next().unwrap_or(mode).contains(&b'+')
}

macro_rules! opens {
    ($(fn $name:ident($($before:ident: $type:ty,)? ; $flags:ident $(, $mode:ident)?);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($before: $type,)? path: *const c_char, $flags: c_int $(, $mode: mode_t)?) -> c_int {
                // SAFETY: the caller's promise, that of the function of that name.
                let open = |path| unsafe { real::$name($($before,)? path, $flags $(, $mode)?) };
                // SAFETY: as above.
                unsafe { either(path, reads($flags), open) }
            }
        )*
    };
}

opens! {
    fn open(; flags, mode);
    fn open64(; flags, mode);
    fn __open(; flags, mode);
    fn __open64(; flags, mode);
    fn __open_2(; flags);
    fn __open64_2(; flags);
    fn openat(folder: c_int,; flags, mode);
    fn openat64(folder: c_int,; flags, mode);
    fn __openat_2(folder: c_int,; flags);
    fn __openat64_2(folder: c_int,; flags);
}

macro_rules! fopens {
    ($(fn $name:ident($($after:ident: $type:ty)?);)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(path: *const c_char, mode: *const c_char $(, $after: $type)?) -> *mut FILE {
                // SAFETY: the caller's promise, that of the function of that name.
                unsafe { either(path, mode_reads(mode), |path| real::$name(path, mode $(, $after)?)) }
            }
        )*
    };
}

fopens! {
    fn fopen();
    fn fopen64();
}
