//! The one connection to an agent: a Kubernetes port-forward.
//!
//! By SPDY/3.1 where the API server passes that on, which is where Kubernetes began; else, and behind what lets only
//! WebSockets through, by one of those. Of the two SPDY is the cheaper: the API server copies its bytes without a look, and
//! the container runtime takes a frame as it is, where it unmasks a WebSocket's byte by byte (2.3 s of CPU time for 400 MB).
//! It costs a round trip more at the start: what comes before a stream is confirmed is dropped.

use ::kube::core::Request;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::either::Either;
use tracing::debug;

use super::{ApiError, Cluster};

mod spdy;
mod websocket;

/// Opens a port-forward, whose drop ends it. That somebody listens on the port shows only when bytes come back.
///
/// # Errors
/// Those of the API server.
pub async fn open(
    cluster: &Cluster,
    pod: &str,
    port: u16,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, ApiError> {
    let request = || {
        let path = <Pod as ::kube::Resource>::url_path(&(), Some(&cluster.namespace));
        Request::new(path).portforward(pod, &[port]).map_err(::kube::Error::BuildRequest)
    };
    let by_spdy = async { spdy::open(cluster, request()?, port).await };
    match cluster.call("get", "pods/portforward", by_spdy).await {
        Ok(Some(forward)) => return Ok(Either::Left(forward)),
        // Whoever does not pass it on says so in many ways. What is wrong with the pod, the WebSocket will tell, too.
        Ok(None) => {}
        Err(error) => debug!(%error, "no port-forward by SPDY"),
    }
    let by_websocket = async { websocket::open(cluster, request()?).await };
    cluster.call("get", "pods/portforward", by_websocket).await.map(Either::Right)
}
