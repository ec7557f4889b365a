//! The syntaxes in which variables are written for other programs.
//!
//! Each is what its readers make of it, not what it looks like: the cases of `cluster_environment` have bash, Python's
//! dotenv, Node.js and a reader by Docker's rules read it back. What a syntax cannot say is left out, and said.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// A syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `NAME='VALUE'`, for dotenv libraries and Docker Compose's `env_file`.
    Dotenv,
    /// An object of strings.
    Json,
    /// `export NAME='VALUE'`, for `source` and `eval` of POSIX shells.
    Shell,
    /// `NAME=VALUE` without any quotes, for `docker run --env-file`.
    Docker,
}

impl Syntax {
    /// All, the default first.
    pub const ALL: [Self; 4] = [Self::Dotenv, Self::Json, Self::Shell, Self::Docker];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dotenv => "dotenv",
            Self::Json => "json",
            Self::Shell => "shell",
            Self::Docker => "docker",
        }
    }

    /// Writes the variables, but for those that the syntax cannot say.
    #[must_use]
    pub fn write<'a>(self, variables: impl Iterator<Item = (&'a OsStr, &'a OsStr)>) -> Written {
        let mut said = BTreeMap::new();
        let mut left_out = Vec::new();
        for (name, value) in variables {
            let checked = match (name.to_str(), value.to_str()) {
                (Some(name), Some(value)) => self.check(name, value).map(|()| (name, value)),
                _ => Err("what is not UTF-8"),
            };
            match checked {
                Ok((name, value)) => drop(said.insert(name, value)),
                Err(what) => left_out.push(LeftOut { name: name.to_owned(), syntax: self, what }),
            }
        }
        let text = match self {
            Self::Json => format!("{:#}\n", serde_json::json!(said)),
            Self::Dotenv => said.iter().map(|(name, value)| format!("{name}={}\n", dotenv(value))).collect(),
            Self::Shell => said
                .iter()
                .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
                .collect(),
            Self::Docker => said.iter().map(|(name, value)| format!("{name}={value}\n")).collect(),
        };
        Written { text, left_out }
    }

    /// What of a variable the syntax cannot say.
    fn check(self, name: &str, value: &str) -> Result<(), &'static str> {
        match self {
            Self::Json => Ok(()),
            Self::Dotenv if !name.chars().all(|c| is_word(c) || ".-".contains(c)) => {
                Err("names of other characters than letters, digits, `_`, `.` and `-`")
            }
            Self::Dotenv => Ok(()),
            Self::Shell if !name.chars().all(is_word) || name.starts_with(|c: char| c.is_ascii_digit()) => {
                Err("names of other characters than letters, digits and `_`, or that begin with a digit")
            }
            Self::Shell if SHELLS_OWN.contains(&name) => Err("what shells keep to themselves"),
            Self::Shell => Ok(()),
            Self::Docker if name.starts_with('#') || name.contains(char::is_whitespace) => {
                Err("names with white space, or that begin with `#`")
            }
            Self::Docker if value.contains('\n') || value.ends_with('\r') => Err("values of several lines"),
            Self::Docker if name.len() + value.len() >= DOCKER_LINE => Err("values of 64 KiB"),
            Self::Docker => Ok(()),
        }
    }
}

/// Read-only in bash.
const SHELLS_OWN: [&str; 7] = ["BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID", "_"];
/// What docker's reader takes for one line, in bytes.
const DOCKER_LINE: usize = 64 * 1024 - 2;

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// In single quotes everything is itself to every reader, but for quotes, and for backslashes before one or before
/// another. In double quotes there are escapes, on which readers agree less. A carriage return must be escaped:
/// readers of text files change it. Python's dotenv expands `${NAME}` in single quotes, too, and has no escape for it:
/// it has to be told not to (`interpolate=False`).
fn dotenv(value: &str) -> String {
    let single = ["'", r"\\", "\r"].iter().all(|odd| !value.contains(odd)) && !value.ends_with('\\');
    if single {
        return format!("'{value}'");
    }
    let mut text = String::with_capacity(value.len() + 2);
    for letter in value.chars() {
        match letter {
            '\n' => text.push_str(r"\n"),
            '\r' => text.push_str(r"\r"),
            '"' | '\\' | '$' => text.extend(['\\', letter]),
            other => text.push(other),
        }
    }
    format!("\"{text}\"")
}

/// Variables in a syntax.
#[derive(Debug)]
pub struct Written {
    /// The text.
    pub text: String,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
}

/// A variable that a syntax cannot say.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The variable.
    name: OsString,
    syntax: Syntax,
    what: &'static str,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, syntax, what } = self;
        write!(f, "{} is left out: {} syntax cannot say {what}", name.display(), syntax.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLES: [(&str, &str); 5] =
        [("A", "b=c"), ("EMPTY", ""), ("LINES", "one\ntwo \"$x\""), ("QUOTE", "it's \\ $5\n"), ("a.b", "1")];

    fn written(syntax: Syntax) -> (String, Vec<String>) {
        let variables = VARIABLES.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
        let written = syntax.write(variables.into_iter());
        (written.text, written.left_out.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_dotenv_file_has_quotes_that_its_readers_agree_upon() {
        let (text, left_out) = written(Syntax::Dotenv);
        let expected = "A='b=c'\nEMPTY=''\nLINES='one\ntwo \"$x\"'\nQUOTE=\"it's \\\\ \\$5\\n\"\na.b='1'\n";
        assert_eq!((text.as_str(), left_out.len()), (expected, 0));
    }

    #[test]
    fn a_shell_gets_every_value_and_no_name_that_it_cannot_have() {
        let (text, left_out) = written(Syntax::Shell);
        assert!(text.contains("export QUOTE='it'\\''s \\ $5\n'\n"), "{text}");
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].starts_with("a.b is left out: shell syntax cannot say names"), "{left_out:?}");
    }

    #[test]
    fn docker_has_no_values_of_several_lines() {
        let (text, left_out) = written(Syntax::Docker);
        assert_eq!(text, "A=b=c\nEMPTY=\na.b=1\n");
        let expected = "LINES is left out: docker syntax cannot say values of several lines";
        assert_eq!((left_out[0].as_str(), left_out.len()), (expected, 2));
    }

    #[test]
    fn json_holds_all_of_it() {
        let (text, left_out) = written(Syntax::Json);
        let read: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
        assert!(VARIABLES.iter().all(|(name, value)| read[*name] == *value));
        assert_eq!((read.len(), left_out.len()), (5, 0));
    }
}
