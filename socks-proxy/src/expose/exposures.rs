//! All exposed ports of this agent.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::mux::Opener;
use crate::serve::Agent;

use super::conversation::converse;
use super::intake::Refused;
use super::ledger::Ledger;
use super::pod;
use super::port::{Port, Share};
use super::share::{CLAIM_EVERY, CLAIM_LIMIT, Claimed, claim, hold};
use super::wire::{Protocol, ToLauncher, Way};

/// Whose conversation it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    /// A launcher's.
    Launcher,
    /// Another agent's, for a launcher of its own.
    Agent,
}

/// Where a launcher's share is.
pub(super) enum Joined {
    /// In a port of this agent.
    Here(Arc<Port>),
    /// With the agent at the other end.
    Elsewhere(UnixStream),
    /// Nowhere; it is told why, unless it is an agent that is to look again.
    Nowhere(Option<ToLauncher>),
}

/// Ports by what they are.
#[derive(Debug, Default)]
pub struct Exposures {
    /// Ports are opened and closed one after the other: nobody sees one half made.
    ports: Mutex<HashMap<(Protocol, u16), Arc<Port>>>,
    pub(super) ledger: Ledger,
}

impl Exposures {
    /// Finds or opens the port of a share, and admits it there; waits while its name is in other hands and not served.
    pub(super) async fn join(&self, agent: &Arc<Agent>, share: &Arc<Share>, who: Who) -> Joined {
        let until = Instant::now() + CLAIM_LIMIT;
        loop {
            match self.try_join(agent, share, who).await {
                Ok(Some(joined)) => return joined,
                Ok(None) if Instant::now() < until => sleep(CLAIM_EVERY).await,
                Ok(None) => return Joined::Nowhere(Some(unserved())),
                Err(Refused { step, source }) => return Joined::Nowhere(Some(refused(&source, &step))),
            }
        }
    }

    /// `None`: it cannot be said at this moment.
    async fn try_join(
        &self,
        agent: &Arc<Agent>,
        share: &Arc<Share>,
        who: Who,
    ) -> Result<Option<Joined>, Refused> {
        let mut ports = self.ports.lock().await;
        let expose = &share.expose;
        let key = (expose.protocol, expose.port);
        if let Some(port) = ports.get(&key) {
            return Ok(Some(match port.admit(share) {
                Ok(()) => Joined::Here(port.clone()),
                Err(by) => Joined::Nowhere(Some(ToLauncher::Held { by })),
            }));
        }
        if matches!(who, Who::Agent) {
            return Ok(Some(Joined::Nowhere(None)));
        }
        let listener = match expose.way {
            // Who listens there has the port, whatever anybody says.
            Way::Listen => None,
            Way::Steal | Way::Mirror => match claim(expose.protocol, expose.port)? {
                Some(Claimed::Here(listener)) => Some(listener),
                Some(Claimed::Elsewhere(holder)) => return Ok(Some(Joined::Elsewhere(holder))),
                None => return Ok(None),
            },
        };
        if !expose.declared && !pod::is_served(expose.protocol, expose.port) {
            return Ok(Some(Joined::Nowhere(Some(ToLauncher::NobodyListens))));
        }
        let port = Port::open(expose, agent)?;
        // It is new: there is nobody who could have it.
        drop(port.admit(share));
        if let Some(listener) = listener {
            tokio::spawn(hold(agent.clone(), listener, port.closed.clone()));
        }
        ports.insert(key, port.clone());
        Ok(Some(Joined::Here(port)))
    }

    /// Takes a share back. A port that is nobody's then is closed: its rules are gone when this returns.
    pub(super) async fn leave(&self, port: &Port, share: &Arc<Share>, lost: bool) {
        let mut ports = self.ports.lock().await;
        if port.dismiss(share, lost) {
            ports.retain(|_, known| !std::ptr::eq(Arc::as_ptr(known), port));
        }
    }
}

fn refused(error: &io::Error, step: &str) -> ToLauncher {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    ToLauncher::Refused { errno, step: step.to_owned() }
}

/// The answer to whom nobody has answered.
pub(super) fn unserved() -> ToLauncher {
    refused(&io::Error::from_raw_os_error(libc::ETIMEDOUT), "reach the agent that has the port")
}

/// Serves an EXPOSE stream after reply 0, by whose session streams are opened.
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    opener: Opener,
) -> io::Result<()> {
    converse(agent, stream, opener, Who::Launcher).await
}
