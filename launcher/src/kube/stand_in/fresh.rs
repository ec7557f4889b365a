//! A deployment that there is not yet, and its Service.
//!
//! The deployment has no replicas: our own pod is what there is of it, as if it had been swapped. So nothing starts again
//! by itself when tp is killed, the name is taken for as long as the run lasts, and what is left is seen and taken away by
//! its label.

use std::collections::BTreeMap;

use ::kube::api::{Api, DeleteParams, PostParams, Preconditions};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Pod, PodSpec, PodTemplateSpec, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use tracing::info;

use super::StandInError;
use crate::kube::agent::Image;
use crate::kube::own_pod::{MANAGED_BY, MANAGER, SESSION, WHO, made_at, who};
use crate::kube::target::{Kind, Target, Workload};
use crate::kube::{ApiError, Cluster, access, record};
use crate::undo::Undo;

/// The label by which the Service finds the pod.
const APP: &str = "app";
/// The one container's name.
const CONTAINER: &str = "app";

/// A port of the Service and of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

impl Port {
    fn protocol(self) -> &'static str {
        if self.udp { "UDP" } else { "TCP" }
    }

    fn name(self) -> String {
        format!("{}-{}", self.protocol().to_lowercase(), self.number)
    }
}

/// Makes both, each noted first; gives what the pod is made after.
pub(super) async fn make(
    cluster: &Cluster,
    name: &str,
    ports: &[Port],
    image: &Image,
    session: &str,
    undo: &Undo,
) -> Result<Target, StandInError> {
    let needed =
        ["deployments.apps", "services"].map(|resource| [("create", resource), ("delete", resource)]);
    access::check(cluster, &needed.concat()).await?;
    let metadata = metadata(name, session);
    let template = template(name, ports, image);
    let target = Target {
        workload: Workload { kind: Kind::Deployment, name: name.to_owned() },
        pod: Pod {
            metadata: template.metadata.clone().unwrap_or_default(),
            spec: template.spec.clone(),
            status: None,
        },
        container: CONTAINER.to_owned(),
    };
    let labels = Some(BTreeMap::from([(APP.to_owned(), name.to_owned())]));
    let deployment = Deployment {
        metadata: metadata.clone(),
        spec: Some(DeploymentSpec {
            replicas: Some(0),
            selector: LabelSelector { match_labels: labels.clone(), match_expressions: None },
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    };
    create(cluster, "deployments.apps", deployment, session, undo).await?;
    if !ports.is_empty() {
        let ports = ports.iter().map(|port| ServicePort {
            name: Some(port.name()),
            port: port.number.into(),
            target_port: Some(IntOrString::Int(port.number.into())),
            protocol: Some(port.protocol().to_owned()),
            ..ServicePort::default()
        });
        let spec = ServiceSpec { selector: labels, ports: Some(ports.collect()), ..ServiceSpec::default() };
        let service = Service { metadata, spec: Some(spec), status: None };
        create(cluster, "services", service, session, undo).await?;
    }
    Ok(target)
}

pub(in crate::kube) fn metadata(name: &str, session: &str) -> ObjectMeta {
    let labels = [(MANAGED_BY, MANAGER), (SESSION, session), (APP, name)];
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        annotations: Some(BTreeMap::from([(WHO.to_owned(), who())])),
        ..ObjectMeta::default()
    }
}

fn template(name: &str, ports: &[Port], image: &Image) -> PodTemplateSpec {
    let ports = ports.iter().map(|port| ContainerPort {
        container_port: port.number.into(),
        name: Some(port.name()),
        protocol: Some(port.protocol().to_owned()),
        ..ContainerPort::default()
    });
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(image.reference().to_owned()),
        ports: Some(ports.collect()),
        ..Container::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(BTreeMap::from([(APP.to_owned(), name.to_owned())])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

/// What is made.
pub(in crate::kube) trait Made:
    ::kube::Resource<DynamicType = (), Scope = ::kube::core::NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + serde::Serialize
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}
impl Made for Deployment {}
impl Made for Service {}

/// Creates the object; one of the same name that a dead run left is removed first.
pub(in crate::kube) async fn create<M: Made>(
    cluster: &Cluster,
    resource: &'static str,
    object: M,
    session: &str,
    undo: &Undo,
) -> Result<M, StandInError> {
    let name = object.meta().name.clone().unwrap_or_default();
    let by_hand = format!("kubectl delete {resource} {name} -n {}", cluster.namespace);
    let (undoing, of, session_of) = (cluster.clone(), name.clone(), session.to_owned());
    undo.note(format!("making {resource} `{name}`"), by_hand, move || async move {
        remove_object::<M>(&undoing, resource, &of, &session_of).await.map(drop).map_err(Into::into)
    });
    let what = format!("{}/{name}", resource.split(['.']).next().unwrap_or(resource).trim_end_matches('s'));
    let post = || {
        let (making, object) = (cluster.clone(), object.clone());
        undo.change(async move {
            let api: Api<M> = Api::namespaced(making.client.clone(), &making.namespace);
            making.call("create", resource, api.create(&PostParams::default(), &object)).await
        })
    };
    let first = post().await;
    if !matches!(first, Err(ApiError::Conflict { .. })) {
        let made = first?;
        info!(what, "made");
        return Ok(made);
    }
    let api: Api<M> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let there = cluster.call("get", resource, api.get(&name)).await?;
    let meta = there.meta();
    let Some(of) = meta.labels.as_ref().and_then(|labels| labels.get(SESSION)) else {
        return Err(StandInError::Exists { what, namespace: cluster.namespace.clone() });
    };
    let since = made_at(meta);
    if record::is_alive(cluster, of, since).await? {
        let who = meta.annotations.as_ref().and_then(|all| all.get(WHO)).cloned().unwrap_or_default();
        let age = record::age(since);
        return Err(StandInError::Held { what, who, age });
    }
    remove_object::<M>(cluster, resource, &name, of).await?;
    Ok(post().await?)
}

/// Deletes the object if this run made it; false if there is none of it.
async fn remove_object<M: Made>(
    cluster: &Cluster,
    resource: &'static str,
    name: &str,
    session: &str,
) -> Result<bool, ApiError> {
    let api: Api<M> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let object = match cluster.call("get", resource, api.get(name)).await {
        Err(ApiError::NotFound { .. }) => return Ok(false),
        object => object?,
    };
    if object.meta().labels.as_ref().and_then(|labels| labels.get(SESSION)).map(String::as_str)
        != Some(session)
    {
        return Ok(false);
    }
    // Not one that somebody makes under this name in this moment.
    let this = Preconditions { uid: object.meta().uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    match cluster.call("delete", resource, api.delete(name, &parameters)).await {
        Ok(_) => Ok(true),
        Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Something that a run made, with its name, its run, and whose that is.
#[derive(Debug)]
pub struct Left {
    /// `deployment/NAME` or `service/NAME`.
    pub what: String,
    /// The run.
    pub session: String,
    /// `user@machine`.
    pub who: String,
    /// When it was made, in seconds since 1970.
    pub since: u64,
    name: String,
    is_service: bool,
}

/// All deployments of the namespace that runs have made.
///
/// # Errors
/// Those of the API server.
pub async fn deployments(cluster: &Cluster) -> Result<Vec<Left>, ApiError> {
    found::<Deployment>(cluster, "deployments.apps").await
}

/// All Services of the namespace that runs have made.
///
/// # Errors
/// Those of the API server.
pub async fn services(cluster: &Cluster) -> Result<Vec<Left>, ApiError> {
    found::<Service>(cluster, "services").await
}

async fn found<M: Made>(cluster: &Cluster, resource: &'static str) -> Result<Vec<Left>, ApiError> {
    let api: Api<M> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let ours = ::kube::api::ListParams::default().labels(SESSION);
    let listed = cluster.call("list", resource, api.list_metadata(&ours)).await?;
    let is_service = resource == "services";
    Ok(listed
        .items
        .into_iter()
        .filter_map(|object| {
            let since = made_at(&object.metadata);
            let name = object.metadata.name?;
            let session = object.metadata.labels?.get(SESSION)?.clone();
            let who = object.metadata.annotations.and_then(|all| all.get(WHO).cloned()).unwrap_or_default();
            let what = format!("{}/{name}", if is_service { "service" } else { "deployment" });
            Some(Left { what, session, who, since, name, is_service })
        })
        .collect())
}

/// Deletes it; false if it was gone.
///
/// # Errors
/// Those of the API server.
pub async fn remove(cluster: &Cluster, left: &Left) -> Result<bool, ApiError> {
    if left.is_service {
        remove_object::<Service>(cluster, "services", &left.name, &left.session).await
    } else {
        remove_object::<Deployment>(cluster, "deployments.apps", &left.name, &left.session).await
    }
}
