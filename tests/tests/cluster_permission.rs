//! What each feature asks of an administrator: the README's tables, Kubernetes' own `edit` role, Pod Security, and whoever
//! else has a say in what is made in a cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::fs::read_to_string;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tp_tests::case::{LIMIT, Lines, Ran, Running, ran, until};
use tp_tests::workload::agents;
use tp_tests::{Case, Sandbox, Workload, layout, run};

/// Asks through the pod, then says what the environment has.
const SCRIPT: &str = "curl -sS http://backend.default/ && echo SERVICE=$SERVICE";

/// A namespace in which Pod Security "restricted" is enforced, with a deployment `web` that keeps to it.
fn restricted(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    let label = ["label", "namespace", sandbox.namespace(), "pod-security.kubernetes.io/enforce=restricted"];
    ran(sandbox.kubectl().args(label)).succeeds();
    Workload::new("web").restricted().apply(&sandbox).unwrap();
    sandbox
}

fn tp(case: &Case, sandbox: &Sandbox, user: &Path, options: &[&str], program: &[&str]) -> Command {
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    let mut command = case.command(place.into_iter().chain(options.iter().copied()), program);
    command.env("KUBECONFIG", user);
    command
}

/// The pods that tp made and that are not being deleted.
fn own_pods(sandbox: &Sandbox) -> Vec<String> {
    let pods =
        run::output(sandbox.kubectl().args(["get", "pods", "-l", "tp.dev/session", "-o", "json"])).unwrap();
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let pods = pods["items"].as_array().unwrap().iter();
    pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The rules of the README's table under a heading.
fn table(heading: &str) -> Vec<(String, String, Vec<String>)> {
    let readme = read_to_string(layout::sources("..").join("README.md")).unwrap();
    let lines = readme.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
    let rows = lines.skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with("| `"));
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rules: Vec<_> = rows
        .flat_map(|row| {
            let cells: Vec<_> = row.split('|').collect();
            let verbs = words(cells[1]);
            words(cells[2]).into_iter().map(move |resource| {
                // As kubectl names them: RESOURCE.GROUP/SUBRESOURCE.
                let (resource, group) = resource.split_once('.').unwrap_or((&resource, ""));
                let (group, part) = group.find('/').map_or((group, ""), |at| group.split_at(at));
                (group.to_owned(), format!("{resource}{part}"), verbs.clone())
            })
        })
        .collect();
    assert!(!rules.is_empty(), "the README has no table under {heading}");
    rules
}

/// A user who may do what the README's table under this heading says, and nothing else.
fn user_of(sandbox: &Sandbox, name: &str, headings: &[&str]) -> std::path::PathBuf {
    let rules: Vec<_> = headings.iter().flat_map(|heading| table(heading)).collect();
    let verbs: Vec<Vec<&str>> =
        rules.iter().map(|(_, _, verbs)| verbs.iter().map(String::as_str).collect()).collect();
    let rules: Vec<tp_tests::sandbox::Rule<'_>> = rules
        .iter()
        .zip(&verbs)
        .map(|((group, resource, _), verbs)| (group.as_str(), resource.as_str(), verbs.as_slice()))
        .collect();
    sandbox.user(name, &rules).unwrap()
}

#[test]
fn the_tables_are_enough_where_pod_security_is_restricted() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = restricted(&case, "tables");
    let user = user_of(&sandbox, "container", &["**By an ephemeral container**"]);
    let first = ran(&mut tp(&case, &sandbox, &user, &["-v"], &["sh", "-c", SCRIPT]));
    first
        .says(&["service=backend", "SERVICE=web"])
        .complains(&["in an ephemeral container, which is allowed"]);
    assert_eq!((agents(&sandbox).unwrap().len(), own_pods(&sandbox).len()), (1, 0));
    let lister = user_of(&sandbox, "lister", &["**By `tp list`**"]);
    let mut list = case.target().tp().unwrap();
    let list = ran(list.args(["list", "-n", sandbox.namespace()]).env("KUBECONFIG", lister));
    list.says(&["deployment/web  1/1"]);
    assert_eq!(list.stderr, "");
    let other = Sandbox::create(case.target(), "tables-pod").unwrap();
    Workload::new("web").apply(&other).unwrap();
    let user = user_of(&other, "pod", &["**By a pod of tp's own**"]);
    let second = ran(&mut tp(&case, &other, &user, &["-v"], &["sh", "-c", SCRIPT]));
    second.says(&["service=backend", "SERVICE=web"]);
    second.complains(&[
        "no ephemeral container",
        "not allowed: patch pods/ephemeralcontainers",
        "own pod created",
    ]);
    assert_eq!(agents(&other).unwrap(), Vec::<String>::new());
    assert_eq!(own_pods(&other), Vec::<String>::new(), "it goes with the run");
    let user = user_of(&other, "place", &["**By a pod of tp's own**", "**In place of a workload**"]);
    takes_the_place(&case, &other, &user);
    ran(other.kubectl().args(["expose", "deployment", "web", "--port=80", "--target-port=8080"])).succeeds();
    let user = user_of(&other, "ports", &["**By a pod of tp's own**", "**Ports by Services**"]);
    let third = ran(&mut tp(&case, &other, &user, &["--expose", "18957:8080"], &["true"]));
    third.exits(0).complains(&["what comes to service/web is led here"]);
    assert_eq!(own_pods(&other), Vec::<String>::new(), "both go with the run");
}

/// `tp` with these arguments in the namespace, as that user.
fn tp_as(case: &Case, sandbox: &Sandbox, user: &Path, arguments: &[&str]) -> Ran {
    let mut tp = case.target().tp().unwrap();
    let (command, rest) = arguments.split_first().unwrap();
    ran(tp.args([command, "-n", sandbox.namespace()]).args(rest).env("KUBECONFIG", user))
}

/// Steps: a pod of ours for the workload, and one for a workload that there is not yet; then there is nothing to give back.
#[track_caller]
fn takes_the_place(case: &Case, sandbox: &Sandbox, user: &Path) {
    let objects = || {
        let specs = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.spec} {.metadata.annotations}{end}";
        ran(sandbox.kubectl().args(["get", "deployments,services", "-o", specs])).stdout
    };
    let tp = |arguments: &[&str]| tp_as(case, sandbox, user, arguments);
    let before = objects();
    tp(&["run", "--swap-deployment", "web", "--", "printenv", "SERVICE"]).prints("web");
    let fresh =
        ["run", "--new-deployment", "fresh", "--expose", "18958:8080", "--", "printenv", "TELEPRESENCE_POD"];
    tp(&fresh).says(&["fresh-"]);
    assert_eq!(objects(), before);
    assert_eq!(own_pods(sandbox), Vec::<String>::new());
    tp(&["leave"]).says(&["nothing to give back"]);
}

/// Kubernetes' own role, which has no ephemeral containers: a pod beside the workload's takes the place of one.
#[test]
fn who_has_the_edit_role_needs_nothing_else() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = restricted(&case, "edit");
    let user = sandbox.user_with("editor", "edit").unwrap();
    let answer = ran(&mut tp(&case, &sandbox, &user, &[], &["sh", "-c", SCRIPT]));
    answer.says(&["service=backend", "SERVICE=web"]);
    assert_eq!(answer.stderr, "", "nothing is said that was not asked for");
    let mut env = case.target().tp().unwrap();
    env.args(["env", "-n", sandbox.namespace(), "--deployment", "web"]).env("KUBECONFIG", &user);
    let env = ran(&mut env);
    env.says(&["SERVICE='web'", "TELEPRESENCE_CONTAINER='app'", "TELEPRESENCE_POD='tp-web-"]);
    assert_eq!(own_pods(&sandbox), Vec::<String>::new());
    moves(&case, &sandbox, &user);
}

/// Each feature for a user of Kubernetes' own role, where Pod Security `restricted` is enforced: all but a mirror is had.
#[test]
fn whatever_needs_no_rules_is_there_for_the_edit_role_where_pod_security_is_restricted() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = restricted(&case, "features");
    ran(sandbox.kubectl().args(["expose", "deployment", "web", "--port=80", "--target-port=8080"]))
        .succeeds();
    let user = sandbox.user_with("editor", "edit").unwrap();
    let run = |options: &[&str], program: &[&str]| ran(&mut tp(&case, &sandbox, &user, options, program));
    let own = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
    run(&[], &["cat", own]).prints(sandbox.namespace());
    let mirror = run(&["--expose", "18959:8080", "--mirror"], &["echo", "started"]);
    mirror.exits(125).complains(&[
        "not allowed: patch pods/ephemeralcontainers",
        "a mirror needs rules in the app's own pod",
        "NET_ADMIN",
    ]);
    assert_eq!(mirror.stdout, "");
    let some = run(&["--expose", "18959:8080", "--http-header", "x-user=alice"], &["true"]);
    some.exits(0).complains(&["what comes to service/web is led here"]);
    takes_the_place(&case, &sandbox, &user);
    ran(sandbox.kubectl().args(["rollout", "status", "deployment/web", "--timeout=60s"])).succeeds();
    let list = tp_as(&case, &sandbox, &user, &["list"]);
    assert_eq!(list.says(&["deployment/web  1/1    -"]).stderr, "");
    assert_eq!(own_pods(&sandbox), Vec::<String>::new());
    assert_eq!(agents(&sandbox).unwrap(), Vec::<String>::new());
}

/// Steps: the pod that a run goes through is evicted, as by a drained node; the run goes on by another, and says so.
#[track_caller]
fn moves(case: &Case, sandbox: &Sandbox, user: &Path) {
    let script =
        "curl -sS http://backend.default/ && echo ready && read go && curl -sS http://backend.default/";
    let mut command = tp(case, sandbox, user, &[], &["sh", "-c", script]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let (mut stdout, mut stderr) = (running.stdout(), running.stderr());
    let peer = |stdout: &mut Lines| stdout.wait_for("peer=").rsplit_once(':').unwrap().0.to_owned();
    let first = peer(&mut stdout);
    stdout.wait_for("ready");
    let pods = own_pods(sandbox);
    sandbox.evict(&pods[0]).unwrap();
    let back = stderr.wait_for("the link is back, to pod tp-web-");
    assert!(!back.contains(&pods[0]), "{back}");
    running.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_ne!(peer(&mut stdout), first);
    running.ends_within(LIMIT).exits(0);
    assert_eq!(own_pods(sandbox), Vec::<String>::new());
}

/// A policy of the cluster's that refuses what tp makes in one namespace, for as long as the value is kept.
struct Policy<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Policy<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let name = sandbox.namespace();
        let group = "admissionregistration.k8s.io";
        let policy = json!({
            "apiVersion": format!("{group}/v1"), "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                    "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                        "resources": ["pods", "pods/ephemeralcontainers"]}],
                },
                "validations": [{
                    "expression": "!has(object.spec.ephemeralContainers) && \
                                   !(has(object.metadata.labels) && 'tp.dev/session' in object.metadata.labels)",
                    "message": "you cannot debug here, ask the platform team",
                }],
            },
        });
        let binding = json!({
            "apiVersion": format!("{group}/v1"), "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        });
        sandbox.apply(&format!("{policy}\n---\n{binding}\n")).unwrap();
        let policy = Self { sandbox };
        // The API server takes note of it some time later.
        until("the policy is known", || !policy.try_one());
        policy
    }

    /// If a pod that the policy is about would be let in.
    fn try_one(&self) -> bool {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "try-", "labels": {"tp.dev/session": "x"}},
            "spec": {"containers": [{"name": "app", "image": "localhost/tp-sample:1"}]},
        });
        let create = ["create", "--dry-run=server", "-f", "-"];
        run::with_input(self.sandbox.kubectl().args(create), pod.to_string().as_bytes()).is_ok()
    }

    /// Takes it back. Of that, too, the API server takes note some time later.
    fn forget(self) {
        self.delete();
        until("the policy is forgotten", || self.try_one());
    }

    fn delete(&self) {
        let name = self.sandbox.namespace();
        for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
            let _gone = run::output(self.sandbox.kubectl().args(["delete", kind, name]));
        }
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        self.delete();
    }
}

/// Steps: a policy refuses the ephemeral container, then the pod; without it a quota refuses the pod.
#[test]
fn whoever_refuses_what_is_made_is_heard_in_their_own_words() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = Sandbox::create(case.target(), "refuses").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    let editor = sandbox.user_with("editor", "edit").unwrap();
    let user = user_of(&sandbox, "user", &["**By an ephemeral container**"]);
    let refused = |user: &Path, words: &[&str]| -> Ran {
        let ran = ran(&mut tp(&case, &sandbox, user, &[], &["echo", "started"]));
        ran.exits(125).complains(words);
        assert_eq!(ran.stdout, "");
        assert_eq!(agents(&sandbox).unwrap(), Vec::<String>::new());
        assert_eq!(own_pods(&sandbox), Vec::<String>::new());
        ran
    };
    let policy = Policy::new(&sandbox);
    let words = "you cannot debug here, ask the platform team";
    refused(&user, &["refused `patch pods/ephemeralcontainers`", words]);
    refused(&editor, &["refused `create pods`", words]);
    policy.forget();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}},
    });
    sandbox.apply(&quota.to_string()).unwrap();
    let counted = ["wait", "--for=jsonpath={.status.used.pods}=1", "--timeout=60s", "resourcequota/small"];
    ran(sandbox.kubectl().args(counted)).succeeds();
    refused(&editor, &["refused `create pods`", "exceeded quota: small"]);
}
