//! The launcher's side of the [holder of the volumes' place](tp_inside::hold::volumes).

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tp_abi::env;
use tp_inside::orders::{Answer, PATH_MAX};
use tracing::debug;

use crate::holder::Holder;
use crate::method::Surroundings;
use crate::placement::Home;
use crate::sys::process::Within;

/// How long the holder may take to remove what it made.
const END_LIMIT: Duration = Duration::from_secs(1);

/// A step that the system refused.
#[derive(Debug)]
pub struct Refused {
    step: String,
    source: io::Error,
}

impl Refused {
    pub(super) fn of(step: &str, source: io::Error) -> Self {
        Self { step: step.to_owned(), source }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

impl std::error::Error for Refused {}

/// Namespaces with the volumes in their places.
pub(super) struct Namespace {
    holder: Holder,
    home: Home,
}

impl Namespace {
    /// Makes them, with the volumes' file system at its place in `folder` and nowhere else yet. Gives its device, too.
    pub(super) async fn start(inside: &Path, folder: &Path) -> Result<(Self, OwnedFd), Refused> {
        let refused = |step| move |source| Refused::of(step, source);
        match std::fs::create_dir(folder.join(env::VOLUMES)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Refused::of("a folder for the volumes", error));
            }
            _ => {}
        }
        let started = Holder::start(inside, ["volumes".as_ref(), folder.as_os_str()], None);
        let holder = started.map_err(refused("the start of tp-inside"))?;
        let (answer, descriptors) = holder.answer().await.map_err(refused("the start of tp-inside"))?;
        if let Answer::Refused { errno, step } = answer {
            return Err(Refused { step, source: io::Error::from_raw_os_error(errno) });
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(device), Some(mounts)) = (descriptors.next(), descriptors.next()) else {
            return Err(Refused::of("the start of tp-inside", io::ErrorKind::InvalidData.into()));
        };
        let within = Within::new(mounts, descriptors.next()).map_err(refused("the working folder"))?;
        let home = Home { within: Some(Arc::new(within)), surroundings: Surroundings::default() };
        Ok((Self { holder, home }, device))
    }

    /// Puts the volume of that path in its place.
    pub(super) async fn put(&self, path: &Path) -> Result<(), Refused> {
        let message = path.as_os_str().as_bytes();
        let refused = |source| Refused::of("a message to tp-inside", source);
        if message.len() > PATH_MAX {
            return Err(refused(io::Error::from_raw_os_error(libc::ENAMETOOLONG)));
        }
        self.holder.send(message).map_err(refused)?;
        match self.holder.answer().await.map_err(refused)? {
            (Answer::Refused { errno, step }, _) => {
                Err(Refused { step, source: io::Error::from_raw_os_error(errno) })
            }
            _ => Ok(()),
        }
    }

    /// Looks at where programs will be, when all is in its place.
    pub(super) fn look(&mut self) {
        self.home.surroundings = Surroundings::of(self.holder.process());
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// Has what was made for mounts removed. What the kernel has to take down takes longer, and nobody waits for it.
    pub(super) async fn end(self) {
        self.holder.finish();
        let ended = tokio::time::timeout(END_LIMIT, self.holder.answer()).await;
        debug!(?ended, "the holder of the volumes' place has removed what it made");
    }
}
