//! What a Service selected before a run turned it, written onto the Service itself.
//!
//! As with a swapped workload ([`crate::kube::record`]), whoever finds it can give the Service back with nothing but the
//! API server. The record comes first, and goes in the same write that restores the selector; each write is bound to the
//! version that was read, and a selector that somebody else has set meanwhile is left as it is.

use std::collections::BTreeMap;

use ::kube::api::{Api, ListParams, Patch, PatchParams};
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};

use crate::kube::own_pod::MANAGER;
use crate::kube::record::age;
use crate::kube::{ApiError, Cluster, until_written};

/// The annotation.
pub const TURNED: &str = "tp.dev/turned";

/// Which pods a Service sends to.
pub type Selector = BTreeMap<String, String>;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `spec.selector` as it was.
    pub selector: Selector,
    /// When, in seconds since 1970, by the API server's clock.
    pub since: u64,
    /// Whose run, as `user@machine`.
    pub who: String,
    /// The run: the label `tp.dev/session` of its pods.
    pub session: String,
}

impl Record {
    /// What is written on a Service.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        serde_json::from_str(service.metadata.annotations.as_ref()?.get(TURNED)?).ok()
    }

    /// The selector while the Service is turned. It has the keys of before, so that whoever applies the Service's own
    /// manifest anew restores it whole.
    #[must_use]
    pub fn turned(&self) -> Selector {
        self.selector.keys().map(|key| (key.clone(), self.session.clone())).collect()
    }

    /// How long ago it was written, as people say it.
    #[must_use]
    pub fn age(&self) -> String {
        age(self.since)
    }
}

/// How a Service was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// It selects what it did.
    Back,
    /// Somebody else has set this selector meanwhile, and it stays so.
    AsItIs(Selector),
    /// There is no such Service any more, or no record of this run on it: somebody was here before.
    Nothing,
}

fn api(cluster: &Cluster) -> Api<Service> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

fn selector(service: &Service) -> Selector {
    service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default()
}

/// All Services of the namespace.
///
/// # Errors
/// Those of the API server.
pub async fn list(cluster: &Cluster) -> Result<Vec<Service>, ApiError> {
    let listed = api(cluster);
    Ok(cluster.call("list", "services", listed.list(&ListParams::default())).await?.items)
}

/// All Services of the namespace that are turned.
///
/// # Errors
/// Those of the API server.
pub async fn all(cluster: &Cluster) -> Result<Vec<(String, Record)>, ApiError> {
    let services = list(cluster).await?;
    let turned = services.iter().filter_map(|service| {
        Record::of(service).map(|record| (service.metadata.name.clone().unwrap_or_default(), record))
    });
    Ok(turned.collect())
}

/// Reads a Service.
///
/// # Errors
/// Those of the API server.
pub(super) async fn look(cluster: &Cluster, name: &str) -> Result<Service, ApiError> {
    let api = api(cluster);
    cluster.call("get", "services", api.get(name)).await
}

async fn patch(
    cluster: &Cluster,
    looked: &Service,
    record: Option<&Record>,
    selector: Option<&Selector>,
) -> Result<(), ApiError> {
    let written = record.map(|record| serde_json::to_string(record).unwrap_or_default());
    let mut change = serde_json::json!({"metadata": {
        "resourceVersion": looked.metadata.resource_version,
        "annotations": {TURNED: written},
    }});
    if let (Some(selector), Some(change)) = (selector, change.as_object_mut()) {
        change.insert("spec".to_owned(), serde_json::json!({"selector": selector}));
    }
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let (api, change) = (api(cluster), Patch::Merge(change));
    let name = looked.metadata.name.clone().unwrap_or_default();
    cluster.call("patch", "services", api.patch(&name, &parameters, &change)).await.map(drop)
}

/// Writes the record onto the version that was looked at.
///
/// # Errors
/// [`ApiError::Conflict`] if it changed meanwhile.
pub(super) async fn write(cluster: &Cluster, looked: &Service, record: &Record) -> Result<(), ApiError> {
    patch(cluster, looked, Some(record), None).await
}

/// Turns the Service to the pods of `session`; false if the record on it is another's, or its selector was changed since.
///
/// # Errors
/// Those of the API server.
pub(super) async fn turn(cluster: &Cluster, name: &str, session: &str) -> Result<bool, ApiError> {
    until_written(|| async move {
        let looked = look(cluster, name).await?;
        let Some(record) = Record::of(&looked).filter(|record| record.session == session) else {
            return Ok(false);
        };
        if selector(&looked) == record.turned() {
            return Ok(true);
        }
        if selector(&looked) != record.selector {
            return Ok(false);
        }
        patch(cluster, &looked, Some(&record), Some(&record.turned())).await?;
        Ok(true)
    })
    .await
}

/// Gives the Service its selector again, if the record on it is that of `session` and nobody else has set another one, and
/// takes the record away.
///
/// # Errors
/// Those of the API server. The record stays then.
pub async fn give_back(cluster: &Cluster, name: &str, session: &str) -> Result<Given, ApiError> {
    until_written(|| async move {
        let looked = match look(cluster, name).await {
            Err(ApiError::NotFound { .. }) => return Ok(Given::Nothing),
            looked => looked?,
        };
        let Some(record) = Record::of(&looked).filter(|record| record.session == session) else {
            return Ok(Given::Nothing);
        };
        let found = selector(&looked);
        let (given, restored) = if found == record.turned() {
            (Given::Back, Some(&record.selector))
        } else if found == record.selector {
            (Given::Back, None)
        } else {
            (Given::AsItIs(found), None)
        };
        patch(cluster, &looked, None, restored).await?;
        Ok(given)
    })
    .await
}

/// What a turned Service looks like while nobody disturbs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It leads to this run.
    Ours,
    /// Somebody else has set its selector.
    Changed(Selector),
    /// Somebody has given it back, or deleted it.
    GivenBack,
}

/// Looks at a Service that the run `session` has turned.
///
/// # Errors
/// Those of the API server.
pub(super) async fn state(cluster: &Cluster, name: &str, session: &str) -> Result<State, ApiError> {
    let looked = match look(cluster, name).await {
        Err(ApiError::NotFound { .. }) => return Ok(State::GivenBack),
        looked => looked?,
    };
    let found = selector(&looked);
    Ok(match Record::of(&looked).filter(|record| record.session == session) {
        None => State::GivenBack,
        Some(record) if found == record.turned() => State::Ours,
        Some(_) => State::Changed(found),
    })
}

/// A selector as `kubectl` writes it.
#[must_use]
pub fn said(selector: &Selector) -> String {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_turns_every_key() {
        let selector: Selector =
            [("app", "web"), ("tier", "front")].map(|(a, b)| (a.into(), b.into())).into();
        let record = Record { selector, since: 5, who: "alice@laptop".into(), session: "xyz".into() };
        let mut service = Service::default();
        assert_eq!(Record::of(&service), None);
        let written = serde_json::to_string(&record).unwrap();
        service.metadata.annotations = Some([(TURNED.to_owned(), written)].into());
        assert_eq!(Record::of(&service), Some(record.clone()));
        assert_eq!(said(&record.turned()), "app=xyz,tier=xyz");
    }
}
