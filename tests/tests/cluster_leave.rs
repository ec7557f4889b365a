//! `tp leave`: what dead runs have left is given back, by whoever comes, as often as one likes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tp_tests::case::{LIMIT, Ran, Running, ran};
use tp_tests::{Case, Sandbox, Workload};

fn leave(case: &Case, sandbox: &Sandbox, options: &[&str]) -> Ran {
    let mut tp = case.target().tp().unwrap();
    ran(tp.args(["leave", "-n", sandbox.namespace()]).args(options))
}

fn web(sandbox: &Sandbox) -> Value {
    let shown = ran(sandbox.kubectl().args(["get", "deployment/web", "-o", "json"]));
    serde_json::from_str(shown.succeeds()).unwrap()
}

/// As a run leaves `web` that was killed long ago: no replicas, the record, and no pod of its own.
fn abandon(sandbox: &Sandbox, replicas: u32) {
    let record =
        json!({"replicas": replicas, "since": 1_700_000_000, "who": "alice@laptop", "session": "dead"});
    let patch =
        json!({"metadata": {"annotations": {"tp.dev/swapped": record.to_string()}}, "spec": {"replicas": 0}});
    ran(sandbox.kubectl().args(["patch", "deployment/web", "-p", &patch.to_string()])).succeeds();
}

#[track_caller]
fn has_replicas(sandbox: &Sandbox, replicas: u32) {
    let web = web(sandbox);
    assert_eq!(web["spec"]["replicas"], replicas);
    assert!(!web["metadata"].to_string().contains("tp.dev/swapped\":\"{"), "{web}");
}

/// Steps: a record of a dead run; two leave at once; both are fine, and the replicas are back; a third finds nothing. Then
/// one whose deployment somebody has scaled meanwhile: that stays.
#[test]
fn what_a_dead_run_left_is_given_back_once() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "leave").unwrap();
    Workload::new("web").replicas(2).apply(&sandbox).unwrap();
    let before = web(&sandbox)["spec"].to_string();
    abandon(&sandbox, 2);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| leave(&case, &sandbox, &[])));
        for one in both {
            one.join().unwrap().succeeds();
        }
    });
    has_replicas(&sandbox, 2);
    assert_eq!(web(&sandbox)["spec"].to_string(), before);
    leave(&case, &sandbox, &[]).says(&["nothing to give back in namespace"]);
    abandon(&sandbox, 2);
    ran(sandbox.kubectl().args(["scale", "deployment/web", "--replicas=1"])).succeeds();
    leave(&case, &sandbox, &[])
        .says(&["deployment/web: left with the 1 replicas that somebody else gave it"]);
    has_replicas(&sandbox, 1);
}

/// Steps: a record of a dead run on a deployment; the next swap takes it over, and gives back what the record says.
#[test]
fn a_dead_runs_deployment_is_taken_over_and_given_back_as_it_was_before_both() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "heir").unwrap();
    Workload::new("web").replicas(2).apply(&sandbox).unwrap();
    abandon(&sandbox, 2);
    let place = ["-n", sandbox.namespace(), "--swap-deployment", "web"];
    case.tp(place, ["printenv", "SERVICE"]).prints("web");
    has_replicas(&sandbox, 2);
}

/// What is left of runs, each with a deployment that it has swapped: how long ago its record was written, what its pod is,
/// and if it is taken for alive. Only what the API server has is looked at, so objects are all that is needed.
const RUNS: [(&str, i64, Option<&str>, bool); 6] = [
    ("young", 5, None, true),
    // By the clock of a laptop that is an hour ahead.
    ("ahead", -3600, None, false),
    ("running", 3600, Some(r#"{"containers": [AGENT]}"#), true),
    ("pending", 3600, Some(r#"{"containers": [AGENT], "nodeSelector": {"none": "such"}}"#), true),
    ("ended", 3600, Some(r#"{"containers": [ENDS]}"#), false),
    // As a mesh would have it: its proxy goes on.
    ("meshed", 3600, Some(r#"{"containers": [PROXY, ENDS]}"#), false),
];

/// Steps: six runs have left their records and pods; those that may be alive are left as they are, the others' are given back;
/// with --all all are.
#[test]
fn a_run_is_alive_while_its_agent_is_or_may_come() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "alive").unwrap();
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let agent = r#"{"name": "app", "image": "localhost/tp-sample:1", "args": ["http=8080"],
        "env": [{"name": "TP_AGENT_LINGER", "value": "30"}]}"#;
    let ends = agent.replace("http=8080", "no-such-thing");
    let mut objects = Vec::new();
    for (name, age, pod, _) in RUNS {
        let record = json!({"replicas": 0, "since": now - age, "who": "alice@laptop", "session": name});
        let labels = json!({"app": name});
        let template =
            json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "i"}]}});
        objects.push(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "annotations": {"tp.dev/swapped": record.to_string()}},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }));
        let Some(spec) = pod else { continue };
        let proxy = agent.replace("\"app\"", "\"proxy\"").replace("TP_AGENT_LINGER", "NONE");
        let spec = spec.replace("AGENT", agent).replace("ENDS", &ends).replace("PROXY", &proxy);
        let mut spec: Value = serde_json::from_str(&spec).unwrap();
        spec["restartPolicy"] = "Never".into();
        spec["terminationGracePeriodSeconds"] = 1.into();
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": format!("tp-{name}"), "labels": {"tp.dev/session": name}},
        }));
    }
    sandbox.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).unwrap();
    let state = |pod: &str, path: &str, wanted: &str| {
        let condition = format!("--for=jsonpath={path}={wanted}");
        ran(sandbox.kubectl().args(["wait", &condition, "--timeout=60s", &format!("pod/tp-{pod}")]))
            .succeeds();
    };
    state("running", "{.status.phase}", "Running");
    state("pending", "{.status.phase}", "Pending");
    state("ended", "{.status.phase}", "Failed");
    state("meshed", "{.status.containerStatuses[?(@.name==\"app\")].state.terminated.reason}", "Error");
    state("meshed", "{.status.phase}", "Running");
    let left = leave(&case, &sandbox, &[]);
    for (name, _, pod, alive) in RUNS {
        let said = if alive { "held by alice@laptop since" } else { "given back with 0 replicas" };
        left.says(&[&format!("deployment/{name}: {said}")]);
        if pod.is_some() && alive {
            left.says(&[&format!("pod/tp-{name}: made by somebody, and its run is alive: left as it is")]);
        }
    }
    let all = leave(&case, &sandbox, &["--all"]);
    for (name, _, _, alive) in RUNS {
        let said = all.stdout.contains(&format!("deployment/{name}: given back with 0 replicas"));
        assert_eq!(said, alive, "{all}");
    }
}

/// Steps: tp is killed in the middle of a swap. Its agent may still be waiting for it: `tp leave` says so and leaves it;
/// with --all it is given back, and nothing of it stays.
#[test]
fn a_killed_run_is_given_back_from_outside() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "killed").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    let before = web(&sandbox)["spec"].to_string();
    let place = ["-n", sandbox.namespace(), "--swap-deployment", "web"];
    let mut command = case.command(place, ["sleep", "60"]);
    let running = Running::start(command.stdin(Stdio::null()));
    let down = ["wait", "--for=jsonpath={.spec.replicas}=0", "deployment/web", "--timeout=60s"];
    ran(sandbox.kubectl().args(down)).succeeds();
    kill(running.pid(), Signal::SIGKILL).unwrap();
    leave(&case, &sandbox, &[]).says(&["deployment/web: held by dev@", "its run is alive: left as it is"]);
    leave(&case, &sandbox, &["--all"]).says(&["deployment/web: given back with 1 replicas"]);
    has_replicas(&sandbox, 1);
    assert_eq!(web(&sandbox)["spec"].to_string(), before);
    let gone = ["wait", "--for=delete", "pods", "-l", "tp.dev/session", "--timeout=60s"];
    ran(sandbox.kubectl().args(gone)).succeeds();
    leave(&case, &sandbox, &["--all"]).says(&["nothing to give back"]);
    let _ = nix::sys::signal::killpg(running.pid(), Signal::SIGKILL);
    running.ends_within(LIMIT);
}
