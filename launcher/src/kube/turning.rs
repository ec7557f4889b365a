//! Services of a workload that lead to a pod of our own for a while, where the workload's pods themselves cannot be touched.
//!
//! Kubernetes' own `edit` role may make no ephemeral containers, and the Pod Security standards admit none that could take
//! a port beside the app. Services are what is left:
//!
//! ```text
//!  a client ──▶ Service web ──▶ our pod ──▶ the laptop's program
//!                                  └─────▶ Service web-tp ──▶ the workload's pods: what is not for the program
//! ```
//!
//! # Theory of operation
//! In this order, so that the app is served at any moment: what the Service selects is written onto it ([`record`]); a second
//! Service, `NAME-tp`, is made with the same ports and selector; our pod is made, with labels that none of the workload's
//! Services know; when it is ready, which is when the program listens, the Service is turned. [`Undo`] goes the way back.
//!
//! A run that is killed leaves it all standing: the agent passes everything on to `NAME-tp` until somebody gives the
//! Service back (`tp leave`, the next run), or the pod's deadline comes. The run is dead when the agent says that nobody
//! has ports of it.
//!
//! The workload is not touched, so neither are its probes, its rollouts, nor whoever talks to its pods' own addresses:
//! those still reach the app. Headless Services are left alone for the same reason.

mod choose;
pub mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::Api;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::{debug, info};

use super::agent::{self, AgentError, Image, Secret};
use super::own_pod::{self, OwnPod, Purpose};
use super::record::is_alive;
use super::stand_in::{StandInError, make_object, metadata, remove_pods};
use super::target::{Target, is_ready};
use super::{ApiError, Cluster, access};
use crate::undo::Undo;
use choose::{Chosen, choose};
use record::{Given, Record, State, TURNED, said};

/// How often a Service is looked at again that changed before it could be written.
const LOOKS: u32 = 20;
/// How often our pod is looked at that is to become ready.
const READY_EVERY: Duration = Duration::from_millis(200);
/// How often turned Services are looked at: each is one small object.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// How long nodes may take to send by a selector that was restored: kube-proxy writes its rules once a second.
const SETTLE: Duration = Duration::from_millis(1200);
/// Appended to a Service's name for the one that leads to the app; a name may have 63 letters (RFC 1123).
const SUFFIX: (&str, usize) = ("-tp", 63);
/// What an administrator has to allow beside our own pod.
const NEEDED: [(&str, &str); 5] = [
    ("list", "services"),
    ("get", "services"),
    ("create", "services"),
    ("patch", "services"),
    ("delete", "services"),
];

/// Why no Service leads to our pod.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The API server's doing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No pod of our own, or no agent in it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// No second Service.
    #[error(transparent)]
    Made(#[from] StandInError),
    /// Somebody else has turned it.
    #[error("service/{name} is held by {who} since {age}")]
    Held {
        /// The Service.
        name: String,
        /// Whose run.
        who: String,
        /// How long ago it began.
        age: String,
    },
    /// There is none that could be turned.
    #[error("no Service that could be led elsewhere leads to port {port}{}", because(.left))]
    None {
        /// The port of the pod.
        port: u16,
        /// Those that lead there, with what keeps each.
        left: Vec<String>,
    },
    /// It changed each time before it could be written.
    #[error("service/{name} changes all the time")]
    Restless {
        /// The Service.
        name: String,
    },
    /// The second Service has no address.
    #[error("service/{name} got no address")]
    NoAddress {
        /// The Service.
        name: String,
    },
    /// The app's answers cannot be left to it.
    #[error("a mirror needs rules in the app's own pod")]
    Mirror,
    /// `tp leave` gave it back, or somebody else.
    #[error("{services} was given back by somebody else")]
    GivenBack {
        /// The Services.
        services: String,
    },
}

fn because(left: &[String]) -> String {
    if left.is_empty() { String::new() } else { format!(": {}", left.join("; ")) }
}

/// A port that our pod has to serve, and where the app behind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct App {
    /// Of UDP, not TCP.
    pub udp: bool,
    /// The port in the pod.
    pub port: u16,
    /// Where the app answers.
    pub at: SocketAddr,
}

/// A Service that is ours for a while.
#[derive(Debug)]
struct Turned {
    name: String,
    /// The command that gives it back without tp.
    by_hand: String,
}

/// Services that lead to a pod of our own, until [`Turning::give_back`] or [`Undo`].
pub struct Turning {
    cluster: Cluster,
    secret: Secret,
    image: Image,
    undo: Arc<Undo>,
    session: String,
    /// What our pods are made after.
    template: Target,
    ready_port: u16,
    purpose: Purpose,
    services: Vec<Turned>,
    apps: Vec<App>,
    left: Vec<String>,
    own: Mutex<Option<OwnPod>>,
}

impl Turning {
    /// Writes the records and makes the second Services; nothing is led elsewhere yet. `wanted` are ports of `template`, a
    /// pod of the workload: if of UDP, and the number.
    ///
    /// # Errors
    /// If somebody else has one of the Services, or none leads to a port. `undo` takes back what was done.
    pub async fn begin(
        cluster: Cluster,
        secret: Secret,
        image: Image,
        template: Target,
        wanted: &[(bool, u16)],
        undo: Arc<Undo>,
    ) -> Result<Self, TurnError> {
        access::check(&cluster, &NEEDED).await?;
        let session = own_pod::new_session();
        let choice = choose(record::list(&cluster).await?, &template, wanted);
        if let Some((_, port)) = wanted.iter().find(|(udp, port)| !choice.leads_to(*udp, *port)) {
            return Err(TurnError::None { port: *port, left: choice.left });
        }
        let mut services = Vec::new();
        for chosen in &choice.chosen {
            let by_hand = by_hand(&cluster, chosen);
            take(&cluster, chosen, &session, &undo, &by_hand).await?;
            services.push(Turned { name: chosen.name.clone(), by_hand });
        }
        let mut apps: Vec<App> = Vec::new();
        for chosen in &choice.chosen {
            let ip = make_second(&cluster, chosen, &session, &undo).await?;
            for lead in &chosen.leads {
                if !apps.iter().any(|app| (app.udp, app.port) == (lead.udp, lead.target)) {
                    let at = SocketAddr::new(ip, lead.port);
                    apps.push(App { udp: lead.udp, port: lead.target, at });
                }
            }
        }
        let ready_port = agent::new_port();
        let labels = choice.keys.into_iter().map(|key| (key, session.clone())).collect::<BTreeMap<_, _>>();
        Ok(Self {
            cluster,
            secret,
            image,
            undo,
            session,
            template,
            ready_port,
            purpose: Purpose::Instead { ready_port, labels },
            services,
            apps,
            left: choice.left,
            own: Mutex::new(None),
        })
    }

    /// All ports that come to our pod by the Services, exposed or not.
    #[must_use]
    pub fn apps(&self) -> &[App] {
        &self.apps
    }

    /// The port by which our pod is ready.
    #[must_use]
    pub const fn ready_port(&self) -> u16 {
        self.ready_port
    }

    /// The Services, for people.
    #[must_use]
    pub fn said(&self) -> String {
        self.services.iter().map(|turned| format!("service/{}", turned.name)).collect::<Vec<_>>().join(", ")
    }

    /// Services that lead to exposed ports, too, but stay as they are, each with the reason.
    #[must_use]
    pub fn left(&self) -> &[String] {
        &self.left
    }

    /// Our own pod, with an agent that listens: the one that there is, or another one when that has ended.
    ///
    /// # Errors
    /// If there is none to be had, or the Services were all given back.
    pub async fn pod(&self) -> Result<OwnPod, TurnError> {
        let mut own = self.own.lock().await;
        if let Some(known) = own.as_ref() {
            if own_pod::lives(&self.cluster, known.target.pod_name()).await {
                return Ok(known.clone());
            }
            if !self.has_any().await? {
                return Err(TurnError::GivenBack { services: self.said() });
            }
        }
        let created = own_pod::create(
            &self.cluster,
            &self.secret,
            &self.template,
            &self.image,
            &self.purpose,
            &self.session,
            &self.undo,
        );
        let made = created.await?.begin(&self.undo).await?;
        *own = Some(made.clone());
        Ok(made)
    }

    async fn has_any(&self) -> Result<bool, ApiError> {
        for Turned { name, .. } in &self.services {
            if record::state(&self.cluster, name, &self.session).await? != State::GivenBack {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Turns the Services as soon as our pod is ready, and tells what others make of them from then on; never returns but
    /// with an error, or when there is none left to look at.
    ///
    /// # Errors
    /// If a Service cannot be turned.
    pub async fn take_over(&self, tell: &(impl Fn(String) + Send + Sync)) -> Result<(), TurnError> {
        self.until_ready().await;
        for Turned { name, by_hand } in &self.services {
            let (cluster, service, session) = (self.cluster.clone(), name.clone(), self.session.clone());
            self.undo.note(format!("turning service/{name}"), by_hand, move || async move {
                record::give_back(&cluster, &service, &session).await.map(drop).map_err(Into::into)
            });
            let (cluster, service, session) = (self.cluster.clone(), name.clone(), self.session.clone());
            let turned = async move { record::turn(&cluster, &service, &session).await };
            if self.undo.change(turned).await? {
                info!(service = name, "turned");
            }
        }
        self.watch(tell).await;
        Ok(())
    }

    async fn until_ready(&self) {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        loop {
            let name = self.own.lock().await.as_ref().map(|own| own.target.pod_name().to_owned());
            if let Some(name) = name {
                match self.cluster.call("get", "pods", api.get(&name)).await {
                    Ok(pod) if is_ready(&pod) => return,
                    Ok(_) | Err(ApiError::NotFound { .. }) => {}
                    Err(error) => debug!(%error, "cannot look at the pod"),
                }
            }
            sleep(READY_EVERY).await;
        }
    }

    async fn watch(&self, tell: &(impl Fn(String) + Send + Sync)) {
        let mut ours: BTreeSet<&str> = self.services.iter().map(|turned| turned.name.as_str()).collect();
        while !ours.is_empty() {
            let mut lost = Vec::new();
            for &name in &ours {
                match record::state(&self.cluster, name, &self.session).await {
                    Ok(State::Ours) => continue,
                    Ok(State::Changed(selector)) => tell(format!(
                        "service/{name} was led to {} by somebody else: it does not lead here any more, and stays so",
                        said(&selector)
                    )),
                    Ok(State::GivenBack) => tell(format!(
                        "service/{name} was given back by somebody else, and does not lead here any more"
                    )),
                    Err(error) => {
                        debug!(%error, "cannot look at the Service");
                        continue;
                    }
                }
                lost.push(name);
            }
            ours.retain(|name| !lost.contains(name));
            sleep(WATCH_EVERY).await;
        }
    }

    /// Gives the Services back, and waits until the cluster's nodes know it: until then our pod passes on what comes. Gives
    /// what the user should know.
    pub async fn give_back(&self) -> Vec<String> {
        let mut told = Vec::new();
        for Turned { name, .. } in &self.services {
            match record::give_back(&self.cluster, name, &self.session).await {
                Ok(Given::Back) => info!(service = name, "given back"),
                Ok(Given::Nothing) => {}
                Ok(Given::AsItIs(selector)) => told.push(format!(
                    "service/{name} stays led to {}, as somebody else has it",
                    said(&selector)
                )),
                // Undo tries once more, and tells if that fails, too.
                Err(error) => debug!(%error, name, "cannot be given back now"),
            }
        }
        sleep(SETTLE).await;
        told
    }
}

/// Gives a Service of a dead run back, or of any; [`Given::Nothing`] if somebody else has done so. Nodes know it when this
/// returns.
///
/// # Errors
/// Those of the API server.
pub async fn give_back(cluster: &Cluster, name: &str, session: &str) -> Result<Given, ApiError> {
    let given = record::give_back(cluster, name, session).await?;
    if given == Given::Back {
        sleep(SETTLE).await;
    }
    Ok(given)
}

fn by_hand(cluster: &Cluster, chosen: &Chosen) -> String {
    let patch = serde_json::json!({
        "metadata": {"annotations": {TURNED: null}}, "spec": {"selector": chosen.selector},
    });
    format!("kubectl patch service {} -n {} --type=merge -p '{patch}'", chosen.name, cluster.namespace)
}

/// Writes our record. What a dead run has left of the Service is given back first.
async fn take(
    cluster: &Cluster,
    chosen: &Chosen,
    session: &str,
    undo: &Undo,
    by_hand: &str,
) -> Result<(), TurnError> {
    let name = &chosen.name;
    let (undoing, of, session_of) = (cluster.clone(), name.clone(), session.to_owned());
    undo.note(format!("the record on service/{name}"), by_hand, move || async move {
        record::give_back(&undoing, &of, &session_of).await.map(drop).map_err(Into::into)
    });
    for _ in 0..LOOKS {
        let looked = record::look(cluster, name).await?;
        if let Some(left) = Record::of(&looked) {
            if is_alive(cluster, &left.session, left.since).await? {
                return Err(TurnError::Held { name: name.clone(), age: left.age(), who: left.who });
            }
            give_back(cluster, name, &left.session).await?;
            remove_pods(cluster, &left.session).await?;
            info!(name, who = left.who, "given back for a run that is dead");
            continue;
        }
        let (selector, session) = (chosen.selector.clone(), session.to_owned());
        let record = Record { selector, since: cluster.time().await, who: own_pod::who(), session };
        let writing = cluster.clone();
        match undo.change(async move { record::write(&writing, &looked, &record).await }).await {
            Err(ApiError::Conflict { .. }) => {}
            written => return Ok(written?),
        }
    }
    Err(TurnError::Restless { name: name.clone() })
}

/// Makes the Service that leads to the app while `chosen` does not; gives its address.
async fn make_second(
    cluster: &Cluster,
    chosen: &Chosen,
    session: &str,
    undo: &Undo,
) -> Result<IpAddr, TurnError> {
    let name = second(&chosen.name);
    let first = chosen.service.spec.clone().unwrap_or_default();
    let mut ports = first.ports;
    for port in ports.iter_mut().flatten() {
        port.node_port = None;
    }
    let spec = ServiceSpec {
        selector: Some(chosen.selector.clone()),
        ports,
        ip_families: first.ip_families,
        ip_family_policy: first.ip_family_policy,
        publish_not_ready_addresses: first.publish_not_ready_addresses,
        ..ServiceSpec::default()
    };
    let service = Service { metadata: metadata(&name, session), spec: Some(spec), status: None };
    let made = make_object(cluster, "services", service, session, undo).await?;
    let ip = made.spec.and_then(|spec| spec.cluster_ip?.parse().ok());
    ip.ok_or(TurnError::NoAddress { name })
}

fn second(name: &str) -> String {
    let (suffix, longest) = SUFFIX;
    let short: String = name.chars().take(longest - suffix.len()).collect();
    format!("{}{suffix}", short.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_services_name_is_a_valid_one() {
        assert_eq!(second("web"), "web-tp");
        assert_eq!(second(&"a".repeat(63)).len(), 63);
        assert_eq!(second(&format!("{}-bc", "a".repeat(59))), format!("{}-tp", "a".repeat(59)));
    }
}
