//! Pods that go in the middle of a run, whatever takes them: the run goes on by another one, and says so.
//!
//! A node that is lost is, for a run, a pod whose link is silent and which the API server then forgets: here a pod is
//! deleted by force, which takes it out of the API before anything in it has ended.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::Write as _;
use std::process::{ChildStdin, Stdio};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tp_tests::case::{LIMIT, Lines, Running, python, ran};
use tp_tests::{Case, Sandbox, Workload};

/// Asks through the pod whenever it is told to.
const ASKS: [&str; 3] = ["sh", "-c", "echo ready; while read go; do curl -sS http://backend.default/; done"];

/// The ways in which a pod goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Deleted,
    Evicted,
    Forgotten,
    RolledOut,
}

impl Way {
    fn take(self, sandbox: &Sandbox, pod: &str) {
        let kubectl = |arguments: &[&str]| {
            ran(sandbox.kubectl().args(arguments)).succeeds();
        };
        match self {
            Self::Deleted => kubectl(&["delete", "pod", pod, "--wait=false"]),
            Self::Evicted => sandbox.evict(pod).unwrap(),
            Self::Forgotten => {
                kubectl(&["delete", "pod", pod, "--force", "--grace-period=0", "--wait=false"])
            }
            Self::RolledOut => kubectl(&["rollout", "restart", "deployment/web"]),
        }
    }
}

/// A namespace with `web` and its Service.
fn shop(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    ran(sandbox.kubectl().args(["expose", "deployment", "web", "--port=80", "--target-port=8080"]))
        .succeeds();
    sandbox
}

/// The name of the one pod with this label that is not being deleted.
fn pod(sandbox: &Sandbox, label: &str) -> String {
    let pods = ran(sandbox.kubectl().args(["get", "pods", "-l", label, "-o", "json"]));
    let pods: Value = serde_json::from_str(pods.succeeds()).unwrap();
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pod = pods["items"].as_array().unwrap().iter().find(stays).unwrap();
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// Waits until a client in the cluster is answered from here.
#[track_caller]
fn leads_here(case: &Case, sandbox: &Sandbox) {
    let url = format!("http://web.{}/", sandbox.namespace());
    let script = format!("until curl -sS -m 5 {url} 2>&1 | grep -q 'from the laptop'; do sleep 0.2; done");
    case.shell(&script).exits(0);
}

#[track_caller]
fn asks(stdin: &mut ChildStdin, stdout: &mut Lines) -> String {
    stdin.write_all(b"go\n").unwrap();
    stdout.wait_for("peer=").rsplit_once(':').unwrap().0.to_owned()
}

/// Steps: the pod of a run goes in each way; each time the run has another one, whose address its connections have.
#[test]
fn a_run_goes_on_by_the_next_pod() {
    let case = Case::cold();
    let sandbox = shop(&case, "moves");
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    let mut running = Running::start(case.command(place, ASKS).stdin(Stdio::piped()));
    let (mut stdout, mut stderr) = (running.stdout(), running.stderr());
    let mut stdin = running.child.stdin.take().unwrap();
    stdout.wait_for("ready");
    let mut peer = asks(&mut stdin, &mut stdout);
    for way in [Way::Deleted, Way::Evicted, Way::Forgotten, Way::RolledOut] {
        let before = pod(&sandbox, "app=web");
        way.take(&sandbox, &before);
        stderr.wait_for("the link to the pod was lost");
        let back = stderr.wait_for("the link is back, to pod web-");
        assert!(!back.contains(&before), "{way:?}: {back}");
        let now = asks(&mut stdin, &mut stdout);
        assert_ne!(now, peer, "{way:?}");
        peer = now;
    }
    drop(stdin);
    running.ends_within(LIMIT).exits(0);
}

/// Steps: the same for a port of all of the workload's pods.
#[test]
fn a_port_is_taken_in_the_next_pod() {
    let case = Case::new();
    let sandbox = shop(&case, "moves-port");
    let place = ["-n", sandbox.namespace(), "--deployment", "web", "--expose", "24941:8080"];
    let mut command = case.command(place, python("from_the_laptop", &["24941"]));
    let mut running = Running::start(command.stdin(Stdio::null()));
    let mut stderr = running.stderr();
    leads_here(&case, &sandbox);
    for way in [Way::Evicted, Way::RolledOut] {
        let before = pod(&sandbox, "app=web");
        way.take(&sandbox, &before);
        let took = stderr.wait_for("took port 8080 of pod web-");
        assert!(!took.contains(&before), "{way:?}: {took}");
        leads_here(&case, &sandbox);
    }
    kill(running.pid(), Signal::SIGTERM).unwrap();
    running.ends_within(LIMIT).exits(143);
}

/// Steps: the same for a pod of tp's own in the place of a deployment's, whose next one is made by the run; and the
/// deployment is rolled out meanwhile, which is told.
#[test]
fn a_stand_in_is_made_anew() {
    let case = Case::new();
    let sandbox = shop(&case, "moves-stand-in");
    let spec = || ran(sandbox.kubectl().args(["get", "deployment/web", "-o", "jsonpath={.spec.replicas}"]));
    let place = ["-n", sandbox.namespace(), "--swap-deployment", "web", "--expose", "24942:8080"];
    let mut command = case.command(place, python("from_the_laptop", &["24942"]));
    let mut running = Running::start(command.stdin(Stdio::null()));
    let mut stderr = running.stderr();
    let down = ["wait", "--for=jsonpath={.spec.replicas}=0", "--timeout=60s", "deployment/web"];
    ran(sandbox.kubectl().args(down)).succeeds();
    for way in [Way::Evicted, Way::Forgotten] {
        let before = pod(&sandbox, "tp.dev/session");
        way.take(&sandbox, &before);
        let back = stderr.wait_for("the link is back, to pod tp-web-");
        assert!(!back.contains(&before), "{way:?}: {back}");
        leads_here(&case, &sandbox);
    }
    Way::RolledOut.take(&sandbox, "");
    stderr
        .wait_for("deployment/web has a new template; this run keeps the old one's environment and volumes");
    spec().prints("0");
    kill(running.pid(), Signal::SIGTERM).unwrap();
    running.ends_within(LIMIT).exits(143);
    spec().prints("1");
}
