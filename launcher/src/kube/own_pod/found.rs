//! Pods of our own as they are found in the cluster, whosever they are: what they are for, and if their run is still there.
//!
//! Somebody may have put containers beside ours (a mesh's proxy, an agent for secrets), which go on when ours has ended, and
//! with them the pod's phase: so it is our container whose state tells. A pod that waits longer than any run waits for it
//! will never have one.

use ::kube::api::{Api, ListParams};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{LINGER_FOR, SESSION, WORKLOAD};
use crate::kube::agent::READY_LIMIT;
use crate::kube::target::Workload;
use crate::kube::{ApiError, Cluster};

/// If tp made this pod.
#[must_use]
pub fn is_ours(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(SESSION))
}

/// If Services of that workload lead to this pod of our own.
#[must_use]
pub fn stands_before(pod: &Pod, workload: &Workload) -> bool {
    let of = pod.metadata.annotations.as_ref().and_then(|all| all.get(WORKLOAD));
    is_ours(pod) && of.is_some_and(|of| *of == workload.to_string())
}

/// If the pod goes on when its run is gone, for Services that lead to it.
#[must_use]
pub fn outlives(pod: &Pod) -> bool {
    is_ours(pod) && pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(WORKLOAD))
}

/// The container of a pod of our own in which the agent is.
#[must_use]
pub fn agents_container(pod: &Pod) -> Option<&Container> {
    let is_agents =
        |container: &&Container| container.env.iter().flatten().any(|variable| variable.name == LINGER_FOR);
    pod.spec.as_ref().filter(|_| is_ours(pod))?.containers.iter().find(is_agents)
}

/// The port of a pod of our own by which it is ready, in which nobody but the kubelet is interested.
#[must_use]
pub fn ready_port(pod: &Pod) -> Option<u16> {
    let probe = agents_container(pod)?.readiness_probe.as_ref()?.tcp_socket.as_ref()?;
    match probe.port {
        IntOrString::Int(port) => u16::try_from(port).ok(),
        IntOrString::String(_) => None,
    }
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// If the agent in the pod has ended; its container is never started again.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let ours = agents_container(pod).map(|container| container.name.as_str());
    let mut statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let status = statuses.find(|status| Some(status.name.as_str()) == ours);
    let state = status.and_then(|status| status.state.as_ref());
    matches!(phase(pod), Some("Succeeded" | "Failed"))
        || state.is_some_and(|state| state.terminated.is_some())
}

/// If the run that made the pod has given up on it, `now` being seconds since 1970: its containers are not there yet.
fn is_overdue(pod: &Pod, now: u64) -> bool {
    phase(pod) == Some("Pending") && now.saturating_sub(made_at(&pod.metadata)) > READY_LIMIT.as_secs()
}

/// When an object was made, in seconds since 1970.
#[must_use]
pub fn made_at(metadata: &ObjectMeta) -> u64 {
    let made = metadata.creation_timestamp.as_ref();
    made.and_then(|time| u64::try_from(time.0.as_second()).ok()).unwrap_or(0)
}

/// If the agent in the pod may still be there for a run, `now` being seconds since 1970. One that is being deleted ends
/// soon, and its run makes another.
#[must_use]
pub fn may_live(pod: &Pod, now: u64) -> bool {
    !has_ended(pod) && !is_overdue(pod, now)
}

/// If a pod is there, is not being deleted and has not ended; one that cannot be asked for is taken to be.
pub async fn lives(cluster: &Cluster, name: &str) -> bool {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    match cluster.call("get", "pods", api.get(name)).await {
        Ok(pod) => pod.metadata.deletion_timestamp.is_none() && !has_ended(&pod),
        Err(ApiError::NotFound { .. }) => false,
        Err(_) => true,
    }
}

/// All pods of our own in the namespace: of a run, or of all.
///
/// # Errors
/// Those of the API server.
pub async fn all(cluster: &Cluster, session: Option<&str>) -> Result<Vec<Pod>, ApiError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let ours = session.map_or_else(|| SESSION.to_owned(), |session| format!("{SESSION}={session}"));
    let ours = ListParams::default().labels(&ours);
    Ok(cluster.call("list", "pods", api.list(&ours)).await?.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, state: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"labels": {SESSION: "x"}, "creationTimestamp": "1970-01-01T00:16:40Z"},
            "spec": {"containers": [
                {"name": "proxy"},
                {"name": "app", "env": [{"name": LINGER_FOR, "value": "30"}],
                    "readinessProbe": {"tcpSocket": {"port": 26000}}},
            ]},
            "status": {"phase": phase, "containerStatuses": [
                {"name": "proxy", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_whose_agent_has_ended_is_dead_whatever_runs_beside_it() {
        let ended = serde_json::json!({"terminated": {"exitCode": 0}});
        assert!(!may_live(&pod("Running", ended), 1010));
        let runs = pod("Running", serde_json::json!({"running": {}}));
        assert!(may_live(&runs, 1_000_000));
        assert_eq!(ready_port(&runs), Some(26_000));
    }

    #[test]
    fn a_pod_that_waits_longer_than_its_run_would_is_dead() {
        let waits = pod("Pending", serde_json::json!({"waiting": {"reason": "ErrImagePull"}}));
        let limit = READY_LIMIT.as_secs();
        assert!(may_live(&waits, 1000 + limit) && !may_live(&waits, 1001 + limit));
        assert!(may_live(&waits, 900), "made by a clock that is ahead");
    }
}
