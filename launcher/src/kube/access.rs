//! Asks the API server what this user may do, before anything is made that a missing permission would strand.

use ::kube::api::{Api, PostParams};
use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use tracing::debug;

use super::{ApiError, Cluster};

/// A verb on a resource, with its subresource: `pods/attach`, `deployments.apps/scale`.
pub(super) type Needed = (&'static str, &'static str);

/// Fails with the first of `needed` that is not allowed. A cluster that does not answer the question is taken to
/// allow it: the call itself will tell.
pub(super) async fn check(cluster: &Cluster, needed: &[Needed]) -> Result<(), ApiError> {
    let reviews = needed.iter().map(|&(verb, resource)| async move {
        let allowed = review(cluster, verb, resource).await.unwrap_or(true);
        (!allowed).then_some((verb, resource))
    });
    match join_all(reviews).await.into_iter().flatten().next() {
        None => Ok(()),
        Some((verb, resource)) => Err(ApiError::Forbidden {
            verb,
            resource,
            namespace: cluster.namespace.clone(),
            source: "the API server's own answer to the question whether it is allowed".into(),
        }),
    }
}

async fn review(cluster: &Cluster, verb: &str, resource: &str) -> Option<bool> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let (resource, group) = match resource.split_once('.') {
        Some((resource, group)) => (resource, Some(group.to_owned())),
        None => (resource, None),
    };
    let attributes = ResourceAttributes {
        group,
        namespace: Some(cluster.namespace.clone()),
        verb: Some(verb.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let parameters = PostParams::default();
    match cluster.call("create", "selfsubjectaccessreviews", api.create(&parameters, &review)).await {
        Ok(review) => review.status.map(|status| status.allowed),
        Err(error) => {
            debug!(%error, "cannot ask what is allowed");
            None
        }
    }
}
