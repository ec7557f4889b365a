//! Programs that the shim cannot enter, started by programs in which it is, and the other way round: one run, one network,
//! without the user's help.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::process::Command;
use std::time::Duration;

use tp_tests::Case;
use tp_tests::case::{Folder, Ran, ran, ran_within};

const BACKEND: &str = "service=backend";

/// Steps: a script of bash starts a static shell, that a dynamic program and another bash, and that a static program; each
/// reaches the pod, and the log names each one's method.
#[test]
fn a_chain_of_programs_reaches_the_pod_whatever_they_are() {
    let case = Case::new();
    let script = "curl -sS http://backend/
        /bin/busybox sh -c 'curl -sS http://backend/; bash -c \"/bin/busybox wget -qO- http://backend/\"'
        curl -sS http://backend/";
    let chain = case.tp(["--deployment", "web", "-v"], ["bash", "-c", script]);
    assert_eq!(chain.succeeds().matches(BACKEND).count(), 4, "{chain}");
    let placed = |program: &str, method: &str| {
        chain
            .stderr
            .lines()
            .any(|line| line.contains("placed") && line.contains(&format!("{program} method={method}")))
    };
    assert!(placed("/bash", "shim") && placed("/curl", "shim"), "{chain}");
    assert!(placed("/busybox", "vif"), "{chain}");
    assert!(chain.stderr.contains("is statically linked"), "{chain}");
}

/// Steps: a static program is started with a name, arguments, a folder and a descriptor of its own, and in an emptied
/// environment; it finds them as given and nothing of tp's. Its exit code and its signal come back.
#[test]
fn a_program_inside_finds_what_it_was_given() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the user's") else { return };
    let folder = Folder::new(laptop);
    let file = folder.write("file", "the seventh\n", 0o644);
    let _script = folder.write("script", "#!/bin/busybox sh\necho $0 $1\n", 0o755);
    let inner = "echo $0 $# $1; pwd; cat <&7; env | grep -v ^TP_ROOT= | grep -c -e ^TP_ -e PRELOAD";
    let words = format!(
        "cd {folder}; exec 7<{file}
        (exec -a sh /bin/busybox -c '{inner}' zero 'one two' three)
        env -i A=5 /bin/busybox env
        ./script four
        /bin/busybox sh -c 'exit 7'; echo $?
        /bin/busybox sh -c 'kill -TERM $$'; echo $?",
        folder = folder.path().display(),
    );
    let said =
        format!("zero 2 one two\n{}\nthe seventh\n0\nA=5\n./script four\n7\n143\n", folder.path().display());
    assert_eq!(case.web(["bash", "-c", &words]).succeeds(), said.trim_end());
}

/// What is said of a launcher by a program that it started.
const LOOK: &str = "look() { echo \"$1\" $(ls /proc/$PPID/fd | wc -l) \
                    $(readlink /proc/$PPID/fd/* | grep -c -e net: -e mnt: -e user: -e seccomp) \
                    $(cat /proc/$PPID/task/*/children | wc -w) \
                    $(grep VmRSS /proc/$PPID/status | tr -dc 0-9); }";

/// Descriptors, those of namespaces and filters, children, and resident memory in KiB.
fn look(ran: &Ran, when: &str) -> Vec<usize> {
    let line = ran.stdout.lines().find_map(|line| line.strip_prefix(when)?.strip_prefix(' '));
    let numbers = line.unwrap_or_else(|| panic!("{when}: {ran}")).split(' ');
    numbers.map(|number| number.parse().unwrap()).collect()
}

/// Runs so many static programs, some at a time, each of which reaches the pod, and compares the launcher before and after.
fn many(case: &Case, each: usize, wrap: impl FnOnce(Command) -> Command) {
    let address = case.kubectl(&["get", "service", "backend", "-o", "jsonpath={.spec.clusterIP}"]);
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    let script = format!(
        "{LOOK}
        fetch() {{ /bin/busybox wget -qO- http://{host}/ | grep {BACKEND}; }}
        fetch; look before
        for side in 1 2 3 4; do (for turn in $(seq {each}); do fetch; done) & done; wait
        for turn in $(seq 100); do look now > /dev/null; done
        look after"
    );
    let mut command = wrap(case.web_command(["bash", "-c", &script]));
    let ran = ran_within(&mut command, Duration::from_secs(300));
    assert_eq!(ran.succeeds().matches(BACKEND).count(), 4 * each + 1, "{}", ran.stderr);
    let (before, after) = (look(&ran, "before"), look(&ran, "after"));
    let [descriptors, held, children, memory] = [0, 1, 2, 3].map(|at| (before.get(at), after.get(at)));
    // Sockets are made ahead, and some connections end a moment later.
    assert!(
        descriptors.1 < descriptors.0.map(|before| before + 200).as_ref(),
        "descriptors: {descriptors:?}"
    );
    assert!(held.1 <= held.0, "namespaces and filters: {held:?}");
    assert_eq!(children.0, children.1, "children");
    assert!(memory.1 < memory.0.map(|before| before + 32 * 1024).as_ref(), "KiB: {memory:?}");
}

#[test]
fn a_thousand_programs_in_the_private_network_leave_nothing_in_the_launcher() {
    let case = Case::new();
    many(&case, 250, |command| command);
}

#[test]
fn hundreds_of_programs_under_the_filter_leave_nothing_in_the_launcher() {
    let case = Case::new();
    many(&case, 100, |mut command| {
        command.env("TP_METHOD", "trap");
        command
    });
}

/// Steps: a program of a run starts a run, by each method in each; the inner one is a run as any other.
#[test]
fn a_run_in_a_run_is_a_run() {
    let case = Case::new();
    let tp = case.target().tp().unwrap();
    let fetch = "\"$0\" run --deployment web -- /bin/busybox wget -qO- http://backend/
        \"$0\" run --deployment web -- curl -sS http://backend/";
    let run_in = |outer: &str| {
        let words = ["sh".as_ref(), "-c".as_ref(), fetch.as_ref(), tp.get_program()];
        ran(&mut case.by(outer, words))
    };
    for outer in ["auto", "vif"] {
        let said = run_in(outer);
        assert_eq!(said.succeeds().matches(BACKEND).count(), 2, "{said}");
    }
    // A filter is for ever: its launcher would answer the inner run's programs.
    let said = run_in("trap");
    assert_eq!(said.stdout.matches(BACKEND).count(), 1, "{said}");
    said.complains(&["tp is in a `tp run` itself", "listener"]);
}

/// Steps: a sandbox (a user namespace, and mounts of its own) starts a static program, which cannot enter the run's private
/// network; it goes under a filter.
#[test]
fn a_program_in_a_sandbox_of_its_own_goes_under_the_filter() {
    let case = Case::new();
    for options in ["--map-root-user", "--map-root-user --mount"] {
        let script = format!(
            "/bin/busybox wget -qO- http://backend/; unshare {options} /bin/busybox wget -qO- http://backend/"
        );
        let ran = case.tp(["--deployment", "web", "-v"], ["sh", "-c", &script]);
        assert_eq!(ran.succeeds().matches(BACKEND).count(), 2, "{ran}");
        ran.complains(&["method=vif", "method=trap", "of its own"]);
    }
}
