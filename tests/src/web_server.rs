//! A server of HTTP/1.1, HTTP/2 and gRPC in a pod: the Go program `web`, which is its client, too.

use serde_json::json;

use crate::gobuild::{self, Build};
use crate::image::Image;
use crate::{Error, PodNetwork, Sandbox, Target, containerd, run};

/// Starts it in the sandbox, as the service `web`, and waits until it can be reached; the service's name elsewhere.
///
/// # Errors
/// If it does not become ready, or against a cluster that takes no images of ours.
pub fn start(target: &Target, sandbox: &Sandbox) -> Result<String, Error> {
    let Target::Laptop(cluster, laptop) = target else {
        return Err(target.laptop("an image of a server").err().unwrap_or(Error::NotRoot));
    };
    let program = gobuild::app(cluster.layout(), "web", Build::Static)?;
    // Each build has an image of its own: a cluster keeps the one that it has.
    let build = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let image = format!("localhost/tp-{build}:1");
    containerd::import(cluster.layout(), &format!("tp-{build}"), &program, || {
        let mut made = Image::new(&image)?.command(&["/web", "serve"]);
        made.program("web", &program)?;
        Ok(made)
    })?;
    let labels = json!({"app": "web-server"});
    let ports = [("http", 8080), ("grpc", 9090)].map(|(name, port)| json!({"name": name, "port": port}));
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "web", "image": image,
                    "readinessProbe": {"tcpSocket": {"port": 9090}, "periodSeconds": 1},
                }]},
            }},
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": labels, "ports": ports}},
    ]});
    sandbox.apply(&manifest.to_string())?;
    run::output(sandbox.kubectl().args(["rollout", "status", "--timeout=60s", "deployment/web"]))?;
    let host = format!("web.{}", sandbox.namespace());
    PodNetwork::find(cluster, laptop, "default", "app=web")?.reaches(&host, 9090)?;
    Ok(host)
}
