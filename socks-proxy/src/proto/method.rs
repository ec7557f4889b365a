//! Choice of the authentication method (RFC 1928, section 3) and username/password (RFC 1929).

use super::{ProtoError, Reader, VERSION, need};

/// Method "no authentication required".
pub const METHOD_NONE: u8 = 0;
/// Method "username/password" (RFC 1929).
pub const METHOD_PASSWORD: u8 = 2;
/// The server's "no acceptable methods".
pub const METHOD_REFUSED: u8 = 0xFF;

const CREDENTIALS_VERSION: u8 = 1;

/// User name and password, each 1 to 255 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes both as bytes: RFC 1929 says nothing of an encoding.
    ///
    /// # Errors
    /// [`ProtoError::Credential`] if one is not 1 to 255 bytes long.
    pub fn new(user: impl Into<Vec<u8>>, password: impl Into<Vec<u8>>) -> Result<Self, ProtoError> {
        let (user, password) = (user.into(), password.into());
        for field in [&user, &password] {
            if field.is_empty() || field.len() > 255 {
                return Err(ProtoError::Credential { length: field.len() });
            }
        }
        Ok(Self { user, password })
    }

    /// The user name.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.user
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &[u8] {
        &self.password
    }

    /// Appends the credentials message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(CREDENTIALS_VERSION);
        for field in [&self.user, &self.password] {
            out.push(u8::try_from(field.len()).unwrap_or(u8::MAX));
            out.extend(field);
        }
    }
}

/// The greeting that offers `methods` (at most 255 of them).
#[must_use]
pub fn greeting(methods: &[u8]) -> Vec<u8> {
    let count = u8::try_from(methods.len()).unwrap_or(u8::MAX);
    let mut out = vec![VERSION, count];
    out.extend(methods.iter().take(usize::from(count)));
    out
}

/// Reads a greeting: the methods offered and its length, or `None` while some of it is missing.
///
/// # Errors
/// [`ProtoError::Version`]: this is not SOCKS5.
pub fn decode_greeting(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ProtoError> {
    let mut reader = Reader::new(bytes);
    match need!(reader.u8()) {
        VERSION => {}
        got => return Err(ProtoError::Version { got, wanted: VERSION }),
    }
    let methods = need!(reader.short());
    Ok(Some((methods, reader.used)))
}

/// Reads a credentials message and its length, or `None` while some of it is missing.
///
/// # Errors
/// [`ProtoError::Version`]: the subnegotiation's version is not 1. [`ProtoError::Credential`]: an empty field.
pub fn decode_credentials(bytes: &[u8]) -> Result<Option<(Credentials, usize)>, ProtoError> {
    let mut reader = Reader::new(bytes);
    match need!(reader.u8()) {
        CREDENTIALS_VERSION => {}
        got => return Err(ProtoError::Version { got, wanted: CREDENTIALS_VERSION }),
    }
    let user = need!(reader.short());
    let password = need!(reader.short());
    Ok(Some((Credentials::new(user, password)?, reader.used)))
}

/// The server's answer to credentials: status 0 is success.
#[must_use]
pub const fn credentials_status(accepted: bool) -> [u8; 2] {
    [CREDENTIALS_VERSION, if accepted { 0 } else { 1 }]
}

/// Reads the server's two-byte answer (version, value), or `None` while it is missing.
pub(super) fn answer(bytes: &[u8], wanted: u8) -> Result<Option<(u8, usize)>, ProtoError> {
    let mut reader = Reader::new(bytes);
    let got = need!(reader.u8());
    if got != wanted {
        return Err(ProtoError::Version { got, wanted });
    }
    let value = need!(reader.u8());
    Ok(Some((value, reader.used)))
}

pub(super) const fn credentials_version() -> u8 {
    CREDENTIALS_VERSION
}
