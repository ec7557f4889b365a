//! The program's environment: the pod's, laid over the laptop's.
//!
//! What the pod's specification sets is what the program is run for. What describes the laptop (where programs and
//! the home folder are, the terminal, the session) stays, or nothing would start. What would reach into the loader
//! or into tp itself is never taken.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Variables of the laptop that the pod's do not replace.
const LAPTOPS_OWN: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "COLORTERM",
    "DISPLAY",
    "EDITOR",
    "LANG",
    "LANGUAGE",
    "MAIL",
    "PAGER",
    "TMPDIR",
    "TZ",
    "VISUAL",
    "WAYLAND_DISPLAY",
    "KUBECONFIG",
];
/// The same, by how they begin.
const LAPTOPS_OWN_PREFIXES: &[&str] = &["LC_", "LD_", "SSH_", "TERM_", "TP_", "XDG_", "DBUS_"];

/// The pod that the program stands for.
pub const POD: &str = "TELEPRESENCE_POD";
/// The container in it.
pub const CONTAINER: &str = "TELEPRESENCE_CONTAINER";

/// Variables of the pod that the program gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Reads NUL-terminated `NAME=VALUE` strings, as in environ(7), and leaves out what stays the laptop's.
    #[must_use]
    pub fn from_environ(environ: &[u8]) -> Self {
        let variables = environ.split(|byte| *byte == 0).filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
            let (name, value) = entry.split_at_checked(at)?;
            let name = OsStr::from_bytes(name);
            is_taken(name)
                .then(|| (name.to_owned(), OsString::from_vec(value.get(1..).unwrap_or_default().to_vec())))
        });
        Self(variables.collect())
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), value.into());
    }

    /// A variable's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(OsStr::new(name)).cloned()
    }

    /// The variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Writes the variables to a file that only this user can read, as `NAME="VALUE"` lines with the escapes of
    /// dotenv files and Docker Compose's env_file.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn write_dotenv(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut text = Vec::new();
        for (name, value) in self.iter() {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(b"=\"");
            for byte in value.as_bytes() {
                match byte {
                    b'\n' => text.extend_from_slice(b"\\n"),
                    b'\r' => text.extend_from_slice(b"\\r"),
                    b'"' | b'\\' | b'$' => text.extend_from_slice(&[b'\\', *byte]),
                    other => text.push(*other),
                }
            }
            text.extend_from_slice(b"\"\n");
        }
        if path.exists() && !path.is_file() {
            // A pipe or /dev/stdout is written to as it is.
            return std::fs::OpenOptions::new().write(true).mode(0o600).open(path)?.write_all(&text);
        }
        // Whole or not at all, and readable by others at no moment.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&text)?;
        file.persist(path)?;
        Ok(())
    }
}

fn is_taken(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !LAPTOPS_OWN.iter().any(|own| own.as_bytes() == bytes)
        && !LAPTOPS_OWN_PREFIXES.iter().any(|prefix| bytes.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn environment() -> Environment {
        Environment::from_environ(
            b"GREETING=hello\0PATH=/pod/bin\0LINES=one\ntwo \"$x\"\0LD_PRELOAD=/x.so\0EMPTY=\0=odd\0junk\0A=b=c\0",
        )
    }

    #[test]
    fn the_pods_variables_are_taken_and_the_laptops_own_stay() {
        let environment = environment();
        let names: Vec<_> = environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["A", "EMPTY", "GREETING", "LINES"]);
        assert_eq!(environment.0[OsStr::new("A")], "b=c");
    }

    #[test]
    fn a_file_of_variables_is_private_and_keeps_several_lines_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        environment().write_dotenv(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "A=\"b=c\"\nEMPTY=\"\"\nGREETING=\"hello\"\nLINES=\"one\\ntwo \\\"\\$x\\\"\"\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(environment().write_dotenv(Path::new("/nowhere/at/all")).is_err());
    }
}
