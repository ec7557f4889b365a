//! The pods of a workload, as they come and go.
//!
//! A list is what there was; a watch tells what changes from there on, until the API server ends it (by its time limit,
//! or because it has forgotten the version: 410), and then there is a new list. Who may list pods but not watch them is
//! served by lists alone. Pods that tp made itself to stand in for the workload's are none of them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use ::kube::api::{Api, ListParams, WatchEvent, WatchParams};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::watch;
use tracing::debug;

use super::own_pod::is_ours;
use super::target::{self, Kind, Target, TargetError, Workload};
use super::{ApiError, Cluster};

/// Seconds after which the API server ends a watch.
const WATCH: u32 = 60;
/// A connection that says nothing for so long after that is dead.
const SILENCE: Duration = Duration::from_secs(WATCH as u64 + 15);
/// Between lists, where there is no watch.
const EVERY: Duration = Duration::from_secs(2);

/// Pods by their uid.
pub type ByUid = BTreeMap<String, Pod>;

/// The pods of one workload.
#[derive(Clone)]
pub struct Pods {
    cluster: Cluster,
    workload: Workload,
    api: Api<Pod>,
    parameters: ListParams,
}

impl Pods {
    /// Those of `workload`.
    ///
    /// # Errors
    /// If there is no such workload.
    pub async fn of(cluster: &Cluster, workload: &Workload) -> Result<Self, TargetError> {
        let parameters = match workload.kind {
            Kind::Pod => ListParams::default().fields(&format!("metadata.name={}", workload.name)),
            _ => ListParams::default().labels_from(&target::selector(cluster, workload).await?),
        };
        let api = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        Ok(Self { cluster: cluster.clone(), workload: workload.clone(), api, parameters })
    }

    /// All that there are now, and the version of that list.
    ///
    /// # Errors
    /// The API server's.
    pub async fn list(&self) -> Result<(ByUid, String), ApiError> {
        let listed = self.cluster.call("list", "pods", self.api.list(&self.parameters)).await?;
        let version = listed.metadata.resource_version.unwrap_or_default();
        let with_uid = |pod: Pod| (!is_ours(&pod)).then_some((pod.metadata.uid.clone()?, pod));
        Ok((listed.items.into_iter().filter_map(with_uid).collect(), version))
    }

    /// The pod as it is now.
    ///
    /// # Errors
    /// The API server's.
    pub async fn look(&self, name: &str) -> Result<Pod, ApiError> {
        self.cluster.call("get", "pods", self.api.get(name)).await
    }

    /// The pod as what a program can stand for, if it is one that serves: `container` as for [`target::find`].
    #[must_use]
    pub fn serving(&self, pod: &Pod, container: Option<&str>) -> Option<Target> {
        let usable = target::is_usable(pod, self.workload.kind == Kind::Pod);
        let container = target::choose_container(pod, container).ok().filter(|_| usable)?;
        Some(Target { workload: self.workload.clone(), pod: pod.clone(), container })
    }

    /// What to say when none of them serves.
    #[must_use]
    pub fn none(&self, pods: &ByUid) -> TargetError {
        target::no_pod(&self.cluster, &self.workload, pods.values())
    }

    /// Keeps `pods_tx` true from `version` on, for ever.
    pub async fn follow(self, mut version: String, pods_tx: watch::Sender<ByUid>) {
        loop {
            if !self.watch(&version, &pods_tx).await {
                tokio::time::sleep(EVERY).await;
            }
            version = loop {
                match self.list().await {
                    Ok((pods, version)) => {
                        pods_tx.send_if_modified(|known| {
                            let changed = *known != pods;
                            *known = pods;
                            changed
                        });
                        break version;
                    }
                    Err(error) => {
                        debug!(%error, "the pods cannot be listed");
                        tokio::time::sleep(EVERY).await;
                    }
                }
            };
        }
    }

    /// Follows one watch to its end; whether it told anything.
    async fn watch(&self, version: &str, pods_tx: &watch::Sender<ByUid>) -> bool {
        let mut parameters = WatchParams::default().timeout(WATCH);
        parameters.label_selector.clone_from(&self.parameters.label_selector);
        parameters.field_selector.clone_from(&self.parameters.field_selector);
        let events = match self.cluster.call("watch", "pods", self.api.watch(&parameters, version)).await {
            Ok(events) => events,
            Err(error) => {
                debug!(%error, "the pods cannot be watched");
                return false;
            }
        };
        let mut events = pin!(events);
        let mut told = false;
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, events.next()).await {
            match event {
                Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) if !is_ours(&pod) => {
                    let Some(uid) = pod.metadata.uid.clone() else { continue };
                    pods_tx.send_modify(|pods| drop(pods.insert(uid, pod)));
                }
                Ok(WatchEvent::Deleted(pod)) => {
                    let Some(uid) = pod.metadata.uid else { continue };
                    pods_tx.send_if_modified(|pods| pods.remove(&uid).is_some());
                }
                Ok(WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Bookmark(_)) => {}
                Ok(WatchEvent::Error(error)) => {
                    debug!(%error, "the watch ended");
                    break;
                }
                Err(error) => {
                    debug!(%error, "the watch broke");
                    break;
                }
            }
            told = true;
        }
        told
    }
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its number.
    pub port: u16,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// If it is of UDP.
    pub udp: bool,
}

/// The ports that the pod's containers declare, those of `container` first.
#[must_use]
pub fn declared(pod: &Pod, container: &str) -> Vec<Declared> {
    let mut containers: Vec<&Container> = pod.spec.iter().flat_map(|spec| &spec.containers).collect();
    containers.sort_by_key(|known| known.name != container);
    let ports = containers.into_iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let udp = match port.protocol.as_deref() {
                None | Some("TCP") => false,
                Some("UDP") => true,
                Some(_) => return None,
            };
            Some(Declared { port: u16::try_from(port.container_port).ok()?, name: port.name.clone(), udp })
        })
        .collect()
}

/// How the kubelet asks at a port whether the app is well, by what has to reach the app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// By requests that say so.
    pub requests: bool,
    /// By such in TLS.
    pub tls: bool,
}

/// The probes at a port. Those that only connect (`tcpSocket`) are none of these: nothing tells them from any client, and
/// whoever accepts connections there answers them.
#[must_use]
pub fn probes(pod: &Pod, port: u16) -> Probes {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let probes = containers.flat_map(|container| {
        let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        probes.into_iter().flatten().map(move |probe| (container, probe))
    });
    let here = probes.filter(|(container, probe)| at(container, probe) == Some(port));
    here.fold(Probes::default(), |found, (_, probe)| {
        let scheme = probe.http_get.as_ref().and_then(|http| http.scheme.as_deref());
        Probes { requests: true, tls: found.tls || scheme == Some("HTTPS") }
    })
}

fn at(container: &Container, probe: &Probe) -> Option<u16> {
    let by_name = |name: &str| {
        let ports = container.ports.iter().flatten();
        ports.into_iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
    };
    let port = match (&probe.http_get, &probe.grpc) {
        (Some(http), _) => match &http.port {
            IntOrString::Int(port) => Some(*port),
            IntOrString::String(name) => by_name(name),
        },
        (None, Some(grpc)) => Some(grpc.port),
        (None, None) => None,
    };
    u16::try_from(port?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [
                {"name": "side", "ports": [{"containerPort": 9090, "name": "metrics"}]},
                {
                    "name": "app",
                    "ports": [
                        {"containerPort": 8080, "name": "http"},
                        {"containerPort": 5353, "protocol": "UDP"},
                        {"containerPort": 1, "protocol": "SCTP"}
                    ],
                    "readinessProbe": {"httpGet": {"port": "http"}},
                    "livenessProbe": {"tcpSocket": {"port": 7000}},
                    "startupProbe": {"grpc": {"port": 7001}}
                },
                {
                    "name": "tls",
                    "livenessProbe": {"httpGet": {"port": 9090, "scheme": "HTTPS"}},
                    "readinessProbe": {"httpGet": {"port": 9090, "scheme": "HTTP"}}
                }
            ]}
        }))
        .unwrap()
    }

    #[test]
    fn declared_ports_are_those_of_the_container_first() {
        let declared: Vec<_> =
            declared(&pod(), "app").into_iter().map(|known| (known.port, known.udp)).collect();
        assert_eq!(declared, [(8080, false), (5353, true), (9090, false)]);
    }

    #[test]
    fn probes_that_carry_a_request_are_told_by_number_and_by_name() {
        let probed = [8080, 7000, 7001, 9090].map(|port| probes(&pod(), port));
        let probed = probed.map(|Probes { requests, tls }| (requests, tls));
        assert_eq!(probed, [(true, false), (false, false), (true, false), (true, true)]);
    }
}
