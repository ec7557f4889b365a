//! A command in place of a workload: who is served by whom, and what is as it was afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tp_tests::case::{LIMIT, Ran, Running, python, ran, until};
use tp_tests::{Case, Sandbox, Workload, run};

/// A program that says when it runs, and then waits for the end of its input.
const WAITS: [&str; 3] = ["sh", "-c", "echo ready; cat >/dev/null"];
/// How the spec of an object is compared: as the API server has it.
const SPEC: [&str; 2] = ["-o", "jsonpath={.spec}"];

/// A namespace in which Pod Security `restricted` is enforced, with `web`, its Service, and a user of the role `edit`.
fn shop(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    let label = "pod-security.kubernetes.io/enforce=restricted";
    ran(case.target().kubectl().args(["label", "namespace", sandbox.namespace(), label])).succeeds();
    Workload::new("web").restricted().apply(&sandbox).unwrap();
    ran(sandbox.kubectl().args(["expose", "deployment", "web", "--port=80", "--target-port=8080"]))
        .succeeds();
    sandbox
}

fn tp(
    case: &Case,
    sandbox: &Sandbox,
    user: &Path,
    options: &[&str],
    program: &[impl AsRef<OsStr>],
) -> Command {
    let place = ["-n", sandbox.namespace()];
    let mut command = case.command(place.iter().chain(options).copied(), program);
    command.env("KUBECONFIG", user).stdin(Stdio::null());
    command
}

fn object(sandbox: &Sandbox, what: &str) -> Value {
    serde_json::from_str(ran(sandbox.kubectl().args(["get", what, "-o", "json"])).succeeds()).unwrap()
}

/// Waits until the workload has so many replicas.
#[track_caller]
fn scaled(sandbox: &Sandbox, what: &str, replicas: u32) {
    let condition = format!("--for=jsonpath={{.spec.replicas}}={replicas}");
    ran(sandbox.kubectl().args(["wait", &condition, "--timeout=60s", what])).succeeds();
}

/// What a client in the cluster gets.
fn ask(case: &Case, sandbox: &Sandbox, service: &str) -> Ran {
    let url = format!("http://{service}.{}/", sandbox.namespace());
    case.web(["curl", "-sS", "-m", "10", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", &url])
}

/// Nothing of tp's is left.
#[track_caller]
fn is_clean(sandbox: &Sandbox) {
    let gone = ["wait", "--for=delete", "pods,services,deployments", "-l", "tp.dev/session", "--timeout=60s"];
    ran(sandbox.kubectl().args(gone)).succeeds();
    let objects = ran(sandbox.kubectl().args(["get", "deployments,replicasets,statefulsets", "-o", "yaml"]));
    assert!(!objects.succeeds().contains("tp.dev/"), "{objects}");
}

fn stopped(running: Running) -> Ran {
    kill(running.pid(), Signal::SIGTERM).unwrap();
    running.ends_within(LIMIT)
}

/// Steps, as a user of the role `edit` in a restricted namespace: `web` is swapped for a server here, by the port's
/// number; the Service leads here; a second run is told who has it; at the end the spec is what it was, to the byte, and
/// the app answers again.
#[test]
fn a_swapped_deployment_is_served_from_here_and_given_back() {
    let case = Case::new();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = shop(&case, "swap");
    let user = sandbox.user_with("editor", "edit").unwrap();
    let before = ran(sandbox.kubectl().args(["get", "deployment/web"]).args(SPEC)).succeeds().to_owned();
    let options = ["--swap-deployment", "web", "--expose", "18931:8080"];
    let server = python("from_the_laptop", &["18931"]);
    let running = Running::start(&mut tp(&case, &sandbox, &user, &options, &server));
    scaled(&sandbox, "deployment/web", 0);
    ask(&case, &sandbox, "web").prints("from the laptop");
    let second = ran(&mut tp(&case, &sandbox, &user, &["--swap-deployment", "web"], &["true"]));
    second.exits(125).complains(&["deployment/web is held by dev@", "tp leave --all"]);
    let beside = ran(&mut tp(&case, &sandbox, &user, &["--deployment", "web"], &["true"]));
    beside.exits(125).complains(&["has no ready pod", "made by dev@"]);
    stopped(running).exits(143);
    let after = ran(sandbox.kubectl().args(["get", "deployment/web"]).args(SPEC));
    after.prints(&before);
    is_clean(&sandbox);
    ran(sandbox.kubectl().args(["rollout", "status", "deployment/web", "--timeout=60s"])).succeeds();
    ask(&case, &sandbox, "web").says(&["service=web"]);
}

/// Steps: a controller applies the replicas that a repository says to `web`, again and again, while that is swapped: that is
/// told once, with the controller's name, not fought, and left so at the end.
#[test]
fn a_controller_that_scales_a_swapped_deployment_is_told_of_and_not_fought() {
    let case = Case::cold();
    let sandbox = shop(&case, "rescaled");
    let place = ["-n", sandbox.namespace(), "--swap-deployment", "web"];
    let mut running = Running::start(case.command(place, WAITS).stdin(Stdio::piped()));
    running.stdout().wait_for("ready");
    assert_eq!(object(&sandbox, "deployment/web")["spec"]["replicas"], 0);
    let wanted = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2}}"#;
    let heal = || {
        let apply = ["apply", "--server-side", "--field-manager=argocd", "--force-conflicts", "-f", "-"];
        run::with_input(sandbox.kubectl().args(apply), wanted.as_bytes()).unwrap();
        object(&sandbox, "deployment/web")["metadata"]["generation"].as_u64().unwrap()
    };
    let mut stderr = running.stderr();
    let first = heal();
    stderr.wait_for("deployment/web was scaled to 2 by `argocd` while it is swapped");
    assert_eq!([(); 3].map(|()| heal()), [first; 3], "nobody else writes the spec");
    drop(running.child.stdin.take());
    running.ends_within(LIMIT).exits(0);
    let said = stderr.all();
    assert_eq!(said.iter().filter(|line| line.contains("was scaled")).count(), 1, "{said:#?}");
    assert_eq!(object(&sandbox, "deployment/web")["spec"]["replicas"], 2);
    is_clean(&sandbox);
}

/// Steps: a paused deployment, and one without replicas, are swapped: they are as paused and as empty afterwards.
#[test]
fn a_paused_deployment_and_an_empty_one_stay_what_they_are() {
    let case = Case::cold();
    let sandbox = shop(&case, "odd");
    Workload::new("none").replicas(0).apply(&sandbox).unwrap();
    ran(sandbox.kubectl().args(["rollout", "pause", "deployment/web"])).succeeds();
    for (name, service) in [("web", "web"), ("none", "none")] {
        let what = format!("deployment/{name}");
        let before = object(&sandbox, &what)["spec"].to_string();
        let place = ["-n", sandbox.namespace(), "--swap-deployment", name];
        case.tp(place, ["printenv", "SERVICE"]).prints(service);
        assert_eq!(object(&sandbox, &what)["spec"].to_string(), before);
    }
    is_clean(&sandbox);
}

/// Steps: `web` has an autoscaler and a disruption budget. While it is swapped the one leaves it at 0, and the other protects
/// our pod as it would protect the app's; at the end the replicas are back.
#[test]
fn an_autoscaler_and_a_disruption_budget_are_not_in_the_way() {
    let case = Case::cold();
    let sandbox = shop(&case, "scaler");
    ran(sandbox.kubectl().args(["autoscale", "deployment/web", "--min=1", "--max=3", "--cpu-percent=50"]))
        .succeeds();
    ran(sandbox.kubectl().args(["create", "pdb", "web", "--selector=app=web", "--min-available=1"]))
        .succeeds();
    let before = object(&sandbox, "deployment/web")["spec"].to_string();
    let place = ["-n", sandbox.namespace(), "--swap-deployment", "web", "--expose", "24931:8080"];
    let mut command = case.command(place, python("from_the_laptop", &["24931"]));
    let running = Running::start(command.stdin(Stdio::null()));
    scaled(&sandbox, "deployment/web", 0);
    // The autoscaler looks every 15 s.
    let reason = "jsonpath={.status.conditions[?(@.type==\"ScalingActive\")].reason}";
    until("the autoscaler has seen it", || {
        ran(sandbox.kubectl().args(["get", "hpa/web", "-o", reason])).stdout == "ScalingDisabled"
    });
    let only = "jsonpath={.items[0].metadata.name}";
    let own = ran(sandbox.kubectl().args(["get", "pods", "-l", "tp.dev/session", "-o", only]));
    let refused = sandbox.evict(own.succeeds()).unwrap_err().to_string();
    assert!(refused.contains("disruption budget"), "{refused}");
    assert_eq!(object(&sandbox, "deployment/web")["spec"]["replicas"], 0);
    stopped(running).exits(143);
    assert_eq!(object(&sandbox, "deployment/web")["spec"].to_string(), before);
    is_clean(&sandbox);
}

/// Steps: two people start at once, to swap one deployment, and to make one: of each two one is told who has it, and the
/// other's is whole, and goes with it.
#[test]
fn of_two_runs_at_once_one_has_the_workload() {
    let case = Case::cold();
    let sandbox = shop(&case, "both");
    let before = object(&sandbox, "deployment/web")["spec"].to_string();
    let both = |options: &[&str]| {
        let place = ["-n", sandbox.namespace()];
        let start = || {
            let mut command = case.command(place.iter().chain(options).copied(), WAITS);
            Running::start(command.stdin(Stdio::piped()))
        };
        let mut runs = vec![start(), start()];
        let mut ended = None;
        until("one of them ends", || {
            ended = runs.iter_mut().position(|run| run.child.try_wait().unwrap().is_some());
            ended.is_some()
        });
        let second = runs.remove(ended.unwrap()).ends_within(LIMIT);
        second.exits(125).complains(&["is held by dev@"]);
        let mut first = runs.remove(0);
        first.stdout().wait_for("ready");
        drop(first.child.stdin.take());
        first.ends_within(LIMIT).exits(0);
    };
    both(&["--swap-deployment", "web"]);
    assert_eq!(object(&sandbox, "deployment/web")["spec"].to_string(), before);
    both(&["--new-deployment", "fresh", "--expose", "24932"]);
    is_clean(&sandbox);
}

/// Steps: a quota leaves no room for a pod of ours: the API server's words are told, and nothing is changed. The same for
/// a workload that there is not.
#[test]
fn what_cannot_be_leaves_nothing_behind() {
    let case = Case::cold();
    let sandbox = shop(&case, "quota");
    ran(sandbox.kubectl().args(["create", "quota", "small", "--hard=pods=1"])).succeeds();
    let run = |options: &[&str]| {
        let place = ["-n", sandbox.namespace()];
        ran(&mut case.command(place.iter().chain(options).copied(), ["true"]))
    };
    // The quota is enforced as soon as its controller has counted.
    let counted = ["wait", "--for=jsonpath={.status.used.pods}=1", "quota/small", "--timeout=60s"];
    ran(sandbox.kubectl().args(counted)).succeeds();
    let before = object(&sandbox, "deployment/web")["spec"].to_string();
    run(&["--swap-deployment", "web"]).exits(125).complains(&["exceeded quota: small"]);
    assert_eq!(object(&sandbox, "deployment/web")["spec"].to_string(), before);
    run(&["--swap-deployment", "wep"])
        .exits(125)
        .complains(&["there is no deployment/wep", "did you mean: web?"]);
    run(&["--new-deployment", "web", "--expose", "18932"])
        .exits(125)
        .complains(&["deployment/web exists already"]);
    run(&["--new-deployment", "fresh", "--expose", "18932"]).exits(125).complains(&["exceeded quota: small"]);
    is_clean(&sandbox);
}

/// Steps: an app that there is not gets a deployment and a Service, on a low port; both go with the run.
#[test]
fn a_new_deployment_is_there_as_long_as_its_run() {
    let case = Case::new();
    let sandbox = shop(&case, "fresh");
    let place = ["-n", sandbox.namespace(), "--new-deployment", "fresh", "--expose", "18933:80"];
    let mut command = case.command(place, python("from_the_laptop", &["18933"]));
    let running = Running::start(command.stdin(Stdio::null()));
    let made = ["wait", "--for=create", "service/fresh", "--timeout=60s"];
    ran(sandbox.kubectl().args(made)).succeeds();
    ask(&case, &sandbox, "fresh").prints("from the laptop");
    stopped(running).exits(143);
    is_clean(&sandbox);
}

/// Steps: a stateful set with a claim-less pod is swapped; the stand-in has the first pod's name in the cluster's DNS.
#[test]
fn a_stateful_sets_stand_in_has_the_name_of_its_first_pod() {
    let case = Case::new();
    let sandbox = Sandbox::create(case.target(), "set").unwrap();
    sandbox.apply(SET).unwrap();
    ran(sandbox.kubectl().args(["rollout", "status", "statefulset/db", "--timeout=60s"])).succeeds();
    let before = object(&sandbox, "statefulset/db")["spec"].to_string();
    let place = ["-n", sandbox.namespace(), "--swap-statefulset", "db", "--expose", "18934:8080"];
    let mut command = case.command(place, python("from_the_laptop", &["18934"]));
    let running = Running::start(command.stdin(Stdio::null()));
    scaled(&sandbox, "statefulset/db", 0);
    let url = format!("http://db-0.db.{}:8080/", sandbox.namespace());
    let script = format!("until curl -sS -m 5 {url}; do sleep 0.3; done");
    case.shell(&script).prints("from the laptop");
    stopped(running).exits(143);
    assert_eq!(object(&sandbox, "statefulset/db")["spec"].to_string(), before);
    is_clean(&sandbox);
    let again = ["wait", "--for=jsonpath={.status.readyReplicas}=1", "statefulset/db", "--timeout=60s"];
    ran(sandbox.kubectl().args(again)).succeeds();
}

const SET: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: localhost/tp-sample:1
        args: ["http=8080"]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
"#;
