//! The program's environment: the pod's, laid over the laptop's.
//!
//! What the pod's specification sets is what the program is run for. What describes the laptop (where programs and
//! the home folder are, the terminal, the session) stays, or nothing would start. What would reach into the loader
//! or into tp itself is never taken. What the user sets for this one run comes last and may be anything.
//!
//! Values may be passwords: they go to the program and to files that the user asks for, and are never logged.

pub mod file;
pub mod syntax;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::str::FromStr;

use glob::Pattern;

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
#[derive(Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

/// The names alone.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A variable that the user sets: `NAME=VALUE`.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    name: String,
    value: String,
}

/// The name alone.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Setting").field(&self.name).finish()
    }
}

/// Not `NAME=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not NAME=VALUE")]
pub struct SettingError;

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let (name, value) = text.split_once('=').ok_or(SettingError)?;
        if name.is_empty() {
            return Err(SettingError);
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

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

    /// Leaves out what matches: the laptop's variable of that name, if there is one, stays.
    pub fn exclude(&mut self, patterns: &[Pattern]) {
        self.0.retain(|name, _| !patterns.iter().any(|pattern| pattern.matches(&name.to_string_lossy())));
    }

    /// Sets what the user wants set, whatever it was.
    pub fn extend(&mut self, settings: &[Setting]) {
        for Setting { name, value } in settings {
            self.set(name, value);
        }
    }

    /// Leaves out these variables; gives the names of those that were there.
    pub fn leave_out(&mut self, names: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        names.into_iter().filter(|name| self.0.remove(name).is_some()).collect()
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
}

fn is_taken(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !LAPTOPS_OWN.iter().any(|own| own.as_bytes() == bytes)
        && !LAPTOPS_OWN_PREFIXES.iter().any(|prefix| bytes.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::from_environ(
            b"GREETING=hello\0PATH=/pod/bin\0a.b-c=odd name\0LD_PRELOAD=/x.so\0EMPTY=\0=odd\0junk\0A=b=c\0",
        )
    }

    fn names(environment: &Environment) -> Vec<&str> {
        environment.iter().map(|(name, _)| name.to_str().unwrap()).collect()
    }

    #[test]
    fn the_pods_variables_are_taken_and_the_laptops_own_stay() {
        let environment = environment();
        assert_eq!(names(&environment), ["A", "EMPTY", "GREETING", "a.b-c"]);
        assert_eq!(environment.0[OsStr::new("A")], "b=c");
    }

    #[test]
    fn what_the_user_sets_comes_last_and_may_be_anything() {
        let mut environment = environment();
        let settings = ["PATH=/mine", "A=", "GREETING=a=b"].map(|setting| setting.parse().unwrap());
        environment.exclude(&["*E*", "a.?-c"].map(|pattern| Pattern::new(pattern).unwrap()));
        environment.extend(&settings);
        assert_eq!(names(&environment), ["A", "GREETING", "PATH"]);
        assert_eq!(environment.get("A").unwrap(), "");
        assert_eq!(environment.get("GREETING").unwrap(), "a=b");
    }

    #[test]
    fn no_value_is_ever_in_a_log() {
        let setting: Setting = "NAME=hello".parse().unwrap();
        let shown = format!("{:?} {setting:?}", environment());
        assert!(shown.contains("GREETING") && shown.contains("NAME") && !shown.contains("hello"), "{shown}");
    }
}
