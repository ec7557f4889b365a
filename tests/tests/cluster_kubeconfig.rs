//! Where the cluster is and who asks: every form in which kubectl would be told, and what is wrong with the rest.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tp_tests::case::{self, Folder, PYTHON, Ran, Running, ran, ran_within};
use tp_tests::image::Image;
use tp_tests::pki::Authority;
use tp_tests::{Case, Laptop, Sandbox, Target, Workload, run};

/// The issue's bound for refusals.
const SOON: Duration = Duration::from_secs(10);

/// What a test of kubeconfigs starts from: the laptop's own, and a folder for others.
struct Configs<'a> {
    case: &'a Case,
    folder: Folder,
    own: Value,
}

impl<'a> Configs<'a> {
    fn new(case: &'a Case, laptop: &Laptop) -> Self {
        let own = std::fs::read_to_string(laptop.home().join(".kube/config")).unwrap();
        Self { case, folder: Folder::new(laptop), own: serde_json::from_str(&own).unwrap() }
    }

    /// The laptop's kubeconfig with some of it changed, as a file.
    fn changed(&self, name: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut config = self.own.clone();
        change(&mut config);
        self.folder.write(name, &config.to_string(), 0o600)
    }

    /// `tp run --deployment web -- curl` with this `KUBECONFIG`.
    fn curl(&self, kubeconfig: &str) -> Command {
        let mut command = self.case.web_command(["curl", "-sS", "http://backend/"]);
        command.env("KUBECONFIG", kubeconfig);
        command
    }

    #[track_caller]
    fn works(&self, kubeconfig: &str) {
        ran(&mut self.curl(kubeconfig)).says(&["service=backend\n"]);
    }

    #[track_caller]
    fn refuses(&self, kubeconfig: &str, words: &[&str]) -> Ran {
        let ran = ran_within(&mut self.curl(kubeconfig), SOON);
        ran.exits(125).complains(words);
        assert_eq!(ran.stdout, "", "{ran}");
        ran
    }
}

fn user(config: &mut Value) -> &mut Value {
    &mut config["users"][0]["user"]
}

fn pem(config: &Value, field: &str) -> String {
    let user = &config["users"][0]["user"];
    String::from_utf8(STANDARD.decode(user[field].as_str().unwrap()).unwrap()).unwrap()
}

/// The case and what it is about, unless there is no laptop.
macro_rules! configs {
    ($case:ident, $configs:ident) => {
        let $case = Case::new();
        let Some(laptop) = $case.laptop("the laptop's kubeconfig") else { return };
        let $configs = Configs::new(&$case, laptop);
    };
}

#[test]
fn without_a_kubeconfig_the_message_says_where_it_was_looked_for() {
    configs!(case, configs);
    configs
        .refuses("/no/such/config", &["no cluster is configured", "/no/such/config (KUBECONFIG)", "help:"]);
    let mut command = configs.curl("");
    command.env_remove("KUBECONFIG").env("HOME", configs.folder.path());
    ran_within(&mut command, SOON).exits(125).complains(&["no cluster is configured", "~/.kube/config"]);
    // Where there is one, it is found without being named.
    ran(configs.curl("").env_remove("KUBECONFIG")).says(&["service=backend\n"]);
}

#[test]
fn several_files_make_one_kubeconfig_and_missing_ones_do_not_matter() {
    configs!(case, configs);
    let users = configs.changed("users", |config| {
        config
            .as_object_mut()
            .unwrap()
            .retain(|field, _| ["apiVersion", "kind", "users"].contains(&field.as_str()));
    });
    let rest = configs.changed("rest", |config| config["users"] = json!([]));
    configs.works(&format!("/no/such/file:{rest}:{users}"));
    configs.works(&format!("{users}::{rest}:"));
    // A context whose user is in none of the files is broken; it does not mean somebody without a name.
    let ran = configs.refuses(&rest, &["`tp-test`", "user", "kubectl config view"]);
    assert!(!ran.stderr.contains("anonymous"), "{ran}");
}

#[test]
fn certificates_in_files_beside_the_kubeconfig_are_found() {
    configs!(case, configs);
    for (file, field) in [("own.crt", "client-certificate-data"), ("own.key", "client-key-data")] {
        let _path = configs.folder.write(file, &pem(&configs.own, field), 0o600);
    }
    let config = configs.changed("by-file", |config| {
        *user(config) = json!({"client-certificate": "own.crt", "client-key": "own.key"});
    });
    configs.works(&config);
}

#[test]
fn a_plugin_can_give_the_credentials() {
    configs!(case, configs);
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {
            "clientCertificateData": pem(&configs.own, "client-certificate-data"),
            "clientKeyData": pem(&configs.own, "client-key-data"),
        },
    });
    let credential = configs.folder.write("credential", &credential.to_string(), 0o600);
    let plugin = |name: &str, script: &str| {
        let program = configs.folder.write(name, &format!("#!/bin/sh\n{script}\n"), 0o700);
        configs.changed(&format!("{name}.config"), |config| {
            *user(config) = json!({"exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": program,
                "args": ["token"], "interactiveMode": "Never",
            }});
        })
    };
    configs.works(&plugin("plugin", &format!("test \"$1\" = token && cat {credential}")));
    let broken = plugin("broken", "echo 'please log in first' >&2; exit 1");
    configs.refuses(&broken, &["help:"]);
    let missing = configs.changed("missing.config", |config| {
        *user(config) = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}});
    });
    configs.refuses(&missing, &["no-such-plugin"]);
}

#[test]
fn a_context_that_is_not_there_is_told_with_the_nearest_one() {
    configs!(case, configs);
    let mut command = case.command(["--context", "tp-tset", "--deployment", "web"], ["true"]);
    ran_within(&mut command, SOON)
        .exits(125)
        .complains(&["the kubeconfig has no context `tp-tset`", "did you mean: tp-test?"]);
    case.tp(["--context", "tp-test", "--deployment", "web"], ["true"]).prints("");
    let none = configs.changed("none", |config| config["current-context"] = json!(""));
    configs.refuses(&none, &["no current context", "--context", "tp-test"]);
}

#[test]
fn a_kubeconfig_that_cannot_be_read_is_told() {
    configs!(case, configs);
    let broken = configs.folder.write("broken", "clusters: [\n  - {", 0o600);
    configs.refuses(&broken, &["the kubeconfig cannot be used", "kubectl config view"]);
    let closed = configs.folder.write("closed", "{}", 0o000);
    configs.refuses(&closed, &["the kubeconfig cannot be used", "ermission denied"]);
}

#[test]
fn credentials_that_are_not_known_are_told_apart_from_permissions() {
    configs!(case, configs);
    let wrong = configs.changed("wrong", |config| *user(config) = json!({"token": "wrong"}));
    configs.refuses(&wrong, &["does not accept the credentials", "log in again"]);
}

#[test]
fn an_api_server_that_is_not_there_is_told() {
    configs!(case, configs);
    let at = |name: &str, server: String| {
        configs.changed(name, |config| config["clusters"][0]["cluster"]["server"] = json!(server))
    };
    let closed = at("closed", "https://127.0.0.1:1".to_owned());
    configs.refuses(&closed, &["the API server cannot be reached", "onnection refused", "kubectl version"]);
    // One that accepts and then says nothing.
    let listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); \
                  sys.stdin.read()";
    let mut command = case.target().command(PYTHON).unwrap();
    let mut server =
        command.args(["-c", listen]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let silent = at("silent", format!("https://127.0.0.1:{}", port.trim()));
    let ran = configs.refuses(&silent, &["the API server", "kubectl version"]);
    drop(server.stdin.take());
    server.wait().unwrap();
    assert!(ran.stderr.contains("cannot be reached") || ran.stderr.contains("did not answer"), "{ran}");
}

/// Steps: a gateway refuses every upgrade but one to a WebSocket; the program has the cluster all the same.
#[test]
fn behind_a_gateway_that_passes_nothing_but_web_sockets_the_link_is_one() {
    configs!(case, configs);
    let cluster = &configs.own["clusters"][0]["cluster"];
    let authority = STANDARD.decode(cluster["certificate-authority-data"].as_str().unwrap()).unwrap();
    let authority = configs.folder.write("ca.crt", &String::from_utf8(authority).unwrap(), 0o644);
    let [certificate, key] = ["client-certificate-data", "client-key-data"]
        .map(|field| configs.folder.write(field, &pem(&configs.own, field), 0o644));
    let words = [cluster["server"].as_str().unwrap(), &authority, &certificate, &key];
    let words = case::python("gateway", &words);
    let mut gateway = case.target().command(PYTHON).unwrap();
    let mut gateway = Running::start(gateway.args(&words[1..]).stdin(Stdio::null()));
    let mut said = gateway.stdout();
    let server = format!("http://127.0.0.1:{}", said.wait_for(""));
    let config = configs.changed("gateway", |config| {
        config["clusters"][0]["cluster"] = json!({"server": server});
        *user(config) = json!({});
    });
    configs.works(&config);
    said.wait_for("SPDY/3.1");
    said.wait_for("websocket");
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
}

#[test]
fn an_api_server_with_a_certificate_of_somebody_else_is_told() {
    configs!(case, configs);
    let other = tempfile::tempdir().unwrap();
    let other = Authority::create(other.path()).unwrap();
    let other = other.kubeconfig(&other.issue("nobody", "", &[]).unwrap(), "default");
    let other = configs.folder.write("other", &other, 0o600);
    configs.refuses(&other, &["the API server cannot be reached", "ertificate"]);
}

/// Steps: tp, without any kubeconfig, runs in a pod with a service account that has the permissions; what its program
/// asks comes from the pod of `web`, not from the pod that it runs in.
#[test]
fn in_a_pod_its_service_account_is_enough() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("an image made on this machine") else { return };
    let reference = format!("localhost/tp-itself:{}", std::process::id());
    load_tp_image(&case, laptop, &reference);
    let sandbox = Sandbox::create(case.target(), "in-cluster").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    sandbox.apply(&account_and_pod(sandbox.namespace(), &reference)).unwrap();
    ran(sandbox.kubectl().args(["wait", "--for=condition=Ready", "--timeout=60s", "pod/runner"])).succeeds();
    let script = "exec 3<>/dev/tcp/backend.default/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; \
                  while read -r line <&3; do echo \"$line\"; done";
    let tp =
        ["exec", "runner", "--", "/opt/tp/bin/tp", "run", "--deployment", "web", "--", "bash", "-c", script];
    let answer = ran(sandbox.kubectl().args(tp));
    let web = "jsonpath={.items[0].status.podIPs[*].ip}";
    let web = ran(sandbox.kubectl().args(["get", "pods", "-l", "app=web", "-o", web]));
    let peer = answer.succeeds().lines().find_map(|line| line.strip_prefix("peer=")).unwrap();
    let peer: std::net::SocketAddr = peer.trim().parse().unwrap();
    assert!(web.succeeds().split(' ').any(|ip| ip == peer.ip().to_string()), "{answer}\n{web}");
}

fn account_and_pod(namespace: &str, image: &str) -> String {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "tp"},
        "rules": [
            rule("apps", "deployments", &["get"]),
            rule("", "pods", &["get", "list"]),
            rule("", "pods/ephemeralcontainers", &["patch"]),
            rule("", "pods/attach", &["get", "create"]),
            rule("", "pods/portforward", &["get", "create"]),
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tp"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tp"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "runner", "image": image, "imagePullPolicy": "Never",
            "command": ["bash", "-c", "read"], "stdin": true,
        }]},
    });
    format!("{role}\n---\n{binding}\n---\n{pod}\n")
}

/// tp as it is installed, bash, and the libraries of both as they are on this machine.
fn load_tp_image(case: &Case, laptop: &Laptop, reference: &str) {
    let Target::Laptop(cluster, _) = case.target() else { return };
    let installed = ["bin/tp", "lib/tp/tp-agent", "lib/tp/libtp_shim.so"];
    let mut files: Vec<(PathBuf, String)> =
        installed.iter().map(|part| (laptop.prefix().join(part), format!("opt/tp/{part}"))).collect();
    files.push(("/bin/bash".into(), "bin/bash".to_owned()));
    let mut ldd = Command::new("ldd");
    ldd.args([&files[0].0, Path::new("/bin/bash")]);
    let said = run::output(&mut ldd).unwrap();
    let libraries = said.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    files.extend(libraries.map(|path| (path.into(), path.trim_start_matches('/').to_owned())));
    files.sort();
    files.dedup();
    let mut image = Image::new(reference).unwrap();
    for (source, place) in &files {
        image.program(place, source).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tp.tar");
    image.write(&archive).unwrap();
    cluster.load_image(&archive).unwrap();
}
