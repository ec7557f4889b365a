//! The one connection to an agent: a Kubernetes port-forward over a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::kube::api::{Api, Portforwarder};
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::{ApiError, Cluster};

/// A byte stream to a port on a pod's loopback. Dropping it ends the port-forward.
pub struct Forward {
    stream: DuplexStream,
    forwarder: Portforwarder,
}

/// Opens a port-forward. That somebody listens on the port shows only when bytes come back.
///
/// # Errors
/// Those of the API server.
pub async fn open(cluster: &Cluster, pod: &str, port: u16) -> Result<Forward, ApiError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let ports = [port];
    let mut forwarder = cluster.call("get", "pods/portforward", api.portforward(pod, &ports)).await?;
    let stream = forwarder.take_stream(port).unwrap_or_else(|| tokio::io::duplex(1).0);
    Ok(Forward { stream, forwarder })
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl AsyncRead for Forward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Forward {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
