//! Which of the pod's volumes the program gets, and which of the laptop's folders they do not take the place of.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tracing::debug;

use crate::kube::agent::PodMount;

/// Folders without which no program of the laptop starts or works.
const NEEDED: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc", "/sys", "/dev"];
/// Those of them that have nothing else below, either.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Where programs keep what is theirs for a while.
const SCRATCH: [&str; 2] = ["/tmp", "/var/tmp"];

/// A word of `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// All.
    True,
    /// None.
    False,
    /// That of this path.
    Path(PathBuf),
}

impl FromStr for Word {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "true" => Self::True,
            "false" => Self::False,
            path => Self::Path(path.into()),
        })
    }
}

/// What the user said of volumes.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--mount`.
    pub mount: Vec<Word>,
    /// `--mount-rw`; the empty path is all of them.
    pub writable: Vec<PathBuf>,
}

/// Why that is not possible.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChoiceError {
    /// None, and some.
    #[error("--mount false leaves nothing for other --mount and --mount-rw")]
    Contradiction,
    /// The container has no such mount.
    #[error("the container has no volume mounted at `{}`", .path.display())]
    Unknown {
        /// What was asked for.
        path: PathBuf,
        /// What it has.
        known: Vec<String>,
    },
    /// Nobody may write to it.
    #[error("the pod has `{}` read-only", .path.display())]
    ReadOnly {
        /// What was asked for.
        path: PathBuf,
    },
    /// It would take the place of what the program needs.
    #[error("the pod's `{}` cannot take the place of the laptop's: {why}", .path.display())]
    NotHere {
        /// What was asked for.
        path: PathBuf,
        /// What is there.
        why: &'static str,
    },
}

/// A mount that the program gets.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The mount.
    pub mount: &'a PodMount,
    /// The program may write to it.
    pub writable: bool,
    /// The user named it.
    pub named: bool,
}

impl Choice {
    /// Whether any volume may be wanted.
    #[must_use]
    pub fn wants_any(&self) -> bool {
        self.mount != [Word::False]
    }

    /// Whether the user asked for volumes.
    #[must_use]
    pub fn is_explicit(&self) -> bool {
        self.wants_any() && !(self.mount.is_empty() && self.writable.is_empty())
    }

    /// The mounts that are meant.
    ///
    /// # Errors
    /// If there is none of those that were named.
    pub fn of<'a>(&self, mounts: &'a [PodMount]) -> Result<Vec<Chosen<'a>>, ChoiceError> {
        if self.mount.contains(&Word::False) {
            let alone = self.mount.len() == 1 && self.writable.is_empty();
            return if alone { Ok(Vec::new()) } else { Err(ChoiceError::Contradiction) };
        }
        let named: Vec<_> = self
            .mount
            .iter()
            .filter_map(|word| match word {
                Word::Path(path) => Some(path),
                _ => None,
            })
            .collect();
        let all_writable = self.writable.iter().any(|path| path.as_os_str().is_empty());
        let writable: Vec<_> = self.writable.iter().filter(|path| !path.as_os_str().is_empty()).collect();
        for path in named.iter().chain(&writable) {
            let known = || mounts.iter().map(|mount| format!("{} ({})", mount.path.display(), mount.what));
            let mount = mounts.iter().find(|mount| same(&mount.path, path));
            let mount = mount
                .ok_or_else(|| ChoiceError::Unknown { path: (*path).clone(), known: known().collect() })?;
            if mount.read_only && writable.contains(path) {
                return Err(ChoiceError::ReadOnly { path: (*path).clone() });
            }
        }
        let is_in = |list: &[&PathBuf], mount: &PodMount| list.iter().any(|path| same(&mount.path, path));
        let all = named.is_empty() || self.mount.contains(&Word::True);
        let chosen = mounts.iter().filter(|mount| mount.path != Path::new("/")).map(|mount| Chosen {
            mount,
            writable: !mount.read_only && (all_writable || is_in(&writable, mount)),
            named: is_in(&named, mount) || is_in(&writable, mount),
        });
        let chosen = chosen.filter(|chosen| all || chosen.named).collect();
        debug!(?chosen, "volumes");
        Ok(chosen)
    }
}

/// Without slashes at the end.
fn same(path: &Path, named: &Path) -> bool {
    path.components().eq(named.components())
}

/// What the laptop has that must stay where it is.
pub struct Laptop<'a> {
    /// The run's folder.
    pub run: &'a Path,
    /// Where tp's own files are.
    pub tp: &'a Path,
    /// The user's home folder.
    pub home: Option<PathBuf>,
    /// The working folder.
    pub folder: Option<PathBuf>,
}

impl Laptop<'_> {
    /// Why a mount does not go to that path; [`None`] if it does. Some do if the user names them.
    #[must_use]
    pub fn keeps(&self, path: &Path, named: bool) -> Option<&'static str> {
        // Links lead there as well.
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_above = |below: &Path| below.starts_with(path) || below.starts_with(&real);
        let is = |folders: &[&str]| folders.iter().any(|folder| path == Path::new(folder));
        if is(&NEEDED) || KERNELS.iter().any(|folder| path.starts_with(folder)) {
            return Some("no program starts without it");
        }
        if is_above(self.run) || is_above(self.tp) {
            return Some("tp's own files are there");
        }
        if named {
            return None;
        }
        if is(&SCRATCH) {
            return Some("programs of the laptop keep their files there");
        }
        if self.home.as_deref().is_some_and(is_above) {
            return Some("the home folder is there");
        }
        if self.folder.as_deref().is_some_and(is_above) {
            return Some("the working folder is there");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, read_only: bool) -> PodMount {
        PodMount {
            path: path.into(),
            what: "secret \"s\"".to_owned(),
            volume: "v".to_owned(),
            read_only,
            source: path.into(),
            is_folder: true,
        }
    }

    fn choice(mount: &[&str], writable: &[&str]) -> Choice {
        Choice {
            mount: mount.iter().map(|word| word.parse().unwrap()).collect(),
            writable: writable.iter().map(PathBuf::from).collect(),
        }
    }

    /// The paths, each writable one with a `+`.
    fn chosen(choice: &Choice) -> Result<String, ChoiceError> {
        let mounts = [mount("/a", false), mount("/b c", true), mount("/", false)];
        let word = |chosen: &Chosen<'_>| {
            format!("{}{}", chosen.mount.path.display(), if chosen.writable { "+" } else { "" })
        };
        Ok(choice.of(&mounts)?.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn all_are_taken_unless_some_are_named() {
        for (mount, writable, expected) in [
            (&[][..], &[][..], "/a /b c"),
            (&["true"], &[], "/a /b c"),
            (&["false"], &[], ""),
            (&["/a/"], &[], "/a"),
            (&["/b c", "true"], &[], "/a /b c"),
            (&[], &[""], "/a+ /b c"),
            (&[], &["/a"], "/a+ /b c"),
            (&["/b c"], &["/a"], "/a+ /b c"),
        ] {
            assert_eq!(chosen(&choice(mount, writable)).as_deref(), Ok(expected), "{mount:?} {writable:?}");
        }
        assert!(!choice(&[], &[]).is_explicit() && choice(&["true"], &[]).is_explicit());
        assert!(!choice(&["false"], &[]).wants_any());
    }

    #[test]
    fn what_cannot_be_is_an_error_that_says_what_there_is() {
        let unknown = chosen(&choice(&["/nowhere"], &[])).unwrap_err();
        let ChoiceError::Unknown { known, .. } = unknown else { panic!("{unknown}") };
        assert_eq!(known.first().map(String::as_str), Some("/a (secret \"s\")"));
        assert_eq!(chosen(&choice(&[], &["/b c"])), Err(ChoiceError::ReadOnly { path: "/b c".into() }));
        assert_eq!(chosen(&choice(&["false", "/a"], &[])), Err(ChoiceError::Contradiction));
        assert_eq!(chosen(&choice(&["false"], &["/a"])), Err(ChoiceError::Contradiction));
    }

    #[test]
    fn what_the_laptops_programs_need_stays_where_it_is() {
        let laptop = Laptop {
            run: Path::new("/run/user/7/tp/run-x"),
            tp: Path::new("/opt/tp/lib/tp"),
            home: Some("/home/dev".into()),
            folder: Some("/src/app".into()),
        };
        for path in ["/usr", "/dev/shm", "/run/user/7", "/opt/tp", "/proc/x"] {
            assert!(laptop.keeps(Path::new(path), true).is_some(), "{path}");
        }
        for path in ["/tmp", "/home", "/home/dev", "/src", "/src/app"] {
            assert!(laptop.keeps(Path::new(path), false).is_some(), "{path}");
            assert!(laptop.keeps(Path::new(path), true).is_none(), "{path}");
        }
        for path in ["/etc/web", "/tmp/x", "/home/dev/.cache", "/src/application", "/usr/share/x", "/data"] {
            assert_eq!(laptop.keeps(Path::new(path), false), None, "{path}");
        }
    }
}
