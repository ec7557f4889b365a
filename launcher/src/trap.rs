//! The filter.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::services::Services;

/// Answers the calls that filters caught.
pub struct Trap {
    services: Arc<Services>,
}

impl Trap {
    /// One for all filters of a run.
    #[must_use]
    pub fn new(services: Arc<Services>) -> Arc<Self> {
        Arc::new(Self { services })
    }

    /// Answers the calls of a filter until nobody has it any more.
    ///
    /// # Errors
    /// If the listener cannot be watched.
    pub fn adopt(self: Arc<Self>, listener: OwnedFd) -> io::Result<()> {
        let _ = (&self.services, listener);
        Err(io::ErrorKind::Unsupported.into())
    }
}
