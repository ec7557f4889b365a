//! A pod of our own in place of a workload's pods.
//!
//! # Theory of operation
//! What there was is written onto the workload first ([`record`]). Then our own pod is made from the workload's template
//! ([`template`]), with its labels, so that its Services find it; and the workload is scaled to nothing. Which of the two
//! comes first depends:
//!
//! | workload | order |
//! |---|---|
//! | a deployment whose ports are exposed | our pod is ready before the others go, so that no request finds nobody |
//! | a deployment with strategy `Recreate`, a stateful set | the others have gone before the command starts: two at once is what these must never have |
//! | no port is exposed | likewise: nobody asks it anything |
//!
//! At the end, whatever way, [`Undo`] scales back, deletes the pod and takes the record away. A run that was killed leaves
//! the record, and nothing else for long: the agent ends by itself. `tp leave` or the next swap goes by the record.
//!
//! Somebody else may scale the workload meanwhile (an autoscaler, a GitOps controller, a person): that is told once, not
//! fought, and not overwritten at the end ([`watch`]).

mod fresh;
mod template;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Api, ListParams};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::agent::{self, AgentError, Image, Secret};
use super::own_pod::{self, Created, OwnPod, Purpose};
use super::record::{self, Given, Looked, Record};
use super::target::{self, Kind, Target, TargetError, Workload};
use super::{ApiError, Cluster, access};
use crate::undo::Undo;

pub use fresh::{Left, Port, deployments, remove as remove_made, services};
pub(super) use fresh::{create as make_object, metadata};

/// How often a workload is looked at again that changed before it could be written.
const LOOKS: u32 = 20;
/// How often pods are looked at that are to come or to go.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the workload's pods may take to end beyond the time that they are given themselves.
const GONE_LIMIT: Duration = Duration::from_secs(60);
/// How long our own pod may take to end before what it stood for is started again.
const OWN_GONE_LIMIT: Duration = Duration::from_secs(15);
/// How long the agent's container in a pod that was made may wait for somebody: it ends by itself some time later.
const UNSTARTED_LIMIT: Duration = Duration::from_secs(20);

/// What our pod stands in for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A workload that there is.
    Swap(Workload),
    /// A deployment that there is not yet, with its Service.
    New {
        /// Its name, and its Service's.
        name: String,
        /// The Service's ports.
        ports: Vec<Port>,
    },
}

impl Place {
    /// The workload, be it there or not.
    #[must_use]
    pub fn workload(&self) -> Workload {
        match self {
            Self::Swap(workload) => workload.clone(),
            Self::New { name, .. } => Workload { kind: Kind::Deployment, name: name.clone() },
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// In place of what.
    pub place: Place,
    /// The container in the workload's template.
    pub container: Option<String>,
    /// Where the agent's program comes from.
    pub image: Image,
    /// If ports are exposed: else Services do not find the pod.
    pub serves: bool,
}

/// Why there is no stand-in.
#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    /// The API server's doing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No such workload or container.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No pod of our own, or no agent in it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Somebody else stands in for it.
    #[error("{what} is held by {who} since {age}")]
    Held {
        /// The workload.
        what: String,
        /// Whose run.
        who: String,
        /// How long ago it began.
        age: String,
    },
    /// There is one that tp did not make.
    #[error("{what} exists already in namespace `{namespace}`")]
    Exists {
        /// The object.
        what: String,
        /// Where.
        namespace: String,
    },
    /// It changed each time before it could be written.
    #[error("{workload} changes all the time")]
    Restless {
        /// The workload.
        workload: Workload,
    },
    /// Its pods do not end.
    #[error("the pods of {workload} did not end in time: {pods}")]
    NotGone {
        /// The workload.
        workload: Workload,
        /// Those that are left.
        pods: String,
    },
    /// `tp leave` took it away, or somebody else its record.
    #[error("{workload} was given back by somebody else")]
    GivenBack {
        /// The workload.
        workload: Workload,
    },
}

/// A stand-in for a workload, until [`Undo`] takes it back.
pub struct StandIn {
    cluster: Cluster,
    secret: Secret,
    image: Image,
    undo: Arc<Undo>,
    session: String,
    workload: Workload,
    /// What our pods are made after.
    template: Target,
    purpose: Purpose,
    /// If the workload's pods go before ours serves.
    exclusive: bool,
    is_swap: bool,
    own: Mutex<Option<OwnPod>>,
}

impl StandIn {
    /// Writes the record, or makes the deployment; the pod comes with [`StandIn::pod`].
    ///
    /// # Errors
    /// If somebody else has it, or it cannot be. `undo` takes back what was done.
    pub async fn begin(
        cluster: Cluster,
        secret: Secret,
        options: Options,
        undo: Arc<Undo>,
    ) -> Result<Self, StandInError> {
        let session = own_pod::new_session();
        let ready_port = options.serves.then(agent::new_port);
        let (workload, template, labels, exclusive, is_swap) = match options.place {
            Place::Swap(workload) => {
                let looked = look(&cluster, &workload).await?;
                let (template, labels) = template::of(&looked, options.container.as_deref())?;
                let exclusive = !options.serves
                    || workload.kind == Kind::StatefulSet
                    || looked.word("/strategy/type") == Some("Recreate");
                take(&cluster, &workload, &session, &undo).await?;
                (workload, template, labels, exclusive, true)
            }
            Place::New { name, ports } => {
                let template = fresh::make(&cluster, &name, &ports, &options.image, &session, &undo).await?;
                (template.workload.clone(), template, BTreeMap::new(), false, false)
            }
        };
        Ok(Self {
            cluster,
            secret,
            image: options.image,
            undo,
            session,
            workload,
            template,
            purpose: Purpose::StandIn { ready_port, labels },
            exclusive,
            is_swap,
            own: Mutex::new(None),
        })
    }

    /// The workload.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The port by which our pod is ready, if it ever is.
    #[must_use]
    pub fn ready_port(&self) -> Option<u16> {
        self.purpose.ready_port()
    }

    /// Our own pod, with an agent that listens: the one that there is, or another one when that has ended. Where two at once
    /// must not be, the workload's own pods have gone when this returns.
    ///
    /// # Errors
    /// If there is none to be had, or somebody else has given the workload back.
    pub async fn pod(&self) -> Result<OwnPod, StandInError> {
        let mut own = self.own.lock().await;
        if let Some(known) = own.as_ref() {
            if self.runs(known).await? {
                return Ok(known.clone());
            }
            if self.is_swap && !self.is_ours().await? {
                return Err(StandInError::GivenBack { workload: self.workload.clone() });
            }
        }
        let mut created = self.create().await?;
        if self.exclusive && own.is_none() {
            let began = Instant::now();
            self.scale_down().await?;
            self.until_gone().await?;
            if began.elapsed() > UNSTARTED_LIMIT {
                created.give_up(&self.undo).await;
                created = self.create().await?;
            }
        }
        let made = created.begin(&self.undo).await?;
        *own = Some(made.clone());
        Ok(made)
    }

    async fn create(&self) -> Result<Created, AgentError> {
        let created = own_pod::create(
            &self.cluster,
            &self.secret,
            &self.template,
            &self.image,
            &self.purpose,
            &self.session,
            &self.undo,
        );
        created.await
    }

    async fn runs(&self, own: &OwnPod) -> Result<bool, ApiError> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        match self.cluster.call("get", "pods", api.get(own.target.pod_name())).await {
            Ok(pod) => Ok(pod.metadata.deletion_timestamp.is_none() && !own_pod::has_ended(&pod)),
            Err(ApiError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn is_ours(&self) -> Result<bool, ApiError> {
        match record::look(&self.cluster, &self.workload).await {
            Ok(looked) => Ok(looked.record().is_some_and(|record| record.session == self.session)),
            // Whoever deletes the workload has not given it back: there is nothing to give.
            Err(ApiError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes the workload's place when our own pod is ready: from then on its Services have no other. Where it has its place
    /// already nothing is waited for. Then it watches the workload for as long as there is one, and tells what the user
    /// should know.
    ///
    /// # Errors
    /// If the workload cannot be scaled.
    pub async fn take_over(&self, tell: &(impl Fn(String) + Send + Sync)) -> Result<(), StandInError> {
        if self.is_swap && !self.exclusive {
            self.until_ready().await;
            self.scale_down().await?;
        }
        let record = self.is_swap.then_some(self.session.as_str());
        watch::watch(&self.cluster, &self.workload, record, tell).await;
        Ok(())
    }

    async fn until_ready(&self) {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        loop {
            let name = self.own.lock().await.as_ref().map(|own| own.target.pod_name().to_owned());
            if let Some(name) = name {
                match self.cluster.call("get", "pods", api.get(&name)).await {
                    Ok(pod) if target::is_ready(&pod) => return,
                    Ok(_) | Err(ApiError::NotFound { .. }) => {}
                    Err(error) => debug!(%error, "cannot look at the pod"),
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Scales the workload to nothing, which is noted first.
    async fn scale_down(&self) -> Result<(), StandInError> {
        let by_hand = format!(
            "kubectl scale {} -n {} --replicas={}",
            self.workload,
            self.cluster.namespace,
            record::look(&self.cluster, &self.workload).await?.record().map_or(1, |record| record.replicas)
        );
        let (cluster, workload, session) =
            (self.cluster.clone(), self.workload.clone(), self.session.clone());
        let exclusive = self.exclusive;
        self.undo.note(format!("scaling {workload} to 0"), by_hand, move || async move {
            give_back(&cluster, &workload, &session, exclusive).await.map(drop).map_err(Into::into)
        });
        let (cluster, workload, session) =
            (self.cluster.clone(), self.workload.clone(), self.session.clone());
        let scaled = async move { record::scale_down(&cluster, &workload, &session).await };
        match self.undo.change(scaled).await? {
            Some(replicas) => {
                info!(workload = %self.workload, replicas, "scaled to 0");
                Ok(())
            }
            None => Err(StandInError::GivenBack { workload: self.workload.clone() }),
        }
    }

    /// Waits until the workload has no pods but ours. One that somebody else scales meanwhile is not fought over.
    async fn until_gone(&self) -> Result<(), StandInError> {
        let looked = record::look(&self.cluster, &self.workload).await?;
        let Some(selector) = looked.selector() else { return Ok(()) };
        let grace = self.template.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let grace = Duration::from_secs(grace.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30));
        let until = Instant::now() + grace + GONE_LIMIT;
        loop {
            let names = self.pods_of_others(&selector).await?;
            if names.is_empty() {
                return Ok(());
            }
            if record::look(&self.cluster, &self.workload).await?.replicas() != 0 {
                return Ok(());
            }
            if Instant::now() > until {
                let pods = names.join(", ");
                return Err(StandInError::NotGone { workload: self.workload.clone(), pods });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn pods_of_others(&self, selector: &::kube::core::Selector) -> Result<Vec<String>, ApiError> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let of_it = ListParams::default().labels_from(selector);
        let pods = self.cluster.call("list", "pods", api.list(&of_it)).await?;
        let others = pods.items.into_iter().filter(|pod| !own_pod::is_ours(pod) && !own_pod::has_ended(pod));
        Ok(others.filter_map(|pod| pod.metadata.name).collect())
    }
}

async fn look(cluster: &Cluster, workload: &Workload) -> Result<Looked, StandInError> {
    match record::look(cluster, workload).await {
        Err(ApiError::NotFound { .. }) => Err(target::missing(cluster, workload).await.into()),
        looked => Ok(looked?),
    }
}

/// Writes our record, in place of one whose run is dead: that one's word about the replicas holds.
async fn take(
    cluster: &Cluster,
    workload: &Workload,
    session: &str,
    undo: &Undo,
) -> Result<(), StandInError> {
    let kind = workload.kind;
    let mut needed = vec![("patch", kind.resource()), ("patch", kind.scale())];
    if kind == Kind::Deployment {
        needed.extend([("list", "replicasets.apps"), ("patch", "replicasets.apps")]);
    }
    access::check(cluster, &needed).await?;
    // The record is what knows how many replicas there were: it must not be taken away by hand.
    let by_hand = format!("tp leave -n {}", cluster.namespace);
    let (undoing, of, session_of) = (cluster.clone(), workload.clone(), session.to_owned());
    undo.note(format!("the record on {workload}"), by_hand, move || async move {
        record::scale_back(&undoing, &of, &session_of).await?;
        record::remove(&undoing, &of, &session_of).await.map_err(Into::into)
    });
    for _ in 0..LOOKS {
        let looked = look(cluster, workload).await?;
        let mut replicas = looked.replicas();
        if let Some(left) = looked.record() {
            if record::is_alive(cluster, &left.session, left.since).await? {
                let (what, age) = (workload.to_string(), left.age());
                return Err(StandInError::Held { what, who: left.who, age });
            }
            info!(%workload, who = left.who, "taken over from a run that is dead");
            if replicas == 0 {
                replicas = left.replicas;
            }
        }
        let since = cluster.time().await;
        let record = Record { replicas, since, who: own_pod::who(), session: session.to_owned() };
        let writing = cluster.clone();
        match undo.change(async move { record::write(&writing, &looked, &record).await }).await {
            Err(ApiError::Conflict { .. }) => {}
            written => return Ok(written?),
        }
    }
    Err(StandInError::Restless { workload: workload.clone() })
}

/// Gives the workload its replicas. If it is one that must not run twice, our own pods go first.
///
/// # Errors
/// Those of the API server.
pub async fn give_back(
    cluster: &Cluster,
    workload: &Workload,
    session: &str,
    exclusive: bool,
) -> Result<Given, ApiError> {
    if exclusive {
        let until = Instant::now() + OWN_GONE_LIMIT;
        while remove_pods(cluster, session).await? > 0 && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
    }
    record::scale_back(cluster, workload, session).await
}

/// Deletes the pods of a run; gives how many were still there.
///
/// # Errors
/// Those of the API server.
pub async fn remove_pods(cluster: &Cluster, session: &str) -> Result<usize, ApiError> {
    let pods = own_pod::all(cluster, Some(session)).await?;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        own_pod::remove(cluster, pod.metadata.name.as_deref().unwrap_or_default()).await?;
    }
    Ok(pods.len())
}
