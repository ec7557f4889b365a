//! Where tp's own files are: `bin/tp`, `lib/tp/libtp_shim.so`, `lib/tp/tp-inside`, `lib/tp/tp-agent`, wherever the
//! whole was put.

use std::io;
use std::path::{Path, PathBuf};

use crate::report::Failure;

/// The folder with tp's libraries.
pub struct Installed {
    lib: PathBuf,
}

impl Installed {
    /// Finds the folder from where this program is.
    ///
    /// # Errors
    /// If this program cannot be found.
    pub fn find() -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::NoSelf)?;
        let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        Ok(Self { lib: prefix.join("lib/tp") })
    }

    /// The shim, which must be there for anything to run.
    ///
    /// # Errors
    /// If it is not, or the loader could not be told its path: it splits the list at spaces and colons (ld.so(8)).
    pub fn shim(&self) -> Result<PathBuf, Failure> {
        let path = self.lib.join("libtp_shim.so");
        let missing = |source| Failure::NoShim { path: path.clone(), source };
        std::fs::File::open(&path).map_err(missing)?;
        if path.as_os_str().as_encoded_bytes().iter().any(|byte| b" :".contains(byte)) {
            return Err(missing(io::Error::other(
                "the dynamic loader cannot take a path with a space or a colon in LD_PRELOAD",
            )));
        }
        Ok(path)
    }

    /// The program that enters namespaces and filters.
    #[must_use]
    pub fn inside(&self) -> PathBuf {
        self.lib.join("tp-inside")
    }

    /// The agent's program.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.lib.join("tp-agent")
    }
}
