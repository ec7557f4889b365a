//! Errors: a connect fails with the errno that it fails with in the pod, and when it does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use tp_tests::case::{PYTHON, python, ran};
use tp_tests::{Case, PodNetwork, Target};

/// `curl` with these options and `-w` with this format: its exit code and what it measured.
fn curl(case: &Case, options: &[&str], format: &str) -> (i32, String) {
    let mut words = vec!["curl", "-sS", "-o", "/dev/null", "-w", format];
    words.extend(options);
    let ran = case.web(words);
    (ran.code, ran.stdout)
}

/// Runs `apps/NAME.py` in the network of the pod, which tells what is true, and through tp; gives the former's lines.
fn told_as_in_the_pod(case: &Case, name: &str) -> Option<String> {
    let laptop = case.laptop("the network of a pod")?;
    let Target::Laptop(cluster, _) = case.target() else { return None };
    let oracle = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let mut in_pod = oracle.command(PYTHON).unwrap();
    in_pod.args(&python(name, &[])[1..]);
    // Both wait for black holes most of the time.
    let (truth, told) = std::thread::scope(|scope| {
        let truth = scope.spawn(|| ran(&mut in_pod));
        let told = case.python(name, &[]);
        (truth.join().unwrap(), told)
    });
    told.prints(truth.succeeds());
    Some(truth.stdout)
}

#[test]
fn every_error_is_the_one_that_the_same_program_gets_in_the_pod() {
    let Some(truth) = told_as_in_the_pod(&Case::new(), "errors") else { return };
    // The oracle itself must have met what this case is about.
    for line in [
        "refuse v4 blocking ECONNREFUSED",
        "unreachable v6 blocking EHOSTUNREACH",
        "resetter recv ECONNRESET",
    ] {
        assert!(truth.contains(line), "the pod's own network has no {line:?}:\n{truth}");
    }
}

/// Connected twice, before and after a failure; taken back, shut, timed out, interrupted; shared by dup, fork, threads
/// and `SCM_RIGHTS`; watched by select, poll and epoll from before it was connected.
#[test]
fn whatever_is_done_to_a_socket_it_says_what_it_says_in_the_pod() {
    let Some(truth) = told_as_in_the_pod(&Case::new(), "attempts") else { return };
    for line in [
        "v4 again_after_so_error EINPROGRESS IN+OUT+ERR+HUP+RDHUP ECONNREFUSED 0 IN+OUT+HUP+RDHUP ECONNABORTED",
        "v6 interrupted restarts False EINTR",
        "mapped registered_before refuse edge",
    ] {
        assert!(truth.contains(line), "the pod's own network has no {line:?}:\n{truth}");
    }
}

/// The bound is the issue's own: refused is told in under one second, by curl's own clock.
#[test]
fn a_closed_port_refuses_within_one_second() {
    let case = Case::new();
    for family in ["-4", "-6"] {
        let (code, seconds) = curl(&case, &[family, "http://refuse/"], "%{time_total}");
        assert_eq!(code, 7);
        assert!(seconds.parse::<f64>().unwrap() < 1.0, "it took {seconds} s");
    }
    case.web(["curl", "-sSv", "http://refuse/"]).exits(7).complains(&["Connection refused"]);
}

#[test]
fn a_black_hole_is_given_up_when_curl_says_so() {
    let case = Case::new();
    let (code, seconds) = curl(&case, &["--connect-timeout", "2", "http://blackhole/"], "%{time_total}");
    assert_eq!(code, 28);
    assert!(seconds.parse::<f64>().unwrap() >= 1.9, "it was given up after {seconds} s");
    case.web(["wget", "-T", "2", "-t", "1", "-O", "-", "http://blackhole/"])
        .exits(4)
        .complains(&["timed out"]);
}

#[test]
fn no_route_is_told_in_the_words_of_the_system() {
    let case = Case::new();
    case.web(["wget", "-T", "5", "-t", "1", "-4", "-O", "-", "http://unreachable/"])
        .exits(4)
        .complains(&["No route to host"]);
    case.web(["wget", "-T", "5", "-t", "1", "-4", "-O", "-", "http://netunreachable/"])
        .exits(4)
        .complains(&["Network is unreachable"]);
    let (code, _) = curl(&case, &["http://unreachable/"], "%{errormsg}");
    assert_eq!(code, 7);
}

#[test]
fn a_connection_that_the_far_side_resets_is_reset_here() {
    let case = Case::new();
    let reset = "import socket
client = socket.create_connection(('resetter', 10), 20)
client.sendall(b'x')
client.recv(1)";
    case.web([PYTHON, "-c", reset]).exits(1).complains(&["ConnectionResetError"]);
}

/// A process that has connected nothing itself may have been given a connection: over exec, or in a message.
#[test]
fn a_connection_that_was_inherited_or_passed_has_the_pods_address() {
    let case = Case::new();
    let program = "import socket, subprocess, sys
ours, theirs = socket.socketpair()
give = '''import socket
s = socket.create_connection(('tcp-echo', 7))
socket.send_fds(socket.socket(fileno=%d), [b'x'], [s.fileno()])'''
tell = 'import socket; print(socket.socket(fileno=%d).getsockname()[0])'
subprocess.run([sys.executable, '-c', give % theirs.fileno()], pass_fds=[theirs.fileno()], check=True)
fd, = socket.recv_fds(ours, 1, 1)[1]
print(socket.socket(fileno=fd).getsockname()[0], flush=True)
s = socket.create_connection(('tcp-echo', 7))
for environment in (None, {}):
    subprocess.run([sys.executable, '-c', tell % s.fileno()], pass_fds=[s.fileno()], env=environment, check=True)";
    let own =
        case.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIPs[*].ip}"]);
    let ran = case.web([PYTHON, "-c", program]);
    let told: Vec<&str> = ran.succeeds().lines().collect();
    assert_eq!(told.len(), 3, "{ran}");
    assert!(told.iter().all(|told| own.split(' ').any(|own| own == *told)), "{own}: {ran}");
}
