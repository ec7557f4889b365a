//! Starting what the shim cannot enter: the launcher's own program in its place, with the same arguments.
//!
//! That program (`tp-inside`) enters what keeps the one that was meant under the launcher, and becomes it. It is told
//! which by [`env::PROGRAM`], a path as the caller gave it: it starts in the same folder. What has no such path
//! (fexecve(3), a path seen from another folder) goes along as a descriptor, which `tp-inside` closes.

use super::{Program, find};
use crate::config::Config;
use crate::environment;
use crate::name::Text;
use crate::program::PATH_MAX;
use crate::real::Strings;
use crate::sys::{self, Errno, Owned};
use core::ffi::{CStr, c_char, c_int};
use tp_abi::env;

/// The variable's name and `=`.
const NAME_LEN: usize = env::PROGRAM.len() + 1;
/// The folder in which the kernel shows a process its own descriptors (proc(5)).
const DESCRIPTORS: &[u8] = b"/proc/self/fd/";

/// Where a path means another file after an exec.
const OF_ONE_PROCESS: [&[u8]; 2] = [b"/proc/", b"/dev/fd/"];

/// Runs `start` with the environment for `tp-inside`. `Err` is the errno of what failed before. Never inlined: only such
/// starts need room for a path.
///
/// # Safety
/// As for [`super::start`].
#[inline(never)]
pub(super) unsafe fn start(
    config: &Config,
    program: &Program,
    environment: Strings,
    start: impl FnOnce(Strings) -> c_int,
) -> Result<c_int, c_int> {
    let mut room = [0; NAME_LEN + PATH_MAX];
    let mut name = Text::new(&mut room);
    name.put(env::PROGRAM.as_bytes());
    name.put(b"=");
    let path = room.last_chunk_mut().ok_or(libc::ENAMETOOLONG)?;
    // Closed if the start fails.
    // SAFETY: the caller's promise.
    let _held = unsafe { meant(program, path) }.map_err(|Errno(errno)| errno)?;
    let variable = CStr::from_bytes_until_nul(&room).map_err(|_| libc::ENAMETOOLONG)?;
    // SAFETY: the caller's promise.
    Ok(unsafe { environment::with(config, environment, Some(variable), |with, _| start(with)) })
}

/// Writes where `tp-inside` finds the program, and a NUL if that fits. Gives the descriptor that it needs for that.
///
/// # Safety
/// The strings of `program` must end with NUL.
unsafe fn meant(program: &Program, path: &mut [u8; PATH_MAX]) -> Result<Option<Owned>, Errno> {
    // SAFETY: the caller's promise, for all arms.
    unsafe {
        match *program {
            Program::At(directory, given) => as_given(directory, given, 0, path),
            Program::From(directory, given, flags) if CStr::from_ptr(given).to_bytes().starts_with(b"/") => {
                as_given(directory, given, flags, path)
            }
            Program::From(directory, given, flags) => opened(directory, given, flags, path),
            Program::Named(name) => match find(name, path) {
                Some(Ok(_)) => Ok(None),
                Some(Err(errno)) => Err(Errno(errno)),
                None => Err(Errno(libc::ENOENT)),
            },
            Program::Open(fd) => along(fd, path),
        }
    }
}

/// # Safety
/// `given` must end with NUL.
unsafe fn as_given(
    directory: c_int,
    given: *const c_char,
    flags: c_int,
    path: &mut [u8; PATH_MAX],
) -> Result<Option<Owned>, Errno> {
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(given) }.to_bytes();
    if OF_ONE_PROCESS.iter().any(|folder| text.starts_with(folder)) {
        // SAFETY: the caller's promise.
        return unsafe { opened(directory, given, flags, path) };
    }
    Text::new(path).put(text);
    Ok(None)
}

/// # Safety
/// `given` must end with NUL.
unsafe fn opened(
    directory: c_int,
    given: *const c_char,
    flags: c_int,
    path: &mut [u8; PATH_MAX],
) -> Result<Option<Owned>, Errno> {
    // SAFETY: the caller's promise.
    along(unsafe { sys::open(directory, given.cast(), libc::O_PATH | flags) }?.fd(), path)
}

/// A copy of a descriptor that stays open over exec, and its path.
fn along(fd: c_int, path: &mut [u8; PATH_MAX]) -> Result<Option<Owned>, Errno> {
    let copy = sys::duplicate(fd)?;
    let mut text = Text::new(path);
    text.put(DESCRIPTORS);
    text.decimal(copy.fd().unsigned_abs());
    Ok(Some(copy))
}
