//! The one connection to an agent, with the proof that it works: something is asked over it at once.
//!
//! A port-forward opens whether or not somebody listens on the port, and a link says hello before it is answered; so
//! nothing is known before the first answer. What kept it from coming the link knows, and its streams do not.

use std::future::Future;
use std::io;
use std::time::Duration;

use socks_proxy::link::{self, LinkError};
use socks_proxy::mux::{self, Arrivals, Opener};
use tokio::task::JoinHandle;

use super::SessionError;
use crate::kube::agent::Agent;
use crate::kube::{Cluster, forward};

/// How long the first answer over a new link may take.
const LIMIT: Duration = Duration::from_secs(8);
/// How much later than its streams a link can be seen to have ended.
const LATER: Duration = Duration::from_millis(100);

/// A link that is up.
pub(crate) struct Link {
    /// Opens streams to the agent.
    pub opener: Opener,
    /// The streams that the agent opens; dropped, those are reset.
    pub arrivals: Arrivals,
    /// What moves it, until its end. It ends, too, when nobody has the opener or a stream any more.
    pub driver: JoinHandle<io::Result<()>>,
}

/// Opens the link to an agent; gives what was asked over it, too.
///
/// # Errors
/// If there is no answer in time, or not that of an agent of ours.
pub(crate) async fn open<T, F>(
    cluster: &Cluster,
    agent: &Agent,
    ask: impl FnOnce(Opener) -> F,
) -> Result<(Link, T), SessionError>
where
    F: Future<Output = io::Result<T>>,
{
    let forward = forward::open(cluster, &agent.pod, agent.port).await?;
    let (opener, arrivals, driver) = mux::client(link::connect(forward, &agent.token));
    let mut driver = tokio::spawn(driver);
    let error = match tokio::time::timeout(LIMIT, ask(opener.clone())).await {
        Ok(Ok(answer)) => return Ok((Link { opener, arrivals, driver }, answer)),
        Ok(Err(error)) => error,
        Err(_elapsed) => io::Error::from(io::ErrorKind::TimedOut),
    };
    // The stream's error says that the link ended; the link's own says why.
    let of_link = tokio::time::timeout(LATER, &mut driver).await;
    driver.abort();
    let error = match of_link {
        Ok(Ok(Err(error))) => error,
        _ => error,
    };
    let (pod, container) = (agent.pod.clone(), agent.container.clone());
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<LinkError>());
    Err(match refused {
        Some(LinkError::Refused) => SessionError::Refused { pod, container },
        _ => SessionError::Link { pod, container, source: error },
    })
}
