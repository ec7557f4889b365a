//! Ports of the pod that lead to the command: what comes to the workload's pods is carried to the program.
//!
//! # Theory of operation
//! Every ready pod of the workload has an agent with the right to make rules in the pod's nftables ([`beside`]), and for
//! each exposed port a stream to it. The agent takes the port and opens a stream for whoever comes; that is carried to the
//! program here ([`carry`], [`program`]).
//!
//! | what happens | what is done |
//! |---|---|
//! | a pod becomes ready, or goes | it is taken, or forgotten ([`keep`]) |
//! | the link or the agent is lost | the agent gives the port back by itself; it is taken again as soon as that can be |
//! | the command ends | the agent is told ([`ToAgent::Done`]); whoever comes in between is left to the app |
//! | tp is killed, or the laptop is cut off | the agent hears nothing any more, and gives the port back |
//!
//! Nothing is stored in the cluster, so nothing has to be undone there: the rules live as long as the agent's process does
//! and wants them to. Where no agent may make such rules, the workload's Services lead here in their place ([`services`]), and
//! that is written down and undone.
//!
//! [`ToAgent::Done`]: socks_proxy::expose::wire::ToAgent::Done

mod beside;
mod carry;
mod keep;
mod listen;
pub mod program;
mod services;
pub mod taken;
pub mod wanted;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use socks_proxy::expose::wire::{Protocol, Way};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kube::agent::{Image, Secret, Unstarted};
use crate::kube::own_pod::who;
use crate::kube::pods::Pods;
use crate::kube::target::{Target, TargetError, Workload};
use crate::kube::turning::TurnError;
use crate::kube::{Cause, Cluster};
use crate::placement::Method;
use crate::session::SessionError;
use crate::tell::tell;
use crate::undo::Undo;
use carry::Exposed;
use program::{Port, Program};
use wanted::Options;

/// How long the agents may take to give the ports back when the command has ended.
const END_LIMIT: Duration = Duration::from_secs(6);

/// Why a port cannot be exposed.
#[derive(Debug, thiserror::Error)]
pub enum ExposeError {
    /// The program could not have its own port.
    #[error("port {port} of this machine is in use by {by}")]
    InUse {
        /// The port.
        port: u16,
        /// A program's name.
        by: String,
    },
    /// The program may not listen there.
    #[error("programs of this user cannot listen on port {port} of this machine")]
    Low {
        /// The port.
        port: u16,
        /// The first one that they may have.
        first: u16,
    },
    /// One port of the pod cannot go to two places.
    #[error("port {port} of the pod is exposed twice")]
    Twice {
        /// The port.
        port: String,
    },
    /// Datagrams are no HTTP requests.
    #[error("port {port} is one of UDP, and only HTTP requests have headers and paths")]
    Filtered {
        /// The port.
        port: String,
    },
    /// No such name.
    #[error("pod `{pod}` has no port with the name `{name}`")]
    NoName {
        /// What was asked for.
        name: String,
        /// The pod.
        pod: String,
        /// The names that come closest.
        nearest: Vec<String>,
        /// All names.
        names: Vec<String>,
    },
    /// No such port.
    #[error("nobody listens on port {port} in pod `{pod}`, and none of its containers declares it")]
    NobodyListens {
        /// The port.
        port: u16,
        /// The pod.
        pod: String,
    },
    /// Somebody was first.
    #[error("port {port} of pod `{pod}` is exposed by {by}")]
    Held {
        /// The port.
        port: u16,
        /// The pod.
        pod: String,
        /// Who.
        by: String,
    },
    /// The pod's kernel does not allow it.
    #[error("port {port} of pod `{pod}` cannot be taken: the agent cannot {step}")]
    Refused {
        /// The port.
        port: u16,
        /// The pod.
        pod: String,
        /// What the agent tried.
        step: String,
        /// What its kernel said.
        #[source]
        source: io::Error,
    },
    /// The pod's ports are those of its node.
    #[error("pod `{pod}` uses its node's network, so its ports are the node's")]
    HostNetwork {
        /// The pod.
        pod: String,
    },
    /// A service mesh redirects what comes to the pod before the app has it.
    #[error("pod `{pod}` is part of a service mesh: {by} takes what comes to it")]
    Mesh {
        /// The pod.
        pod: String,
        /// The container or the annotation that tells.
        by: &'static str,
    },
    /// Admission: Pod Security, a quota, a webhook.
    #[error("an agent that can take ports is not admitted to pod `{pod}`")]
    NoRights {
        /// The pod.
        pod: String,
        /// The API server's own words.
        #[source]
        source: Cause,
    },
    /// No agent can take ports in the pods, and Services do not lead here either.
    #[error(transparent)]
    Services(#[from] TurnError),
    /// No pod.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No agent, or no link to it.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl ExposeError {
    /// Whether it may be gone at the next try.
    fn passes(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    /// If another try is not likely to do better soon. Who has a port may give it back at any moment.
    fn lasts(&self) -> bool {
        match self {
            Self::Session(error) => error.lasts(),
            Self::Services(TurnError::Agent(error)) => error.lasts(),
            Self::NoRights { .. } => true,
            _ => false,
        }
    }
}

/// Whose ports, and how the agents get there.
pub struct Origin {
    /// The cluster.
    pub cluster: Cluster,
    /// Of the agents' tokens.
    pub secret: Secret,
    /// Where the agents' program comes from.
    pub image: Image,
    /// The workload.
    pub workload: Workload,
    /// The container in its pods.
    pub container: Option<String>,
    /// Takes back what is changed in the cluster, if anything is.
    pub undo: Arc<Undo>,
}

impl Origin {
    /// What the parts of the pods share, for a new run.
    fn shared(self, pods: Pods, options: Options, exposed: Vec<Arc<Exposed>>, who: String) -> Arc<Shared> {
        let Self { cluster, secret, image, container, .. } = self;
        let run = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let (program, unstarted) = (Arc::default(), Unstarted::default());
        Arc::new(Shared {
            cluster,
            secret,
            image,
            container,
            pods,
            options,
            exposed,
            who,
            run,
            program,
            unstarted,
        })
    }
}

/// What all pods' parts share.
struct Shared {
    cluster: Cluster,
    secret: Secret,
    image: Image,
    container: Option<String>,
    pods: Pods,
    options: Options,
    exposed: Vec<Arc<Exposed>>,
    /// For others who want the same port.
    who: String,
    /// For agents, which know by it who comes back by another link.
    run: u64,
    program: Arc<Program>,
    unstarted: Unstarted,
}

/// Ports that are exposed until this is dropped or ended.
pub struct Exposing {
    shared: Arc<Shared>,
    done: CancellationToken,
    supervisor: JoinHandle<()>,
    /// None if the pod is our own.
    follower: Option<JoinHandle<()>>,
    /// Where the ports are had by Services.
    turned: Option<services::Turned>,
}

impl Drop for Exposing {
    fn drop(&mut self) {
        self.supervisor.abort();
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

/// The method for a command with these ports, and a first look at them. Programs may listen on low ports in a private
/// network, whatever they may on this machine.
///
/// # Errors
/// If something can be seen to be wrong before anything is made.
pub fn method(method: Method, options: Option<&Options>) -> Result<Method, ExposeError> {
    let Some(options) = options else { return Ok(method) };
    check(options)?;
    let known = options.wanted.iter().filter_map(wanted::Wanted::number_here);
    method_for(method, known)
}

/// What keeps the program from having a low port where there is no private network for it.
#[must_use]
pub fn low_port(options: Option<&Options>) -> Option<ExposeError> {
    let mut known = options?.wanted.iter().filter_map(wanted::Wanted::number_here);
    let port = known.find(|port| !taken::may_listen(*port))?;
    Some(ExposeError::Low { port, first: taken::first_unprivileged() })
}

/// A look at a pod whose ports these are to be, before anything is made in it.
///
/// # Errors
/// If it has no port of a name, or two names are one port.
pub fn look(options: &Options, target: &Target) -> Result<(), ExposeError> {
    beside::resolve(&options.wanted, target).map(drop)
}

fn method_for(method: Method, mut ports: impl Iterator<Item = u16>) -> Result<Method, ExposeError> {
    match (ports.find(|port| !taken::may_listen(*port)), method) {
        (None, _) | (Some(_), Method::Vif) => Ok(method),
        (Some(_), Method::Auto) => Ok(Method::Vif),
        (Some(port), Method::Shim | Method::Trap) => {
            Err(ExposeError::Low { port, first: taken::first_unprivileged() })
        }
    }
}

fn check(options: &Options) -> Result<(), ExposeError> {
    for (at, wanted) in options.wanted.iter().enumerate() {
        let same = |other: &&wanted::Wanted| (&other.port, other.protocol) == (&wanted.port, wanted.protocol);
        if options.wanted.iter().skip(at + 1).any(|other| same(&other)) {
            return Err(ExposeError::Twice { port: wanted.port.to_string() });
        }
        if wanted.protocol == Protocol::Udp && options.filter.is_some() {
            return Err(ExposeError::Filtered { port: wanted.port.to_string() });
        }
        if let Some(here) = wanted.number_here() {
            is_free(wanted.protocol, here)?;
        }
    }
    Ok(())
}

fn is_free(protocol: Protocol, port: u16) -> Result<(), ExposeError> {
    taken::holder(protocol, port).map_or(Ok(()), |by| Err(ExposeError::InUse { port, by }))
}

impl Exposing {
    /// Takes the ports in all ready pods. They are taken when this returns.
    ///
    /// # Errors
    /// If they are not to be had in one of them. Nothing but idle agents is left behind then.
    pub async fn open(options: Options, origin: Origin) -> Result<Self, ExposeError> {
        let pods = Pods::of(&origin.cluster, &origin.workload).await?;
        let (known, version) = pods.list().await.map_err(SessionError::Api)?;
        let serving = known.iter().filter_map(|(uid, pod)| {
            pods.serving(pod, origin.container.as_deref()).map(|target| (uid.clone(), target))
        });
        let targets: Vec<_> = serving.collect();
        let (_, first) = targets.first().ok_or_else(|| pods.none(&known))?;
        let exposed = exposed(&options, first)?;
        // One person can have two runs.
        let who = format!("{} (tp {})", who(), std::process::id());
        let undo = Arc::clone(&origin.undo);
        let shared = origin.shared(pods, options, exposed, who);
        let first = first.clone();
        let ups = match open_all(&shared, targets).await {
            Err(refused) if services::are_for(&refused) => {
                return services::open(shared, first, undo, &refused).await;
            }
            opened => opened?,
        };
        if shared.options.filter.is_some() || shared.options.way() == Way::Mirror {
            info!("what is left to the app comes to it from its pod's own address");
        }
        let (pods_tx, pods_rx) = watch::channel(known);
        let follower = tokio::spawn(shared.pods.clone().follow(version, pods_tx));
        let done = CancellationToken::new();
        let supervisor = undo.spawn(keep::supervise(Arc::clone(&shared), ups, pods_rx, done.clone()));
        Ok(Self { shared, done, supervisor, follower: Some(follower), turned: None })
    }

    /// The program that they lead to.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.shared.program
    }

    /// As [`method`], now that all ports have numbers.
    ///
    /// # Errors
    /// If the method asked for gives the program no such port.
    pub fn method(&self, method: Method) -> Result<Method, ExposeError> {
        method_for(method, self.shared.exposed.iter().map(|exposed| exposed.here.number))
    }

    /// Gives the ports back. What the program still has to say is delivered first.
    pub async fn end(mut self) {
        self.shared.program.has_ended();
        if let Some(turned) = self.turned.take() {
            turned.end().await;
        }
        self.done.cancel();
        if tokio::time::timeout(END_LIMIT, &mut self.supervisor).await.is_err() {
            warn!("the agents did not say in time that the ports are the app's again");
        }
    }
}

/// The ports with their numbers, those of this machine free.
fn exposed(options: &Options, target: &Target) -> Result<Vec<Arc<Exposed>>, ExposeError> {
    let resolved = beside::resolve(&options.wanted, target)?;
    let numbered = options.wanted.iter().zip(resolved).map(|(wanted, (protocol, port, _))| {
        let here = wanted.here.unwrap_or(port);
        is_free(protocol, here)?;
        Ok(Arc::new(Exposed { protocol, here: Port::new(here), said: wanted.port.to_string() }))
    });
    numbered.collect()
}

/// Takes the ports in each of the pods. One that cannot be reached now is left for later if another can.
async fn open_all(
    shared: &Shared,
    targets: Vec<(String, Target)>,
) -> Result<Vec<(String, beside::Up)>, ExposeError> {
    let opening = targets.into_iter().map(|(uid, target)| async move {
        let pod = target.pod_name().to_owned();
        (uid, pod, beside::open(shared, target).await)
    });
    let (mut ups, mut failed) = (Vec::new(), Vec::new());
    for (uid, pod, opened) in join_all(opening).await {
        match opened {
            Ok(up) => ups.push((uid, up)),
            Err(error) if error.passes() => failed.push((pod, error)),
            Err(error) => return Err(error),
        }
    }
    match failed.into_iter().next() {
        Some((_, error)) if ups.is_empty() => Err(error),
        Some((pod, error)) => {
            tell(format_args!("cannot take {} of pod {pod} yet: {error}", beside::said(&shared.exposed)));
            Ok(ups)
        }
        None => Ok(ups),
    }
}
