//! One pod whose ports are exposed: its agent, the link to it, and a stream for each port.
//!
//! The agent is one with rights of its own (`NET_ADMIN`), beside the session's, and is found or made as that is. Its word
//! that a port is taken is the proof that the link works.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use socks_proxy::expose::wire::{Expose, MESSAGE_MAX, Protocol, ToAgent, ToLauncher};
use socks_proxy::messages;
use socks_proxy::mux::{MuxStream, Opener};
use tracing::{debug, info};

use super::wanted::{Port, Wanted};
use super::{ExposeError, Shared};
use crate::kube::agent::{self, Agent, AgentError, Needs, Stage};
use crate::kube::pods::{Probes, declared, probes};
use crate::kube::target::Target;
use crate::kube::{ApiError, nearest};
use crate::pod::agent::expose;
use crate::pod::conversation::Conversation;
use crate::session::SessionError;
use crate::session::link::{self, Link};

/// Rules in nftables are made in the pod.
const NEEDS: Needs = Needs { net_admin: true };
/// How often a pod is looked at again that changed before the agent could be made.
const LOOKS: u32 = 10;
/// How long an agent that another run started is waited for, and how often it is tried.
const STARTING: (u32, Duration) = (60, Duration::from_millis(50));

pub(super) type Stream = Conversation<MuxStream>;

/// A pod whose ports are ours.
pub(super) struct Up {
    pub(super) agent: Agent,
    pub(super) link: Link,
    /// One for each port.
    pub(super) streams: Vec<Stream>,
}

/// The agent's word that it is not to be, with its port.
pub(super) struct No {
    port: u16,
    word: ToLauncher,
}

/// Takes the ports in the pod.
pub(super) async fn open(shared: &Shared, mut target: Target) -> Result<Up, ExposeError> {
    let exposes = exposes(shared, &target)?;
    for _ in 0..LOOKS {
        match open_once(shared, &target, &exposes).await {
            Err(ExposeError::Session(SessionError::Agent(AgentError::Api(ApiError::Conflict {
                ..
            })))) => {
                debug!(pod = target.pod_name(), "the pod changed while it was looked at");
                target.pod = shared.pods.look(target.pod_name()).await.map_err(SessionError::Api)?;
            }
            opened => return opened,
        }
    }
    open_once(shared, &target, &exposes).await
}

async fn open_once(shared: &Shared, target: &Target, exposes: &[Expose]) -> Result<Up, ExposeError> {
    if let Some((agent, stage)) = agent::lingering(&shared.secret, &target.pod, &target.container, NEEDS) {
        let tries = if stage == Stage::Starting { STARTING.0 } else { 1 };
        for _ in 0..tries {
            match take(shared, &agent, exposes).await {
                // It may have ended this moment: the pod's status is a second late.
                Err(ExposeError::Session(SessionError::Link { source, .. })) => {
                    debug!(%source, agent = agent.container, "does not answer");
                    tokio::time::sleep(STARTING.1).await;
                }
                taken => return taken,
            }
        }
    }
    let Shared { cluster, secret, image, unstarted, .. } = shared;
    let agent = agent::create(cluster, secret, target, image, NEEDS, unstarted).await;
    let agent = agent.map_err(|error| no_rights(target, error))?;
    take(shared, &agent, exposes).await
}

/// Who may change the pod, but not so, is told what is not allowed by whom.
fn no_rights(target: &Target, error: AgentError) -> ExposeError {
    match error {
        AgentError::Api(ApiError::Other { source, .. }) => {
            ExposeError::NoRights { pod: target.pod_name().to_owned(), source }
        }
        other => SessionError::Agent(other).into(),
    }
}

/// Takes the ports by that agent.
pub(super) async fn take(shared: &Shared, agent: &Agent, exposes: &[Expose]) -> Result<Up, ExposeError> {
    let ask =
        async |opener: Opener| try_join_all(exposes.iter().map(|wanted| ask(&opener, wanted.clone()))).await;
    let (link, asked) = link::open(&shared.cluster, agent, ask).await?;
    let mut streams = Vec::new();
    for asked in asked {
        streams.push(asked.map_err(|no| no.explained(&agent.pod))?);
    }
    info!(pod = agent.pod, container = agent.container, ports = streams.len(), "exposed");
    Ok(Up { agent: agent.clone(), link, streams })
}

/// Asks for one port; gives the stream if it is ours.
pub(super) async fn ask(opener: &Opener, wanted: Expose) -> io::Result<Result<Stream, No>> {
    let mut stream = expose(opener).await?;
    let port = wanted.port;
    messages::write(&mut stream, &ToAgent::Expose(wanted)).await?;
    loop {
        match messages::read(&mut stream, MESSAGE_MAX).await? {
            ToLauncher::Ready => return Ok(Ok(stream)),
            ToLauncher::Note(note) => info!(port, "{note}"),
            word => return Ok(Err(No { port, word })),
        }
    }
}

impl No {
    pub(super) fn explained(self, pod: &str) -> ExposeError {
        let (pod, port) = (pod.to_owned(), self.port);
        match self.word {
            ToLauncher::Held { by } => ExposeError::Held { pod, port, by },
            ToLauncher::NobodyListens => ExposeError::NobodyListens { pod, port },
            ToLauncher::Refused { errno, step } => {
                ExposeError::Refused { pod, port, step, source: io::Error::from_raw_os_error(errno) }
            }
            word => ExposeError::Refused {
                pod,
                port,
                step: "understand the agent".to_owned(),
                source: io::Error::other(format!("{word:?}")),
            },
        }
    }
}

/// What tells that rules of a mesh's own are in the pod: they rewrite a client's first packet to their proxy's port after
/// ours have chosen a socket for it, and that socket would be another port's.
fn mesh(pod: &Pod) -> Option<&'static str> {
    const PROXIES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];
    const AMBIENT: &str = "ambient.istio.io/redirection";
    let spec = pod.spec.as_ref();
    let first = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let mut containers = spec.iter().flat_map(|spec| &spec.containers).chain(first);
    let proxy = containers.find_map(|container| PROXIES.into_iter().find(|name| *name == container.name));
    let annotations = pod.metadata.annotations.as_ref();
    let is_ambient = annotations.and_then(|all| all.get(AMBIENT)).is_some_and(|value| value == "enabled");
    proxy.or(is_ambient.then_some(AMBIENT))
}

/// What the agent is asked for, in the order of the options.
pub(super) fn exposes(shared: &Shared, target: &Target) -> Result<Vec<Expose>, ExposeError> {
    let pod = &target.pod;
    // The rules would take the port of the whole node.
    if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return Err(ExposeError::HostNetwork { pod: target.pod_name().to_owned() });
    }
    if let Some(by) = mesh(pod) {
        return Err(ExposeError::Mesh { pod: target.pod_name().to_owned(), by });
    }
    let resolved = resolve(&shared.options.wanted, target)?;
    let exposes = resolved.into_iter().enumerate().map(|(at, (protocol, port, declared))| {
        let probes = if protocol == Protocol::Tcp { probes(pod, port) } else { Probes::default() };
        Expose {
            id: u32::try_from(at).unwrap_or(u32::MAX),
            protocol,
            port,
            way: shared.options.way(),
            filter: shared.options.filter.clone(),
            who: shared.who.clone(),
            run: shared.run,
            probes: probes.requests,
            tls_probes: probes.tls,
            nodes: nodes(pod),
            declared,
            app: None,
        }
    });
    Ok(exposes.collect())
}

fn nodes(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.host_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// The ports' numbers in a pod, and whether its containers declare them.
pub(super) fn resolve(wanted: &[Wanted], target: &Target) -> Result<Vec<(Protocol, u16, bool)>, ExposeError> {
    let known = declared(&target.pod, &target.container);
    let mut resolved: Vec<(Protocol, u16, bool)> = Vec::new();
    for Wanted { port, protocol, .. } in wanted {
        let mut known = known.iter().filter(|known| known.udp == (*protocol == Protocol::Udp));
        let (number, is_declared) = match port {
            Port::Number(number) => (*number, known.any(|known| known.port == *number)),
            Port::Name(name) => match known.clone().find(|known| known.name.as_ref() == Some(name)) {
                Some(known) => (known.port, true),
                None => {
                    let names: Vec<_> = known.filter_map(|known| known.name.clone()).collect();
                    return Err(ExposeError::NoName {
                        name: name.clone(),
                        pod: target.pod_name().to_owned(),
                        nearest: nearest(name, names.clone()),
                        names,
                    });
                }
            },
        };
        if resolved.iter().any(|(known, at, _)| (known, *at) == (protocol, number)) {
            return Err(ExposeError::Twice { port: number.to_string() });
        }
        resolved.push((*protocol, number, is_declared));
    }
    Ok(resolved)
}

/// For what is said to the user: the ports as they are in the pod.
pub(super) fn said(ports: &[Arc<super::carry::Exposed>]) -> String {
    let ports: Vec<_> = ports.iter().map(|port| port.said.as_str()).collect();
    format!("port{} {}", if ports.len() == 1 { "" } else { "s" }, ports.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_a_mesh_is_known_by_its_proxy_or_its_annotation() {
        let pod = |metadata: serde_json::Value, spec: serde_json::Value| {
            serde_json::from_value::<Pod>(serde_json::json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let none = serde_json::json!({});
        let app = serde_json::json!({"containers": [{"name": "app"}]});
        let beside = serde_json::json!({"containers": [{"name": "app"}, {"name": "linkerd-proxy"}]});
        let first =
            serde_json::json!({"containers": [{"name": "app"}], "initContainers": [{"name": "istio-proxy"}]});
        let ambient = serde_json::json!({"annotations": {"ambient.istio.io/redirection": "enabled"}});
        assert_eq!(mesh(&pod(none.clone(), app.clone())), None);
        assert_eq!(mesh(&pod(none.clone(), beside)), Some("linkerd-proxy"));
        assert_eq!(mesh(&pod(none, first)), Some("istio-proxy"));
        assert_eq!(mesh(&pod(ambient, app)), Some("ambient.istio.io/redirection"));
    }
}
