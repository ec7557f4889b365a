//! Ports that Services bring to the command, for people and namespaces that allow no agent with rights beside the app.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use serde_json::Value;
use tp_tests::case::{LIMIT, PYTHON, Ran, Running, python, ran};
use tp_tests::{Case, Sandbox};

/// Asks by a datagram until somebody answers.
const ASK_UDP: &str = r#"
import socket, sys
while True:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(1)
    try:
        client.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
        print(client.recv(2048).decode())
        break
    except OSError:
        pass
"#;
/// An app on two ports, one of which has a name; and Services that know them by name, by number, and by a low one.
const SHOP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: app
        image: localhost/tp-sample:1
        args: ["http=8080", "http=9090"]
        env: [{name: SERVICE, value: web}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: other, port: 9090}]
---
apiVersion: v1
kind: Service
metadata: {name: low}
spec:
  selector: {app: web, tier: front}
  ports: [{name: tcp, port: 80}, {name: udp, port: 53, protocol: UDP, targetPort: 5353}]
"#;
const HEADLESS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: heads}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}
"#;

/// A namespace in which Pod Security `restricted` is enforced.
fn shop(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    let label = "pod-security.kubernetes.io/enforce=restricted";
    ran(case.target().kubectl().args(["label", "namespace", sandbox.namespace(), label])).succeeds();
    sandbox.apply(SHOP).unwrap();
    ran(sandbox.kubectl().args(["rollout", "status", "deployment/web", "--timeout=60s"])).succeeds();
    sandbox
}

fn run(case: &Case, sandbox: &Sandbox, options: &[&str], ports: &[&str]) -> Command {
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    let mut command = case.command(place.iter().chain(options).copied(), python("from_the_laptop", ports));
    command.stdin(Stdio::null());
    command
}

fn tp(case: &Case, sandbox: &Sandbox, arguments: &[&str]) -> Ran {
    ran(case.target().tp().unwrap().args(arguments).args(["-n", sandbox.namespace()]))
}

fn spec(sandbox: &Sandbox, what: &str) -> String {
    ran(sandbox.kubectl().args(["get", what, "-o", "jsonpath={.spec}"])).succeeds().to_owned()
}

/// Waits until a client in the cluster is answered by the one who says this.
#[track_caller]
fn is_answered(case: &Case, sandbox: &Sandbox, service: &str, options: &str, word: &str) {
    let url = format!("http://{service}.{}", sandbox.namespace());
    let url = service
        .split_once(':')
        .map_or(url, |(name, port)| format!("http://{name}.{}:{port}", sandbox.namespace()));
    let script = format!("until curl -sS -m 5 {options} {url}/ 2>&1 | grep -q '{word}'; do sleep 0.2; done");
    case.shell(&script).exits(0);
}

/// Nothing of tp's is left.
#[track_caller]
fn is_clean(sandbox: &Sandbox) {
    let gone = ["wait", "--for=delete", "pods,services", "-l", "tp.dev/session", "--timeout=60s"];
    ran(sandbox.kubectl().args(gone)).succeeds();
    let objects = ran(sandbox.kubectl().args(["get", "deployments,services", "-o", "yaml"]));
    assert!(!objects.succeeds().contains("tp.dev/"), "{objects}");
}

fn with_user<'a>(command: &'a mut Command, user: &Path) -> &'a mut Command {
    command.env("KUBECONFIG", user)
}

/// Steps, as a user of the role `edit`: a named port, a low one and one of UDP come here by two Services, whose other ports
/// and whose deployment stay the app's; a second run is told who has them; at the end all is what it was, to the byte.
#[test]
fn who_has_the_edit_role_is_sent_what_comes_to_services() {
    let case = Case::new();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = shop(&case, "services");
    sandbox.apply(SERVICES).unwrap();
    let user = sandbox.user_with("editor", "edit").unwrap();
    let all = ["deployment/web", "service/web", "service/low"];
    let before = all.map(|what| spec(&sandbox, what));
    let options = ["--expose", "18951:http", "--expose", "18952:80", "--expose", "18953:5353/udp"];
    let mut command = run(&case, &sandbox, &options, &["18951", "18952", "u18953"]);
    let running = Running::start(with_user(&mut command, &user));
    is_answered(&case, &sandbox, "web", "", "from the laptop");
    is_answered(&case, &sandbox, "low", "", "from the laptop");
    let host = format!("low.{}", sandbox.namespace());
    case.web([PYTHON, "-c", ASK_UDP, &host, "53"]).prints("from the laptop");
    is_answered(&case, &sandbox, "web:9090", "", "service=web");
    assert_eq!(spec(&sandbox, "deployment/web"), before[0]);
    let mut second = run(&case, &sandbox, &["--expose", "18954:8080"], &["18954"]);
    let second = ran(with_user(&mut second, &user));
    second.exits(125).complains(&["service/web is held by dev@", "tp leave --all"]);
    let listed = tp(&case, &sandbox, &["list"]);
    listed.says(&["service/low by dev@", "service/web by dev@", "8080/tcp by dev@", "5353/udp by dev@"]);
    tp(&case, &sandbox, &["leave"]).says(&["service/web: held by dev@", "its run is alive"]);
    kill(running.pid(), Signal::SIGTERM).unwrap();
    let ended = running.ends_within(LIMIT);
    ended.exits(143).complains(&[
        "not allowed: patch pods/ephemeralcontainers",
        "what comes to service/low, service/web is led here",
    ]);
    assert_eq!(all.map(|what| spec(&sandbox, what)), before);
    is_clean(&sandbox);
    is_answered(&case, &sandbox, "web", "", "service=web");
}

/// Steps, where Pod Security does not admit the rights: a headless Service cannot bring anything, which is said; another
/// one does; tp and its program are killed, and the app answers by the Service again; `tp leave` gives it back.
#[test]
fn a_killed_run_leaves_the_app_served() {
    let case = Case::new();
    let sandbox = shop(&case, "services-killed");
    sandbox.apply(HEADLESS).unwrap();
    let refused = ran(&mut run(&case, &sandbox, &["--expose", "18955:8080"], &["18955"]));
    refused.exits(125).complains(&["PodSecurity", "leads to port 8080: service/heads is headless"]);
    is_clean(&sandbox);
    sandbox.apply(SERVICES).unwrap();
    let all = ["deployment/web", "service/web", "service/low", "service/heads"];
    let before = all.map(|what| spec(&sandbox, what));
    let running = Running::start(&mut run(&case, &sandbox, &["--expose", "18955:8080"], &["18955"]));
    is_answered(&case, &sandbox, "web", "", "from the laptop");
    killpg(running.pid(), Signal::SIGKILL).unwrap();
    running.ends_within(LIMIT).exits(137);
    is_answered(&case, &sandbox, "web", "", "service=web");
    // For longer than the kubelet takes to find out that a pod is not ready any more.
    let url = format!("http://web.{}/", sandbox.namespace());
    let again = format!("curl -sS -m 5 {url} | grep -q service=web || exit 1; sleep 0.2");
    case.shell(&format!("for i in $(seq 30); do {again}; done")).exits(0);
    tp(&case, &sandbox, &["leave"]).says(&["service/web: leads to the app again; it was held by dev@"]);
    assert_eq!(all.map(|what| spec(&sandbox, what)), before);
    is_clean(&sandbox);
    is_answered(&case, &sandbox, "web", "", "service=web");
}

/// Steps: only requests with a header come here; somebody leads the Service elsewhere meanwhile, which is told, and is not
/// changed at the end.
#[test]
fn a_filter_leaves_the_rest_to_the_app_and_a_changed_service_is_left() {
    let case = Case::new();
    let sandbox = shop(&case, "services-filter");
    sandbox.apply(SERVICES).unwrap();
    let options = ["--expose", "18956:http", "--http-header", "x-user=alice"];
    let mut running = Running::start(&mut run(&case, &sandbox, &options, &["18956"]));
    is_answered(&case, &sandbox, "web", "-H x-user:alice", "from the laptop");
    is_answered(&case, &sandbox, "web", "", "service=web");
    let patch = r#"{"spec": {"selector": {"app": "another"}}}"#;
    ran(sandbox.kubectl().args(["patch", "service/web", "--type=merge", "-p", patch])).succeeds();
    let mut stderr = BufReader::new(running.child.stderr.take().unwrap()).lines();
    let told = stderr.find(|line| line.as_ref().unwrap().contains("was led to app=another by somebody else"));
    assert!(told.is_some());
    kill(running.pid(), Signal::SIGTERM).unwrap();
    let _rest = stderr.count();
    running.ends_within(LIMIT).exits(143);
    let service: Value = serde_json::from_str(&spec(&sandbox, "service/web")).unwrap();
    assert_eq!(service["selector"], serde_json::json!({"app": "another"}));
    is_clean(&sandbox);
}
