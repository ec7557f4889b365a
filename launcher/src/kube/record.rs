//! What a workload was before tp scaled it to nothing, written onto the workload itself.
//!
//! Whoever finds it can give the workload back, from any machine, with nothing but the API server: the run that wrote it,
//! the next one, `tp leave`. So it is written before anything is changed, and taken away after everything is as it was.
//!
//! Two people at once: each write is bound to the version of the object that was read, and the record is taken away only if
//! it still is the one that was meant. Nothing that somebody else has set meanwhile is overwritten: the replicas are given
//! back only while there are none.

use std::time::Duration;

use ::kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::debug;

use super::own_pod::{self, MANAGER};
use super::target::{Kind, Workload};
use super::{ApiError, Cluster, now, until_written, workloads};

/// The annotation.
pub const SWAPPED: &str = "tp.dev/swapped";
/// A run that has just written its record has no pod yet, and is alive all the same. Seconds.
const YOUNG: u64 = 30;
/// When no copy of a record that was taken away has come back for so long, none will; and how long that is watched at most.
const SETTLED: Duration = Duration::from_millis(250);
const COPIES_LIMIT: u32 = 10;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `spec.replicas` as it was.
    pub replicas: i32,
    /// When, in seconds since 1970, by the API server's clock.
    pub since: u64,
    /// Whose run, as `user@machine`.
    pub who: String,
    /// The run: the label [`own_pod::SESSION`] of its pods.
    pub session: String,
}

impl Record {
    /// How long ago it was written, as people say it.
    #[must_use]
    pub fn age(&self) -> String {
        age(self.since)
    }
}

/// How long ago something began, in seconds since 1970, as people say it.
pub(super) fn age(since: u64) -> String {
    let seconds = now().saturating_sub(since);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// If a run is still there, which wrote its record or made its first object at `since` (seconds since 1970, by the API
/// server's clock): it has a pod whose agent has not ended and, where that outlives its run, is somebody's; or it has not had
/// the time to make one.
///
/// # Errors
/// Those of the API server.
pub async fn is_alive(cluster: &Cluster, session: &str, since: u64) -> Result<bool, ApiError> {
    let pods = own_pod::all(cluster, Some(session)).await?;
    let now = cluster.time().await;
    for pod in &pods {
        let lives = own_pod::may_live(pod, now);
        if lives && (!own_pod::outlives(pod) || is_linked(cluster, pod, now).await) {
            return Ok(true);
        }
    }
    Ok(pods.is_empty() && is_young(since, now))
}

/// If a launcher has ports of the pod's agent, by that one's own word; one that has said nothing yet has just begun.
async fn is_linked(cluster: &Cluster, pod: &Pod, now: u64) -> bool {
    workloads::exposes(cluster, pod).await.unwrap_or_else(|| is_young(own_pod::made_at(&pod.metadata), now))
}

/// A clock that is wrong does not make anything young for longer.
fn is_young(since: u64, now: u64) -> bool {
    now.abs_diff(since) < YOUNG
}

/// A deployment or a stateful set, as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The object.
    pub workload: Workload,
    /// All of it.
    pub object: DynamicObject,
}

impl Looked {
    fn spec(&self, path: &str) -> Option<&serde_json::Value> {
        self.object.data.get("spec")?.pointer(path)
    }

    /// `spec.replicas`; the API server fills it in.
    #[must_use]
    pub fn replicas(&self) -> i32 {
        let replicas = self.spec("/replicas").and_then(serde_json::Value::as_i64);
        replicas.and_then(|replicas| i32::try_from(replicas).ok()).unwrap_or(1)
    }

    /// What is written on it.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        let written = self.object.metadata.annotations.as_ref()?.get(SWAPPED)?;
        serde_json::from_str(written).ok()
    }

    /// `spec.template`.
    #[must_use]
    pub fn template(&self) -> Option<PodTemplateSpec> {
        serde_json::from_value(self.spec("/template")?.clone()).ok()
    }

    /// The selector of its pods.
    #[must_use]
    pub fn selector(&self) -> Option<::kube::core::Selector> {
        let selector: LabelSelector = serde_json::from_value(self.spec("/selector")?.clone()).ok()?;
        selector.try_into().ok()
    }

    /// A word at this path of the spec.
    #[must_use]
    pub fn word(&self, path: &str) -> Option<&str> {
        self.spec(path)?.as_str()
    }

    /// A number at this path of the spec.
    #[must_use]
    pub fn number(&self, path: &str) -> Option<i64> {
        self.spec(path)?.as_i64()
    }

    /// The claims that each pod of a stateful set has of its own.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        let templates = self.spec("/volumeClaimTemplates").and_then(serde_json::Value::as_array);
        templates.into_iter().flatten().filter_map(|template| template.pointer("/metadata/name")?.as_str())
    }

    /// Who set `spec.replicas` last, by the object's own book-keeping.
    #[must_use]
    pub fn scaled_by(&self) -> Option<&str> {
        let managers = self.object.metadata.managed_fields.iter().flatten();
        let scaling = managers.filter(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            fields.and_then(|fields| fields.pointer("/f:spec/f:replicas")).is_some()
        });
        scaling.max_by_key(|entry| entry.time.clone())?.manager.as_deref()
    }
}

fn api(cluster: &Cluster, workload: &Workload) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &workload.kind.api_resource())
}

/// Whose changes these are, in the objects' own book-keeping.
fn as_tp() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

/// Reads the object.
///
/// # Errors
/// Those of the API server.
pub async fn look(cluster: &Cluster, workload: &Workload) -> Result<Looked, ApiError> {
    let api = api(cluster, workload);
    let object = cluster.call("get", workload.kind.resource(), api.get(&workload.name)).await?;
    Ok(Looked { workload: workload.clone(), object })
}

/// The kinds of which one can be swapped.
pub const KINDS: [Kind; 2] = [Kind::Deployment, Kind::StatefulSet];

/// All workloads of a kind in the namespace that are swapped.
///
/// # Errors
/// Those of the API server.
pub async fn all(cluster: &Cluster, kind: Kind) -> Result<Vec<(Looked, Record)>, ApiError> {
    let listed = api(cluster, &Workload { kind, name: String::new() });
    let listed = cluster.call("list", kind.resource(), listed.list(&ListParams::default())).await?;
    let found = listed.items.into_iter().filter_map(|object| {
        let name = object.metadata.name.clone().unwrap_or_default();
        let looked = Looked { workload: Workload { kind, name }, object };
        looked.record().map(|record| (looked, record))
    });
    Ok(found.collect())
}

/// Writes the record onto the version that was looked at.
///
/// # Errors
/// [`ApiError::Conflict`] if it changed meanwhile.
pub async fn write(cluster: &Cluster, looked: &Looked, record: &Record) -> Result<(), ApiError> {
    let written = serde_json::to_string(record).unwrap_or_default();
    let patch = Patch::Merge(serde_json::json!({"metadata": {
        "resourceVersion": looked.object.metadata.resource_version,
        "annotations": {SWAPPED: written},
    }}));
    let Workload { kind, name } = &looked.workload;
    let api = api(cluster, &looked.workload);
    cluster.call("patch", kind.resource(), api.patch(name, &as_tp(), &patch)).await.map(drop)
}

/// Scales the version that was looked at.
async fn scale(cluster: &Cluster, looked: &Looked, replicas: i32) -> Result<(), ApiError> {
    let patch = Patch::Merge(serde_json::json!({
        "metadata": {"resourceVersion": looked.object.metadata.resource_version},
        "spec": {"replicas": replicas},
    }));
    let Workload { kind, name } = &looked.workload;
    let api = api(cluster, &looked.workload);
    let parameters = as_tp();
    let scaled = api.patch_scale(name, &parameters, &patch);
    cluster.call("patch", kind.scale(), scaled).await.map(drop)
}

/// Scales the workload to nothing, if the record on it is that of `session`. Gives what it was scaled to before.
///
/// # Errors
/// Those of the API server.
pub async fn scale_down(
    cluster: &Cluster,
    workload: &Workload,
    session: &str,
) -> Result<Option<i32>, ApiError> {
    until_written(|| async move {
        let looked = look(cluster, workload).await?;
        if looked.record().is_none_or(|record| record.session != session) {
            return Ok(None);
        }
        let replicas = looked.replicas();
        if replicas != 0 {
            scale(cluster, &looked, 0).await?;
        }
        Ok(Some(replicas))
    })
    .await
}

/// How a workload was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It has its replicas again.
    Back {
        /// So many.
        replicas: i32,
    },
    /// Somebody else has scaled it meanwhile, and it stays so.
    AsItIs {
        /// The replicas that it has.
        replicas: i32,
    },
    /// There is no such object any more, or no record of this run on it: somebody was here before.
    Nothing,
}

/// Gives the workload its replicas again, if the record on it is that of `session` and nobody else has scaled it.
///
/// # Errors
/// Those of the API server. What was done is done whole; the record stays.
pub async fn scale_back(cluster: &Cluster, workload: &Workload, session: &str) -> Result<Given, ApiError> {
    until_written(|| async move {
        let looked = match look(cluster, workload).await {
            Err(ApiError::NotFound { .. }) => return Ok(Given::Nothing),
            looked => looked?,
        };
        let Some(record) = looked.record().filter(|record| record.session == session) else {
            return Ok(Given::Nothing);
        };
        let replicas = looked.replicas();
        if replicas != 0 {
            return Ok(Given::AsItIs { replicas });
        }
        if record.replicas != 0 {
            scale(cluster, &looked, record.replicas).await?;
        }
        Ok(Given::Back { replicas: record.replicas })
    })
    .await
}

/// Takes the record of `session` away. It stays as long as the workload is not scaled back: somebody will need it.
///
/// # Errors
/// Those of the API server.
pub async fn remove(cluster: &Cluster, workload: &Workload, session: &str) -> Result<(), ApiError> {
    until_written(|| async move {
        let looked = match look(cluster, workload).await {
            Err(ApiError::NotFound { .. }) => return Ok(()),
            looked => looked?,
        };
        let Some(record) = looked.record().filter(|record| record.session == session) else { return Ok(()) };
        if looked.replicas() == 0 && record.replicas != 0 {
            return Err(ApiError::Other {
                verb: "patch",
                resource: workload.kind.resource(),
                source: "it has no replicas yet, and the record says how many it is to have".into(),
            });
        }
        let patch = Patch::<serde_json::Value>::Merge(serde_json::json!({"metadata": {
            "resourceVersion": looked.object.metadata.resource_version,
            "annotations": {SWAPPED: null},
        }}));
        let (api, parameters) = (api(cluster, workload), as_tp());
        let patched = api.patch(&workload.name, &parameters, &patch);
        cluster.call("patch", workload.kind.resource(), patched).await?;
        remove_copies(cluster, &looked).await
    })
    .await
}

/// A deployment's controller copies its annotations to its replica sets, and takes none away there; `kubectl rollout undo`
/// would copy them back. It goes by what it saw last, which may be the record a moment after that is gone.
async fn remove_copies(cluster: &Cluster, looked: &Looked) -> Result<(), ApiError> {
    let Some(selector) = looked.selector().filter(|_| looked.workload.kind == Kind::Deployment) else {
        return Ok(());
    };
    remove_copies_once(cluster, &selector).await?;
    for _ in 0..COPIES_LIMIT {
        sleep(SETTLED).await;
        if remove_copies_once(cluster, &selector).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn remove_copies_once(cluster: &Cluster, of: &::kube::core::Selector) -> Result<usize, ApiError> {
    let api: Api<ReplicaSet> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let of_it = ListParams::default().labels_from(of);
    let sets = cluster.call("list", "replicasets.apps", api.list_metadata(&of_it)).await?;
    let patch =
        Patch::<serde_json::Value>::Merge(serde_json::json!({"metadata": {"annotations": {SWAPPED: null}}}));
    let mut removed = 0;
    for set in sets {
        let has = set.metadata.annotations.iter().flatten().any(|(name, _)| name == SWAPPED);
        let (true, Some(name)) = (has, set.metadata.name) else { continue };
        let parameters = as_tp();
        let patched = api.patch_metadata(&name, &parameters, &patch);
        match cluster.call("patch", "replicasets.apps", patched).await {
            Ok(_) => removed += 1,
            // Those of old templates are cleared away now and then.
            Err(ApiError::NotFound { .. }) => debug!(name, "a copy of the record is gone"),
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(object: serde_json::Value) -> Looked {
        let workload = Workload { kind: Kind::Deployment, name: "web".into() };
        Looked { workload, object: serde_json::from_value(object).unwrap() }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_broken_one_is_none() {
        let record = Record { replicas: 3, since: 5, who: "alice@laptop".into(), session: "abc".into() };
        let of = |text: &str| {
            looked(serde_json::json!({"metadata": {"annotations": {SWAPPED: text}}, "spec": {"replicas": 0}}))
        };
        assert_eq!(of(&serde_json::to_string(&record).unwrap()).record(), Some(record));
        assert_eq!(of("{}").record(), None);
        assert_eq!(of("").replicas(), 0);
    }

    #[test]
    fn an_age_is_said_as_people_do() {
        let aged = |seconds| age(now() - seconds);
        assert_eq!(aged(90), "90 s");
        assert_eq!(aged(600), "10 min");
        assert_eq!(aged(3 * 86_400), "3 days");
    }

    #[test]
    fn what_comes_from_a_clock_that_is_ahead_is_not_young_for_ever() {
        assert!(is_young(1000, 1029) && is_young(1029, 1000));
        assert!(!is_young(1000, 1030) && !is_young(4600, 1000));
    }

    #[test]
    fn the_last_who_scaled_is_known() {
        let entry = |manager: &str, time: &str, fields: serde_json::Value| serde_json::json!({"manager": manager, "time": time, "fieldsV1": fields});
        let replicas = serde_json::json!({"f:spec": {"f:replicas": {}}});
        let object = looked(serde_json::json!({"metadata": {"managedFields": [
            entry("tp", "2026-01-01T00:00:00Z", replicas.clone()),
            entry("argocd", "2026-01-02T00:00:00Z", replicas),
            entry("kubectl", "2026-01-03T00:00:00Z", serde_json::json!({"f:metadata": {}})),
        ]}}));
        assert_eq!(object.scaled_by(), Some("argocd"));
    }
}
