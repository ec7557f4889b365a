//! The pod's volumes as a file system on the laptop: FUSE here, the agent's VOLUMES service there.
//!
//! # Theory of operation
//! The kernel asks about inodes by number and keeps what it was told for a second ([`KEPT`]); the pages of a file it keeps
//! until time or length of the file change. Each of its requests becomes a task: the [`tree`] says which path in the pod the
//! number stands for, the [`client`] asks the agent over one stream of the session's link, and the reply is the agent's
//! answer, errno included. Nothing waits behind anything else. Files that are read from front to back are asked for
//! [`ahead`] of the kernel, which by itself looks 128 KiB ahead and no further.
//!
//! Invariants: nothing is asked before a program touches a file, unless it is not known what a volume is; what was in the pod's hands when a link was lost is asked
//! again over the next one if that makes no difference, and fails with `EIO` otherwise; nobody waits longer than ten
//! seconds for a link.
//!
//! It does not mount: whoever has the right to hands the descriptor over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use futures_util::future::BoxFuture;

use crate::pod::Stream;

mod ahead;
mod attributes;
mod client;
mod files;
mod folders;
mod kernel;
mod points;
mod requests;
mod tree;

/// How long the kernel keeps names and attributes: so late a change in the pod shows at most.
const KEPT: Duration = Duration::from_secs(1);

/// One volume of the pod's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What the program sees; absolute. In the file system it is the same path below its root.
    pub path: PathBuf,
    /// Where it is in the agent's container; absolute. A folder or a file.
    pub source: PathBuf,
    /// Whether it may be changed.
    pub writable: bool,
    /// Whether it is known to be a folder. Otherwise the agent must be asked before it can be mounted anywhere.
    pub is_folder: bool,
}

/// A VOLUMES stream of whatever link there is, behind the SOCKS reply; it may be waited for.
pub type Opening = BoxFuture<'static, io::Result<Stream>>;

/// A file system that is being served. Dropping it changes nothing: it ends when it is unmounted, or with the process, and
/// then its users have `ENOTCONN`.
#[derive(Debug)]
pub struct Served {
    session: BackgroundSession,
    volumes: Arc<requests::Volumes>,
}

impl Served {
    /// Waits until the file system is unmounted everywhere, or was aborted.
    ///
    /// # Errors
    /// What reading the device failed with otherwise.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }

    /// Finds out of all volumes at once what they are, so that nobody waits for one after the other.
    pub async fn look(&self) {
        self.volumes.look_at_all().await;
    }
}

/// Serves `mounts` on a FUSE device that is mounted already; all are nested folders below its root. To be called within the
/// runtime that is to carry the requests; returns when the kernel's greeting was answered. `denied` is told of what the agent
/// may not read.
///
/// # Errors
/// The device's.
pub fn serve(
    device: OwnedFd,
    open: impl Fn() -> Opening + Send + Sync + 'static,
    mounts: &[Mount],
    denied: impl Fn(&Path) + Send + Sync + 'static,
) -> io::Result<Served> {
    let volumes = Arc::new(requests::Volumes::new(Box::new(open), mounts, denied));
    let system = kernel::System::new(volumes.clone(), tokio::runtime::Handle::current());
    // Who may use it the kernel knows better: it compares users as they are in the mount's own user namespace.
    let mut config = Config::default();
    config.acl = SessionACL::All;
    let session = Session::from_fd(system, device, SessionACL::All, config)?;
    volumes.tell_by(session.notifier());
    Ok(Served { session: session.spawn()?, volumes })
}
