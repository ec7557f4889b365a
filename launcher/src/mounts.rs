//! Where the pod's volumes appear for the program.
//!
//! # Theory of operation
//! One file system of ours (fuse(4)) has all volumes in it, each below the path that it has in the container. It is mounted
//! at [`env::VOLUMES`] in the run's folder, which the program finds in `TP_ROOT`. A program looks for its files at their
//! own paths, though, and nobody but root may mount anything there; so there are three ways, of which the first that works
//! is taken:
//!
//! | way | what it takes | where the files are |
//! |---|---|---|
//! | a [`namespace`] | user namespaces, /dev/fuse | at their own paths, for the programs of this run; and below `TP_ROOT` |
//! | fusermount3 ([`fusermount`]) | that program | below `TP_ROOT`, for all processes of this user |
//! | none | | nowhere: it is said, and is an error if volumes were asked for |
//!
//! What is at no volume's path is the laptop's, but for root's files being those of `nobody`, and for folders with a
//! [cover](tp_inside::hold::volumes).
//!
//! The namespace is made while the session is opened, so that nobody waits for it. The command is started in it, and so are
//! all its children; what they enter besides (a private network) is made below it.

pub mod chosen;
mod fusermount;
mod namespace;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
use tp_abi::env;
use tp_inside::hold::volumes::{made_by, remove_empty};
use tracing::{debug, info, warn};

use crate::kube::agent::{PodMount, PodVolumes};
use crate::placement::Home;
use crate::pod::agent::AgentPod;
use crate::tell;
use crate::volumes::{self, Mount, Opening};
use chosen::{Choice, ChoiceError, Chosen, Laptop};
use fusermount::Fusermount;
use namespace::{Namespace, Refused};

/// Where all volumes are, below a folder.
const ROOT: &str = "TP_ROOT";
/// The same, by the name that Telepresence gave it.
const TELEPRESENCE_ROOT: &str = "TELEPRESENCE_ROOT";
/// The paths that they have in the container, with colons between.
const TELEPRESENCE_MOUNTS: &str = "TELEPRESENCE_MOUNTS";

/// Why the pod's volumes are not there.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// What was asked for is not what the container has.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// There is no way.
    #[error("the pod's volumes cannot be shown here: {namespace}; {fusermount}")]
    NoWay {
        /// What keeps a namespace from being made.
        namespace: Refused,
        /// What keeps fusermount3 from mounting.
        fusermount: io::Error,
    },
    /// One of them cannot be put in its place.
    #[error("the pod's {} cannot be shown", .path.display())]
    Place {
        /// Its path.
        path: PathBuf,
        /// What was tried.
        #[source]
        source: Refused,
    },
    /// They cannot be served.
    #[error("the file system with the pod's volumes cannot be served")]
    Serve(#[source] io::Error),
}

/// A namespace on its way, or none.
#[derive(Default)]
pub struct Prepared(Option<JoinHandle<Result<(Namespace, std::os::fd::OwnedFd), Refused>>>);

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(made) = &self.0 {
            made.abort();
        }
    }
}

/// Begins with what takes time, unless volumes are not wanted. `inside` is the path of `tp-inside`, `folder` the run's.
pub fn prepare(choice: &Choice, inside: &Path, folder: &Path) -> Prepared {
    if !choice.wants_any() {
        return Prepared(None);
    }
    let (inside, folder) = (inside.to_owned(), folder.to_owned());
    Prepared(Some(tokio::spawn(async move { Namespace::start(&inside, &folder).await })))
}

/// The pod's volumes, where the program finds them.
#[derive(Default)]
pub struct Mounts {
    way: Way,
    /// The file system's root and the paths in it.
    shown: Option<(PathBuf, Vec<PathBuf>)>,
}

#[derive(Default)]
enum Way {
    #[default]
    None,
    Namespace(Namespace),
    Root(Fusermount),
}

impl Prepared {
    /// Shows the volumes.
    ///
    /// # Errors
    /// If something was asked for that cannot be had. What was not asked for is told instead.
    pub async fn show(
        mut self,
        choice: &Choice,
        volumes: &PodVolumes,
        laptop: &Laptop<'_>,
        pod: &AgentPod,
    ) -> Result<Mounts, MountsError> {
        let chosen = choice.of(&volumes.mounts)?;
        let Some(made) = self.0.take().filter(|_| !chosen.is_empty()) else { return Ok(Mounts::default()) };
        let made = made.await.unwrap_or_else(|error| Err(Refused::of("its start", io::Error::other(error))));
        let root = laptop.run.join(env::VOLUMES);
        let (way, device) = match made {
            Ok((namespace, device)) => (Way::Namespace(namespace), device),
            Err(namespace) => match fusermount::mount(&root).await {
                Ok((mounted, device)) => {
                    tell(format_args!(
                        "the pod's volumes are below TP_ROOT ({}), not at their own paths: {namespace} (tp doctor says \
                         what can be done; --mount false)",
                        root.display()
                    ));
                    (Way::Root(mounted), device)
                }
                Err(fusermount) => return nowhere(choice, namespace, fusermount),
            },
        };
        let served = volumes::serve(device, open(pod), &mounts(&chosen), denied(volumes))
            .map_err(MountsError::Serve)?;
        let mut mounts = Mounts { way, shown: None };
        if let Way::Namespace(namespace) = &mut mounts.way {
            served.look().await;
            place(namespace, choice, &chosen, laptop).await?;
        }
        mounts.shown = Some((root, chosen.iter().map(|chosen| chosen.mount.path.clone()).collect()));
        Ok(mounts)
    }
}

/// Streams of the volumes, over whatever link there is.
fn open(pod: &AgentPod) -> impl Fn() -> Opening + Send + Sync + 'static {
    let pod = pod.clone();
    move || {
        let pod = pod.clone();
        Box::pin(async move { pod.volumes().await })
    }
}

/// Mounts by fusermount3, and unmounts.
///
/// # Errors
/// What keeps it from that.
pub async fn try_fusermount() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    fusermount::mount(folder.path()).await.map(drop)
}

fn nowhere(choice: &Choice, namespace: Refused, fusermount: io::Error) -> Result<Mounts, MountsError> {
    let error = MountsError::NoWay { namespace, fusermount };
    if choice.is_explicit() {
        return Err(error);
    }
    tell(format_args!(
        "{error}; the program runs without them (tp doctor says what can be done; --mount false)"
    ));
    Ok(Mounts::default())
}

fn mounts(chosen: &[Chosen<'_>]) -> Vec<Mount> {
    let mount = |chosen: &Chosen<'_>| Mount {
        path: chosen.mount.path.clone(),
        source: chosen.mount.source.clone(),
        writable: chosen.writable,
        is_folder: chosen.mount.is_folder,
    };
    chosen.iter().map(mount).collect()
}

/// Puts each one over the laptop's files, the outer ones first.
async fn place(
    namespace: &mut Namespace,
    choice: &Choice,
    chosen: &[Chosen<'_>],
    laptop: &Laptop<'_>,
) -> Result<(), MountsError> {
    let mut paths: Vec<_> = chosen.iter().map(|chosen| (&chosen.mount.path, chosen.named)).collect();
    paths.sort();
    for (path, named) in paths {
        if let Some(why) = laptop.keeps(path, named) {
            if named {
                return Err(ChoiceError::NotHere { path: path.clone(), why }.into());
            }
            info!(path = %path.display(), why, "stays the laptop's; the pod's is below TP_ROOT");
            continue;
        }
        if let Err(source) = namespace.put(path).await {
            let error = MountsError::Place { path: path.clone(), source };
            if choice.is_explicit() {
                return Err(error);
            }
            tell(format_args!(
                "{error}: {}",
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
            ));
        }
    }
    namespace.look();
    Ok(())
}

/// Says once why the agent may not read something.
fn denied(volumes: &PodVolumes) -> impl Fn(&Path) + Send + Sync + 'static {
    let (mounts, user) = (volumes.mounts.clone(), volumes.user);
    let told = AtomicBool::new(false);
    move |path: &Path| {
        let of = |mount: &&PodMount| path.starts_with(&mount.path);
        let mount = mounts.iter().filter(of).max_by_key(|mount| mount.path.as_os_str().len());
        let what = mount.map(|mount| mount.what.clone()).unwrap_or_default();
        debug!(path = %path.display(), what, "the agent was refused");
        if !told.swap(true, Ordering::Relaxed) {
            tell(format_args!(
                "{} ({what}): permission denied in the pod; tp's agent runs there as user {user}, without rights. \
                 A securityContext of the pod with fsGroup, or another defaultMode of the volume, lets it read",
                path.display()
            ));
        }
    }
}

/// Tells the user: a program says of a file that it cannot be read, and not why.
fn tell(what: std::fmt::Arguments<'_>) {
    warn!("{what}");
    tell::tell(what);
}

impl Mounts {
    /// Where the programs of the run are.
    #[must_use]
    pub fn home(&self) -> Home {
        match &self.way {
            Way::Namespace(namespace) => namespace.home().clone(),
            _ => Home::default(),
        }
    }

    /// The variables that name the paths.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        self.shown.iter().flat_map(|(root, paths)| {
            let paths: Vec<_> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
            let root = root.as_os_str();
            [
                (ROOT, root.to_owned()),
                (TELEPRESENCE_ROOT, root.to_owned()),
                (TELEPRESENCE_MOUNTS, OsStr::from_bytes(&paths.join(&b':')).to_owned()),
            ]
        })
    }

    /// Takes them away. A program that is still there has them until this process ends.
    pub async fn end(self) {
        match self.way {
            Way::Namespace(namespace) => namespace.end().await,
            Way::Root(mounted) => drop(mounted),
            Way::None => {}
        }
    }
}

/// Undoes what a killed run, whose folder this is, did to the laptop. Whether the folder can be removed: not with a file
/// system in it, which has the pod's files.
#[must_use]
pub fn sweep(folder: &Path) -> bool {
    for path in made_by(folder).iter().rev() {
        remove_empty(path);
    }
    let root = folder.join(env::VOLUMES);
    if is_mounted(&root, folder) {
        fusermount::unmount(&root);
    }
    !is_mounted(&root, folder)
}

/// A file system whose server is gone does not even say what it is.
fn is_mounted(root: &Path, folder: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|there| there.dev());
    match (device(root), device(folder)) {
        (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
        (Ok(root), Ok(folder)) => root != folder,
        (Ok(_), Err(_)) => true,
    }
}
