//! What becomes of a workload while we stand in for it: told once, and not fought.

use ::kube::api::{Api, DynamicObject, WatchEvent, WatchParams};
use futures_util::StreamExt as _;
use tokio::time::{Duration, sleep};
use tracing::debug;

use crate::kube::record::{self, Looked};
use crate::kube::target::Workload;
use crate::kube::{ApiError, Cluster};

/// Rest before the API server is asked again after a watch was lost.
const REST: Duration = Duration::from_secs(2);

/// What was told already.
#[derive(Default)]
struct Told {
    scaled: bool,
    changed: bool,
    given_back: bool,
    template: Option<serde_json::Value>,
}

/// Watches for ever; for a workload that is gone there is nothing left to watch. `session` is that of the record on it; a
/// workload that tp made itself has none, and can only go.
pub(super) async fn watch(
    cluster: &Cluster,
    workload: &Workload,
    session: Option<&str>,
    tell: &(impl Fn(String) + Send + Sync),
) {
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), cluster.namespace(), &workload.kind.api_resource());
    let mut told = Told::default();
    loop {
        match record::look(cluster, workload).await {
            Ok(looked) => {
                let version = looked.object.metadata.resource_version.clone().unwrap_or_default();
                if let Some(session) = session {
                    judge(&looked, session, &mut told, tell);
                }
                let one = WatchParams::default().fields(&format!("metadata.name={}", workload.name));
                let events = match api.watch(&one, &version).await {
                    Ok(events) => events,
                    Err(error) => {
                        debug!(%error, "cannot watch");
                        sleep(REST).await;
                        continue;
                    }
                };
                let mut events = Box::pin(events);
                while let Some(event) = events.next().await {
                    match event {
                        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                            let looked = Looked { workload: workload.clone(), object };
                            if let Some(session) = session {
                                judge(&looked, session, &mut told, tell);
                            }
                        }
                        // Looking again tells whether it is there anew.
                        Ok(WatchEvent::Deleted(_)) | Err(_) => break,
                        Ok(WatchEvent::Error(error)) => {
                            debug!(%error, "the watch ended");
                            break;
                        }
                        Ok(WatchEvent::Bookmark(_)) => {}
                    }
                }
            }
            Err(ApiError::NotFound { .. }) => {
                let rest = match session {
                    Some(_) => "this run goes on in its place, and nothing will be restored",
                    None => "whoever looks for it may not find this run",
                };
                return tell(format!("{workload} was deleted by somebody else; {rest}"));
            }
            Err(error) => debug!(%error, "cannot look at the workload"),
        }
        sleep(REST).await;
    }
}

fn judge(looked: &Looked, session: &str, told: &mut Told, tell: &impl Fn(String)) {
    let workload = &looked.workload;
    let replicas = looked.replicas();
    if replicas != 0 && !told.scaled {
        told.scaled = true;
        let by = looked.scaled_by().map(|by| format!(" by `{by}`")).unwrap_or_default();
        tell(format!(
            "{workload} was scaled to {replicas}{by} while it is swapped: its pods serve beside this run, and it stays so at the end"
        ));
    }
    if looked.record().is_none_or(|record| record.session != session) && !told.given_back {
        told.given_back = true;
        tell(format!(
            "{workload} was given back by somebody else; this run serves beside its pods until it ends"
        ));
    }
    let template = looked.object.data.pointer("/spec/template").cloned();
    if told.template.is_some() && template != told.template && !told.changed {
        told.changed = true;
        tell(format!("{workload} has a new template; this run keeps the old one's environment and volumes"));
    }
    told.template = template;
}
