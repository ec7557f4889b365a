//! The one thing that tp keeps on the laptop between runs: a secret of which agents' tokens are made.
//!
//! A token is `HMAC-SHA256(secret, pod uid NUL container name NUL revision)` (RFC 2104): never stored, different for every
//! agent, and known again by the next run of the same user on the same machine with a tp that speaks to agents alike.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const LENGTH: usize = 32;

/// What agents know: raised whenever they learn something, so that a lingering agent of an older tp, which knows less, is
/// not found but replaced.
const REVISION: u8 = 5;

/// The secret of this user on this machine.
#[derive(Clone)]
pub struct Secret([u8; LENGTH]);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or made.
    #[error("the secret for agents' tokens cannot be kept at {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

impl Secret {
    /// Reads the secret, or makes one. `XDG_STATE_HOME` (default `~/.local/state`) is where it is.
    ///
    /// # Errors
    /// If neither is possible. A run can go on with [`Secret::passing`].
    pub fn load() -> Result<Self, SecretError> {
        let path = path();
        Self::load_from(&path).or_else(|error| match error {
            // Another run may have made it between our look and our own.
            SecretError::File { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::load_from(&path)
            }
            other => Err(other),
        })
    }

    /// A secret for this run only: its agents cannot be found again.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn passing() -> Result<Self, SecretError> {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).map_err(SecretError::Random)?;
        Ok(Self(bytes))
    }

    fn load_from(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::File { path: path.to_owned(), source };
        match File::open(path) {
            Ok(mut file) => {
                let mut bytes = [0; LENGTH];
                file.read_exact(&mut bytes).map_err(failed)?;
                Ok(Self(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Self::passing()?;
                let folder = path.parent().unwrap_or(Path::new("/"));
                std::fs::create_dir_all(folder).map_err(failed)?;
                // Made readable for this user alone, and there whole or not at all.
                let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
                file.write_all(&secret.0).map_err(failed)?;
                file.persist_noclobber(path).map_err(|error| failed(error.error))?;
                Ok(secret)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The token of an agent.
    #[must_use]
    pub fn token(&self, pod_uid: &str, container: &str) -> [u8; 32] {
        let mut mac = match Hmac::<Sha256>::new_from_slice(&self.0) {
            Ok(mac) => mac,
            // HMAC takes keys of every length (RFC 2104, 2).
            Err(_) => unreachable!("HMAC takes keys of every length"),
        };
        mac.update(pod_uid.as_bytes());
        mac.update(&[0]);
        mac.update(container.as_bytes());
        mac.update(&[0, REVISION]);
        mac.finalize().into_bytes().into()
    }
}

fn path() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
    state.unwrap_or_else(|| home().join(".local/state")).join("tp/secret")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_same_user_finds_the_same_token_again_and_nobody_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tp/secret");
        let first = Secret::load_from(&path).unwrap();
        let second = Secret::load_from(&path).unwrap();
        assert_eq!(first.token("uid", "tp-agent-a"), second.token("uid", "tp-agent-a"));
        assert_ne!(first.token("uid", "tp-agent-a"), first.token("uid", "tp-agent-b"));
        assert_ne!(first.token("uid", "tp-agent-a"), Secret::passing().unwrap().token("uid", "tp-agent-a"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_that_was_cut_short_is_an_error_and_not_a_weaker_secret() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, b"short").unwrap();
        assert!(matches!(Secret::load_from(file.path()), Err(SecretError::File { .. })));
    }
}
