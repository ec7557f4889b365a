//! `tp list` and `tp status`: what there is in a namespace, who has ports of it, and what runs on this machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tp_tests::case::{LIMIT, Running, ran, until};
use tp_tests::{Case, Sandbox, Workload};

fn tp(case: &Case, arguments: &[&str]) -> Command {
    let mut command = case.target().tp().unwrap();
    command.args(arguments);
    command
}

fn listed(case: &Case, sandbox: &Sandbox) -> Vec<Value> {
    let list = ran(&mut tp(case, &["list", "-n", sandbox.namespace(), "-o", "json"]));
    serde_json::from_str(list.succeeds()).unwrap()
}

fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

/// A program that says when it runs, and then waits for the end of its input.
const WAITS: [&str; 3] = ["sh", "-c", "echo ready; cat >/dev/null"];

/// Starts it, and returns when it runs.
#[track_caller]
fn started(command: &mut Command) -> Running {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.stdout().wait_for("ready");
    running
}

#[test]
fn workloads_are_listed_with_their_ready_pods() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "list").unwrap();
    let list = ["list", "-n", sandbox.namespace()];
    ran(&mut tp(&case, &list)).prints("WORKLOAD  READY  EXPOSED");
    Workload::new("web").replicas(2).apply(&sandbox).unwrap();
    Workload::new("none").replicas(0).apply(&sandbox).unwrap();
    let text = ran(&mut tp(&case, &list));
    let expected =
        [["WORKLOAD", "READY", "EXPOSED"], ["deployment/none", "0/0", "-"], ["deployment/web", "2/2", "-"]];
    assert_eq!(rows(text.succeeds()), expected);
    let objects = listed(&case, &sandbox);
    assert_eq!(objects[1]["workload"], "deployment/web");
    assert_eq!((&objects[1]["ready"], &objects[1]["wanted"]), (&2.into(), &2.into()));
    assert_eq!((&objects[1]["exposed"], &objects[1]["swapped"]), (&Value::Array(vec![]), &Value::Null));
}

/// Who may not see everything sees the rest, and is told so.
#[test]
fn what_may_not_be_known_is_said() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = Sandbox::create(case.target(), "list-few").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    let list = ["list", "-n", sandbox.namespace()];
    let user = |name: &str, rules: &[tp_tests::sandbox::Rule<'_>]| sandbox.user(name, rules).unwrap();
    let few = user("few", &[("", "pods", &["list"]), ("apps", "deployments", &["list"])]);
    let some = ran(tp(&case, &list).env("KUBECONFIG", few));
    some.says(&["deployment/web"]).complains(&["not all is known: not allowed: list statefulsets.apps"]);
    let none = ran(tp(&case, &list).env("KUBECONFIG", user("none", &[])));
    none.exits(125).complains(&["not allowed: list pods"]);
}

/// Steps: a run takes a port; whoever lists sees whose it is, and sees nothing of it when the run has ended.
#[test]
fn whoever_has_a_port_is_named() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "list-ports").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    let options = ["-n", sandbox.namespace(), "--deployment", "web", "--expose", "18473:8080"];
    let running = started(&mut case.command(options, WAITS));
    // The runtime writes what the agent says into its log a moment later.
    until("the port is listed", || !listed(&case, &sandbox)[0]["exposed"][0].is_null());
    let objects = listed(&case, &sandbox);
    let exposed = &objects[0]["exposed"][0];
    assert_eq!((&exposed["port"], &exposed["way"]), (&8080.into(), &"steal".into()), "{objects:?}");
    let who = exposed["who"].as_str().unwrap();
    assert!(who.starts_with("dev@"), "{who}");
    assert!(exposed["pod"].as_str().unwrap().starts_with("web-"));
    assert!(exposed["since"].as_str().unwrap().ends_with('Z'));
    let text = ran(&mut tp(&case, &["list", "-n", sandbox.namespace()]));
    assert_eq!(rows(text.succeeds())[1], ["deployment/web", "1/1", &format!("8080/tcp by {who}")]);
    let status = ran(&mut tp(&case, &["status", "-o", "json"]));
    let runs: Vec<Value> = serde_json::from_str(status.succeeds()).unwrap();
    let run = runs.iter().find(|run| run["pid"] == running.child.id()).unwrap();
    assert_eq!(run["exposes"], serde_json::json!(["18473:8080"]));
    running.ends_within(LIMIT).exits(0);
    until("no port is listed", || listed(&case, &sandbox)[0]["exposed"] == serde_json::json!([]));
}

/// Steps: a run is in the table while it runs, with the pod that it has at the moment; not after it was killed.
#[test]
fn runs_are_told_as_long_as_they_run() {
    let case = Case::cold();
    let sandbox = Sandbox::create(case.target(), "status").unwrap();
    Workload::new("web").replicas(2).apply(&sandbox).unwrap();
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    let mut running = started(&mut case.command(place, WAITS));
    let pid = running.child.id();
    let find = || {
        let status = ran(&mut tp(&case, &["status", "-o", "json"]));
        let runs: Vec<Value> = serde_json::from_str(status.succeeds()).unwrap();
        runs.into_iter().find(|run| run["pid"] == pid)
    };
    let run = find().unwrap();
    assert_eq!((&run["namespace"], &run["link"]), (&sandbox.namespace().into(), &"up".into()), "{run}");
    assert_eq!(run["command"], serde_json::json!(WAITS));
    assert_eq!((&run["container"], &run["exposes"]), (&"app".into(), &serde_json::json!([])));
    let text = ran(&mut tp(&case, &["status"]));
    let rows = rows(text.succeeds());
    assert_eq!(rows[0], ["PID", "NAMESPACE", "POD", "LINK", "EXPOSES", "SINCE", "COMMAND"]);
    let row = rows.iter().find(|row| row[0] == pid.to_string()).unwrap();
    assert_eq!((row[3], row[6]), ("up", "sh -c \"echo ready; cat >/dev/null\""));
    let pod = run["pod"].as_str().unwrap().to_owned();
    ran(sandbox.kubectl().args(["delete", "pod", &pod, "--wait=true", "--grace-period=1"])).succeeds();
    running.stderr().wait_for("the link is back");
    // The card is written after the word is said.
    until("the card tells the other pod", || {
        find().is_some_and(|run| run["link"] == "up" && run["pod"] != *pod)
    });
    kill(running.pid(), Signal::SIGKILL).unwrap();
    drop(running.child.stdin.take());
    running.child.wait().unwrap();
    assert!(find().is_none());
}

/// Many runs that start while others look: nobody keeps anybody from starting.
#[test]
fn looking_disturbs_nobody() {
    let case = Case::new();
    let look = || {
        for _ in 0..20 {
            ran(&mut tp(&case, &["status"])).succeeds();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(look);
        for _ in 0..3 {
            case.web(["true"]).succeeds();
        }
    });
}
