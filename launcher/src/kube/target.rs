//! From what the user names (`--deployment web`, `sts/db`) to the one pod and container that the program stands for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ::kube::api::{Api, DynamicObject, ListParams};
use ::kube::core::{ApiResource, GroupVersionKind, Selector};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{ApiError, Cluster, nearest, own_pod};

/// Kinds of objects that have pods, or are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pod itself.
    Pod,
    /// apps/v1.
    Deployment,
    /// apps/v1.
    StatefulSet,
    /// apps/v1.
    DaemonSet,
    /// apps/v1.
    ReplicaSet,
    /// batch/v1.
    Job,
}

impl Kind {
    const ALL: [(Kind, &'static [&'static str]); 6] = [
        (Kind::Pod, &["pod", "pods", "po"]),
        (Kind::Deployment, &["deployment", "deployments", "deploy"]),
        (Kind::StatefulSet, &["statefulset", "statefulsets", "sts"]),
        (Kind::DaemonSet, &["daemonset", "daemonsets", "ds"]),
        (Kind::ReplicaSet, &["replicaset", "replicasets", "rs"]),
        (Kind::Job, &["job", "jobs"]),
    ];

    /// The resource's name in RBAC rules.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Kind::Pod => "pods",
            Kind::Deployment => "deployments.apps",
            Kind::StatefulSet => "statefulsets.apps",
            Kind::DaemonSet => "daemonsets.apps",
            Kind::ReplicaSet => "replicasets.apps",
            Kind::Job => "jobs.batch",
        }
    }

    /// The name of its scale subresource in RBAC rules, for kinds that can be scaled to nothing.
    pub(super) const fn scale(self) -> &'static str {
        match self {
            Kind::StatefulSet => "statefulsets.apps/scale",
            _ => "deployments.apps/scale",
        }
    }

    const fn singular(self) -> &'static str {
        match self {
            Kind::Pod => "pod",
            Kind::Deployment => "deployment",
            Kind::StatefulSet => "statefulset",
            Kind::DaemonSet => "daemonset",
            Kind::ReplicaSet => "replicaset",
            Kind::Job => "job",
        }
    }

    pub(super) fn api_resource(self) -> ApiResource {
        let gvk = match self {
            Kind::Pod => GroupVersionKind::gvk("", "v1", "Pod"),
            Kind::Deployment => GroupVersionKind::gvk("apps", "v1", "Deployment"),
            Kind::StatefulSet => GroupVersionKind::gvk("apps", "v1", "StatefulSet"),
            Kind::DaemonSet => GroupVersionKind::gvk("apps", "v1", "DaemonSet"),
            Kind::ReplicaSet => GroupVersionKind::gvk("apps", "v1", "ReplicaSet"),
            Kind::Job => GroupVersionKind::gvk("batch", "v1", "Job"),
        };
        ApiResource::from_gvk(&gvk)
    }
}

/// What the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.singular(), self.name)
    }
}

/// Not a `TYPE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not TYPE/NAME with a TYPE of pod, deployment, statefulset, daemonset, replicaset or job")]
pub struct WorkloadError(String);

impl FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let error = || WorkloadError(text.to_owned());
        let (kind, name) = text.split_once('/').ok_or_else(error)?;
        // `deployments.apps/web` is what kubectl prints with -o name.
        let kind = kind.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let kind = Kind::ALL.iter().find(|(_, names)| names.contains(&kind.as_str())).ok_or_else(error)?.0;
        if name.is_empty() || name.contains('/') {
            return Err(error());
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// The pod and container that the program stands for.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the user named.
    pub workload: Workload,
    /// The pod, as it was when it was chosen.
    pub pod: Pod,
    /// The container in it.
    pub container: String,
}

impl Target {
    /// The pod's addresses, at most one of each family (`status.podIPs`).
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let status = self.pod.status.iter();
        status
            .flat_map(|status| status.pod_ips.iter().flatten())
            .filter_map(|ip| ip.ip.parse().ok())
            .collect()
    }

    /// The container's specification.
    #[must_use]
    pub fn spec(&self) -> Option<&Container> {
        containers(&self.pod).find(|container| container.name == self.container)
    }

    /// The pod's name.
    #[must_use]
    pub fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// The pod's uid.
    #[must_use]
    pub fn pod_uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// Why there is no such pod.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The API server's doing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No such namespace.
    #[error("there is no namespace `{name}`")]
    NoNamespace {
        /// What was asked for.
        name: String,
        /// What comes closest.
        nearest: Vec<String>,
    },
    /// No such object.
    #[error("there is no {workload} in namespace `{namespace}`")]
    NoWorkload {
        /// What was asked for.
        workload: Workload,
        /// Where.
        namespace: String,
        /// What comes closest.
        nearest: Vec<String>,
    },
    /// The object selects no pods.
    #[error("{workload} has no selector, so its pods cannot be found")]
    NoSelector {
        /// The object.
        workload: Workload,
    },
    /// There are no pods that could be used.
    #[error("{workload} in namespace `{namespace}` has no ready pod")]
    NoPod {
        /// The object.
        workload: Workload,
        /// Where.
        namespace: String,
        /// What its pods are doing instead; empty if it has none.
        pods: Vec<String>,
    },
    /// No such container.
    #[error("pod `{pod}` has no container `{name}`")]
    NoContainer {
        /// The pod.
        pod: String,
        /// What was asked for.
        name: String,
        /// The containers that it has.
        containers: Vec<String>,
    },
}

/// Finds the pod and container. Of several ready pods, `prefer` says which is best (highest first).
///
/// # Errors
/// If there is none.
pub async fn find(
    cluster: &Cluster,
    workload: &Workload,
    container: Option<&str>,
    prefer: impl Fn(&Pod) -> u8,
) -> Result<Target, TargetError> {
    let pod = match workload.kind {
        Kind::Pod => {
            let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
            match cluster.call("get", "pods", api.get(&workload.name)).await {
                Err(ApiError::NotFound { .. }) => return Err(missing(cluster, workload).await),
                other => other?,
            }
        }
        _ => choose(cluster, workload, prefer).await?,
    };
    if !is_usable(&pod, workload.kind == Kind::Pod) {
        return Err(no_pod(cluster, workload, &[pod]));
    }
    let container = choose_container(&pod, container)?;
    Ok(Target { workload: workload.clone(), pod, container })
}

async fn choose(
    cluster: &Cluster,
    workload: &Workload,
    prefer: impl Fn(&Pod) -> u8,
) -> Result<Pod, TargetError> {
    let selector = selector(cluster, workload).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let pods = cluster.call("list", "pods", pods.list(&ListParams::default().labels_from(&selector))).await?;
    let pods = pods.items;
    pods.iter()
        .filter(|pod| is_usable(pod, false) && !own_pod::is_ours(pod))
        .max_by_key(|pod| prefer(pod))
        .cloned()
        .ok_or_else(|| no_pod(cluster, workload, &pods))
}

/// What the workload knows its pods by.
pub(super) async fn selector(cluster: &Cluster, workload: &Workload) -> Result<Selector, TargetError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &workload.kind.api_resource());
    let object = match cluster.call("get", workload.kind.resource(), api.get(&workload.name)).await {
        Err(ApiError::NotFound { .. }) => return Err(missing(cluster, workload).await),
        other => other?,
    };
    object
        .data
        .pointer("/spec/selector")
        .and_then(|selector| serde_json::from_value::<LabelSelector>(selector.clone()).ok())
        .and_then(|selector| Selector::try_from(selector).ok())
        .filter(|selector| !selector.selects_all())
        .ok_or_else(|| TargetError::NoSelector { workload: workload.clone() })
}

/// Running, not on its way out, and ready; a pod that was named itself need not be ready: its network is there.
pub(super) fn is_usable(pod: &Pod, named: bool) -> bool {
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    running && pod.metadata.deletion_timestamp.is_none() && (named || is_ready(pod))
}

/// Whether Services send connections to the pod.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(super) fn no_pod<'a>(
    cluster: &Cluster,
    workload: &Workload,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> TargetError {
    let pods = pods.into_iter().take(5).map(describe).collect();
    TargetError::NoPod { workload: workload.clone(), namespace: cluster.namespace.clone(), pods }
}

/// What keeps a pod from being used, in the kubelet's words where it has some.
fn describe(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if own_pod::is_ours(pod) {
        let who = pod.metadata.annotations.as_ref().and_then(|all| all.get(own_pod::WHO));
        return format!("{name}: made by {} with tp", who.map_or("somebody", String::as_str));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return format!("{name}: being deleted");
    }
    let Some(status) = &pod.status else { return format!("{name}: no status yet") };
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        Some(format!("container `{}` is waiting, {reason}{message}", container.name))
    });
    let condition = || {
        let failing = status.conditions.iter().flatten().find(|condition| condition.status != "True")?;
        failing.message.clone().or_else(|| failing.reason.clone())
    };
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let reason = waiting.or_else(condition).unwrap_or_else(|| "not ready".to_owned());
    format!("{name}: {phase}, {reason}")
}

/// The containers of a pod that have an environment of their own: the workload's, then those that start before them,
/// as sidecars do (`restartPolicy: Always`).
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

/// As kubectl chooses it: the one asked for, the one that the annotation names, the first.
pub(super) fn choose_container(pod: &Pod, wanted: Option<&str>) -> Result<String, TargetError> {
    let names: Vec<String> = containers(pod).map(|container| container.name.clone()).collect();
    let annotated = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("kubectl.kubernetes.io/default-container"));
    match (wanted, annotated) {
        (Some(name), _) if names.iter().any(|known| known == name) => Ok(name.to_owned()),
        (None, Some(name)) if names.contains(name) => Ok(name.clone()),
        (None, _) => names.first().cloned().ok_or_else(|| no_container(pod, "", names.clone())),
        (Some(name), _) => Err(no_container(pod, name, names)),
    }
}

fn no_container(pod: &Pod, name: &str, containers: Vec<String>) -> TargetError {
    TargetError::NoContainer {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        name: name.to_owned(),
        containers,
    }
}

/// Says what is missing, the object or its whole namespace, and what comes closest.
pub(super) async fn missing(cluster: &Cluster, workload: &Workload) -> TargetError {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let found = cluster.call("get", "namespaces", namespaces.get(&cluster.namespace)).await;
    // Who may not read namespaces is told about the object, which is true as well.
    if matches!(found, Err(ApiError::NotFound { .. })) {
        let listed =
            cluster.call("list", "namespaces", namespaces.list_metadata(&ListParams::default())).await;
        let names = listed.ok().into_iter().flat_map(|list| list.items).filter_map(|item| item.metadata.name);
        return TargetError::NoNamespace {
            name: cluster.namespace.clone(),
            nearest: nearest(&cluster.namespace, names),
        };
    }
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &workload.kind.api_resource());
    let listed =
        cluster.call("list", workload.kind.resource(), api.list_metadata(&ListParams::default())).await;
    let names = listed.ok().into_iter().flat_map(|list| list.items).filter_map(|item| item.metadata.name);
    TargetError::NoWorkload {
        workload: workload.clone(),
        namespace: cluster.namespace.clone(),
        nearest: nearest(&workload.name, names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_spelling_of_a_type_is_understood() {
        for text in ["deploy/web", "deployment/web", "Deployments/web", "deployment.apps/web"] {
            let workload: Workload = text.parse().unwrap();
            assert_eq!((workload.kind, workload.name.as_str()), (Kind::Deployment, "web"));
        }
        for text in ["web", "service/web", "deploy/", "/web", "deploy/a/b"] {
            assert!(text.parse::<Workload>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_container_is_the_one_that_kubectl_would_take() {
        let two = serde_json::json!({"containers": [{"name": "app"}, {"name": "sidecar"}]});
        let plain = pod(serde_json::json!({"metadata": {"name": "p"}, "spec": two}));
        let annotated = pod(serde_json::json!({
            "metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "sidecar"}}, "spec": two
        }));
        assert_eq!(choose_container(&plain, None).unwrap(), "app");
        assert_eq!(choose_container(&annotated, None).unwrap(), "sidecar");
        assert_eq!(choose_container(&annotated, Some("app")).unwrap(), "app");
        let with_init = pod(serde_json::json!({
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "proxy", "restartPolicy": "Always"}]}
        }));
        assert_eq!(choose_container(&with_init, None).unwrap(), "app");
        assert_eq!(choose_container(&with_init, Some("proxy")).unwrap(), "proxy");
        let error = choose_container(&plain, Some("ap")).unwrap_err();
        assert!(
            matches!(error, TargetError::NoContainer { containers, .. } if containers == ["app", "sidecar"])
        );
    }

    #[test]
    fn a_pod_is_used_when_it_runs_and_is_ready_and_stays() {
        let with = |ready: &str, deleted: bool| {
            let mut value = serde_json::json!({
                "metadata": {"name": "p"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
            });
            if deleted {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            pod(value)
        };
        assert!(is_usable(&with("True", false), false));
        assert!(!is_usable(&with("False", false), false));
        assert!(is_usable(&with("False", false), true));
        assert!(!is_usable(&with("True", true), true));
    }

    #[test]
    fn a_pod_that_cannot_be_used_is_described_in_the_kubelets_words() {
        let waiting = pod(serde_json::json!({
            "metadata": {"name": "p"},
            "status": {"phase": "Pending", "containerStatuses": [{
                "name": "app", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
            }]}
        }));
        assert_eq!(describe(&waiting), "p: Pending, container `app` is waiting, ErrImagePull: no such image");
    }
}
