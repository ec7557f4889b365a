//! What can go wrong in the harness. Every variant carries what was tried, because the reader has only the message.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// An error of the harness.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{what} {path}", path = path.display())]
    File {
        /// What was tried, as a verb: "create", "read".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("start {program}")]
    Start {
        /// The program's name.
        program: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{command}: {status}\n{stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote on stderr.
        stderr: String,
    },
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// Only root can make namespaces that reach each other.
    #[error("this needs root: the cluster is made of network namespaces and containers")]
    NotRoot,
    /// Debian packages are missing and could not be installed.
    #[error("these are missing: {programs}; install the Debian packages: {packages}")]
    Missing {
        /// The programs looked for.
        programs: String,
        /// The packages that bring them.
        packages: String,
    },
    /// A component did not become ready.
    #[error("{what} was not ready after {seconds} s; see {log}\n{tail}", log = log.display())]
    NotReady {
        /// The component.
        what: String,
        /// How long was waited, in seconds.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The end of that log, or what the last question was answered.
        tail: String,
    },
    /// A component ended although it should run for ever.
    #[error("{what} ended by itself; see {log}\n{tail}", log = log.display())]
    Ended {
        /// The component.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// Processes of an earlier cluster outlived SIGKILL.
    #[error("processes of the cluster do not end: {pids:?}")]
    Immortal {
        /// Their ids.
        pids: Vec<i32>,
    },
    /// The cluster does not run.
    #[error("the test cluster is not up ({why}): run `cargo xtask cluster up`")]
    NotUp {
        /// What is missing.
        why: String,
    },
    /// The laptop does not exist for a cluster that is not ours.
    #[error("{what} needs the laptop namespace, which TP_TEST_CONTEXT={context} has not")]
    NoLaptop {
        /// What was asked for.
        what: &'static str,
        /// The context named by the caller.
        context: String,
    },
    /// tp was not installed where the cases look for it.
    #[error("tp is not installed in {prefix}: run `cargo xtask dist`", prefix = prefix.display())]
    NoDist {
        /// Where it was looked for.
        prefix: PathBuf,
    },
    /// A certificate could not be made.
    #[error("make the certificate of {name}")]
    Certificate {
        /// The certificate's common name.
        name: String,
        /// The library's answer.
        #[source]
        source: rcgen::Error,
    },
    /// A program answered something that could not be understood.
    #[error("{what} answered {answer:?}")]
    Answer {
        /// Who was asked for what.
        what: &'static str,
        /// What came.
        answer: String,
    },
}

impl Error {
    /// For `map_err`: `verb` was tried with `path`.
    pub fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// For `map_err`: a system call that does not concern one file alone.
    pub fn system(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
