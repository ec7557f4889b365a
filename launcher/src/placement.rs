//! Where a program is placed: under the shim, or inside a private network or a filter.
//!
//! The shim is the cheapest and the least visible, but there are programs that it cannot enter ([`method`](crate::method)).
//! These are started by `tp-inside`, which asks what to enter; what it enters holds for all their children, too. What
//! that is is decided once a run, when the first program needs it: the private network if this machine allows one, else
//! the filter if it allows that. A program for which there is neither is not started.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use nix::unistd::Pid;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tracing::info;

use crate::method::{Reason, Refusal, Surroundings};
use crate::probes::{self, Complaint};
use crate::services::Services;
use crate::sys;
use crate::sys::process::Within;
use crate::trap::Trap;
use crate::vif::Vif;

/// The environment variable for `--method`. It is for one run and not for others inside it.
pub const METHOD: &str = "TP_METHOD";

/// What catches a program's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The shim for every program that it can enter, vif or trap for the others
    Auto,
    /// A preloaded library: dynamic programs of this machine's libc
    Shim,
    /// A private network: any program; needs user namespaces and nf_tables
    Vif,
    /// A seccomp filter: any program; needs no namespaces
    Trap,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Shim => "shim",
            Self::Vif => "vif",
            Self::Trap => "trap",
        })
    }
}

impl Method {
    /// Whether a program goes inside, of which `judged` says whether the shim can enter it.
    fn sends(self, judged: Result<(), Refusal>) -> Result<Sent, Refusal> {
        match judged {
            Ok(()) if matches!(self, Self::Auto | Self::Shim) => Ok(Sent::ToShim),
            Ok(()) => Ok(Sent::Inside(None)),
            Err(refusal) if self == Self::Shim || !refusal.reason.goes_inside() => Err(refusal),
            Err(refusal) => Ok(Sent::Inside(Some(refusal))),
        }
    }
}

enum Sent {
    ToShim,
    /// With what keeps the shim out, if anything does.
    Inside(Option<Refusal>),
}

/// Where one program is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It can have the shim.
    Shim,
    /// It is started by `tp-inside`.
    Inside,
}

/// Where the programs of a run are before they enter anything.
#[derive(Clone, Default)]
pub struct Home {
    /// The namespaces, if they are not the launcher's own.
    pub within: Option<Arc<Within>>,
    /// How one that is there is known.
    pub surroundings: Surroundings,
}

/// What `tp-inside` enters.
pub enum Entry {
    /// A private network.
    Vif(Arc<Vif>),
    /// A filter.
    Trap,
}

impl Entry {
    fn method(&self) -> Method {
        match self {
            Self::Vif(_) => Method::Vif,
            Self::Trap => Method::Trap,
        }
    }
}

/// Why a program is placed nowhere.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PlacementError {
    /// It is one that no method keeps under tp, or not the one that was asked for.
    #[error(transparent)]
    Program(#[from] Refusal),
    /// It would have to go inside, and there is nothing to enter.
    #[error("{refusal}; and this machine allows nothing else")]
    Nothing {
        /// What keeps the shim out.
        refusal: Refusal,
        /// What keeps the others from working.
        lacks: Lacks,
    },
    /// The method that was asked for does not work here.
    #[error("this machine does not allow --method {method}")]
    Method {
        /// What was asked for.
        method: Method,
        /// What keeps it from working.
        lacks: Lacks,
    },
}

impl PlacementError {
    /// All that is known, in lines.
    #[must_use]
    pub fn explained(&self) -> String {
        let mut text = self.to_string();
        if let Self::Nothing { lacks, .. } | Self::Method { lacks, .. } = self {
            lacks.to_string().lines().for_each(|line| text.push_str(&format!("\n  {line}")));
        }
        text
    }
}

/// What methods lack here, and what can be done about it.
#[derive(Clone, Debug, Default)]
pub struct Lacks(Vec<(Method, Complaint)>);

impl Lacks {
    fn add(&mut self, method: Method, complaints: Vec<Complaint>) {
        self.0.extend(complaints.into_iter().map(|complaint| (method, complaint)));
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|(method, complaint)| format!("{method}: {complaint}"));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Refuses what this machine cannot run, before anything is made for it. `inside` is the path of `tp-inside`.
///
/// # Errors
/// If nothing can keep the program under tp.
pub async fn check(method: Method, judged: Result<(), Refusal>, inside: &Path) -> Result<(), PlacementError> {
    let Sent::Inside(refusal) = method.sends(judged)? else { return Ok(()) };
    let mut lacks = Lacks::default();
    if method != Method::Trap {
        lacks.add(Method::Vif, probes::rights(inside).await);
    }
    if method == Method::Trap || method == Method::Auto && !lacks.0.is_empty() {
        let complaints = probes::trap(inside).await;
        if complaints.is_empty() {
            return Ok(());
        }
        lacks.add(Method::Trap, complaints);
    }
    if lacks.0.is_empty() {
        return Ok(());
    }
    Err(nothing(method, refusal, lacks))
}

fn nothing(method: Method, refusal: Option<Refusal>, lacks: Lacks) -> PlacementError {
    match refusal {
        Some(refusal) if method == Method::Auto => PlacementError::Nothing { refusal, lacks },
        _ => PlacementError::Method { method, lacks },
    }
}

/// Makes what programs enter.
async fn make(
    method: Method,
    inside: PathBuf,
    folder: PathBuf,
    services: Arc<Services>,
    home: Home,
) -> Result<Entry, Lacks> {
    let mut lacks = Lacks::default();
    if method != Method::Trap {
        match private_network(&inside, &folder, services, &home).await {
            Ok(vif) => return Ok(Entry::Vif(vif)),
            Err(complaints) => lacks.add(Method::Vif, complaints),
        }
    }
    if method != Method::Vif {
        let complaints = probes::trap(&inside).await;
        if complaints.is_empty() {
            info!(%lacks, "programs go under a filter");
            return Ok(Entry::Trap);
        }
        lacks.add(Method::Trap, complaints);
    }
    Err(lacks)
}

/// Makes one, or says what keeps it from being made.
async fn private_network(
    inside: &Path,
    folder: &Path,
    services: Arc<Services>,
    home: &Home,
) -> Result<Arc<Vif>, Vec<Complaint>> {
    if let Some(complaint) = probes::filtered() {
        return Err(vec![complaint]);
    }
    match Vif::start(inside, folder, services, home.within.as_ref()).await {
        Ok(vif) => Ok(vif),
        Err(error) => {
            // Trying each step by itself mostly tells more.
            let complaints = probes::vif(inside).await;
            Err(if complaints.is_empty() { vec![Complaint::of(&error)] } else { complaints })
        }
    }
}

/// Places the programs of one run.
pub struct Placement {
    method: Method,
    inside: PathBuf,
    folder: PathBuf,
    services: Arc<Services>,
    home: Home,
    entry: OnceCell<Result<Entry, Lacks>>,
    /// Whether there can be a filter, too, for processes that cannot enter the private network.
    filters: OnceCell<bool>,
    trap: Arc<Trap>,
    runtime: Handle,
}

impl Placement {
    /// `inside` is the path of `tp-inside`, `folder` the run's, `home` where programs are started. What programs enter is served by the runtime that this is
    /// called in.
    #[must_use]
    pub fn new(
        method: Method,
        inside: PathBuf,
        folder: PathBuf,
        services: Arc<Services>,
        home: Home,
    ) -> Self {
        let trap = Trap::new(folder.clone(), Arc::clone(&services));
        let runtime = Handle::current();
        Self {
            method,
            inside,
            folder,
            services,
            home,
            entry: OnceCell::new(),
            filters: OnceCell::new(),
            trap,
            runtime,
        }
    }

    /// The path of `tp-inside`.
    #[must_use]
    pub fn inside(&self) -> &Path {
        &self.inside
    }

    /// Where the run's programs are.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Where a program is placed of which `judged` says whether the shim can enter it. What goes inside has something to
    /// enter from then on.
    ///
    /// # Errors
    /// If nothing can keep it under tp.
    pub async fn place(&self, program: &Path, judged: Result<(), Refusal>) -> Result<Place, PlacementError> {
        let program = program.display();
        let Sent::Inside(refusal) = self.method.sends(judged)? else {
            info!(%program, method = %Method::Shim, "placed");
            return Ok(Place::Shim);
        };
        match (self.entry().await, refusal) {
            (Ok(Entry::Vif(_)), Some(refusal)) if refusal.elsewhere => {
                let why = Reason::Apart(Box::new(refusal.reason));
                if !*self.filters.get_or_init(|| async { probes::trap(&self.inside).await.is_empty() }).await
                {
                    return Err(Refusal { reason: why, ..refusal }.into());
                }
                info!(%program, method = %Method::Trap, %why, "placed");
                Ok(Place::Inside)
            }
            (Ok(entry), refusal) => {
                let why =
                    refusal.map_or_else(|| "asked for".to_owned(), |refusal| refusal.reason.to_string());
                info!(%program, method = %entry.method(), why, "placed");
                Ok(Place::Inside)
            }
            (Err(lacks), refusal) => Err(nothing(self.method, refusal, lacks.clone())),
        }
    }

    /// What the program of process `asker` enters.
    ///
    /// # Errors
    /// If there is nothing.
    pub async fn entry_of(&self, asker: Pid) -> Result<&Entry, &Lacks> {
        match self.entry().await {
            Ok(Entry::Vif(_)) if self.home.surroundings.are_not_of(asker) => Ok(&Entry::Trap),
            entry => entry,
        }
    }

    /// What programs enter. The first call makes it.
    async fn entry(&self) -> Result<&Entry, &Lacks> {
        let make = || async {
            let services = Arc::clone(&self.services);
            // What it starts outlives the question for it, and carries data: it is not for who asks to run.
            let (inside, folder) = (self.inside.clone(), self.folder.clone());
            let made = self.runtime.spawn(make(self.method, inside, folder, services, self.home.clone()));
            made.await.unwrap_or_else(|error| Err(Lacks(vec![(self.method, Complaint::of(&error))])))
        };
        self.entry.get_or_init(make).await.as_ref()
    }

    /// The private network, if a program needed it.
    #[must_use]
    pub fn vif(&self) -> Option<&Arc<Vif>> {
        match self.entry.get()? {
            Ok(Entry::Vif(vif)) => Some(vif),
            _ => None,
        }
    }

    /// Takes over the filter whose listener process `pid` has as descriptor `listener`.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2).
    pub fn trapped(&self, pid: Pid, listener: i32) -> io::Result<()> {
        let listener = sys::process::descriptor_of(pid.as_raw(), listener)?;
        self.trap.adopt(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason) -> Result<(), Refusal> {
        Err(Refusal { path: "/x".into(), reason, elsewhere: false })
    }

    #[test]
    fn the_shim_is_for_what_it_can_enter_unless_another_method_is_asked_for() {
        for (method, to_shim) in
            [(Method::Auto, true), (Method::Shim, true), (Method::Vif, false), (Method::Trap, false)]
        {
            assert_eq!(matches!(method.sends(Ok(())), Ok(Sent::ToShim)), to_shim, "{method}");
        }
    }

    #[test]
    fn what_the_shim_cannot_enter_goes_inside_unless_nothing_else_is_asked_for() {
        for method in [Method::Auto, Method::Vif, Method::Trap] {
            assert!(matches!(method.sends(refused(Reason::Go)), Ok(Sent::Inside(Some(_)))), "{method}");
            assert!(method.sends(refused(Reason::SetId)).is_err(), "{method}");
        }
        assert!(Method::Shim.sends(refused(Reason::Go)).is_err());
    }

    #[test]
    fn a_refusal_says_for_each_method_what_it_lacks_and_what_to_do() {
        let mut lacks = Lacks::default();
        let complaint = |what: &str, advice: &[&str]| {
            vec![Complaint {
                what: what.to_owned(),
                advice: advice.iter().map(ToString::to_string).collect(),
            }]
        };
        lacks.add(Method::Vif, complaint("user namespaces: no", &["allow them"]));
        lacks.add(Method::Trap, complaint("seccomp: no", &[]));
        assert_eq!(lacks.to_string(), "vif: user namespaces: no\n  allow them\ntrap: seccomp: no");
        let refusal = refused(Reason::Static).unwrap_err();
        let error = nothing(Method::Auto, Some(refusal.clone()), lacks.clone());
        assert!(error.to_string().starts_with("/x is statically linked"), "{error}");
        let error = nothing(Method::Vif, Some(refusal), lacks);
        assert_eq!(error.to_string(), "this machine does not allow --method vif");
    }
}
