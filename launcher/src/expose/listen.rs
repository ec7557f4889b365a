//! Ports of a pod of our own: its agent listens on them itself, since there is no app to take them from.
//!
//! The pod is one that stands in for a workload (see [`StandIn`]), and Services find it when one more port is listened on,
//! which its readiness probe asks for. That one is opened last, when the program here listens on all of its own: nobody is
//! sent to a program that is still to start, and the workload's pods serve until then. When the link is lost, the agent
//! closes it with all others, and Services find nobody rather than somebody who does not answer.

use std::sync::Arc;
use std::time::Duration;

use socks_proxy::expose::wire::{Expose, Protocol, Way};
use socks_proxy::mux::Opener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::beside::{self, Up, said};
use super::{ExposeError, Exposing, Options, Origin, Shared, exposed, keep};
use crate::kube::own_pod::OwnPod;
use crate::kube::pods::Pods;
use crate::kube::stand_in::{StandIn, StandInError};
use crate::session::{SessionError, tell};

/// How often it is looked if the program listens.
const EVERY: Duration = Duration::from_millis(50);
/// The readiness port's number among the exposed ones: what arrives there is nobody's.
const READINESS: u32 = u32::MAX;

impl Exposing {
    /// Takes the ports in the pod of `stand_in`. They are taken when this returns; Services send there later.
    ///
    /// # Errors
    /// If they are not to be had.
    pub async fn in_place_of(
        options: Options,
        origin: Origin,
        stand_in: Arc<StandIn>,
    ) -> Result<Self, ExposeError> {
        let Origin { cluster, secret, image, workload, container } = origin;
        let pods = Pods::of(&cluster, &workload).await?;
        let own = stand_in.pod().await.map_err(SessionError::StandIn)?;
        let exposed = exposed(&options, &own.target)?;
        let who = crate::kube::own_pod::who();
        let run = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let program = Arc::default();
        let shared = Shared { cluster, secret, image, container, pods, options, exposed, who, run, program };
        let shared = Arc::new(shared);
        let up = take(&shared, &own).await?;
        let done = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(Arc::clone(&shared), stand_in, up, done.clone()));
        Ok(Self { shared, done, supervisor, follower: None })
    }
}

async fn take(shared: &Shared, own: &OwnPod) -> Result<Up, ExposeError> {
    let mut exposes = beside::exposes(shared, &own.target)?;
    for expose in &mut exposes {
        // Nobody has to be there before, and the kubelet asks elsewhere.
        (expose.way, expose.declared, expose.probes) = (Way::Listen, true, false);
    }
    beside::take(shared, &own.agent, &exposes).await
}

/// Keeps the ports in whatever pod stands in for the workload, until `done`.
async fn supervise(shared: Arc<Shared>, stand_in: Arc<StandIn>, up: Up, done: CancellationToken) {
    let mut up = Some(up);
    loop {
        let this = match up.take() {
            Some(up) => up,
            None => {
                let Some(up) = restore(&shared, &stand_in, &done).await else { return };
                tell(format_args!("{} of pod {} now leads here", said(&shared.exposed), up.agent.pod));
                up
            }
        };
        let pod = this.agent.pod.clone();
        let opener = this.link.opener.clone();
        let reason = tokio::select! {
            reason = keep::serve(&shared, this, &done) => reason,
            () = be_ready(&shared, &stand_in, opener, &pod, &done) => None,
        };
        let Some(reason) = reason else { return };
        warn!(pod, reason, "lost");
        tell(format_args!("{} of pod {pod} leads nowhere ({reason}); taking it back", said(&shared.exposed)));
    }
}

/// Opens the readiness port when the program listens on all of its own, and holds it; never returns.
async fn be_ready(shared: &Shared, stand_in: &StandIn, opener: Opener, pod: &str, done: &CancellationToken) {
    if let Some(port) = stand_in.ready_port() {
        for exposed in &shared.exposed {
            while !shared.program.listens(exposed.protocol, exposed.here.number).await {
                sleep(EVERY).await;
            }
        }
        match beside::ask(&opener, readiness(port, shared)).await {
            Ok(Ok(stream)) => {
                info!(pod, "ready");
                drop(opener);
                let held = keep::hold(stream, pod, done).await;
                debug!(?held, "readiness ended");
            }
            Ok(Err(_)) => warn!(pod, port, "the readiness port cannot be had"),
            Err(error) => warn!(pod, %error, "not ready"),
        }
    }
    std::future::pending().await
}

fn readiness(port: u16, shared: &Shared) -> Expose {
    Expose {
        id: READINESS,
        protocol: Protocol::Tcp,
        port,
        way: Way::Listen,
        filter: None,
        who: shared.who.clone(),
        run: shared.run,
        probes: false,
        nodes: Vec::new(),
        declared: true,
        app: None,
    }
}

/// Takes the ports again, in another pod if need be; [`None`] when there is nothing to take any more.
async fn restore(shared: &Shared, stand_in: &StandIn, done: &CancellationToken) -> Option<Up> {
    let mut wait = keep::RETRY.0;
    loop {
        let tried = async {
            let own = stand_in.pod().await.map_err(SessionError::StandIn)?;
            take(shared, &own).await
        };
        let tried = tokio::select! {
            tried = tried => tried,
            () = done.cancelled() => return None,
        };
        match tried {
            Ok(up) => return Some(up),
            Err(ExposeError::Session(SessionError::StandIn(error @ StandInError::GivenBack { .. }))) => {
                tell(format_args!("{error}; its ports do not lead here any more"));
                done.cancelled().await;
                return None;
            }
            Err(error) => debug!(%error, "cannot be taken yet"),
        }
        tokio::select! {
            () = sleep(wait) => wait = (wait * 2).min(keep::RETRY.1),
            () = done.cancelled() => return None,
        }
    }
}
