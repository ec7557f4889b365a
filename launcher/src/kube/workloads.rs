//! The workloads of a namespace: how many of their pods are ready, and who has ports of them.
//!
//! Who exposes what is told by the agents themselves: the last line of that kind in an agent's log is all that its
//! launchers have ([`socks_proxy::expose`]). An agent that has ended exposes nothing, whatever its log says. A workload that
//! is swapped has it written on itself, and so has a Service that leads elsewhere.

use std::collections::BTreeMap;

use ::kube::api::{Api, DynamicObject, ListParams, LogParams};
use ::kube::core::{Selector, SelectorExt as _};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};
use tracing::debug;

use super::record::SWAPPED;
use super::target::{Kind, Workload, is_usable};
use super::turning::record as turned;
use super::{ApiError, Cluster, agent, own_pod};

/// The kinds that are looked for.
const KINDS: [Kind; 3] = [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet];
/// Lines of an agent's log in which its state is looked for: little else is said there.
const LINES: i64 = 50;

/// A workload.
#[derive(Debug)]
pub struct Listed {
    /// What it is.
    pub workload: Workload,
    /// Its pods that are ready.
    pub ready: usize,
    /// Pods that it should have.
    pub wanted: i64,
    /// What is exposed of it, each with `port`, `protocol`, `way`, `filter`, `who`, `since` and `pod`.
    pub exposed: Vec<Value>,
    /// Its Services that lead to somebody, each with `service`, `who` and `since`.
    pub turned: Vec<Value>,
    /// Who has taken its place, with `who` and `since`; null if nobody has.
    pub swapped: Value,
}

/// All that could be found out.
#[derive(Debug)]
pub struct Found {
    /// The workloads, by kind and name.
    pub workloads: Vec<Listed>,
    /// What this user may not know.
    pub unknown: Vec<ApiError>,
}

/// Looks for the workloads.
///
/// # Errors
/// If pods cannot be listed, or no kind of workload can.
pub async fn list(cluster: &Cluster) -> Result<Found, ApiError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let everything = ListParams::default();
    let pods = cluster.call("list", "pods", api.list(&everything)).await?.items;
    let mut unknown = Vec::new();
    let mut objects = Vec::new();
    for (kind, listed) in join_all(KINDS.map(|kind| of_kind(cluster, kind))).await {
        match listed {
            Ok(of_kind) => objects.extend(of_kind.into_iter().map(|object| (kind, object))),
            Err(error) => unknown.push(error),
        }
    }
    if unknown.len() == KINDS.len() {
        return Err(unknown.remove(0));
    }
    let mut exposed = BTreeMap::new();
    for (pod, told) in join_all(pods.iter().map(|pod| exposed_in(cluster, &api, pod))).await {
        match told {
            Ok(entries) => drop(exposed.insert(pod, entries)),
            // One word about it is enough.
            Err(error) if unknown.iter().any(|known| known.to_string() == error.to_string()) => {}
            Err(error) => unknown.push(error),
        }
    }
    let turned = turned::all(cluster).await.unwrap_or_else(|error| {
        unknown.push(error);
        Vec::new()
    });
    let workloads =
        objects.iter().filter_map(|(kind, object)| listed(*kind, object, &pods, &exposed, &turned));
    Ok(Found { workloads: workloads.collect(), unknown })
}

async fn of_kind(cluster: &Cluster, kind: Kind) -> (Kind, Result<Vec<DynamicObject>, ApiError>) {
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &kind.api_resource());
    let everything = ListParams::default();
    let listed = cluster.call("list", kind.resource(), api.list(&everything)).await;
    (kind, listed.map(|list| list.items))
}

fn listed(
    kind: Kind,
    object: &DynamicObject,
    pods: &[Pod],
    exposed: &BTreeMap<&str, Vec<Value>>,
    turned: &[(String, turned::Record)],
) -> Option<Listed> {
    let name = object.metadata.name.clone()?;
    let selector = object.data.pointer("/spec/selector").cloned()?;
    let selector = Selector::try_from(serde_json::from_value::<LabelSelector>(selector).ok()?).ok()?;
    let labels = |pod: &Pod| pod.metadata.labels.clone().unwrap_or_default();
    let of_it: Vec<&Pod> = pods.iter().filter(|pod| selector.matches(&labels(pod))).collect();
    let number = |path| object.data.pointer(path).and_then(Value::as_i64);
    let swapped = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SWAPPED));
    let swapped = swapped.map(|record| serde_json::from_str::<Value>(record).unwrap_or_default());
    let workload = Workload { kind, name };
    let instead = pods.iter().filter(|pod| own_pod::stands_before(pod, &workload));
    let entries: Vec<_> = of_it
        .iter()
        .copied()
        .chain(instead)
        .filter_map(|pod| exposed.get(pod.metadata.name.as_deref()?))
        .flatten()
        .cloned()
        .collect();
    let template = object.data.pointer("/spec/template/metadata/labels");
    let label = |key: &String| template.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let turned = turned
        .iter()
        .filter(|(_, record)| record.selector.iter().all(|(key, value)| label(key) == Some(value.as_str())));
    Some(Listed {
        workload,
        ready: of_it.iter().filter(|pod| is_usable(pod, false) && !own_pod::is_ours(pod)).count(),
        wanted: number("/spec/replicas")
            .or_else(|| number("/status/desiredNumberScheduled"))
            .unwrap_or_default(),
        exposed: entries,
        turned: turned
            .map(|(name, record)| {
                json!({"service": name, "who": record.who, "since": super::time(Some(&record.since.into()))})
            })
            .collect(),
        swapped: swapped.map_or(
            Value::Null,
            |record| json!({"who": record.get("who"), "since": super::time(record.get("since"))}),
        ),
    })
}

/// What the agents in a pod say.
async fn exposed_in<'a>(
    cluster: &Cluster,
    api: &Api<Pod>,
    pod: &'a Pod,
) -> (&'a str, Result<Vec<Value>, ApiError>) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut entries = Vec::new();
    for container in agent::exposers(pod) {
        let parameters =
            LogParams { container: Some(container), tail_lines: Some(LINES), ..LogParams::default() };
        match cluster.call("get", "pods/log", api.logs(name, &parameters)).await {
            Ok(log) => entries.extend(last_state(&log, name)),
            Err(error @ ApiError::Forbidden { .. }) => return (name, Err(error)),
            Err(error) => debug!(%error, "an agent's log cannot be read"),
        }
    }
    // The kubelet's own.
    let ready = own_pod::ready_port(pod);
    entries
        .retain(|entry| ready.is_none() || entry.get("port").and_then(Value::as_u64) != ready.map(u64::from));
    (name, Ok(entries))
}

/// If anybody has ports of the agent in a pod of our own; [`None`] if it has said nothing about that yet. One whose log
/// cannot be read is taken to be somebody's.
pub(super) async fn exposes(cluster: &Cluster, pod: &Pod) -> Option<bool> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let container = agent::exposers(pod).into_iter().next()?;
    let parameters =
        LogParams { container: Some(container), tail_lines: Some(LINES), ..LogParams::default() };
    match cluster.call("get", "pods/log", api.logs(name, &parameters)).await {
        Ok(log) => state(&log).map(|entries| !entries.is_empty()),
        Err(_) => Some(true),
    }
}

fn state(log: &str) -> Option<Vec<Value>> {
    let states = log.lines().rev().filter(|line| line.starts_with("{\"exposed\""));
    let state = states.filter_map(|line| serde_json::from_str::<Value>(line).ok()).next()?;
    state.get("exposed").and_then(Value::as_array).cloned()
}

fn last_state(log: &str, pod: &str) -> Vec<Value> {
    let mut entries = state(log).unwrap_or_default();
    for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
        let since = super::time(entry.get("since"));
        entry.extend([("since".to_owned(), since), ("pod".to_owned(), pod.into())]);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_all_that_an_agent_has() {
        let one =
            r#"{"exposed":[{"port":80,"protocol":"tcp","way":"steal","filter":null,"who":"a@b","since":0}]}"#;
        let none = r#"{"exposed":[]}"#;
        let state = last_state(&format!("tp-agent listening\n{none}\n{one}\nsomething else\n"), "web-1");
        assert_eq!(state.len(), 1);
        assert_eq!(state[0]["since"], "1970-01-01T00:00:00Z");
        assert_eq!(state[0]["pod"], "web-1");
        assert!(last_state(&format!("{one}\n{none}\n"), "web-1").is_empty());
        assert!(last_state("", "web-1").is_empty());
    }
}
