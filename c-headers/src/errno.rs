//! The one table between what the far end said and what a program is told: SOCKS reply codes, errno values and
//! `getaddrinfo` errors. Nothing else in the project maps errors.
//!
//! The numbers are Linux' generic ABI (x86-64, aarch64, riscv64), written out because this crate has no
//! dependencies; a test in the shim holds them against `libc`.

/// Linux errno values that tp hands to a program (errno(3)).
pub mod code {
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// Too many open files in the system: the launcher has no descriptor left.
    pub const ENFILE: i32 = 23;
    /// Permission denied: a rule of the proxy, or a network policy that answers, forbids it.
    pub const EACCES: i32 = 13;
    /// Network is down: the launcher is not there. The shim fails closed with this one.
    pub const ENETDOWN: i32 = 100;
    /// Network is unreachable.
    pub const ENETUNREACH: i32 = 101;
    /// Software caused connection abort: connect() on a socket whose failure was fetched by `SO_ERROR`.
    pub const ECONNABORTED: i32 = 103;
    /// Connection reset by peer.
    pub const ECONNRESET: i32 = 104;
    /// No buffer space available: the launcher has no descriptor left.
    pub const ENOBUFS: i32 = 105;
    /// Connection timed out.
    pub const ETIMEDOUT: i32 = 110;
    /// Connection refused.
    pub const ECONNREFUSED: i32 = 111;
    /// No route to host.
    pub const EHOSTUNREACH: i32 = 113;
}

/// What the shim gives a program when the launcher cannot be asked: never the real network.
pub const LAUNCHER_GONE: i32 = code::ENETDOWN;

/// Reply codes of RFC 1928, section 6.
pub mod reply {
    /// Succeeded.
    pub const SUCCEEDED: u8 = 0;
    /// General SOCKS server failure.
    pub const GENERAL_FAILURE: u8 = 1;
    /// Connection not allowed by ruleset.
    pub const NOT_ALLOWED: u8 = 2;
    /// Network unreachable.
    pub const NETWORK_UNREACHABLE: u8 = 3;
    /// Host unreachable.
    pub const HOST_UNREACHABLE: u8 = 4;
    /// Connection refused.
    pub const CONNECTION_REFUSED: u8 = 5;
    /// TTL expired; by long custom also "timed out".
    pub const TTL_EXPIRED: u8 = 6;
    /// Command not supported.
    pub const COMMAND_NOT_SUPPORTED: u8 = 7;
    /// Address type not supported.
    pub const ADDRESS_NOT_SUPPORTED: u8 = 8;
    /// tp's own: an errno that none of the others means is sent with this bit. RFC 1928 assigns nothing above 8, and Linux
    /// errno values of sockets are below 128.
    pub const ERRNO: u8 = 0x80;
}

/// The errno that a program gets for a SOCKS reply. A code that names no cause becomes `EHOSTUNREACH`: the dial
/// failed, and it was not the far end that refused. Codes with [`reply::ERRNO`] are for the agent's replies alone: Tor's
/// servers mean something else by them.
#[must_use]
pub const fn from_reply(code: u8) -> i32 {
    match code {
        reply::SUCCEEDED => 0,
        reply::NOT_ALLOWED => code::EACCES,
        reply::NETWORK_UNREACHABLE => code::ENETUNREACH,
        reply::CONNECTION_REFUSED => code::ECONNREFUSED,
        reply::TTL_EXPIRED => code::ETIMEDOUT,
        own if own > reply::ERRNO => (own ^ reply::ERRNO) as i32,
        _ => code::EHOSTUNREACH,
    }
}

/// The SOCKS reply that carries an errno of the agent's own `connect()`.
#[must_use]
pub const fn to_reply(errno: i32) -> u8 {
    match errno {
        0 => reply::SUCCEEDED,
        code::EACCES => reply::NOT_ALLOWED,
        code::ENETUNREACH => reply::NETWORK_UNREACHABLE,
        code::EHOSTUNREACH => reply::HOST_UNREACHABLE,
        code::ECONNREFUSED => reply::CONNECTION_REFUSED,
        code::ETIMEDOUT => reply::TTL_EXPIRED,
        1..=127 => reply::ERRNO | errno as u8,
        _ => reply::GENERAL_FAILURE,
    }
}

/// Errors of `getaddrinfo` (netdb.h of glibc; negative there, and so here).
pub mod eai {
    /// The name or service is not known.
    pub const NONAME: i32 = -2;
    /// Temporary failure in name resolution.
    pub const AGAIN: i32 = -3;
    /// Non-recoverable failure in name resolution.
    pub const FAIL: i32 = -4;
    /// The name exists and has no address of the family asked for.
    pub const NODATA: i32 = -5;
    /// Memory allocation failure.
    pub const MEMORY: i32 = -10;
}

/// Values of `h_errno` (netdb.h), the older resolver functions' errors.
pub mod host {
    use super::eai;

    /// The trouble is the caller's or the machine's, and errno says which.
    pub const INTERNAL: i32 = -1;
    /// The host is not known.
    pub const NOT_FOUND: i32 = 1;
    /// No name server could be asked.
    pub const TRY_AGAIN: i32 = 2;
    /// A name server failed for good.
    pub const NO_RECOVERY: i32 = 3;
    /// The name exists and has no address of the family asked for.
    pub const NO_DATA: i32 = 4;

    /// The `h_errno` that says what an `EAI_*` says.
    #[must_use]
    pub const fn from_eai(error: i32) -> i32 {
        match error {
            eai::NONAME => NOT_FOUND,
            eai::AGAIN => TRY_AGAIN,
            eai::NODATA => NO_DATA,
            eai::MEMORY => INTERNAL,
            _ => NO_RECOVERY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_and_a_silent_server_stay_different_in_h_errno() {
        assert_eq!(host::from_eai(eai::NONAME), host::NOT_FOUND);
        assert_eq!(host::from_eai(eai::AGAIN), host::TRY_AGAIN);
        assert_eq!(host::from_eai(eai::NODATA), host::NO_DATA);
        assert_eq!(host::from_eai(eai::FAIL), host::NO_RECOVERY);
    }

    #[test]
    fn every_errno_of_a_socket_comes_back_as_itself() {
        for errno in 0..128 {
            assert_eq!(from_reply(to_reply(errno)), errno);
        }
        for (errno, code) in [(code::EACCES, 2), (code::ENETUNREACH, 3), (code::EHOSTUNREACH, 4)] {
            assert_eq!(to_reply(errno), code, "what RFC 1928 has a word for is said with it");
        }
    }

    #[test]
    fn no_failure_ever_becomes_a_success() {
        for errno in 1..4096 {
            assert_ne!(to_reply(errno), reply::SUCCEEDED);
        }
        for reply in 1..=255 {
            assert_ne!(from_reply(reply), 0);
        }
    }
}
