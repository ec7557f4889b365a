//! Ports that Services bring here, where agents can take none in the workload's own pods.
//!
//! What keeps them from it is one of two things: this user may make no ephemeral containers, or admission lets none in that
//! has `NET_ADMIN`. Then the workload's Services are turned to a pod of our own ([`Turning`]), and what the program does not
//! want goes on to the app.

use std::error::Error as _;
use std::sync::Arc;

use socks_proxy::expose::wire::Protocol;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::beside::{self, Up};
use super::listen::{self, Seat};
use super::{ExposeError, Exposing, Shared};
use crate::kube::agent::{self, AgentError};
use crate::kube::own_pod::OwnPod;
use crate::kube::target::Target;
use crate::kube::turning::{TurnError, Turning};
use crate::session::SessionError;
use crate::tell::tell;
use crate::undo::Undo;

/// Services that lead here, and the task that turns them.
pub(super) struct Turned {
    turning: Arc<Turning>,
    taker: JoinHandle<()>,
}

impl Drop for Turned {
    fn drop(&mut self) {
        self.taker.abort();
    }
}

impl Turned {
    /// Gives them back, as long as our pod still passes on what comes.
    pub(super) async fn end(self) {
        self.taker.abort();
        for line in self.turning.give_back().await {
            tell(format_args!("{line}"));
        }
    }
}

/// If it is the workload's pods that cannot be had.
pub(super) fn are_for(error: &ExposeError) -> bool {
    match error {
        ExposeError::NoRights { .. } => true,
        ExposeError::Session(SessionError::Agent(AgentError::Api(error))) => agent::is_about_placement(error),
        _ => false,
    }
}

/// Takes the ports by Services; `first` is a pod of the workload. They lead here as soon as the program listens.
pub(super) async fn open(
    shared: Arc<Shared>,
    first: Target,
    undo: Arc<Undo>,
    refused: &ExposeError,
) -> Result<Exposing, ExposeError> {
    let (turning, own, up) = match begin(&shared, first, Arc::clone(&undo)).await {
        Err(error) => {
            let why = refused.source().map(|why| format!(" ({why})")).unwrap_or_default();
            tell(format_args!("{refused}{why}"));
            return Err(error);
        }
        begun => begun?,
    };
    tell(format_args!(
        "{refused}: so what comes to {} is led here by pod {}, as soon as the program listens; who talks to the \
         pods' own addresses still reaches the app",
        turning.said(),
        own.agent.pod
    ));
    for left in turning.left() {
        tell(format_args!("{left}; it still leads to the app"));
    }
    let done = CancellationToken::new();
    let seat = Seat::Services(Arc::clone(&turning));
    let supervisor = undo.spawn(listen::supervise(Arc::clone(&shared), seat, up, done.clone()));
    let taker = undo.spawn(take_over(Arc::clone(&turning)));
    Ok(Exposing { shared, done, supervisor, follower: None, turned: Some(Turned { turning, taker }) })
}

async fn begin(
    shared: &Shared,
    first: Target,
    undo: Arc<Undo>,
) -> Result<(Arc<Turning>, OwnPod, Up), ExposeError> {
    if shared.options.mirror {
        return Err(TurnError::Mirror.into());
    }
    let wanted: Vec<_> = beside::resolve(&shared.options.wanted, &first)?
        .into_iter()
        .map(|(protocol, port, _)| (protocol == Protocol::Udp, port))
        .collect();
    let (cluster, secret, image) = (shared.cluster.clone(), shared.secret.clone(), shared.image.clone());
    let turning = Arc::new(Turning::begin(cluster, secret, image, first, &wanted, undo).await?);
    let own = turning.pod().await?;
    let up = listen::take(shared, &own, &Seat::Services(Arc::clone(&turning))).await?;
    Ok((turning, own, up))
}

/// Turns the Services when our pod is ready, and tells what becomes of them.
async fn take_over(turning: Arc<Turning>) {
    if let Err(error) = turning.take_over(&|what| tell(format_args!("{what}"))).await {
        tell(format_args!("{} cannot be led here: {error}", turning.said()));
    }
}
