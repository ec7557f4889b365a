//! Which programs that are not this machine's own the kernel runs all the same.
//!
//! It has two ways: by itself, those of the architecture's 32-bit form; and by an interpreter that root has registered
//! for how a file begins (binfmt_misc, the kernel's admin-guide/binfmt-misc.rst), as `qemu-user-static` does.

use std::path::{Path, PathBuf};

/// Where the kernel tells the interpreters.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";
/// `e_machine` of elf(5).
const MACHINE: std::ops::Range<usize> = 18..20;
const EM_386: u16 = 3;
const EM_ARM: u16 = 40;

/// Whether a program may be one that runs those of other architectures as QEMU's user mode does: with system calls of its
/// own. It is told by its name; whoever has such a name wrongly is kept under tp as well.
pub(super) fn is_one(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"qemu-"))
}

/// Whether the kernel runs an ELF program that begins so.
pub(super) fn runs(start: &[u8]) -> bool {
    is_half_of_native(start) || of(start).is_some()
}

/// The interpreter registered for files that begin so.
pub(super) fn of(start: &[u8]) -> Option<PathBuf> {
    let entries = std::fs::read_dir(REGISTERED).ok()?;
    entries.flatten().find_map(|entry| {
        let format = Format::parse(&std::fs::read_to_string(entry.path()).ok()?)?;
        format.matches(start).then_some(format.interpreter)
    })
}

fn is_half_of_native(start: &[u8]) -> bool {
    let machine = start.get(MACHINE).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_le_bytes(*bytes));
    match machine {
        Some(EM_386) => cfg!(target_arch = "x86_64"),
        Some(EM_ARM) => cfg!(target_arch = "aarch64"),
        _ => false,
    }
}

/// One that is known by how a file begins; one that is known by its name is none of programs.
struct Format {
    interpreter: PathBuf,
    offset: usize,
    magic: Vec<u8>,
    mask: Option<Vec<u8>>,
}

impl Format {
    /// Reads the kernel's description; [`None`] if it is not in use.
    fn parse(text: &str) -> Option<Self> {
        if text.lines().next() != Some("enabled") {
            return None;
        }
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Some(Self {
            interpreter: Path::new(value("interpreter")?).to_owned(),
            offset: value("offset")?.parse().ok()?,
            magic: bytes(value("magic")?)?,
            mask: value("mask").and_then(bytes),
        })
    }

    fn matches(&self, start: &[u8]) -> bool {
        let mut mask = self.mask.iter().flatten().copied().chain(std::iter::repeat(0xff));
        let from = start.get(self.offset..).unwrap_or_default();
        from.len() >= self.magic.len()
            && self
                .magic
                .iter()
                .zip(from)
                .all(|(magic, byte)| mask.next().is_some_and(|mask| (magic ^ byte) & mask == 0))
    }
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let pairs = hexadecimal.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn a_file_is_known_by_its_magic_under_the_mask() {
        let format = Format::parse(ARM64).unwrap();
        assert_eq!(format.interpreter, Path::new("/usr/bin/qemu-aarch64-static"));
        let mut start = b"\x7fELF\x02\x01\x01\x09\0\0\0\0\0\0\0\0\x03\0\xb7\0rest".to_vec();
        assert!(format.matches(&start));
        assert!(!format.matches(&start[..19]));
        start[18] = 62;
        assert!(!format.matches(&start));
    }

    #[test]
    fn what_is_switched_off_or_known_by_a_name_counts_for_nothing() {
        assert!(Format::parse(&ARM64.replace("enabled", "disabled")).is_none());
        assert!(Format::parse("enabled\ninterpreter /x\nflags: \nextension .exe\n").is_none());
    }

    #[test]
    fn qemu_is_known_by_its_name() {
        assert!(is_one(Path::new("/usr/bin/qemu-aarch64")));
        assert!(!is_one(Path::new("/usr/bin/curl")));
    }

    #[test]
    fn the_32_bit_form_needs_no_interpreter() {
        let i386 = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0";
        assert_eq!(is_half_of_native(i386), cfg!(target_arch = "x86_64"));
        assert!(!is_half_of_native(b"\x7fELF"));
    }
}
