//! What cannot work is refused with one clear message that says what to do, in a few seconds, and leaves nothing in
//! the cluster.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::process::Command;
use std::time::Duration;

use tp_tests::case::{Folder, LIMIT, Ran, ran_within};
use tp_tests::workload::agents;
use tp_tests::{Case, Sandbox, Workload};

/// The bound for every refusal that does not wait for something.
const SOON: Duration = Duration::from_secs(10);

/// Refused with this exit code and these words, soon, and nothing on stdout.
#[track_caller]
fn refused(command: &mut Command, code: i32, words: &[&str]) -> Ran {
    refused_within(SOON, command, code, words)
}

#[track_caller]
fn refused_within(limit: Duration, command: &mut Command, code: i32, words: &[&str]) -> Ran {
    let ran = ran_within(command, limit);
    ran.exits(code).complains(words);
    assert_eq!(ran.stdout, "", "{ran}");
    assert_eq!(ran.stderr.lines().filter(|line| line.starts_with("tp: ")).count(), 1, "one message: {ran}");
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    ran
}

/// A namespace with a deployment `web`, and the case that it is for.
fn shop(case: &Case, name: &str) -> Sandbox {
    let sandbox = Sandbox::create(case.target(), name).unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    sandbox
}

fn none(sandbox: &Sandbox) {
    assert_eq!(agents(sandbox).unwrap(), Vec::<String>::new(), "nothing may be left in the cluster");
}

#[test]
fn a_command_line_without_a_command_or_a_pod_is_refused_with_the_usage() {
    let case = Case::cold();
    let tp = |arguments: &[&str]| {
        let mut tp = case.target().tp().unwrap();
        tp.args(arguments);
        ran_within(&mut tp, SOON)
    };
    tp(&["run", "--deployment", "web"]).exits(125).complains(&["COMMAND", "Usage: tp run"]);
    tp(&["run", "--", "true"]).exits(125).complains(&["--deployment", "Usage: tp run"]);
    tp(&["run", "service/web", "--", "true"]).exits(125).complains(&["is not TYPE/NAME", "deployment"]);
    tp(&["fly"]).exits(125).complains(&["fly"]);
    tp(&["run", "--help"]).exits(0);
}

#[test]
fn a_namespace_that_is_not_there_is_told_with_the_nearest_one() {
    let case = Case::cold();
    refused(
        &mut case.command(["-n", "defualt", "--deployment", "web"], ["true"]),
        125,
        &["there is no namespace `defualt`", "did you mean: default?"],
    );
    refused(
        &mut case.command(["-n", "zzzzzz", "--deployment", "web"], ["true"]),
        125,
        &["there is no namespace `zzzzzz`", "kubectl get namespaces"],
    );
}

#[test]
fn a_workload_that_is_not_there_is_told_with_the_nearest_one() {
    let case = Case::cold();
    refused(
        &mut case.command(["--deployment", "wbe"], ["true"]),
        125,
        &["there is no deployment/wbe in namespace `default`", "did you mean: web?"],
    );
    refused(
        &mut case.command(["--statefulset", "db-0"], ["true"]),
        125,
        &["there is no statefulset/db-0", "did you mean: db?"],
    );
    refused(
        &mut case.command(["--pod", "nothing-like-it"], ["true"]),
        125,
        &["there is no pod/nothing-like-it", "kubectl get pods"],
    );
}

#[test]
fn a_container_that_is_not_there_is_told_with_those_that_are() {
    let case = Case::cold();
    refused(
        &mut case.command(["--deployment", "web", "--container", "ap"], ["true"]),
        125,
        &["has no container `ap`", "app", "sidecar"],
    );
}

#[test]
fn a_workload_without_a_ready_pod_is_told_with_what_its_pods_do() {
    let case = Case::cold();
    refused(
        &mut case.command(["--deployment", "notready"], ["true"]),
        125,
        &[
            "deployment/notready in namespace `default` has no ready pod",
            "notready-",
            "containers with unready status",
        ],
    );
    let sandbox = Sandbox::create(case.target(), "no-pods").unwrap();
    Workload::new("web").replicas(0).apply(&sandbox).unwrap();
    refused(
        &mut case.command(["-n", sandbox.namespace(), "--deployment", "web"], ["true"]),
        125,
        &["has no ready pod", "it has no pods", "replicas"],
    );
}

#[test]
fn a_missing_permission_is_told_with_the_verb_and_the_resource_and_nothing_is_made() {
    let case = Case::cold();
    if case.laptop("a user with few permissions").is_none() {
        return;
    }
    let sandbox = shop(&case, "permissions");
    let all: [tp_tests::sandbox::Rule<'_>; 5] = [
        ("apps", "deployments", &["get"]),
        ("", "pods", &["get", "list"]),
        ("", "pods/ephemeralcontainers", &["patch"]),
        ("", "pods/attach", &["get", "create"]),
        ("", "pods/portforward", &["get", "create"]),
    ];
    let missing = |left_out: usize, verb: &str, resource: &str| {
        let rules: Vec<_> =
            all.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, rule)| *rule).collect();
        let config = sandbox.user(&format!("without-{left_out}"), &rules).unwrap();
        let mut command = case.command(["--deployment", "web"], ["true"]);
        refused(
            command.env("KUBECONFIG", config),
            125,
            &[
                &format!("not allowed: {verb} {resource} in namespace `{}`", sandbox.namespace()),
                "ask an administrator",
                &format!("on `{resource}` in namespace"),
            ],
        );
        none(&sandbox);
    };
    missing(0, "get", "deployments.apps");
    missing(1, "list", "pods");
    missing(2, "patch", "pods/ephemeralcontainers");
    missing(3, "get", "pods/attach");
    missing(4, "get", "pods/portforward");
    // And these are all that it takes.
    let config = sandbox.user("with-all", &all).unwrap();
    let mut command = case.command(["--deployment", "web"], ["curl", "-sS", "http://backend.default/"]);
    tp_tests::case::ran(command.env("KUBECONFIG", config)).says(&["service=backend"]);
}

/// Waiting is the point here: the kubelet tries to pull first.
#[test]
fn an_image_that_cannot_be_pulled_is_told_in_the_kubelets_words() {
    let case = Case::cold();
    let sandbox = shop(&case, "no-image");
    let place = ["-n", sandbox.namespace(), "--deployment", "web"];
    for option in ["--agent-base-image", "--agent-image"] {
        refused_within(
            LIMIT,
            &mut case.command(place.into_iter().chain([option, "nowhere.invalid/x:1"]), ["true"]),
            125,
            &["cannot start", "nowhere.invalid/x:1", "ErrImagePull", "--agent-base-image"],
        );
    }
}

#[test]
fn an_image_without_a_shell_is_told_in_the_runtimes_words() {
    let case = Case::cold();
    let sandbox = shop(&case, "no-shell");
    let place =
        ["-n", sandbox.namespace(), "--deployment", "web", "--agent-base-image", "localhost/tp-pause:1"];
    refused(&mut case.command(place, ["true"]), 125, &["/bin/sh", "no such file", "--agent-base-image"]);
}

#[test]
fn an_image_whose_program_is_no_agent_is_told() {
    let case = Case::cold();
    let sandbox = shop(&case, "no-agent");
    let place = [
        "-n",
        sandbox.namespace(),
        "--deployment",
        "web",
        "--agent-image",
        "docker.io/library/busybox:stable",
    ];
    // Its `sh` ends at once, without a word.
    refused(
        &mut case.command(place, ["true"]),
        125,
        &["the agent in pod `web-", "ended", "kubectl describe pod"],
    );
}

#[test]
fn a_program_that_the_shim_cannot_enter_never_starts() {
    let case = Case::cold();
    for (program, words) in [
        ("/bin/busybox", ["statically linked", "did not start it"]),
        ("kubectl", ["is a Go program", "did not start it"]),
    ] {
        refused(&mut case.by("shim", [program, "--help"]), 126, &words);
    }
    // To root, who may be the caller where there is no laptop, a set-user-ID program of root's is like any other.
    if case.laptop("a user without privileges").is_some() {
        refused(&mut case.web_command(["/usr/bin/su", "--help"]), 126, &["set-user-ID", "did not start it"]);
    }
}

#[test]
fn a_program_that_the_shim_cannot_enter_is_not_started_by_another_either() {
    let case = Case::new();
    let shell = |script: &str| tp_tests::case::ran(&mut case.by("shim", ["sh", "-c", script]));
    let ran = shell("/bin/busybox true; echo $?; env -i kubectl version; echo $?");
    assert!(!ran.stdout.contains('0'), "{ran}");
    ran.complains(&["/bin/busybox"]);
    shell("exec /bin/busybox true").exits(126);
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_command_starts() {
    let case = Case::new();
    for option in ["--env-file", "--log-file"] {
        refused(
            &mut case.command(["--deployment", "web", option, "/no/such/folder/file"], ["echo", "started"]),
            125,
            &["/no/such/folder/file", "o such file or directory", "folder that you can write to"],
        );
    }
}

/// A secret that changed is that of another user: its agent is not ours any more, and ours is made beside it.
#[test]
fn an_agent_of_another_secret_is_left_alone() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("the user's own folders") else { return };
    let sandbox = shop(&case, "secret");
    let folder = Folder::new(laptop);
    let run = |state: &str| {
        let place = ["-n", sandbox.namespace(), "--deployment", "web"];
        let mut command = case.command(place, ["curl", "-sS", "http://backend.default/"]);
        tp_tests::case::ran(command.env("XDG_STATE_HOME", folder.file(state))).says(&["service=backend"]);
        agents(&sandbox).unwrap().len()
    };
    assert_eq!(run("mine"), 1);
    assert_eq!(run("mine"), 1);
    assert_eq!(run("theirs"), 2);
    assert_eq!(run("mine"), 2);
    // One that cannot be kept is good for one run, which says so.
    let place = ["-n", sandbox.namespace(), "--deployment", "web", "-v"];
    let mut command = case.command(place, ["true"]);
    tp_tests::case::ran(command.env("XDG_STATE_HOME", "/proc/nowhere"))
        .exits(0)
        .complains(&["will not be found by the next one"]);
}
