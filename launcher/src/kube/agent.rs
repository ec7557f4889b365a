//! Puts the agent into a pod, or finds the one that an earlier run left there.
//!
//! # Theory of operation
//! The agent is an ephemeral container: it has the pod's true address, resolver and network policies, and nothing of
//! the workload restarts. It gets copies of the target container's `env`, `envFrom` and `volumeMounts`, so the
//! kubelet resolves every ConfigMap, Secret and field, and the agent need only report its own environment.
//!
//! No image is published: any small one with `sh` will do, and the static binary is streamed over attach into a
//! script ([`spec`]) that waits for it. An image that has the agent built in needs no attach.
//!
//! An ephemeral container can never be removed from a pod, so one is made only when none can be used again. The
//! token is not kept anywhere: it is an HMAC of the pod's uid and the container's name under a secret of this user
//! on this machine ([`secret`]), and the pod's specification holds only its SHA-256. So the next run knows whether
//! a lingering agent is its own by looking at the pod, and nobody who can read the pod can use it.
//!
//! | on the way out | what ends the container |
//! |---|---|
//! | before the container attached | the script's own time limit |
//! | in the middle of the upload | the end of its standard input (`stdinOnce`) |
//! | afterwards | the agent's linger time without sessions |

mod secret;
mod spec;
mod unstarted;
mod volumes;

use std::path::PathBuf;
use std::time::Duration;

use ::kube::api::{Api, AttachParams, AttachedProcess, LogParams, Patch, PatchParams};
use k8s_openapi::api::core::v1::{ContainerState, EphemeralContainer, Pod};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tracing::{debug, info};

use super::target::Target;
use super::{ApiError, Cluster, access, own_pod};

pub use secret::{Secret, SecretError};
pub use spec::{Image, Needs, version};
pub use unstarted::Unstarted;
pub use volumes::{PodMount, PodVolumes};

/// How long a new agent may take: pulling an image is the longest part.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(120);
/// How often attach is tried until the container runs: its status would tell a second later. A container that does
/// not run after some seconds waits for its image, and is tried less and less often.
const ATTACH_EVERY: (Duration, Duration) = (Duration::from_millis(40), Duration::from_secs(1));
/// How often the pod is looked at for the kubelet's reasons meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Bytes of the agent in flight to the API server.
const UPLOAD_BUFFER: usize = 256 * 1024;

/// An agent that can be connected to.
#[derive(Clone)]
pub struct Agent {
    /// Its pod.
    pub pod: String,
    /// Its container.
    pub container: String,
    /// Its port on the pod's loopback.
    pub port: u16,
    /// What proves that we may use it.
    pub token: [u8; 32],
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The API server's doing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The file to be streamed is not there.
    #[error("the agent's program cannot be read at {path}")]
    NoProgram {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kubelet cannot start the container.
    #[error("the agent's container in pod `{pod}` cannot start: {reason}: {message}")]
    CannotStart {
        /// The pod.
        pod: String,
        /// The kubelet's reason (`ErrImagePull`, `CreateContainerConfigError`…).
        reason: String,
        /// The kubelet's message.
        message: String,
        /// The image.
        image: String,
    },
    /// It started and ended.
    #[error("the agent in pod `{pod}` ended at once: {message}")]
    Ended {
        /// The pod.
        pod: String,
        /// What it said.
        message: String,
    },
    /// Its pod ends before it could start.
    #[error("pod `{pod}` was deleted before the agent in it was ready")]
    PodGone {
        /// The pod.
        pod: String,
    },
    /// It did not get ready in time.
    #[error("the agent in pod `{pod}` was not ready within {} s: {state}", .limit.as_secs())]
    NotReady {
        /// The pod.
        pod: String,
        /// How long it had.
        limit: Duration,
        /// What it was doing.
        state: String,
    },
}

impl AgentError {
    /// If another try is not likely to do better soon: the cluster has to change first, not the link to it.
    #[must_use]
    pub fn lasts(&self) -> bool {
        matches!(self, Self::CannotStart { .. } | Self::NotReady { .. } | Self::Ended { .. })
            || matches!(self, Self::Api(ApiError::Forbidden { .. } | ApiError::Other { .. }))
    }
}

/// How far an agent's container is, as the pod's status tells it: some second late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not reported yet, or being created: another run may have made it this moment.
    Starting,
    /// Running.
    Running,
}

/// The agent of ours in the pod for this container and these needs that is furthest, if there is one that has not ended or
/// failed.
#[must_use]
pub fn lingering(secret: &Secret, pod: &Pod, container: &str, needs: Needs) -> Option<(Agent, Stage)> {
    let pod_name = pod.metadata.name.as_deref()?;
    let uid = pod.metadata.uid.as_deref()?;
    let containers = pod.spec.as_ref()?.ephemeral_containers.as_deref().unwrap_or_default();
    containers
        .iter()
        .filter_map(|agent| {
            let stage = stage(pod, &agent.name)?;
            let token = secret.token(uid, &agent.name);
            let port = spec::port_if_ours(agent, container, &token, needs)?;
            let pod = pod_name.to_owned();
            Some((Agent { pod, container: agent.name.clone(), port, token }, stage))
        })
        .max_by_key(|(_, stage)| *stage)
}

/// The containers of a pod in which agents run that can have its ports, whosever they are.
#[must_use]
pub fn exposers(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.as_ref();
    if own_pod::is_ours(pod) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let runs = phase == Some("Running") && !own_pod::has_ended(pod);
        let container = own_pod::agents_container(pod).filter(|_| runs);
        return container.map(|container| container.name.clone()).into_iter().collect();
    }
    let containers = spec.and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    let running = |name: &str| stage(pod, name) == Some(Stage::Running);
    let exposers =
        containers.iter().filter(|container| spec::may_expose(container) && running(&container.name));
    exposers.map(|container| container.name.clone()).collect()
}

fn stage(pod: &Pod, container: &str) -> Option<Stage> {
    let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_deref().unwrap_or_default();
    let status = statuses.iter().find(|status| status.name == container);
    let Some(state) = status.and_then(|status| status.state.as_ref()) else { return Some(Stage::Starting) };
    match state {
        ContainerState { running: Some(_), .. } => Some(Stage::Running),
        ContainerState { terminated: Some(_), .. } => None,
        ContainerState { waiting: Some(waiting), .. } => {
            let reason = waiting.reason.as_deref();
            (!reason.is_some_and(is_failure)).then_some(Stage::Starting)
        }
        _ => Some(Stage::Starting),
    }
}

/// `ContainerCreating` and `PodInitializing` are on the way; `ErrImagePull`, `ImagePullBackOff`,
/// `CreateContainerConfigError`, `InvalidImageName` and their like are failures.
fn is_failure(reason: &str) -> bool {
    ["Err", "BackOff", "Invalid"].iter().any(|word| reason.contains(word))
}

/// What it takes to put a container into a pod that runs.
const TO_PLACE: access::Needed = ("patch", "pods/ephemeralcontainers");

/// If this user may make no ephemeral containers: a pod of our own is another way then ([`super::own_pod`]).
#[must_use]
pub fn is_about_placement(error: &ApiError) -> bool {
    matches!(error, ApiError::Forbidden { verb, resource, .. } if (*verb, *resource) == TO_PLACE)
}

/// Makes a new agent in the pod and waits until it listens.
///
/// # Errors
/// If it does not come to that. Its container ends by itself then, or is in `unstarted`, and the next call goes on with it.
/// [`ApiError::Conflict`] if the pod changed since it was looked at, which may mean that another run has made one.
pub async fn create(
    cluster: &Cluster,
    secret: &Secret,
    target: &Target,
    image: &Image,
    needs: Needs,
    unstarted: &Unstarted,
) -> Result<Agent, AgentError> {
    let program = read_program(image).await?;
    if let Some(agent) = unstarted.of(target) {
        let begun = begin(cluster, &agent, image, &program).await;
        return unstarted.judge(target, agent, begun);
    }
    access::check(cluster, &[&[TO_PLACE][..], &needed(image)].concat()).await?;
    let name = spec::new_name();
    let token = secret.token(target.pod_uid(), &name);
    let agent = Agent { pod: target.pod_name().to_owned(), container: name, port: spec::new_port(), token };
    let container = spec::container(target, &agent, image, program.len(), needs);
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    // Bound to the version that was looked at: of two runs at once, the second one must look again.
    let patch = Patch::Strategic(serde_json::json!({
        "metadata": { "resourceVersion": target.pod.metadata.resource_version },
        "spec": { "ephemeralContainers": [container] }
    }));
    let parameters = PatchParams::default();
    let patched = api.patch_ephemeral_containers(&agent.pod, &parameters, &patch);
    cluster.call("patch", "pods/ephemeralcontainers", patched).await?;
    info!(
        pod = agent.pod,
        container = agent.container,
        "agent made in an ephemeral container, which is allowed"
    );
    let begun = begin(cluster, &agent, image, &program).await;
    unstarted.judge(target, agent, begun)
}

/// An agent that is to be the one container of a pod of our own, and that container. The pod has no uid yet, so the token
/// is bound to `session` instead, which is different for every such pod.
pub(super) fn in_own_pod(
    secret: &Secret,
    target: &Target,
    pod: &str,
    session: &str,
    image: &Image,
    program: &[u8],
) -> (Agent, EphemeralContainer) {
    let container = target.container.clone();
    let token = secret.token(session, &container);
    let agent = Agent { pod: pod.to_owned(), container, port: spec::new_port(), token };
    let made = spec::container(target, &agent, image, program.len(), Needs::default());
    (agent, made)
}

/// A port that nothing in a pod should have.
pub(super) fn new_port() -> u16 {
    spec::new_port()
}

/// What the agent's image is made into the agent with: the program that is streamed, if it is.
pub(super) async fn read_program(image: &Image) -> Result<Vec<u8>, AgentError> {
    match image {
        Image::Base { program, .. } => tokio::fs::read(program)
            .await
            .map_err(|source| AgentError::NoProgram { path: program.clone(), source }),
        Image::BuiltIn { .. } => Ok(Vec::new()),
    }
}

/// What a user must be allowed to do with an agent's container, whatever made it.
pub(super) fn needed(image: &Image) -> [access::Needed; 2] {
    let to_start = match image {
        Image::Base { .. } => ("get", "pods/attach"),
        Image::BuiltIn { .. } => ("get", "pods/log"),
    };
    [("get", "pods/portforward"), to_start]
}

/// Has the agent in a container that was just made listen.
pub(super) async fn begin(
    cluster: &Cluster,
    agent: &Agent,
    image: &Image,
    program: &[u8],
) -> Result<(), AgentError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let ready = async {
        tokio::select! {
            started = start(cluster, &api, agent, image, program) => started,
            failed = until_it_cannot_start(cluster, &api, agent, image) => Err(failed),
        }
    };
    if let Ok(started) = tokio::time::timeout(READY_LIMIT, ready).await {
        return started;
    }
    let pod = api.get(&agent.pod).await.ok();
    let unscheduled = pod.as_ref().and_then(unscheduled);
    let state = pod.and_then(|pod| state_in(pod, agent)).map(|state| describe(&state));
    let state = unscheduled.or_else(|| state.map(|state| format!("its container is {state}")));
    let state = state.unwrap_or_else(|| "its container has no status".to_owned());
    Err(AgentError::NotReady { pod: agent.pod.clone(), limit: READY_LIMIT, state })
}

/// Why no node takes the pod, in the scheduler's words.
fn unscheduled(pod: &Pod) -> Option<String> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let condition = conditions.find(|known| known.type_ == "PodScheduled" && known.status == "False")?;
    condition.message.clone().or_else(|| condition.reason.clone())
}

async fn start(
    cluster: &Cluster,
    api: &Api<Pod>,
    agent: &Agent,
    image: &Image,
    program: &[u8],
) -> Result<(), AgentError> {
    let began = tokio::time::Instant::now();
    loop {
        let tried = match image {
            Image::Base { .. } => stream(cluster, api, agent, program).await?,
            Image::BuiltIn { .. } => has_said_that_it_listens(cluster, api, agent).await?,
        };
        if tried {
            return Ok(());
        }
        tokio::time::sleep((began.elapsed() / 20).clamp(ATTACH_EVERY.0, ATTACH_EVERY.1)).await;
    }
}

/// Attaches, streams the program and waits for its word that it listens. `false` if the container does not run yet.
async fn stream(
    cluster: &Cluster,
    api: &Api<Pod>,
    agent: &Agent,
    program: &[u8],
) -> Result<bool, AgentError> {
    let parameters = AttachParams::default()
        .container(&agent.container)
        .stdin(true)
        .stdout(true)
        .stderr(true)
        .max_stdin_buf_size(UPLOAD_BUFFER);
    let attached = cluster.call("get", "pods/attach", api.attach(&agent.pod, &parameters)).await;
    let mut attached = match attached {
        Ok(attached) => attached,
        // The kubelet's words for "it does not run yet" come as one of several codes; those that are final do not.
        Err(error @ (ApiError::Forbidden { .. } | ApiError::Unauthorized(_) | ApiError::Unreachable(_))) => {
            return Err(error.into());
        }
        Err(error) => {
            debug!(%error, "cannot attach yet");
            return Ok(false);
        }
    };
    match upload(&mut attached, program).await {
        Some(line) if line.starts_with("tp-agent listening") => Ok(true),
        Some(line) => Err(AgentError::Ended { pod: agent.pod.clone(), message: line }),
        None => {
            // No word at all: either the container was not there to be attached to, or it ended without one.
            match state_of(api, agent).await {
                Some(ContainerState { terminated: Some(_), .. }) => Err(ended(api, agent).await),
                _ => Ok(false),
            }
        }
    }
}

/// Streams the program; gives the first line that the container says, if it says any.
async fn upload(attached: &mut AttachedProcess, program: &[u8]) -> Option<String> {
    let (mut stdin, stdout, stderr) = (attached.stdin()?, attached.stdout()?, attached.stderr()?);
    // The only word that the connection has ended, whatever way: the readers below just wait then.
    let ended = attached.take_status()?;
    let mut stdout = BufReader::new(stdout).lines();
    let mut stderr = BufReader::new(stderr).lines();
    let line = async {
        tokio::select! {
            Ok(Some(line)) = stdout.next_line() => Some(line),
            Ok(Some(line)) = stderr.next_line() => Some(line),
            else => None,
        }
    };
    let upload = async {
        if let Err(error) = stdin.write_all(program).await {
            debug!(%error, "the upload stopped");
        }
        // Standard input stays open: its end would end a container that waits for more.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        line = line => line,
        status = ended => {
            debug!(?status, "the attachment ended");
            None
        }
        () = upload => None,
    }
}

/// For an image with the agent in it there is nothing to attach to: its log says when it listens.
async fn has_said_that_it_listens(
    cluster: &Cluster,
    api: &Api<Pod>,
    agent: &Agent,
) -> Result<bool, AgentError> {
    let parameters = LogParams { container: Some(agent.container.clone()), ..LogParams::default() };
    match cluster.call("get", "pods/log", api.logs(&agent.pod, &parameters)).await {
        Ok(log) => Ok(log.lines().any(|line| line.starts_with("tp-agent listening"))),
        Err(error @ ApiError::Forbidden { .. }) => Err(error.into()),
        Err(error) => {
            debug!(%error, "no log yet");
            Ok(false)
        }
    }
}

/// Returns when the kubelet says that the container cannot start, or has ended, or when its pod is being deleted.
async fn until_it_cannot_start(
    cluster: &Cluster,
    api: &Api<Pod>,
    agent: &Agent,
    image: &Image,
) -> AgentError {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let pod = match cluster.call("get", "pods", api.get(&agent.pod)).await {
            Ok(pod) if pod.metadata.deletion_timestamp.is_none() => pod,
            Ok(_) | Err(ApiError::NotFound { .. }) => return AgentError::PodGone { pod: agent.pod.clone() },
            Err(error) => {
                debug!(%error, "cannot look at the pod");
                continue;
            }
        };
        match state_in(pod, agent) {
            Some(ContainerState { waiting: Some(waiting), .. }) => {
                let reason = waiting.reason.unwrap_or_default();
                if is_failure(&reason) {
                    return AgentError::CannotStart {
                        pod: agent.pod.clone(),
                        reason,
                        message: waiting.message.unwrap_or_default(),
                        image: image.reference().to_owned(),
                    };
                }
            }
            Some(ContainerState { terminated: Some(_), .. }) => return ended(api, agent).await,
            _ => {}
        }
    }
}

async fn ended(api: &Api<Pod>, agent: &Agent) -> AgentError {
    let parameters =
        LogParams { container: Some(agent.container.clone()), tail_lines: Some(3), ..LogParams::default() };
    let log = api.logs(&agent.pod, &parameters).await.unwrap_or_default();
    let state = state_of(api, agent).await.map(|state| describe(&state)).unwrap_or_default();
    let message = if log.trim().is_empty() { state } else { log.trim().replace('\n', "; ") };
    AgentError::Ended { pod: agent.pod.clone(), message }
}

async fn state_of(api: &Api<Pod>, agent: &Agent) -> Option<ContainerState> {
    state_in(api.get(&agent.pod).await.ok()?, agent)
}

/// An agent's container is an ephemeral one, or the only one of a pod of our own.
fn state_in(pod: Pod, agent: &Agent) -> Option<ContainerState> {
    let status = pod.status?;
    let statuses = status.ephemeral_container_statuses.into_iter().chain(status.container_statuses).flatten();
    statuses.into_iter().find(|status| status.name == agent.container)?.state
}

fn describe(state: &ContainerState) -> String {
    match state {
        ContainerState { waiting: Some(waiting), .. } => {
            format!("waiting ({})", waiting.reason.as_deref().unwrap_or("no reason given"))
        }
        ContainerState { terminated: Some(terminated), .. } => format!(
            "terminated (exit code {}, {})",
            terminated.exit_code,
            terminated.reason.as_deref().unwrap_or("no reason given")
        ),
        _ => "running".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage_of(state: serde_json::Value) -> Option<Stage> {
        let status = serde_json::json!([{
            "name": "tp-agent-1", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state
        }]);
        let pod = serde_json::json!({"status": {"ephemeralContainerStatuses": status}});
        stage(&serde_json::from_value(pod).unwrap(), "tp-agent-1")
    }

    #[test]
    fn an_agent_that_is_not_reported_yet_may_be_starting_and_one_that_ended_is_none() {
        assert_eq!(stage_of(serde_json::json!({"running": {}})), Some(Stage::Running));
        assert_eq!(stage_of(serde_json::json!({})), Some(Stage::Starting));
        assert_eq!(
            stage_of(serde_json::json!({"waiting": {"reason": "ContainerCreating"}})),
            Some(Stage::Starting)
        );
        assert_eq!(stage_of(serde_json::json!({"waiting": {"reason": "ImagePullBackOff"}})), None);
        assert_eq!(stage_of(serde_json::json!({"terminated": {"exitCode": 1}})), None);
        assert!(Stage::Running > Stage::Starting, "the furthest is taken");
    }
}
