//! An admission webhook of the cluster's that refuses what tp makes: a server with a certificate of its own, whom the API
//! server asks.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tp_tests::case::{PYTHON, Running, app, ran, until};
use tp_tests::layout::NODE_NETNS;
use tp_tests::pki::Authority;
use tp_tests::workload::agents;
use tp_tests::{Case, Sandbox, Workload, netns, run};

/// The server and its configuration, for as long as the value is kept.
struct Webhook<'a> {
    sandbox: &'a Sandbox,
    server: Running,
}

impl<'a> Webhook<'a> {
    /// Asked about pods and ephemeral containers of this namespace, where the API server is.
    fn start(sandbox: &'a Sandbox) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path()).unwrap();
        let identity = authority.issue("webhook", "", &["127.0.0.1"]).unwrap();
        let mut command = netns::command(NODE_NETNS, PYTHON);
        let mut server = Running::start(command.arg(app("webhook.py")).stdin(Stdio::piped()));
        let mut stdin = server.child.stdin.take().unwrap();
        write!(stdin, "{}{}", identity.certificate, identity.key).unwrap();
        drop(stdin);
        let port = server.stdout().wait_for("port=").replace("port=", "");
        let webhook = Self { sandbox, server };
        let certificate = std::fs::read(folder.path().join("ca.crt")).unwrap();
        let name = sandbox.namespace();
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "no.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail",
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{port}/"), "caBundle": STANDARD.encode(certificate),
                },
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                    "resources": ["pods", "pods/ephemeralcontainers"]}],
            }],
        });
        sandbox.apply(&configuration.to_string()).unwrap();
        // The API server takes note of it some time later.
        until("the webhook is asked", || !webhook.lets_in());
        webhook
    }

    fn lets_in(&self) -> bool {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "try-"},
            "spec": {"containers": [{"name": "app", "image": "localhost/tp-sample:1"}]},
        });
        let create = ["create", "--dry-run=server", "-f", "-"];
        run::with_input(self.sandbox.kubectl().args(create), pod.to_string().as_bytes()).is_ok()
    }
}

impl Drop for Webhook<'_> {
    fn drop(&mut self) {
        let name = self.sandbox.namespace();
        let _gone =
            run::output(self.sandbox.kubectl().args(["delete", "validatingwebhookconfiguration", name]));
        let _ended = self.server.child.kill().and_then(|()| self.server.child.wait());
    }
}

/// Steps: the webhook refuses an ephemeral container, a pod beside the workload's, one in their place, and that of a new
/// deployment: its words are told each time, and all is as before.
#[test]
fn its_words_are_told_and_nothing_is_left() {
    let case = Case::cold();
    if case.laptop("a server beside the API server").is_none() {
        return;
    }
    let sandbox = Sandbox::create(case.target(), "webhook").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    let editor = sandbox.user_with("editor", "edit").unwrap();
    let object = || -> Value {
        serde_json::from_str(ran(sandbox.kubectl().args(["get", "deployment/web", "-o", "json"])).succeeds())
            .unwrap()
    };
    let before = object()["spec"].to_string();
    let webhook = Webhook::start(&sandbox);
    let refused = |user: bool, options: &[&str], verb: &str| {
        let place = ["-n", sandbox.namespace()];
        let mut command = case.command(place.iter().chain(options).copied(), ["echo", "started"]);
        if user {
            command.env("KUBECONFIG", &editor);
        }
        let ran = ran(&mut command);
        ran.exits(125).complains(&[verb, "no.example.com", "the platform team says no"]);
        assert_eq!(ran.stdout, "");
    };
    refused(false, &["--deployment", "web"], "refused `patch pods/ephemeralcontainers`");
    refused(true, &["--deployment", "web"], "refused `create pods`");
    refused(true, &["--swap-deployment", "web"], "refused `create pods`");
    refused(true, &["--new-deployment", "fresh", "--expose", "24951"], "refused `create pods`");
    drop(webhook);
    assert_eq!(agents(&sandbox).unwrap(), Vec::<String>::new());
    assert_eq!(object()["spec"].to_string(), before);
    assert!(!object().to_string().contains("tp.dev/"), "{}", object());
    let left = ["get", "pods,services,deployments", "-l", "tp.dev/session", "-o", "name"];
    ran(sandbox.kubectl().args(left)).prints("");
}
