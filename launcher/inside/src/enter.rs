//! Enters what the launcher says, then becomes the program.
//!
//! # Theory of operation
//! The program to start is in [`env::PROGRAM`], its arguments are this process's own. One question to the launcher
//! ([`Question::Enter`]) tells the way:
//!
//! | answer | done |
//! |---|---|
//! | namespaces | setns(2) into the user, network and mount namespace that came along |
//! | trap | a seccomp filter on this process, whose listener the launcher takes (`pidfd_getfd`) |
//!
//! The filter holds for this process's own calls at once. So the connection that tells of it is opened before, and is
//! used with write(2) and read(2), of which no filter of ours notifies.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr, OsString, c_int};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, send,
    socket,
};
use nix::unistd::{execve, read, write};
use tp_abi::env;
use tp_abi::wire::{Answer, MESSAGE_MAX, Question};

use crate::filter::{self, FilterError};

/// What execvp(3) runs scripts without `#!` by (`_PATH_BSHELL`).
const SHELL: &CStr = c"/bin/sh";

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A variable that the launcher or its shim sets is missing.
    #[error("{0} is not set: this program is for tp alone to start")]
    NotFromTp(&'static str),
    /// The launcher cannot be asked.
    #[error("the launcher does not answer: {0}")]
    Launcher(#[source] io::Error),
    /// The launcher said no.
    #[error("the launcher forbids it: {0}")]
    Forbidden(#[source] io::Error),
    /// The namespaces cannot be entered.
    #[error("the private network cannot be entered: {0}")]
    Namespaces(#[source] io::Error),
    /// There is no filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The filter is on, and the launcher cannot answer it.
    #[error("the launcher may not look into this process ({source}): {hint}")]
    OutOfReach {
        /// What keeps it from that.
        hint: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program cannot be executed.
    #[error("{} cannot be executed: {source}", .path.display())]
    Execute {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl EnterError {
    /// As a shell and env(1) have it: 127 for what is not there, 126 for what cannot be executed, 125 for tp's own.
    #[must_use]
    pub fn exit_code(&self) -> c_int {
        match self {
            Self::Execute { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Execute { .. } => 126,
            _ => 125,
        }
    }
}

/// Enters, and becomes the program.
///
/// # Errors
/// If that cannot be done. The program was not started then.
pub fn enter() -> Result<Infallible, EnterError> {
    let launcher = variable(env::SOCKET)?;
    let path = program(variable(env::PROGRAM)?.into());
    let question = connection(&launcher).map_err(EnterError::Launcher)?;
    let mut room = [0; MESSAGE_MAX];
    let length = Question::Enter.encode(&mut room).unwrap_or_default();
    send(question.as_raw_fd(), room.get(..length).unwrap_or_default(), MsgFlags::MSG_NOSIGNAL)
        .map_err(|errno| EnterError::Launcher(errno.into()))?;
    let (length, descriptors) = receive(&question, &mut room).map_err(EnterError::Launcher)?;
    match Answer::decode(room.get(..length).unwrap_or_default()) {
        Some(Answer::Namespaces) => enter_namespaces(&descriptors).map_err(EnterError::Namespaces)?,
        Some(Answer::Trap) => enter_trap(&launcher)?,
        Some(Answer::Errno(errno)) => {
            return Err(EnterError::Forbidden(io::Error::from_raw_os_error(errno)));
        }
        _ => return Err(EnterError::Launcher(io::ErrorKind::InvalidData.into())),
    }
    drop((question, descriptors));
    Err(become_program(path))
}

fn variable(name: &'static str) -> Result<OsString, EnterError> {
    std::env::var_os(name).ok_or(EnterError::NotFromTp(name))
}

/// The program's path. One that the shim names by a descriptor has mostly a path of its own, too; what has none
/// (memfd_create(2), a file that is gone) is executed by the descriptor. The program does not inherit it.
fn program(path: PathBuf) -> PathBuf {
    let descriptor = path.strip_prefix("/proc/self/fd").ok().and_then(|number| number.to_str()?.parse().ok());
    let Some(descriptor) = descriptor else { return path };
    // SAFETY: borrowed for one call. If it is not open, that says so, and so does execve.
    let _ = fcntl(unsafe { BorrowedFd::borrow_raw(descriptor) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    let file = |path: &PathBuf| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    let itself = file(&path);
    std::fs::read_link(&path).ok().filter(|own| itself.is_some() && file(own) == itself).unwrap_or(path)
}

fn connection(launcher: &OsStr) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(launcher)?)?;
    Ok(fd)
}

fn receive(socket: &OwnedFd, room: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 3]);
    let mut parts = [io::IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel just installed these descriptors for us, each once.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, descriptors))
}

/// The working folder stays where it is: entering a mount namespace moves it to the root (setns(2)).
fn enter_namespaces(namespaces: &[OwnedFd]) -> io::Result<()> {
    let kinds = [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWNS];
    if namespaces.len() != kinds.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let folder = std::env::current_dir()?;
    for (namespace, kind) in namespaces.iter().zip(kinds) {
        setns(namespace, kind)?;
    }
    std::env::set_current_dir(folder)
}

/// From the filter on, calls that it notifies of would wait for a launcher that has not got the listener yet.
fn enter_trap(launcher: &OsStr) -> Result<(), EnterError> {
    let connection = connection(launcher).map_err(EnterError::Launcher)?;
    let listener = filter::install()?;
    let mut room = [0; MESSAGE_MAX];
    let question = Question::Trapped { listener: listener.as_raw_fd() };
    let length = question.encode(&mut room).unwrap_or_default();
    write(&connection, room.get(..length).unwrap_or_default())
        .map_err(|errno| EnterError::Launcher(errno.into()))?;
    let length = read(&connection, &mut room).map_err(|errno| EnterError::Launcher(errno.into()))?;
    match Answer::decode(room.get(..length).unwrap_or_default()) {
        Some(Answer::Pass) => Ok(()),
        Some(Answer::Errno(errno)) => Err(EnterError::OutOfReach {
            hint: filter::what_forbids_looking(),
            source: io::Error::from_raw_os_error(errno),
        }),
        _ => Err(EnterError::Launcher(io::ErrorKind::InvalidData.into())),
    }
}

/// What is the launcher's and the shim's in the environment is not for a program without the shim: a dynamic one that it
/// starts would load it. Nothing else of this process is changed, as it would be by [`std::process::Command`].
fn become_program(path: PathBuf) -> EnterError {
    let program = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let (arguments, variables) = (arguments(), plain_environment());
    let Err(errno) = execve(&program, &arguments, &variables);
    let mut errno = errno;
    if errno == Errno::ENOEXEC && !is_elf(&path) {
        // A script without `#!` is for the shell, as execvp(3) has it.
        let arguments = arguments.into_iter().skip(1);
        let arguments: Vec<_> = [SHELL.to_owned(), program].into_iter().chain(arguments).collect();
        Err(errno) = execve(SHELL, &arguments, &variables);
    }
    EnterError::Execute { path, source: errno.into() }
}

/// This process's arguments, as execve(2) takes them.
#[must_use]
pub fn arguments() -> Vec<CString> {
    strings(std::env::args_os().map(OsString::into_vec))
}

/// This process's environment without what is tp's in it, as execve(2) takes it.
#[must_use]
pub fn plain_environment() -> Vec<CString> {
    let shim = std::env::var_os(env::SHIM);
    let is_ours = |name: &OsStr| env::CARRIED.into_iter().chain([env::PROGRAM]).any(|ours| name == ours);
    strings(std::env::vars_os().filter(|(name, _)| !is_ours(name)).filter_map(|(name, value)| {
        let value = if name == env::LD_PRELOAD { without(&value, shim.as_deref())? } else { value };
        Some([name.as_bytes(), b"=", value.as_bytes()].concat())
    }))
}

/// None of these has a NUL: each was a C string before.
fn strings(all: impl Iterator<Item = Vec<u8>>) -> Vec<CString> {
    all.filter_map(|text| CString::new(text).ok()).collect()
}

/// A program that the kernel refuses is one of another machine, and none for the shell.
fn is_elf(path: &Path) -> bool {
    let mut start = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\x7fELF"
}

/// The loader's list without the shim; [`None`] if nothing is left.
fn without(list: &OsStr, shim: Option<&OsStr>) -> Option<OsString> {
    let is_other = |entry: &&[u8]| !entry.is_empty() && shim.is_none_or(|shim| shim.as_bytes() != *entry);
    let rest: Vec<_> = list.as_bytes().split(|byte| b": ".contains(byte)).filter(is_other).collect();
    (!rest.is_empty()).then(|| OsStr::from_bytes(&rest.join(&b':')).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_preload_stays() {
        let without = |list: &str| without(list.as_ref(), Some("/tp.so".as_ref()));
        assert_eq!(without("/tp.so"), None);
        assert_eq!(without("/tp.so:/mine.so"), Some("/mine.so".into()));
        assert_eq!(without("/mine.so /tp.so"), Some("/mine.so".into()));
    }
}
