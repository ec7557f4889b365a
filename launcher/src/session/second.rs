//! The second link to an agent ([`Links`]): opened when it is first wanted, and kept while the first one goes to the same agent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use socks_proxy::mux::Opener;
use tokio::sync::{Notify, watch};
use tracing::{debug, info};

use super::link;
use crate::kube::Cluster;
use crate::kube::agent::Agent;
use crate::pod::agent::{Links, files};

/// How long it is not tried again when it could not be opened.
const PAUSE: Duration = Duration::from_secs(5);

/// Whoever opens the second link.
pub(super) struct Second {
    wanted: Arc<Notify>,
    /// session --the streams' opener, while there is one--> pod
    opener_tx: watch::Sender<Option<Opener>>,
}

impl Second {
    /// One that is not open, and the links for pods.
    pub(super) fn new(first_rx: watch::Receiver<Option<Opener>>) -> (Self, Links) {
        let (opener_tx, second_rx) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        (Self { wanted: Arc::clone(&wanted), opener_tx }, Links { first_rx, second_rx, wanted })
    }

    /// Opens it whenever it is wanted and not there.
    pub(super) async fn keep(&self, cluster: &Cluster, agent: &Agent) -> Infallible {
        loop {
            self.wanted.notified().await;
            if self.opener_tx.borrow().as_ref().is_some_and(|opener| !opener.is_closed()) {
                continue;
            }
            match link::open(cluster, agent, async |opener| files(&opener).await).await {
                Ok((link, _files)) => {
                    info!("a second link is up");
                    self.opener_tx.send_replace(Some(link.opener));
                }
                // All goes by the first one, as before.
                Err(error) => {
                    debug!(%error, "no second link");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Nothing more goes by it: it may lead to another agent than the first one will.
    pub(super) fn forget(&self) {
        self.opener_tx.send_replace(None);
    }
}
