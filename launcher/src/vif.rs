//! The private network.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::services::Services;

/// Why there is no private network.
#[derive(Debug, thiserror::Error)]
pub enum VifError {
    /// The system refused a step.
    #[error("{step} was refused")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A private network.
pub struct Vif {
    namespaces: [OwnedFd; 3],
}

impl Vif {
    /// Makes one.
    ///
    /// # Errors
    /// If the machine does not allow it.
    pub async fn start(inside: &Path, folder: &Path, services: Arc<Services>) -> Result<Arc<Self>, VifError> {
        let _ = (inside, folder, services);
        Err(VifError::Refused { step: "a private network", source: io::ErrorKind::Unsupported.into() })
    }

    /// The user, the network and the mount namespace.
    #[must_use]
    pub fn namespaces(&self) -> &[OwnedFd; 3] {
        &self.namespaces
    }
}
