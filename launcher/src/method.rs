//! Which programs the shim can enter, told from their files before they start.
//!
//! The dynamic loader drops a preload without a word for set-user-ID programs and for those with file capabilities
//! (ld.so(8), "secure-execution mode"), cannot load it into another libc or another architecture, and is not there
//! at all in a static program; Go programs and emulators make their system calls past libc. Each of these would run unhooked and
//! talk to the wrong network. So the shim is refused here, with the reason; most of them can be kept
//! [inside](crate::placement).
//!
//! Only files are read: nothing is run to find out.

mod emulator;
mod place;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::prctl::get_no_new_privs;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, Pid, access, getegid, geteuid};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Architecture, FileKind, Object as _, ObjectSection as _, ReadCache};

use place::Place;
pub use place::Surroundings;

/// Nesting of `#!` lines that the kernel follows (`BINPRM_BUF_SIZE`, load_script, bprm depth).
const INTERPRETERS: u32 = 5;
/// Static programs that every machine has, that other programs start to find libraries (Python's `ctypes`), and that
/// have no use for a network: ldconfig(8).
const HARMLESS: [&str; 4] =
    ["/sbin/ldconfig", "/usr/sbin/ldconfig", "/sbin/ldconfig.real", "/usr/sbin/ldconfig.real"];
/// Bytes of a `#!` line that the kernel reads.
const SCRIPT_LINE: usize = 256;

/// Why a command cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such program.
    #[error("command not found: {0}")]
    NotFound(String),
    /// A file that may not be executed.
    #[error("cannot execute {path}")]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A program that would run unhooked under the shim.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {reason}", path.display())]
pub struct Refusal {
    /// The program's file; for a script, its interpreter's.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
    /// It is started by a process that [is elsewhere](Surroundings).
    pub elsewhere: bool,
}

/// What keeps the shim out of a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No dynamic loader.
    #[error("is statically linked: there is no dynamic loader in it that could load tp's shim")]
    Static,
    /// Go, whatever the linking.
    #[error("is a Go program: it makes its system calls past libc, where tp's shim sits")]
    Go,
    /// An emulator.
    #[error("is an emulator: it makes the system calls of its programs past libc, where tp's shim sits")]
    Emulator,
    /// Set-user-ID or set-group-ID.
    #[error("is a set-user-ID or set-group-ID program: the dynamic loader ignores tp's shim in it")]
    SetId,
    /// File capabilities.
    #[error("has file capabilities: the dynamic loader ignores tp's shim in it")]
    Capabilities,
    /// Another C library.
    #[error("uses another C library than tp's shim (its loader is {0})")]
    OtherLibc(String),
    /// Another architecture, of which the kernel runs programs.
    #[error("is built for another architecture ({0}) than tp's shim")]
    OtherArchitecture(String),
    /// Another architecture.
    #[error("is built for another architecture ({0}), and nothing on this machine runs such programs")]
    NoEmulator(String),
    /// A root folder of its own.
    #[error("would run in a root folder in which there is no {} for the dynamic loader to load", .0.display())]
    Elsewhere(PathBuf),
    /// As the reason in it, and its process's files are not all those of the launcher.
    #[error(
        "{0}; and its process is where tp's private network cannot be: it has a user namespace, mounts or a root of its own"
    )]
    Apart(Box<Reason>),
    /// It cannot be looked at.
    #[error("cannot be read, so it cannot be told whether tp's shim would work in it ({0})")]
    Unreadable(String),
}

impl Reason {
    /// Whether a program can be kept under tp without the shim. Set-user-ID bits do not count in a private network or
    /// under a filter (user_namespaces(7), seccomp(2)), so that such a program would fail by itself, and less clearly.
    /// File capabilities do not count either, but their programs mostly have a way without.
    #[must_use]
    pub fn goes_inside(&self) -> bool {
        match self {
            Self::Static
            | Self::Go
            | Self::Emulator
            | Self::Capabilities
            | Self::OtherLibc(_)
            | Self::OtherArchitecture(_)
            | Self::Unreadable(_) => true,
            Self::SetId | Self::NoEmulator(_) | Self::Elsewhere(_) | Self::Apart(_) => false,
        }
    }
}

/// Finds a command as execvp(3) would, and judges whether the shim can enter it.
///
/// # Errors
/// If it is not there or not executable.
pub fn find(command: &OsStr) -> Result<(PathBuf, Result<(), Refusal>), CommandError> {
    let path = search(command)?;
    let not_executable = |source| CommandError::NotExecutable { path: path.clone(), source };
    let metadata = path.metadata().map_err(not_executable)?;
    if metadata.is_dir() {
        return Err(not_executable(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    access(&path, AccessFlags::X_OK).map_err(|errno| not_executable(errno.into()))?;
    let judged = classify(&path);
    Ok((path, judged))
}

fn search(command: &OsStr) -> Result<PathBuf, CommandError> {
    let not_found = || CommandError::NotFound(command.to_string_lossy().into_owned());
    if command.is_empty() {
        return Err(not_found());
    }
    if command.as_encoded_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_found()),
            _ => Ok(path),
        };
    }
    // execvp goes on past files that it may not execute, and says so only if there is no other.
    let mut found_anyway = None;
    let folders = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    for folder in std::env::split_paths(&folders) {
        let path = folder.join(command);
        if path.is_file() {
            if access(&path, AccessFlags::X_OK).is_ok() {
                return Ok(path);
            }
            found_anyway.get_or_insert(path);
        }
    }
    found_anyway.ok_or_else(not_found)
}

/// Finds the path of the program that a descriptor (also an `O_PATH` one) refers to and that process `pid` wants to start,
/// and judges whether the shim, which is at the path `shim`, can enter it. `home` is where the run's programs are.
pub fn find_descriptor(
    descriptor: OwnedFd,
    pid: Pid,
    shim: &Path,
    home: &Surroundings,
) -> (PathBuf, Result<(), Refusal>) {
    let proc = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
    let path = std::fs::read_link(&proc).unwrap_or_else(|_| PathBuf::from("the program"));
    let place = Place::of(pid);
    if place.open(shim).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let reason = Reason::Elsewhere(shim.to_owned());
        return (path.clone(), Err(Refusal { path, reason, elsewhere: true }));
    }
    let judged = examine(&place, &path, Place::Here.open(&proc), 0)
        .map_err(|refusal| Refusal { elsewhere: home.are_not_of(pid), ..refusal });
    (path, judged)
}

fn classify(path: &Path) -> Result<(), Refusal> {
    examine(&Place::Here, path, Place::Here.open(path), 0)
}

fn examine(place: &Place, path: &Path, file: io::Result<File>, depth: u32) -> Result<(), Refusal> {
    let refuse = |reason| Refusal { path: path.to_owned(), reason, elsewhere: false };
    let unreadable = |error: io::Error| refuse(Reason::Unreadable(error.to_string()));
    let file = file.map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Ok(());
    }
    let mut start = [0; SCRIPT_LINE];
    let length = file.read_at(&mut start, 0).map_err(unreadable)?;
    let start = start.get(..length).unwrap_or_default();
    let is_elf = start.starts_with(b"\x7fELF");
    let emulated = || (!is_elf).then(|| emulator::of(start)).flatten();
    if let Some(interpreter) = interpreter_of_script(start).or_else(emulated) {
        return match place.open(&interpreter) {
            _ if depth >= INTERPRETERS => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            file => examine(place, &interpreter, file, depth + 1),
        };
    }
    if !is_elf {
        return Ok(());
    }
    // On such a mount neither the bits nor the capabilities count (mount(8), nosuid).
    let counts = !fstatvfs(&file).is_ok_and(|mount| mount.flags().contains(FsFlags::ST_NOSUID));
    if counts && gains_privilege(&metadata) {
        return Err(refuse(Reason::SetId));
    }
    if counts && !geteuid().is_root() && has_capabilities(&file) {
        return Err(refuse(Reason::Capabilities));
    }
    let harmless = metadata.uid() == 0 && HARMLESS.iter().any(|harmless| path == Path::new(harmless));
    match reason_in_elf(file) {
        Ok(None) if emulator::is_one(path) => Err(refuse(Reason::Emulator)),
        Ok(None) => Ok(()),
        Ok(Some(Reason::Static)) if harmless => Ok(()),
        Ok(Some(Reason::OtherArchitecture(name))) if !emulator::runs(start) => {
            Err(refuse(Reason::NoEmulator(name)))
        }
        Ok(Some(reason)) => Err(refuse(reason)),
        Err(error) => Err(refuse(Reason::Unreadable(error.to_string()))),
    }
}

/// The program named by a `#!` line (execve(2)).
fn interpreter_of_script(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let name = line.split(|byte| byte.is_ascii_whitespace()).next().filter(|name| !name.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

/// Whether exec changes the effective user or group, which is what makes the loader distrust its environment. It does
/// not below a launcher that gave new privileges up (prctl(2), `PR_SET_NO_NEW_PRIVS`), as containers do; capabilities
/// in a file make the loader distrust it even then.
fn gains_privilege(metadata: &std::fs::Metadata) -> bool {
    if get_no_new_privs().unwrap_or(false) {
        return false;
    }
    let mode = metadata.mode();
    // Without group execute permission the bit means mandatory locking (inode(7)).
    (mode & libc::S_ISUID != 0 && metadata.uid() != geteuid().as_raw())
        || (mode & libc::S_ISGID != 0 && mode & libc::S_IXGRP != 0 && metadata.gid() != getegid().as_raw())
}

fn has_capabilities(file: &File) -> bool {
    use xattr::FileExt as _;
    file.get_xattr("security.capability").is_ok_and(|value| value.is_some())
}

fn reason_in_elf(file: File) -> object::Result<Option<Reason>> {
    let cache = ReadCache::new(file);
    if FileKind::parse(&cache)? != FileKind::Elf64 {
        return Ok(Some(Reason::OtherArchitecture("32-bit".to_owned())));
    }
    let elf = ElfFile64::<object::Endianness, _>::parse(&cache)?;
    if elf.architecture() != native() {
        return Ok(Some(Reason::OtherArchitecture(format!("{:?}", elf.architecture()))));
    }
    let go = elf.section_by_name(".go.buildinfo").is_some_and(|section| section.size() > 0);
    if go {
        return Ok(Some(Reason::Go));
    }
    let endian = elf.endian();
    for header in elf.elf_program_headers() {
        if let Some(loader) = header.interpreter(endian, &cache)? {
            let loader = String::from_utf8_lossy(loader).into_owned();
            let glibc = Path::new(&loader)
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-linux"));
            return Ok((!glibc).then_some(Reason::OtherLibc(loader)));
        }
    }
    Ok(Some(Reason::Static))
}

fn native() -> Architecture {
    if cfg!(target_arch = "x86_64") {
        Architecture::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Architecture::Aarch64
    } else {
        Architecture::Unknown
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(content: &[u8], mode: u32) -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file.into_temp_path()
    }

    fn reason(path: &Path) -> Reason {
        classify(path).unwrap_err().reason
    }

    #[test]
    fn a_dynamic_program_and_a_script_for_one_are_let_through() {
        classify(Path::new("/bin/sh")).unwrap();
        classify(&program(b"#! /bin/sh -e\nexit 0\n", 0o755)).unwrap();
        classify(&program(b"no interpreter: execvp hands it to sh\n", 0o755)).unwrap();
    }

    #[test]
    fn another_architectures_program_is_refused() {
        let mut header = Vec::new();
        File::open("/bin/sh").unwrap().read_to_end(&mut header).unwrap();
        header[18..20].copy_from_slice(&243u16.to_le_bytes());
        let path = program(&header, 0o755);
        assert_eq!(reason(&path), Reason::NoEmulator("Riscv64".to_owned()));
        assert_eq!(
            reason(&program(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0", 0o755)),
            Reason::NoEmulator("32-bit".into())
        );
    }

    #[test]
    fn a_program_of_another_libc_is_refused_by_its_loader() {
        let mut bytes = Vec::new();
        File::open("/bin/sh").unwrap().read_to_end(&mut bytes).unwrap();
        let loader = b"/lib64/ld-linux-x86-64.so.2";
        let at = bytes.windows(loader.len()).position(|window| window == loader).unwrap();
        let musl = b"/lib/ld-musl-x86_64.so.1\0\0\0";
        bytes[at..at + musl.len()].copy_from_slice(musl);
        assert_eq!(reason(&program(&bytes, 0o755)), Reason::OtherLibc("/lib/ld-musl-x86_64.so.1".into()));
    }

    #[test]
    fn a_script_is_judged_by_its_interpreter() {
        let elf32 = program(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0", 0o755);
        let script = program(format!("#!{}\n", elf32.display()).as_bytes(), 0o755);
        assert!(matches!(reason(&script), Reason::NoEmulator(_)));
        // A path is bytes.
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join(OsStr::from_bytes(b"\xff"));
        std::fs::copy(&elf32, &odd).unwrap();
        let by_odd = [b"#!".as_slice(), odd.as_os_str().as_bytes(), b"\n"].concat();
        assert!(matches!(reason(&program(&by_odd, 0o755)), Reason::NoEmulator(_)));
        let chain = program(format!("#! {} -x\n", script.display()).as_bytes(), 0o755);
        assert!(matches!(reason(&chain), Reason::NoEmulator(_)));
    }

    #[test]
    fn a_broken_elf_file_is_refused_rather_than_let_through() {
        assert!(matches!(reason(&program(b"\x7fELF\x02\x01\x01\x00junk", 0o755)), Reason::Unreadable(_)));
    }

    #[test]
    fn what_is_not_there_and_what_may_not_run_are_told_apart() {
        assert!(matches!(find(OsStr::new("/nowhere/x")), Err(CommandError::NotFound(_))));
        assert!(matches!(find(OsStr::new("surely-no-such-command")), Err(CommandError::NotFound(_))));
        assert!(matches!(find(OsStr::new("")), Err(CommandError::NotFound(_))));
        assert!(matches!(find(OsStr::new("/tmp")), Err(CommandError::NotExecutable { .. })));
        let path = program(b"#!/bin/sh\n", 0o644);
        assert!(matches!(find(path.as_os_str()), Err(CommandError::NotExecutable { .. })));
    }
}
