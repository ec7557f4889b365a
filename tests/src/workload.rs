//! Workloads of the sample application, for cases that change or count what is in their pods.
#![allow(clippy::indexing_slicing, reason = "what JSON has not is null")]

use serde_json::{Value, json};

use crate::{Error, Sandbox, run};

/// A deployment of the sample application's HTTP server.
#[derive(Debug, Clone)]
pub struct Workload {
    name: String,
    replicas: u32,
    restricted: bool,
}

impl Workload {
    /// One pod, with a container `app` that has the variable `SERVICE`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), replicas: 1, restricted: false }
    }

    /// So many pods.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// As the Pod Security standard "restricted" wants it.
    #[must_use]
    pub fn restricted(mut self) -> Self {
        self.restricted = true;
        self
    }

    /// Makes it and waits until its pods are ready.
    pub fn apply(&self, sandbox: &Sandbox) -> Result<(), Error> {
        sandbox.apply(&self.manifest().to_string())?;
        let rollout = format!("deployment/{}", self.name);
        run::output(sandbox.kubectl().args(["rollout", "status", "--timeout=60s", &rollout])).map(drop)
    }

    fn manifest(&self) -> Value {
        let mut container = json!({
            "name": "app", "image": "localhost/tp-sample:1", "args": ["http=8080"],
            "env": [{"name": "SERVICE", "value": self.name}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        });
        let mut pod = json!({"terminationGracePeriodSeconds": 1});
        if self.restricted {
            container["securityContext"] =
                json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
            pod["securityContext"] = json!({
                "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
            });
        }
        pod["containers"] = json!([container]);
        let labels = json!({"app": self.name});
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        })
    }
}

/// The agents in the pods of a namespace, as `POD/CONTAINER`.
pub fn agents(sandbox: &Sandbox) -> Result<Vec<String>, Error> {
    let answer = run::output(sandbox.kubectl().args(["get", "pods", "-o", "json"]))?;
    let list: Value = serde_json::from_str(&answer)
        .map_err(|_| Error::Answer { what: "kubectl, asked for pods,", answer: answer.clone() })?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut agents = Vec::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        for container in pod["spec"]["ephemeralContainers"].as_array().into_iter().flatten() {
            agents.push(format!("{}/{}", text(&pod["metadata"]["name"]), text(&container["name"])));
        }
    }
    Ok(agents)
}
