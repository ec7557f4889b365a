//! tp in a container that has no privileges, as Docker and runc start it: what the profile leaves is used, and nothing is
//! started where it leaves nothing.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use tp_tests::case::{PYTHON, Ran, Running, ran};
use tp_tests::container::Profile;
use tp_tests::{Case, Container};

const BACKEND: &str = "service=backend";
const CURL: [&str; 3] = ["/usr/bin/curl", "-sS", "http://backend/"];
/// A static program.
const FETCH: [&str; 4] = ["/bin/busybox", "wget", "-qO-", "http://backend/"];

/// Without the right to descriptors of others a refusal is told to the next datagram.
const REFUSED: &str = r#"
import socket
program = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
program.settimeout(0.2)
program.connect(("refuse", 9))
while True:
    try:
        program.send(b"anybody there?")
        program.recv(1)
    except socket.timeout:
        pass
    except ConnectionRefusedError:
        print("refused")
        break
"#;

/// `command` in a container of its own, to its end.
fn contained(case: &Case, profile: Profile, command: &Command) -> Option<Ran> {
    let laptop = case.laptop("a container in its network")?;
    let container = Container::new(laptop, profile, command).unwrap();
    let ran = ran(&mut container.command());
    assert!(!container.is_known(), "runc did not remove the container: {ran}");
    Some(ran)
}

fn doctor(case: &Case) -> Command {
    let mut tp = case.target().tp().unwrap();
    tp.arg("doctor");
    tp
}

/// `tp run -v OPTIONS --deployment web -- PROGRAM`.
fn tp_run(case: &Case, options: &[&str], program: &[&str]) -> Command {
    case.command(["-v", "--deployment", "web"].into_iter().chain(options.iter().copied()), program)
}

/// Docker's default profile keeps a process out of others: neither a namespace nor a filter can be. Steps: the doctor says so
/// and what `docker run` takes; the shim works; a static program is refused, as the command, by either method, and as a
/// child, whose parent goes on.
#[test]
fn in_a_container_of_dockers_default_profile_there_is_the_shim() {
    let case = Case::new();
    let contained = |command: &Command| contained(&case, Profile::Docker, command);
    let Some(told) = contained(&doctor(&case)) else { return };
    told.exits(1);
    for line in [
        "shim  works",
        "vif   does not work here",
        "no   user namespaces: Operation not permitted",
        "trap  does not work here",
        "yes  seccomp user notification",
        "no   descriptors of other processes (pidfd_getfd): Operation not permitted",
        "docker run --cap-add SYS_PTRACE, or a seccomp profile that allows pidfd_getfd",
        "Programs that the shim cannot enter are refused.",
    ] {
        assert!(told.stdout.contains(line), "{line}: {told}");
    }
    let by_shim = contained(&tp_run(&case, &[], &CURL)).unwrap();
    by_shim.says(&[BACKEND]).complains(&["method=shim"]);
    contained(&tp_run(&case, &[], &[PYTHON, "-c", REFUSED])).unwrap().prints("refused");
    let refused = contained(&tp_run(&case, &[], &FETCH)).unwrap();
    refused.exits(126).complains(&[
        "/bin/busybox is statically linked",
        "did not start it",
        "vif: user namespaces: Operation not permitted",
        "seccomp=unconfined",
        "trap: descriptors of other processes (pidfd_getfd): Operation not permitted",
        "docker run --cap-add SYS_PTRACE, or a seccomp profile that allows pidfd_getfd",
    ]);
    for (method, words) in [("vif", "user namespaces"), ("trap", "--cap-add SYS_PTRACE")] {
        let asked_for = contained(&tp_run(&case, &["--method", method], &FETCH)).unwrap();
        asked_for.exits(125).complains(&["does not allow --method", words, "tp doctor"]);
    }
    let script = "/bin/busybox wget -qO- http://backend/; echo $?; curl -sS http://backend/";
    let parent = contained(&tp_run(&case, &[], &["sh", "-c", script])).unwrap();
    parent.says(&["126\n", BACKEND]).complains(&["tp: not started: ", "busybox is statically linked"]);
}

/// Where a process may take descriptors out of its user's others, a filter does for any program, alone and in a chain from
/// the shim into the filter; a namespace still cannot be.
#[test]
fn in_a_container_that_may_take_descriptors_any_program_runs_under_a_filter() {
    let case = Case::new();
    let contained = |command: &Command| contained(&case, Profile::TakesDescriptors, command);
    let Some(told) = contained(&doctor(&case)) else { return };
    told.exits(0);
    for line in ["shim  works", "vif   does not work here", "trap  works", "and by trap where"] {
        assert!(told.stdout.contains(line), "{line}: {told}");
    }
    let fetched = contained(&tp_run(&case, &[], &FETCH)).unwrap();
    fetched.says(&[BACKEND]).complains(&["method=trap", "is statically linked"]);
    let asked_for = contained(&tp_run(&case, &["--method", "trap"], &CURL)).unwrap();
    asked_for.says(&[BACKEND]).complains(&["method=trap"]);
    let chain = "set -e
        /usr/bin/curl -sS http://backend/ | grep -x service=backend
        busybox sh -c 'wget -qO- http://backend/ | grep -x service=backend; curl -sS http://backend/ | grep -x service=backend'
        curl -sS -o /dev/null http://refuse/ || echo $?";
    let chained = contained(&tp_run(&case, &[], &["sh", "-c", chain])).unwrap();
    chained.prints(&format!("{BACKEND}\n{BACKEND}\n{BACKEND}\n7"));
    chained.complains(&["program=/usr/bin/curl method=shim", "method=trap"]);
    let asked_for = contained(&tp_run(&case, &["--method", "vif"], &FETCH)).unwrap();
    asked_for.exits(125).complains(&["does not allow --method vif", "user namespaces", "tp doctor"]);
}

/// A filter without a look into memory could only fail every call: nothing is started under it.
#[test]
fn in_a_container_that_may_not_read_memory_there_is_no_filter() {
    let case = Case::new();
    let contained = |command: &Command| contained(&case, Profile::ReadsNoMemory, command);
    let lacks = "memory of other processes (process_vm_readv): Operation not permitted";
    let allowing = "a seccomp profile that allows process_vm_readv and process_vm_writev";
    let Some(told) = contained(&doctor(&case)) else { return };
    told.exits(1);
    for line in ["trap  does not work here", "yes  descriptors of other processes", lacks, allowing] {
        assert!(told.stdout.contains(line), "{line}: {told}");
    }
    let refused = contained(&tp_run(&case, &[], &FETCH)).unwrap();
    refused.exits(126).complains(&["did not start it", lacks, allowing]);
}

/// What the other cases leave behind when one of them hangs.
#[test]
fn a_container_that_is_given_up_is_gone() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a container in its network") else { return };
    let mut waiting = laptop.command("sh").unwrap();
    waiting.args(["-c", "echo up; exec sleep 600"]);
    let container = Container::new(laptop, Profile::Docker, &waiting).unwrap();
    let mut running = Running::start(container.command().stdin(Stdio::null()));
    let mut said = BufReader::new(running.child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert!(container.is_known());
    drop(container);
    // Its program has had the other end.
    assert_eq!(said.read_line(&mut line).unwrap(), 0);
}
