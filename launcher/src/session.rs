//! One session: the pod, its agent, and the link that is kept up for as long as the program runs.
//!
//! # Theory of operation
//! Opening it finds the pod, finds or makes the agent, opens the port-forward, and asks for the environment in the
//! same flight as the link's hello: with a lingering agent that is three requests to the API server and one round
//! trip to the pod. When the link is lost later (a laptop that slept, a pod that was replaced), open connections end
//! with an error, new ones wait for a while, and the same steps are taken again.
//!
//! An agent's container needs no undoing: it ends by itself (see [`agent`]). What does is noted in [`Undo`]. Dropping a
//! session ends its link.

pub(crate) mod link;
mod own;
mod second;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use socks_proxy::files::Files;
use socks_proxy::mux::Opener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::kube::agent::{self, Agent, AgentError, Image, Needs, Secret, SecretError, Stage, Unstarted};
use crate::kube::config::ConfigError;
use crate::kube::own_pod::OwnPod;
use crate::kube::stand_in::{self, StandIn, StandInError};
use crate::kube::target::{self, Target, TargetError, Workload};
use crate::kube::{ApiError, Cause, Cluster};
use crate::pod::agent::{AgentPod, environ, files};
use crate::tell::tell;
use crate::tries::Tries;
use crate::undo::Undo;
use own::Own;
use second::Second;

/// How long an agent that another run started is waited for, and how often it is tried. Starting takes a fifth of a
/// second.
const STARTING_LIMIT: Duration = Duration::from_secs(3);
const STARTING_EVERY: Duration = Duration::from_millis(50);
/// How often a pod is looked at again that changed before the agent could be made. It changes with every report of the
/// kubelet, and with every other run.
const LOOKS: u32 = 10;

/// The session's agent reads what the target's own user may read, so it is that user.
const NEEDS: Needs = Needs { net_admin: false };

/// A look at a pod for something that it lacks.
pub type Look = Arc<dyn Fn(&Target) -> Result<(), Cause> + Send + Sync>;

/// What a session is to be opened to.
#[derive(Clone)]
pub struct Options {
    /// The kubeconfig's context.
    pub context: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// The workload.
    pub workload: Workload,
    /// The container in its pod.
    pub container: Option<String>,
    /// Where the agent's program comes from.
    pub image: Image,
    /// If the workload's place is taken, instead of being beside it.
    pub stand_in: Option<stand_in::Options>,
    /// Looks at the pod before anything is made in it; what it refuses is [`SessionError::Unfit`].
    pub look: Option<Look>,
    /// Takes what is made in the cluster back: whoever opens a session runs it when the session has ended, or did not begin.
    pub undo: Arc<Undo>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No cluster.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No pod.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The pod lacks something that was asked for beside the session.
    #[error(transparent)]
    Unfit(Cause),
    /// No agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// No port-forward.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nobody's place is taken.
    #[error(transparent)]
    StandIn(#[from] StandInError),
    /// No secret to make tokens of.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The agent does not know us.
    #[error("the agent `{container}` in pod `{pod}` refused the token")]
    Refused {
        /// The pod.
        pod: String,
        /// The agent's container.
        container: String,
    },
    /// No answer over the link.
    #[error("the agent `{container}` in pod `{pod}` cannot be talked to")]
    Link {
        /// The pod.
        pod: String,
        /// The agent's container.
        container: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

impl SessionError {
    /// If another try is not likely to do better soon.
    pub(crate) fn lasts(&self) -> bool {
        match self {
            Self::Agent(error) | Self::StandIn(StandInError::Agent(error)) => error.lasts(),
            Self::StandIn(StandInError::GivenBack { .. }) => true,
            _ => false,
        }
    }
}

/// What a session is doing while it is opened, for whoever waits.
pub type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

/// An open session.
pub struct Session {
    /// The pod that dials and resolves.
    pub pod: AgentPod,
    /// Where the agent is.
    pub agent: Agent,
    /// The pod and container that the program stands for.
    pub target: Target,
    /// Where the pod is, and how agents are made there.
    pub cluster: Cluster,
    /// What this user's agents are known by.
    pub secret: Secret,
    /// In whose place the pod is, if it is our own.
    pub stand_in: Option<Arc<StandIn>>,
    /// The environment as the kubelet resolved it for the agent.
    pub environ: Vec<u8>,
    /// session --the pod's resolv.conf and hosts, after each link; none of an agent older than that question--> run
    pub files_rx: watch::Receiver<Option<Files>>,
    /// session --where the run is--> its card
    pub at_rx: watch::Receiver<At>,
    keeper: JoinHandle<()>,
    taker: Option<JoinHandle<()>>,
}

/// Where a run is at the moment, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The namespace.
    pub namespace: String,
    /// The pod whose network it has.
    pub pod: String,
    /// The container whose environment it has.
    pub container: String,
    /// If the link is up.
    pub linked: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
        if let Some(taker) = &self.taker {
            taker.abort();
        }
    }
}

/// Opens a session.
///
/// # Errors
/// If there is none to be had. Nothing but an idle agent is left behind then.
pub async fn open(options: Options, progress: Progress<'_>) -> Result<Session, SessionError> {
    // A credential plugin may take its time, or wait for somebody to log in.
    progress("getting the cluster's credentials".to_owned());
    let cluster = Cluster::connect(options.context.as_deref(), options.namespace.as_deref()).await?;
    let secret = match Secret::load() {
        Ok(secret) => secret,
        Err(error) => {
            warn!(%error, "the agent of this run will not be found by the next one");
            Secret::passing()?
        }
    };
    let stand_in = match options.stand_in.clone() {
        Some(wanted) => {
            progress(format!("looking for {}", options.workload));
            let undo = Arc::clone(&options.undo);
            Some(Arc::new(StandIn::begin(cluster.clone(), secret.clone(), wanted, undo).await?))
        }
        None => None,
    };
    let mut maker = Maker {
        cluster: cluster.clone(),
        secret: secret.clone(),
        stand_in: stand_in.clone(),
        options,
        own: Own::default(),
        unstarted: Unstarted::default(),
    };
    let undo = Arc::clone(&maker.options.undo);
    let made = maker.make(progress).await?;
    // A later pod may differ: the link is worth more than what was to be beside it.
    maker.options.look = None;
    let taker = stand_in.clone().map(|stand_in| undo.spawn(take_over(stand_in)));
    let (opener_tx, opener_rx) = watch::channel(Some(made.up.opener));
    let (addresses_tx, addresses_rx) = watch::channel(made.target.addresses());
    let (files_tx, files_rx) = watch::channel(made.up.files);
    let (at_tx, at_rx) = watch::channel(At {
        namespace: cluster.namespace().to_owned(),
        pod: made.agent.pod.clone(),
        container: made.target.container.clone(),
        linked: true,
    });
    let (second, links) = Second::new(opener_rx);
    let told = Told { opener_tx, second, addresses_tx, files_tx, at_tx };
    let keeper = undo.spawn(keep(maker, made.agent.clone(), made.up.driver, told));
    Ok(Session {
        pod: AgentPod::new(links, addresses_rx),
        agent: made.agent,
        target: made.target,
        cluster,
        secret,
        stand_in,
        environ: made.up.environ,
        files_rx,
        at_rx,
        keeper,
        taker,
    })
}

/// Takes the workload's place as soon as our pod is ready for it, and watches what becomes of the workload.
async fn take_over(stand_in: Arc<StandIn>) {
    if let Err(error) = stand_in.take_over(&|what| tell(format_args!("{what}"))).await {
        tell(format_args!("the pods of {} serve beside this run: {error}", stand_in.workload()));
    }
}

struct Maker {
    cluster: Cluster,
    secret: Secret,
    stand_in: Option<Arc<StandIn>>,
    options: Options,
    own: Own,
    unstarted: Unstarted,
}

struct Made {
    agent: Agent,
    target: Target,
    up: Up,
}

struct Up {
    opener: Opener,
    driver: JoinHandle<io::Result<()>>,
    environ: Vec<u8>,
    files: Option<Files>,
}

impl Maker {
    async fn make(&self, progress: Progress<'_>) -> Result<Made, SessionError> {
        for _ in 0..LOOKS {
            match self.make_once(progress).await {
                Err(SessionError::Agent(AgentError::Api(ApiError::Conflict { .. }))) => {
                    debug!("the pod changed while it was looked at");
                }
                made => return made,
            }
        }
        self.make_once(progress).await
    }

    async fn make_once(&self, progress: Progress<'_>) -> Result<Made, SessionError> {
        if let Some(stand_in) = &self.stand_in {
            progress(format!("taking the place of {}", stand_in.workload()));
            let OwnPod { target, agent } = stand_in.pod().await?;
            let up = self.link(&agent).await?;
            return Ok(Made { agent, target, up });
        }
        if let Some((agent, target)) = self.own.place() {
            match self.link(&agent).await {
                Ok(up) => {
                    self.own.answered();
                    return Ok(Made { agent, target, up });
                }
                Err(error) if self.own.lives(&self.cluster).await => return Err(error),
                Err(error) => debug!(%error, "the pod of our own is gone"),
            }
        }
        let wanted = self.options.container.as_deref();
        progress(format!("looking for {}", self.options.workload));
        // The container that will be chosen is not known before the pod is; any agent of ours is a good sign.
        let prefer = |pod: &_| u8::from(self.has_agent(pod, wanted));
        let target = target::find(&self.cluster, &self.options.workload, wanted, prefer).await?;
        self.options.look.as_ref().map_or(Ok(()), |look| look(&target)).map_err(SessionError::Unfit)?;
        if let Some((agent, stage)) = agent::lingering(&self.secret, &target.pod, &target.container, NEEDS) {
            progress(format!("connecting to pod {}", agent.pod));
            let linked = match stage {
                Stage::Running => self.link(&agent).await,
                Stage::Starting => self.link_when_started(&agent).await,
            };
            match linked {
                Ok(up) => {
                    info!(pod = agent.pod, container = agent.container, "agent found");
                    return Ok(Made { agent, target, up });
                }
                Err(error @ (SessionError::Api(_) | SessionError::Refused { .. })) => return Err(error),
                // It may have ended its linger this moment: the pod's status is a second late.
                Err(error) => info!(%error, "the lingering agent does not answer; making a new one"),
            }
        }
        progress(format!("starting the agent in pod {}", target.pod_name()));
        self.make_new(target, progress).await
    }

    async fn make_new(&self, target: Target, progress: Progress<'_>) -> Result<Made, SessionError> {
        let Options { image, undo, .. } = &self.options;
        let unstarted = &self.unstarted;
        let made = agent::create(&self.cluster, &self.secret, &target, image, NEEDS, unstarted).await;
        let (agent, target) = match made {
            Err(AgentError::Api(refused)) if agent::is_about_placement(&refused) => {
                progress(format!("starting a pod beside {}", target.pod_name()));
                self.own.make(&self.cluster, &self.secret, &target, image, undo, refused).await?
            }
            made => (made?, target),
        };
        progress(format!("connecting to pod {}", agent.pod));
        let up = self.link(&agent).await?;
        Ok(Made { agent, target, up })
    }

    fn has_agent(&self, pod: &k8s_openapi::api::core::v1::Pod, container: Option<&str>) -> bool {
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        containers.any(|known| {
            container.is_none_or(|wanted| wanted == known.name)
                && agent::lingering(&self.secret, pod, &known.name, NEEDS).is_some()
        })
    }

    /// Another run may be about to start this agent, or have died over it: some tries tell.
    async fn link_when_started(&self, agent: &Agent) -> Result<Up, SessionError> {
        let until = tokio::time::Instant::now() + STARTING_LIMIT;
        loop {
            match self.link(agent).await {
                Err(SessionError::Link { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(STARTING_EVERY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Opens the link to an agent and asks for its environment and files at once.
    async fn link(&self, agent: &Agent) -> Result<Up, SessionError> {
        let ask = async |opener| tokio::try_join!(environ(&opener), files(&opener));
        let (link, (environ, files)) = link::open(&self.cluster, agent, ask).await?;
        Ok(Up { opener: link.opener, driver: link.driver, environ, files })
    }
}

/// Those who are told of the links.
struct Told {
    opener_tx: watch::Sender<Option<Opener>>,
    second: Second,
    addresses_tx: watch::Sender<Vec<IpAddr>>,
    files_tx: watch::Sender<Option<Files>>,
    at_tx: watch::Sender<At>,
}

/// Restores the link whenever it is lost.
async fn keep(maker: Maker, mut agent: Agent, mut driver: JoinHandle<io::Result<()>>, told: Told) {
    let Told { opener_tx, second, addresses_tx, files_tx, at_tx } = told;
    loop {
        let ended = tokio::select! {
            ended = &mut driver => ended,
            never = second.keep(&maker.cluster, &agent) => match never {},
        };
        opener_tx.send_replace(None);
        second.forget();
        at_tx.send_modify(|at| at.linked = false);
        let reason = match ended {
            Ok(Ok(())) => "the port-forward was closed".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tell(format_args!("the link to the pod was lost ({reason}); restoring it"));
        warn!(reason, "link lost");
        let up = retry(|| maker.make(&|step| debug!(step, "restoring"))).await;
        tell(format_args!("the link is back, to pod {}", up.agent.pod));
        driver = up.up.driver;
        addresses_tx.send_replace(up.target.addresses());
        files_tx.send_replace(up.up.files);
        opener_tx.send_replace(Some(up.up.opener));
        at_tx.send_modify(|at| (at.pod, at.linked) = (up.agent.pod.clone(), true));
        agent = up.agent;
    }
}

async fn retry<F>(mut make: impl FnMut() -> F) -> Made
where
    F: Future<Output = Result<Made, SessionError>>,
{
    let mut tries = Tries::default();
    loop {
        match make().await {
            Ok(made) => return made,
            Err(error) => tries.failed("the link cannot be restored yet", &error, error.lasts()).await,
        }
    }
}
