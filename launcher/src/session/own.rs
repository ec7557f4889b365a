//! The pod of our own that a session goes through where this user may make no ephemeral containers.
//!
//! It belongs to this run alone: a lost link is restored to it for as long as it lives, and when it was evicted, drained
//! or deleted, or its node does not answer any more, the next one is made after a pod that the workload has then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use crate::kube::agent::{Agent, AgentError, Image, Secret};
use crate::kube::own_pod::{self, OwnPod, Purpose};
use crate::kube::target::Target;
use crate::kube::{ApiError, Cluster};
use crate::undo::Undo;

/// How long one that runs may give no link: its agent has ended by then, wherever its node is.
const SILENT_LIMIT: Duration = Duration::from_secs(own_pod::LINGER.as_secs() + 5);

/// The pod, if there is one, and since when it gives no link.
#[derive(Default)]
pub(super) struct Own(Mutex<Option<(OwnPod, Option<Instant>)>>);

impl Own {
    fn known(&self) -> MutexGuard<'_, Option<(OwnPod, Option<Instant>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to try before anything else.
    pub(super) fn place(&self) -> Option<(Agent, Target)> {
        self.known().as_ref().map(|(own, _)| (own.agent.clone(), own.target.clone()))
    }

    /// It gave a link.
    pub(super) fn answered(&self) {
        if let Some((_, silent)) = &mut *self.known() {
            *silent = None;
        }
    }

    /// Whether it is worth to be tried again after it gave no link. One that is not is forgotten.
    pub(super) async fn lives(&self, cluster: &Cluster) -> bool {
        let (name, silent) = match &mut *self.known() {
            Some((own, silent)) => (own.agent.pod.clone(), *silent.get_or_insert_with(Instant::now)),
            None => return false,
        };
        let lives = silent.elapsed() < SILENT_LIMIT && own_pod::lives(cluster, &name).await;
        if !lives {
            info!(pod = name, "own pod gone");
            *self.known() = None;
        }
        lives
    }

    /// Makes one, since `refused` says that there can be no ephemeral container.
    ///
    /// # Errors
    /// `refused`, if this user may not make pods either; else why there is none.
    pub(super) async fn make(
        &self,
        cluster: &Cluster,
        secret: &Secret,
        template: &Target,
        image: &Image,
        undo: &Undo,
        refused: ApiError,
    ) -> Result<(Agent, Target), AgentError> {
        info!(why = %refused, "no ephemeral container; a pod of tp's own beside the workload's takes its place");
        let made = own_pod::make(cluster, secret, template, image, &Purpose::Beside, undo).await;
        let own = match made {
            Err(AgentError::Api(ApiError::Forbidden { verb, resource: "pods", .. })) => {
                return Err(neither(refused, verb).into());
            }
            made => made?,
        };
        let place = (own.agent.clone(), own.target.clone());
        *self.known() = Some((own, None));
        Ok(place)
    }
}

/// One refusal that tells of both ways.
fn neither(refused: ApiError, verb: &'static str) -> ApiError {
    match refused {
        ApiError::Forbidden { verb: first, resource, namespace, .. } => ApiError::Forbidden {
            verb: first,
            resource,
            source: format!(
                "the API server's own answer to the question whether it is allowed; a pod of tp's own could take the \
                 place of an ephemeral container, but neither is this: {verb} pods"
            )
            .into(),
            namespace,
        },
        other => other,
    }
}
