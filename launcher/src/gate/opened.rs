//! Sockets that apps have connected themselves, by a SOCKS5 server, and where to: no connection of the launcher's tells when they
//! are closed, so now and then the kernel is asked which of them are still there (sock_diag(7)).

use std::collections::HashMap;
use std::net::SocketAddr;

use tracing::debug;

use crate::sys::diagnose;

/// So many may be known before those that are gone are looked for.
const MANY: usize = 4096;

/// Where they asked to go, by their cookies.
#[derive(Default)]
pub(super) struct Opened {
    asked: HashMap<u64, SocketAddr>,
    /// How many were still there at the last look.
    stayed: usize,
}

impl Opened {
    /// One more.
    pub(super) fn add(&mut self, cookie: u64, asked: SocketAddr) {
        if self.asked.len() >= MANY + 2 * self.stayed {
            // On a netlink socket of its own: what is left of a list that broke off would be taken for the next answer.
            match diagnose::here().and_then(|socket| diagnose::cookies(&socket)) {
                Ok(there) => self.asked.retain(|cookie, _| there.contains(cookie)),
                Err(error) => {
                    debug!(%error, "which sockets are gone is not known");
                    self.asked.clear();
                }
            }
            self.stayed = self.asked.len();
        }
        self.asked.insert(cookie, asked);
    }

    /// Where a socket asked to go.
    pub(super) fn asked(&self, cookie: u64) -> Option<SocketAddr> {
        self.asked.get(&cookie).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::sys::socket;

    #[test]
    fn those_that_are_closed_are_forgotten() {
        let mut opened = Opened::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        let kept = socket::cookie(&app).unwrap();
        opened.add(kept, to);
        // No socket has such cookies: the kernel counts from one on.
        for cookie in 0..2 * MANY as u64 {
            opened.add(u64::MAX - cookie, to);
        }
        assert_eq!(opened.asked(kept), Some(to));
        assert!(opened.asked.len() <= MANY + 2);
        assert_eq!(opened.asked(u64::MAX), None);
    }
}
