//! Where a program is placed: under the shim, or inside a private network or a filter.
//!
//! The shim is the cheapest and the least visible, but there are programs that it cannot enter ([`method`](crate::method)).
//! These are started by `tp-inside`, which asks what to enter; what it enters holds for all their children, too. One run
//! has one private network, made when the first program needs it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use nix::unistd::Pid;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::method::Refusal;
use crate::services::Services;
use crate::sys;
use crate::trap::Trap;
use crate::vif::{Vif, VifError};

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

/// Where one program is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It can have the shim.
    Shim,
    /// It is started by `tp-inside`.
    Inside,
}

/// What `tp-inside` enters.
pub enum Entry {
    /// A private network.
    Vif(Arc<Vif>),
    /// A filter.
    Trap,
}

/// Places the programs of one run.
pub struct Placement {
    method: Method,
    inside: PathBuf,
    folder: PathBuf,
    services: Arc<Services>,
    /// Programs ask on a thread of their own, which carries nothing.
    runtime: Handle,
    vif: OnceCell<Result<Arc<Vif>, VifError>>,
    trap: Arc<Trap>,
}

impl Placement {
    /// `inside` is the path of `tp-inside`, `folder` the run's. A private network is carried by the runtime that this is
    /// called in.
    #[must_use]
    pub fn new(method: Method, inside: PathBuf, folder: PathBuf, services: Arc<Services>) -> Self {
        let trap = Trap::new(folder.clone(), Arc::clone(&services));
        Self { method, inside, folder, services, runtime: Handle::current(), vif: OnceCell::new(), trap }
    }

    /// The path of `tp-inside`.
    #[must_use]
    pub fn inside(&self) -> &std::path::Path {
        &self.inside
    }

    /// Where a program is placed of which `judged` says whether the shim can enter it.
    ///
    /// # Errors
    /// If nothing can keep it under tp.
    pub fn place(&self, judged: Result<(), Refusal>) -> Result<Place, Refusal> {
        match (self.method, judged) {
            (Method::Auto | Method::Shim, Ok(())) => Ok(Place::Shim),
            (Method::Shim, Err(refusal)) => Err(refusal),
            (Method::Vif | Method::Trap, _) => Ok(Place::Inside),
            (Method::Auto, Err(refusal)) => {
                info!(%refusal, "inside");
                Ok(Place::Inside)
            }
        }
    }

    /// What the next program enters. The first call makes the private network.
    ///
    /// # Errors
    /// If there is neither.
    pub async fn entry(&self) -> Result<Entry, &VifError> {
        if self.method == Method::Trap {
            return Ok(Entry::Trap);
        }
        let made = self.vif.get_or_init(|| async {
            let (inside, folder) = (self.inside.clone(), self.folder.clone());
            let services = Arc::clone(&self.services);
            let starting = self.runtime.spawn(async move { Vif::start(&inside, &folder, services).await });
            starting.await.unwrap_or_else(|ended| {
                Err(VifError::Refused { step: "the start".to_owned(), source: io::Error::other(ended) })
            })
        });
        match made.await {
            Ok(vif) => Ok(Entry::Vif(Arc::clone(vif))),
            Err(error) if self.method == Method::Vif => Err(error),
            Err(error) => {
                warn!(%error, "no private network; a filter instead");
                Ok(Entry::Trap)
            }
        }
    }

    /// The private network, if a program needed it.
    #[must_use]
    pub fn vif(&self) -> Option<&Arc<Vif>> {
        self.vif.get()?.as_ref().ok()
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
