//! The exec and posix_spawn families: a program's children stay under the launcher.
//!
//! libc's variants do not call each other by public name, so each is taken over. Two things happen before a start:
//! the launcher is asked whether the shim will work in that file (a static or setuid program would run on the real
//! network without a word) and may have a program of its own [started in its place](inside), and the environment is
//! made to carry the shim. The rest, the search in `PATH` and the fall-back to `/bin/sh` included, is the original's.
//!
//! Invariant: a child of vfork() may call these, so nothing but the caller's own stack is written.

mod actions;
mod inside;
pub(super) mod shell;
pub(super) mod spawn;
pub(super) mod variadic;

use super::fail;
use crate::ask::{Sheet, Unanswered, ask};
use crate::config::{self, Config};
use crate::environment::{self, current, strings};
use crate::note::note;
use crate::program::{DEFAULT_PATH, PATH_MAX, search};
use crate::real::{self, Strings};
use crate::sys::{self, Errno, Owned};
use core::ffi::{CStr, c_char, c_int};
use tp_abi::wire::{Answer, Question};

/// The file of a start.
enum Program {
    /// At a path, seen from the folder that it will start in.
    At(c_int, *const c_char),
    /// At a path, seen from another folder, with flags for open(2) beside `O_PATH`.
    From(c_int, *const c_char, c_int),
    /// Somewhere in `PATH`.
    Named(*const c_char),
    /// Open already.
    Open(c_int),
}

/// What becomes of a start.
enum Verdict<'a> {
    /// It goes on.
    Free,
    /// It fails with this errno.
    Forbidden(c_int),
    /// This program of the launcher's starts instead.
    Inside(&'a CStr),
}

impl Program {
    const fn path(path: *const c_char) -> Self {
        Self::At(libc::AT_FDCWD, path)
    }

    /// What the launcher says. A file that cannot be found or opened is free: the original says what is wrong with it.
    /// Without a launcher the start goes on: the child itself fails closed, if it will have the shim. Without a descriptor
    /// to ask with, nothing starts (`EMFILE`, execve(2)).
    ///
    /// # Safety
    /// The strings must be null or end with NUL.
    unsafe fn judged<'a>(&self, config: &Config, room: &'a mut Sheet) -> Verdict<'a> {
        match *self {
            Self::Open(fd) => consult(config, fd, room),
            Self::At(_, path) | Self::From(_, path, _) | Self::Named(path) if path.is_null() => Verdict::Free,
            // SAFETY: the caller's promise.
            Self::At(directory, path) => unsafe { judged_at(config, directory, path, 0, room) },
            // SAFETY: the caller's promise.
            Self::From(directory, path, flags) => unsafe { judged_at(config, directory, path, flags, room) },
            // SAFETY: the caller's promise.
            Self::Named(name) => match unsafe { searched(name) } {
                Some(Ok(file)) => consult(config, file.fd(), room),
                Some(Err(errno)) => Verdict::Forbidden(errno),
                None => Verdict::Free,
            },
        }
    }
}

/// [`Program::judged`] for a path.
///
/// # Safety
/// The path must end with NUL.
unsafe fn judged_at<'a>(
    config: &Config,
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    room: &'a mut Sheet,
) -> Verdict<'a> {
    // SAFETY: the caller's promise.
    match unsafe { sys::open(directory, path.cast(), libc::O_PATH | flags) } {
        Ok(file) => consult(config, file.fd(), room),
        Err(error) => exhausted(error).map_or(Verdict::Free, Verdict::Forbidden),
    }
}

/// [`find`] without the path. Never inlined: its room would be a third of a small thread's stack for every start.
///
/// # Safety
/// The name must end with NUL.
#[inline(never)]
unsafe fn searched(name: *const c_char) -> Option<Result<Owned, c_int>> {
    // SAFETY: the caller's promise.
    unsafe { find(name, &mut [0; PATH_MAX]) }
}

/// The file that a name means, open as `O_PATH`, or the errno that says that nothing can be opened. Its path is in `room`.
///
/// # Safety
/// The name must end with NUL.
unsafe fn find(name: *const c_char, room: &mut [u8; PATH_MAX]) -> Option<Result<Owned, c_int>> {
    let found = |path: &[u8]| {
        let path = path.as_ptr();
        // SAFETY: the path ends with NUL.
        match unsafe { sys::open(libc::AT_FDCWD, path, libc::O_PATH) } {
            // SAFETY: as above.
            Ok(file) => (sys::regular(file.fd()) && unsafe { sys::executable(path) }).then_some(Ok(file)),
            Err(error) => exhausted(error).map(Err),
        }
    };
    // SAFETY: the caller's promise, and `environ` is libc's own.
    let (path, name) = unsafe {
        (
            environment::value(strings(current()), "PATH").unwrap_or(DEFAULT_PATH),
            CStr::from_ptr(name).to_bytes(),
        )
    };
    search(path, name, found, room)
}

/// The errno, if it says that there is nothing left to ask with.
fn exhausted(Errno(errno): Errno) -> Option<c_int> {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM).then_some(errno)
}

fn consult<'a>(config: &Config, file: c_int, room: &'a mut Sheet) -> Verdict<'a> {
    match ask(config, &Question::Exec, Some(file), room) {
        Ok(Answer::Errno(errno)) => {
            note(config, |line| line.text(b"start forbidden"));
            Verdict::Forbidden(errno)
        }
        Ok(Answer::Enter(program)) => {
            note(config, |line| line.text(b"start inside"));
            Verdict::Inside(program)
        }
        Err(Unanswered::Exhausted(errno)) => Verdict::Forbidden(errno),
        // A program that changed its root may have left the launcher's socket, and the shim with it.
        Err(_) if !is_there(config) => Verdict::Forbidden(libc::EPERM),
        _ => Verdict::Free,
    }
}

/// Is the shim where the loader of a child will look for it?
fn is_there(config: &Config) -> bool {
    config.shim.value().is_none_or(|path| {
        // SAFETY: an entry ends with NUL.
        unsafe { sys::open(libc::AT_FDCWD, path.as_ptr(), libc::O_PATH) }.is_ok()
    })
}

/// Asks, then starts with the environment that a child must get: the program by `original`, or the launcher's by `instead`.
/// `Err` is the errno of what is not started.
///
/// # Safety
/// The strings of `program` must end with NUL, and `environment` must be null or end with null.
unsafe fn start(
    program: &Program,
    environment: Strings,
    original: impl FnOnce(Strings) -> c_int,
    instead: impl FnOnce(*const c_char, Strings) -> c_int,
) -> Result<c_int, c_int> {
    let Some(config) = config::get() else { return Ok(original(environment)) };
    let mut room: Sheet = [0; _];
    // SAFETY: the caller's promise.
    unsafe {
        match program.judged(config, &mut room) {
            Verdict::Forbidden(errno) => Err(errno),
            Verdict::Free => Ok(environment::with(config, environment, None, |with, _| original(with))),
            Verdict::Inside(file) => {
                inside::start(config, program, environment, |with| instead(file.as_ptr(), with))
            }
        }
    }
}

/// [`start`] for the functions that give -1 and errno.
///
/// # Safety
/// As for [`start`], and for `arguments` as for execve(2).
unsafe fn exec(
    program: &Program,
    arguments: Strings,
    environment: Strings,
    original: impl FnOnce(Strings) -> c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    let instead = |file, with| unsafe { real::execve(file, arguments, with) };
    // SAFETY: the caller's promise.
    unsafe { start(program, environment, original, instead) }.unwrap_or_else(fail)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's promise, that of execve(2).
    unsafe { exec(&Program::path(path), arguments, environment, |with| real::execve(path, arguments, with)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execv(path: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's promise, that of execv(3), which is execve() with `environ`.
    unsafe { exec(&Program::path(path), arguments, current(), |with| real::execve(path, arguments, with)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execvp(file: *const c_char, arguments: Strings) -> c_int {
    // SAFETY: the caller's promise, that of execvp(3), which is execvpe() with `environ`.
    unsafe { exec(&Program::Named(file), arguments, current(), |with| real::execvpe(file, arguments, with)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's promise, that of execvpe(3).
    unsafe {
        exec(&Program::Named(file), arguments, environment, |with| real::execvpe(file, arguments, with))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn execveat(
    directory: c_int,
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's promise, that of execveat(2): null or a string.
    let empty = path.is_null() || unsafe { path.read() } == 0;
    let program = if empty && flags & libc::AT_EMPTY_PATH != 0 {
        Program::Open(directory)
    } else if flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
        Program::From(directory, path, libc::O_NOFOLLOW)
    } else {
        Program::From(directory, path, 0)
    };
    // SAFETY: the caller's promise.
    unsafe {
        exec(&program, arguments, environment, |with| real::execveat(directory, path, arguments, with, flags))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fexecve(fd: c_int, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: the caller's promise, that of fexecve(3).
    unsafe { exec(&Program::Open(fd), arguments, environment, |with| real::fexecve(fd, arguments, with)) }
}
