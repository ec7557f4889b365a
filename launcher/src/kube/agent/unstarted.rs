//! Agents' containers that a run has made and that could not start yet.
//!
//! The kubelet tries them again by itself: an image may be there later, a Secret be made anew. A container that was put into
//! a pod stays in it for as long as the pod lives, so a run that tries again goes on with the one that it has made.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Agent, AgentError};
use crate::kube::target::Target;

/// One at most in each pod, by the pod's uid.
#[derive(Default)]
pub struct Unstarted(Mutex<BTreeMap<String, Agent>>);

impl Unstarted {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Agent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one in this pod.
    pub(super) fn of(&self, target: &Target) -> Option<Agent> {
        self.known().get(target.pod_uid()).cloned()
    }

    /// Keeps the agent if it may still start, else forgets it.
    pub(super) fn judge(
        &self,
        target: &Target,
        agent: Agent,
        begun: Result<(), AgentError>,
    ) -> Result<Agent, AgentError> {
        let uid = target.pod_uid().to_owned();
        match begun {
            Ok(()) => {
                self.known().remove(&uid);
                Ok(agent)
            }
            Err(error) => {
                if matches!(error, AgentError::CannotStart { .. } | AgentError::NotReady { .. }) {
                    self.known().insert(uid, agent);
                } else {
                    self.known().remove(&uid);
                }
                Err(error)
            }
        }
    }
}
