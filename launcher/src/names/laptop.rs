//! Lookups by the laptop's own libc: for the names that the user keeps local (`--local`, `--only`).
//!
//! The launcher is not hooked, so its getaddrinfo(3) and getnameinfo(3) are what the program would have without tp. The
//! program's own libc cannot be asked: there, every lookup of hosts goes to the launcher.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dns_lookup::{AddrFamily, AddrInfoHints, SockType};
use tp_abi::errno::eai;

use crate::pod::{Found, LookupError, Want};

/// Looks a name up.
pub(super) async fn lookup(name: String, want: Want) -> Result<Found, LookupError> {
    blocking(move || {
        let address = match (want.v4, want.v6) {
            (true, false) => AddrFamily::Inet.into(),
            (false, true) => AddrFamily::Inet6.into(),
            _ => 0,
        };
        let flags = libc::AI_CANONNAME | if want.configured { libc::AI_ADDRCONFIG } else { 0 };
        let hints = AddrInfoHints { address, socktype: SockType::Stream.into(), flags, protocol: 0 };
        let mut found = Found {
            addresses: Vec::new(),
            canonical: name.clone(),
            aliases: Vec::new(),
            ttl: Duration::ZERO,
        };
        for info in dns_lookup::getaddrinfo(Some(&name), None, Some(hints)).map_err(failure)? {
            let info = info.map_err(LookupError::passing)?;
            found.addresses.push(info.sockaddr.ip());
            if let Some(canonical) = info.canonname {
                found.canonical = canonical;
            }
        }
        Ok(found)
    })
    .await
}

/// Looks up the name of an address.
pub(super) async fn reverse(ip: IpAddr) -> Result<String, LookupError> {
    blocking(move || {
        let address = SocketAddr::new(ip, 0);
        dns_lookup::getnameinfo(&address, libc::NI_NAMEREQD).map(|(name, _service)| name).map_err(failure)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, LookupError> + Send + 'static,
) -> Result<T, LookupError> {
    tokio::task::spawn_blocking(ask).await.unwrap_or_else(|ended| Err(LookupError::passing(ended)))
}

fn failure(error: dns_lookup::LookupError) -> LookupError {
    // EAI_SYSTEM says that errno tells more, which the program that asked will not see.
    let eai = if error.error_num() == libc::EAI_SYSTEM { eai::FAIL } else { error.error_num() };
    // Nothing is kept: the laptop's own caches are its own business.
    LookupError { eai, ttl: Duration::ZERO, reason: std::io::Error::from(error).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_the_laptops() {
        let want = Want { v4: true, v6: false, configured: false, as_told: false };
        let found = lookup("localhost".to_owned(), want).await.unwrap();
        assert_eq!(found.addresses, [IpAddr::from([127, 0, 0, 1])]);
        // No nameserver is asked for what is no name.
        let failed = lookup("no name".to_owned(), want).await.unwrap_err();
        assert_eq!(failed.eai, eai::NONAME);
    }
}
