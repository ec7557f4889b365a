//! TCP connections from the pod, with the kernel's own reason when there is none.
//!
//! What the laptop's program sees of a failure is this errno and nothing else, so it must be the one that a program
//! in the pod would get: the kernel's SYN schedule is left to end by itself, and of several addresses the last one's
//! error counts, as with the usual loop over getaddrinfo(3).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tp_abi::errno::{self, reply};

use crate::limits::DIAL;
use crate::proto::Target;
use crate::resolve::{Families, ResolveError, Resolver};

/// Shortest time for one of several addresses.
const ADDRESS_MIN: Duration = Duration::from_secs(10);

/// Connects to `target` within [`DIAL`].
///
/// # Errors
/// The reply code (`tp_abi::errno::reply`) that tells the reason.
pub async fn connect(resolver: &Resolver, target: &Target) -> Result<TcpStream, u8> {
    let deadline = Instant::now() + DIAL;
    let dialed = timeout_at(deadline, async {
        let addresses = addresses(resolver, target).await?;
        connect_any(&addresses, deadline).await
    });
    let stream = dialed.await.unwrap_or(Err(reply::TTL_EXPIRED))?;
    stream.set_nodelay(true).map_err(|error| code(&error))?;
    Ok(stream)
}

async fn connect_any(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, u8> {
    let mut failed = reply::HOST_UNREACHABLE;
    for (place, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len().saturating_sub(place)).unwrap_or(1).max(1);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share.max(ADDRESS_MIN), TcpStream::connect(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = code(&error),
            Err(_) => failed = reply::TTL_EXPIRED,
        }
    }
    Err(failed)
}

/// The addresses of a target, at least one.
///
/// # Errors
/// The reply code that tells why there is none.
pub async fn addresses(resolver: &Resolver, target: &Target) -> Result<Vec<SocketAddr>, u8> {
    let (name, port) = match target {
        // A v4-mapped address is IPv4 also where the pod has no IPv6 at all.
        Target::Ip(address) => return Ok(vec![SocketAddr::new(address.ip().to_canonical(), address.port())]),
        Target::Name(name, port) => (name, *port),
    };
    let found = resolver.addresses(name, Families::BOTH).await.map_err(|error| unresolved(&error))?;
    Ok(found.into_iter().map(|ip: IpAddr| SocketAddr::new(ip, port)).collect())
}

/// The reply code for a name that was not resolved.
#[must_use]
pub fn unresolved(error: &ResolveError) -> u8 {
    match error {
        ResolveError::NoAnswer { .. } => reply::TTL_EXPIRED,
        _ => reply::HOST_UNREACHABLE,
    }
}

/// The reply code for an error of the kernel's.
#[must_use]
pub fn code(error: &io::Error) -> u8 {
    error.raw_os_error().map_or(reply::GENERAL_FAILURE, errno::to_reply)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn resolver() -> Resolver {
        Resolver::new("/nonexistent/resolv.conf", "/nonexistent/hosts")
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_an_open_one_connects() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        assert!(connect(&resolver(), &Target::Ip(open)).await.unwrap().nodelay().unwrap());
        let name = Target::Name("localhost".into(), open.port());
        assert_eq!(connect(&resolver(), &name).await.unwrap().peer_addr().unwrap(), open);
        let closed = Target::Ip(SocketAddr::from(([127, 77, 0, 1], 1)));
        let refused = connect(&resolver(), &closed).await.unwrap_err();
        assert_eq!(refused, reply::CONNECTION_REFUSED);
    }

    #[tokio::test]
    async fn a_v4_mapped_address_is_dialed_as_ipv4() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let mapped = Target::Ip(SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), open.port()));
        assert_eq!(connect(&resolver(), &mapped).await.unwrap().peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_the_first_one_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::from(([127, 0, 0, 2], open.port()));
        let deadline = Instant::now() + DIAL;
        assert_eq!(connect_any(&[closed, open], deadline).await.unwrap().peer_addr().unwrap(), open);
    }

    #[test]
    fn the_kernels_reason_becomes_the_reply() {
        let of = |errno| code(&io::Error::from_raw_os_error(errno));
        assert_eq!(of(errno::code::ETIMEDOUT), reply::TTL_EXPIRED);
        assert_eq!(of(errno::code::EHOSTUNREACH), reply::HOST_UNREACHABLE);
        assert_eq!(of(errno::code::ENETUNREACH), reply::NETWORK_UNREACHABLE);
        assert_eq!(code(&io::ErrorKind::Other.into()), reply::GENERAL_FAILURE);
    }
}
