//! A pod of our own, made from a workload's template, with the agent as its only container.
//!
//! An ephemeral container needs `patch pods/ephemeralcontainers`, which Kubernetes' own `edit` role lacks, and a pod that
//! runs. Where one of the two is missing, a pod beside the workload's has what theirs have: labels (network policies go
//! by them), service account, environment, volumes, resolver. What would make it one of the workload's it has not: other
//! containers, probes, hooks, and the labels by which controllers count their pods. A controller adopts every pod without
//! a controller that its selector matches, so a pod that a DaemonSet or a bare ReplicaSet would take has the pod it was
//! made after as its controller.
//!
//! Beside the workload's pods ([`Purpose::Beside`]) no Service sends to it: it has a readiness gate that nobody ever passes.
//! (One with `publishNotReadyAddresses` names it in the DNS all the same.)
//! Else it is ready when a port is listened on that the agent opens last. (`pods/status`, where conditions are, is not for
//! everybody who may make pods.)
//!
//! | on the way out | what ends it |
//! |---|---|
//! | whatever way tp ends | it is deleted: noted in [`Undo`] before it is made |
//! | tp is killed before the agent is there | as any agent (see [`super::agent`]); it is not restarted |
//! | tp is killed afterwards | the agent ends [`LINGER`] after its last session; [`Purpose::Instead`] goes on |
//! | all else | `activeDeadlineSeconds` |
//!
//! What is left of a killed run is a finished pod, which uses nothing; the next pod of our own in the namespace sweeps it. An
//! agent that cannot be started is deleted at once ([`Created::begin`]).

mod found;

use std::collections::BTreeMap;
use std::time::Duration;

use ::kube::api::{Api, DeleteParams, PostParams};
use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, EnvVar, EphemeralContainer, NodeAffinity, NodeSelectorRequirement,
    NodeSelectorTerm, Pod, PodReadinessGate, PodSecurityContext, PodSpec, PreferredSchedulingTerm, Probe,
    Sysctl, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tracing::{debug, info};

use super::agent::{self, Agent, AgentError, Image, Secret};
use super::target::Target;
use super::{ApiError, Cluster, access};
use crate::undo::{Noted, Undo};

pub use found::{
    agents_container, all, has_ended, is_ours, lives, made_at, may_live, outlives, ready_port, stands_before,
};

/// How long the agent stays after its last session: as long as a link takes to be restored.
pub const LINGER: Duration = Duration::from_secs(30);
/// How long such a pod may run in all, whatever else fails.
const DEADLINE: Duration = Duration::from_secs(3 * 24 * 3600);
/// How long its deletion may take: the agent gives open connections that long to end.
const GRACE: Duration = Duration::from_secs(10);

/// How long a running pod's addresses are waited for, and how often they are looked for.
const ADDRESSES_LIMIT: Duration = Duration::from_secs(10);
const ADDRESSES_EVERY: Duration = Duration::from_millis(100);

/// Label of everything that tp makes in a cluster; its value is [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "tp";
/// Label of everything that tp makes in a cluster: the run that made it.
pub const SESSION: &str = "tp.dev/session";
/// Annotation of everything that tp makes in a cluster: whose it is, as `user@machine`.
pub const WHO: &str = "tp.dev/who";
/// Annotation of a pod to which Services of a workload are turned: the workload, as `deployment/NAME`.
pub const WORKLOAD: &str = "tp.dev/workload";
/// The variable that tells an agent how long to stay without a session; of our containers only those in pods of our own
/// have it.
const LINGER_FOR: &str = "TP_AGENT_LINGER";
/// Nobody ever sets this condition.
const NEVER: &str = "tp.dev/never-ready";

/// Labels by which controllers know their pods; a pod of our own must not have them.
const OF_CONTROLLERS: [&str; 10] = [
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/job-completion-index",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

/// Annotations by which a workload has a proxy in its pods, or has none: what its pods may talk to depends on it, so it is
/// the same for ours.
const OF_PROXIES: [&str; 5] = [
    "sidecar.istio.io/inject",
    "linkerd.io/inject",
    "kuma.io/sidecar-injection",
    "consul.hashicorp.com/connect-inject",
    "dapr.io/enabled",
];

/// What the pod is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A place to dial from, beside the workload's pods, and never ready.
    Beside,
    /// It takes connections in place of the workload's pods.
    StandIn {
        /// It is ready while this port of it is listened on; without one it never is.
        ready_port: Option<u16>,
        /// Labels by which its own pods are told apart, as those of a stateful set's first pod.
        labels: BTreeMap<String, String>,
    },
    /// It takes what Services send to it, and passes on what its run does not want; all of it, when that is gone.
    Instead {
        /// It is ready while this port of it is listened on.
        ready_port: u16,
        /// In place of those by which Services know the workload's pods.
        labels: BTreeMap<String, String>,
    },
}

impl Purpose {
    pub(super) const fn ready_port(&self) -> Option<u16> {
        match self {
            Self::Beside => None,
            Self::StandIn { ready_port, .. } => *ready_port,
            Self::Instead { ready_port, .. } => Some(*ready_port),
        }
    }

    const fn labels(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Beside => None,
            Self::StandIn { labels, .. } | Self::Instead { labels, .. } => Some(labels),
        }
    }

    const fn linger(&self) -> Duration {
        match self {
            Self::Beside | Self::StandIn { .. } => LINGER,
            Self::Instead { .. } => DEADLINE,
        }
    }
}

/// A pod of our own whose agent listens.
#[derive(Clone)]
pub struct OwnPod {
    /// The pod, and the container that stands for the workload's.
    pub target: Target,
    /// The agent in it.
    pub agent: Agent,
}

/// A pod of our own that was made, whose agent is still to start.
pub struct Created {
    cluster: Cluster,
    pod: Pod,
    template: Target,
    agent: Agent,
    image: Image,
    program: Vec<u8>,
    noted: Noted,
}

/// Makes a pod after `template`, a pod of the workload or what would become one, and waits until the agent in it listens.
///
/// # Errors
/// If it does not come to that; admission's words are in [`ApiError::Other`]. Nothing is left of it then.
pub async fn make(
    cluster: &Cluster,
    secret: &Secret,
    template: &Target,
    image: &Image,
    purpose: &Purpose,
    undo: &Undo,
) -> Result<OwnPod, AgentError> {
    create(cluster, secret, template, image, purpose, &new_session(), undo).await?.begin(undo).await
}

/// Makes a pod for the run `session`, and does not wait for it.
///
/// # Errors
/// As [`make`].
pub async fn create(
    cluster: &Cluster,
    secret: &Secret,
    template: &Target,
    image: &Image,
    purpose: &Purpose,
    session: &str,
    undo: &Undo,
) -> Result<Created, AgentError> {
    let program = agent::read_program(image).await?;
    let needed = [&[("create", "pods"), ("delete", "pods")][..], &agent::needed(image)].concat();
    access::check(cluster, &needed).await?;
    let name = name(&template.workload.name);
    let (agent, container) = agent::in_own_pod(secret, template, &name, session, image, &program);
    let wanted = pod(template, &name, session, container, purpose);
    sweep(cluster).await;
    let noted = note(cluster, &name, undo);
    let making = cluster.clone();
    let made = undo.change(async move {
        let api: Api<Pod> = Api::namespaced(making.client.clone(), &making.namespace);
        making.call("create", "pods", api.create(&PostParams::default(), &wanted)).await
    });
    let pod = made.await?;
    info!(pod = name, "own pod created");
    let (cluster, template, image) = (cluster.clone(), template.clone(), image.clone());
    Ok(Created { cluster, pod, template, agent, image, program, noted })
}

impl Created {
    /// Waits until the agent listens.
    ///
    /// # Errors
    /// If it does not come to that. The pod is deleted then: whoever tries again makes another.
    pub async fn begin(self, undo: &Undo) -> Result<OwnPod, AgentError> {
        let Self { cluster, pod, template, agent, image, program, .. } = &self;
        let begun = async {
            agent::begin(cluster, agent, image, program).await?;
            with_addresses(cluster, pod.clone()).await
        };
        match begun.await {
            Ok(pod) => Ok(OwnPod { target: Target { pod, ..template.clone() }, agent: agent.clone() }),
            Err(error) => {
                self.give_up(undo).await;
                Err(error)
            }
        }
    }

    /// Deletes the pod; what cannot be now is left to `undo`.
    pub(super) async fn give_up(self, undo: &Undo) {
        match remove(&self.cluster, &self.agent.pod).await {
            Ok(()) => undo.forget(self.noted),
            Err(error) => debug!(%error, pod = self.agent.pod, "cannot be deleted now"),
        }
    }
}

/// The pod with its addresses in its status: the kubelet tells them up to a second after its containers run.
async fn with_addresses(cluster: &Cluster, mut pod: Pod) -> Result<Pod, AgentError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = pod.metadata.name.clone().unwrap_or_default();
    let until = tokio::time::Instant::now() + ADDRESSES_LIMIT;
    while pod.status.as_ref().is_none_or(|status| status.pod_ips.is_none()) {
        pod = match cluster.call("get", "pods", api.get(&name)).await {
            Err(ApiError::NotFound { .. }) => return Err(AgentError::PodGone { pod: name }),
            looked => looked?,
        };
        if tokio::time::Instant::now() > until {
            break;
        }
        tokio::time::sleep(ADDRESSES_EVERY).await;
    }
    Ok(pod)
}

fn note(cluster: &Cluster, name: &str, undo: &Undo) -> Noted {
    let by_hand = format!("kubectl delete pod {name} -n {}", cluster.namespace);
    let (cluster, pod) = (cluster.clone(), name.to_owned());
    undo.note(format!("making pod `{name}`"), by_hand, move || async move {
        remove(&cluster, &pod).await.map_err(Into::into)
    })
}

/// Deletes a pod of our own; one that is gone is fine.
///
/// # Errors
/// Those of the API server.
pub async fn remove(cluster: &Cluster, name: &str) -> Result<(), ApiError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    match cluster.call("delete", "pods", api.delete(name, &DeleteParams::default())).await {
        Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes what killed runs left: pods whose agent has ended, or will never be.
async fn sweep(cluster: &Cluster) {
    let pods = all(cluster, None).await.unwrap_or_default();
    if pods.is_empty() {
        return;
    }
    let now = cluster.time().await;
    for pod in pods {
        let is_left = !may_live(&pod, now) && pod.metadata.deletion_timestamp.is_none();
        let (true, Some(name)) = (is_left, pod.metadata.name) else { continue };
        let removed = remove(cluster, &name).await;
        debug!(name, ?removed, "a pod that another run left");
    }
}

/// A word for a run, by which all that it made is known: nobody else has it.
#[must_use]
pub fn new_session() -> String {
    word::<20>()
}

/// Letters only, so that no controller takes them for an ordinal.
fn word<const LENGTH: usize>() -> String {
    let mut bytes = [0; LENGTH];
    // Without randomness a clash is possible, and told by the API server.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = [u8::try_from(std::process::id() & 0xff).unwrap_or(0); LENGTH];
    }
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// `tp-WORKLOAD-abcdef`, a valid host name: at most 63 letters (RFC 1123).
fn name(workload: &str) -> String {
    let short: String = workload.chars().take(50).collect();
    format!("tp-{}-{}", short.replace('.', "-").trim_end_matches('-'), word::<6>())
}

/// Who runs tp, for others to read: `user@machine`.
#[must_use]
pub fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let user = user.map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name);
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{user}@{}", machine.unwrap_or_else(|| "unknown".to_owned()))
}

fn pod(
    template: &Target,
    name: &str,
    session: &str,
    container: EphemeralContainer,
    purpose: &Purpose,
) -> Pod {
    let metadata = &template.pod.metadata;
    let mut labels = metadata.labels.clone().unwrap_or_default();
    labels.retain(|name, _| !OF_CONTROLLERS.contains(&name.as_str()));
    // Helm has it, too, and charts may select by it.
    labels.entry(MANAGED_BY.to_owned()).or_insert_with(|| MANAGER.to_owned());
    labels.insert(SESSION.to_owned(), session.to_owned());
    labels.extend(purpose.labels().cloned().unwrap_or_default());
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    if !matches!(purpose, Purpose::StandIn { .. }) {
        annotations.retain(|name, _| OF_PROXIES.contains(&name.as_str()));
    }
    if matches!(purpose, Purpose::Instead { .. }) {
        annotations.insert(WORKLOAD.to_owned(), template.workload.to_string());
    }
    annotations.insert(WHO.to_owned(), who());
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: owner(&template.pod).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(template, container, purpose)),
        status: None,
    }
}

/// What keeps a controller from adopting the pod. Selectors of deployments' replica sets ask for the template's hash, and a
/// stateful set adopts by name; others would take a pod that has no controller.
fn owner(pod: &Pod) -> Option<OwnerReference> {
    let metadata = &pod.metadata;
    let controller =
        metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let hashed = metadata.labels.iter().flatten().any(|(name, _)| name == "pod-template-hash");
    if hashed || controller.kind == "StatefulSet" {
        return None;
    }
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: None,
    })
}

fn spec(template: &Target, agent: EphemeralContainer, purpose: &Purpose) -> PodSpec {
    let of_template = template.pod.spec.clone().unwrap_or_default();
    let mut copied = template.spec().cloned().unwrap_or_default();
    if matches!(purpose, Purpose::Instead { .. }) {
        copied.ports = Some(named_ports(&of_template));
    }
    let container = container(copied, agent, purpose);
    let mounted = container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str());
    let of_files = container.env.iter().flatten().filter_map(|variable| {
        Some(variable.value_from.as_ref()?.file_key_ref.as_ref()?.volume_name.as_str())
    });
    let named: Vec<&str> = mounted.chain(of_files).collect();
    let mut volumes = of_template.volumes.unwrap_or_default();
    volumes.retain(|volume| named.contains(&volume.name.as_str()));
    let stands_in = matches!(purpose, Purpose::StandIn { .. });
    let serves = purpose.ready_port().is_some();
    let on_host = of_template.host_network == Some(true);
    let affinity = affinity(of_template.affinity, of_template.node_name.filter(|_| !stands_in));
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        restart_policy: Some("Never".to_owned()),
        active_deadline_seconds: i64::try_from(DEADLINE.as_secs()).ok(),
        termination_grace_period_seconds: i64::try_from(GRACE.as_secs()).ok(),
        readiness_gates: (!serves).then(|| vec![PodReadinessGate { condition_type: NEVER.to_owned() }]),
        security_context: Some(security(of_template.security_context, serves && !on_host)),
        affinity,
        // A name of one of the workload's pods is for one pod only.
        hostname: of_template.hostname.filter(|_| stands_in),
        subdomain: of_template.subdomain.filter(|_| stands_in),
        host_network: of_template.host_network,
        service_account_name: of_template.service_account_name,
        automount_service_account_token: of_template.automount_service_account_token,
        enable_service_links: of_template.enable_service_links,
        node_selector: of_template.node_selector,
        tolerations: of_template.tolerations,
        image_pull_secrets: of_template.image_pull_secrets,
        dns_policy: of_template.dns_policy,
        dns_config: of_template.dns_config,
        host_aliases: of_template.host_aliases,
        priority_class_name: of_template.priority_class_name,
        runtime_class_name: of_template.runtime_class_name,
        scheduler_name: of_template.scheduler_name,
        ..PodSpec::default()
    }
}

/// The agent's container, with what only ordinary containers may have: every volume, subPath included, the resources, and
/// the ports by whose names Services find them.
fn container(copied: Container, agent: EphemeralContainer, purpose: &Purpose) -> Container {
    let mut variables = agent.env.unwrap_or_default();
    for file in variables.iter_mut().filter_map(|known| known.value_from.as_mut()?.file_key_ref.as_mut()) {
        // The init container that writes it is the workload's.
        file.optional = Some(true);
    }
    variables.push(EnvVar {
        name: LINGER_FOR.to_owned(),
        value: Some(purpose.linger().as_secs().to_string()),
        value_from: None,
    });
    let mut mounts = copied.volume_mounts;
    for mount in mounts.iter_mut().flatten() {
        // Mounts that go back to the node are for privileged containers.
        mount.mount_propagation = None;
    }
    let mut ports = copied.ports;
    for port in ports.iter_mut().flatten() {
        (port.host_port, port.host_ip) = (None, None);
    }
    let mut resources = copied.resources;
    if let Some(resources) = &mut resources {
        // Devices are the workload's.
        let is_plain = |name: &String| ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str());
        resources.claims = None;
        for amounts in [&mut resources.limits, &mut resources.requests].into_iter().flatten() {
            amounts.retain(|name, _| is_plain(name));
        }
    }
    Container {
        name: agent.name,
        image: agent.image,
        image_pull_policy: agent.image_pull_policy,
        command: agent.command,
        env: Some(variables),
        env_from: agent.env_from,
        volume_mounts: mounts,
        ports,
        resources,
        stdin: agent.stdin,
        stdin_once: agent.stdin_once,
        security_context: agent.security_context,
        termination_message_policy: agent.termination_message_policy,
        readiness_probe: purpose.ready_port().map(probe),
        ..Container::default()
    }
}

/// The names by which Services may know ports, whichever container's they are.
fn named_ports(of_template: &PodSpec) -> Vec<ContainerPort> {
    let ports = of_template.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let by_name = ports.filter_map(|port| Some((port.name.clone()?, port.clone())));
    by_name.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn probe(port: u16) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(port.into()), host: None }),
        period_seconds: Some(1),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// The groups by which the workload's volumes can be read; the right to listen on any port, without any capability (it
/// is among the sysctls that are safe, which Pod Security allows everywhere).
fn security(of_template: Option<PodSecurityContext>, listens: bool) -> PodSecurityContext {
    let mut security = of_template.unwrap_or_default();
    let any_port = Sysctl { name: "net.ipv4.ip_unprivileged_port_start".to_owned(), value: "0".to_owned() };
    security.sysctls = listens.then(|| vec![any_port]);
    security.windows_options = None;
    security
}

/// Where the workload's pods may be; not apart from each other, since this is no further one. Beside one of them its own
/// node comes first: some volumes can be had on one node at a time.
fn affinity(of_template: Option<Affinity>, node: Option<String>) -> Option<Affinity> {
    let mut nodes = of_template.and_then(|affinity| affinity.node_affinity);
    if let Some(node) = node {
        let field = NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node]),
        };
        let preference = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
        nodes
            .get_or_insert_with(NodeAffinity::default)
            .preferred_during_scheduling_ignored_during_execution
            .get_or_insert_default()
            .push(PreferredSchedulingTerm { weight: 100, preference });
    }
    nodes.map(|nodes| Affinity { node_affinity: Some(nodes), ..Affinity::default() })
}

#[cfg(test)]
mod tests;
