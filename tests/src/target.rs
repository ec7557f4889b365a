//! Where the cases run: on the laptop beside our own cluster, or as the caller against a cluster that exists already.
//!
//! `TP_TEST_CONTEXT=name` chooses the latter. There is no laptop then: programs run as the caller, with the caller's
//! network, and nobody counts packets ([`Target::leaks`] is `None`, which a case reports and does not take for zero).

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::{Cluster, Error, Laptop, Layout, methods, run};

/// The variable that names a context of the caller's kubeconfig.
pub const CONTEXT: &str = "TP_TEST_CONTEXT";
/// The variable that names another installation of tp than the default one.
pub const PREFIX: &str = "TP_TEST_PREFIX";

/// Where the cases run.
#[derive(Debug, Clone)]
pub enum Target {
    /// On the laptop of our own cluster.
    Laptop(Cluster, Laptop),
    /// As the caller, against this context; tp is installed in the folder.
    Context(String, PathBuf),
}

impl Target {
    /// Finds out from the environment; fails when our own cluster is meant and not up.
    pub fn attach() -> Result<Self, Error> {
        let layout = Layout::from_env();
        let prefix = env::var_os(PREFIX).map_or_else(|| layout.dist(), PathBuf::from);
        match context() {
            Some(context) => Ok(Self::Context(context, prefix)),
            None => {
                let laptop = Laptop::attach(layout.clone())?.with_prefix(prefix);
                Ok(Self::Laptop(Cluster::new(layout), laptop))
            }
        }
    }

    /// The laptop, for cases that are about what leaves it; `what` says so in the error.
    pub fn laptop(&self, what: &'static str) -> Result<&Laptop, Error> {
        match self {
            Self::Laptop(_, laptop) => Ok(laptop),
            Self::Context(context, _) => Err(Error::NoLaptop { what, context: context.clone() }),
        }
    }

    /// A program on the laptop, or as the caller.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        match self {
            Self::Laptop(_, laptop) => laptop.command(program),
            Self::Context(_, prefix) => {
                let mut path = prefix.join("bin").into_os_string();
                path.push(":");
                path.push(env::var_os("PATH").unwrap_or_default());
                let mut command = Command::new(program);
                command.env("PATH", path);
                if let Some(method) = env::var_os(methods::VARIABLE) {
                    command.env("TP_METHOD", method);
                }
                Ok(command)
            }
        }
    }

    /// `kubectl` with the rights to set a case up.
    pub fn kubectl(&self) -> Command {
        match self {
            Self::Laptop(cluster, _) => cluster.kubectl(),
            Self::Context(context, _) => run::command("kubectl", ["--context", context]),
        }
    }

    /// The installed `tp`.
    pub fn tp(&self) -> Result<Command, Error> {
        let prefix = match self {
            Self::Laptop(_, laptop) => laptop.prefix().to_owned(),
            Self::Context(_, prefix) => prefix.clone(),
        };
        let program = prefix.join("bin/tp");
        if program.exists() { self.command(program) } else { Err(Error::NoDist { prefix }) }
    }

    /// `tp run OPTIONS -- PROGRAM…`, not yet started.
    pub fn tp_run<O: AsRef<OsStr>, A: AsRef<OsStr>>(
        &self,
        options: impl IntoIterator<Item = O>,
        program: impl IntoIterator<Item = A>,
    ) -> Result<Command, Error> {
        let mut command = self.tp()?;
        command.arg("run");
        if let Self::Context(context, _) = self {
            command.args(["--context", context]);
        }
        command.args(options).arg("--").args(program);
        Ok(command)
    }

    /// `tp run --deployment web -- PROGRAM…` to its end, with no stdin.
    pub fn in_web(&self, program: &[&str]) -> Result<Output, Error> {
        run::attempt(&mut self.tp_run(["--deployment", "web"], program)?)
    }

    /// Packets that left the laptop for elsewhere than the API server; `None` where nobody counts.
    pub fn leaks(&self) -> Result<Option<u64>, Error> {
        match self {
            Self::Laptop(_, laptop) => laptop.leaks().map(Some),
            Self::Context(..) => Ok(None),
        }
    }
}

/// The context named by the caller, if any.
pub fn context() -> Option<String> {
    env::var(CONTEXT).ok().filter(|name| !name.is_empty())
}
