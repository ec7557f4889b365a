//! The command is a child like any other: its exit code, signals, terminal and output are its own.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use tp_tests::case::{LIMIT, Running, python, ran};
use tp_tests::{Case, methods};

/// Starts a program that prints `ready` when it is, and waits for that.
fn ready(case: &Case, program: Vec<String>) -> Running {
    let mut running = Running::start(case.web_command(program).stdin(Stdio::null()));
    let stdout = running.child.stdout.as_mut().unwrap();
    let mut said = Vec::new();
    // Byte for byte: what comes after the line is the waiter's.
    while !said.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended after {:?}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    running
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

#[test]
fn exit_codes_come_back_as_they_are() {
    let case = Case::new();
    for code in [0, 1, 3, 42, 125, 255] {
        case.shell(&format!("exit {code}")).exits(code);
    }
}

#[test]
fn a_command_that_a_signal_ended_gives_128_and_its_number() {
    let case = Case::new();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        case.shell(&format!("ulimit -c 0; kill -{signal} $$")).exits(code);
    }
}

#[test]
fn a_command_that_is_not_there_or_cannot_run_is_told_as_by_env() {
    let case = Case::cold();
    let not_found = case.web(["surely-no-such-command"]);
    not_found.exits(127).complains(&["tp: command not found: surely-no-such-command", "PATH"]);
    case.web(["/no/such/file"]).exits(127).complains(&["command not found"]);
    case.web(["/etc/passwd"]).exits(126).complains(&["cannot execute /etc/passwd", "ermission denied"]);
    case.web(["/tmp"]).exits(126).complains(&["cannot execute /tmp"]);
}

#[test]
fn nothing_is_on_stdout_but_the_commands_own_and_nothing_on_stderr() {
    let case = Case::new();
    let ran = case.shell("printf 'one\\ntwo'; printf 'three' >&2");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("one\ntwo", "three"));
    let silent = case.web(["true"]);
    assert_eq!((silent.stdout.as_str(), silent.stderr.as_str()), ("", ""));
}

#[test]
fn signals_sent_to_tp_are_passed_on() {
    let case = Case::new();
    for (signal, code) in
        [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129), (Signal::SIGUSR1, 138)]
    {
        let running = ready(&case, shell("echo ready; exec sleep 60"));
        kill(running.pid(), signal).unwrap();
        running.ends_within(LIMIT).exits(code);
    }
}

#[test]
fn a_command_that_handles_a_signal_ends_as_it_likes() {
    let case = Case::new();
    let script = "trap 'echo cleaned up; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let running = ready(&case, shell(script));
    kill(running.pid(), Signal::SIGTERM).unwrap();
    let ran = running.ends_within(LIMIT);
    ran.exits(5);
    assert_eq!(ran.stdout, "cleaned up");
}

/// As `timeout -s KILL` or a closed terminal would do it to the whole group.
#[test]
fn a_group_that_is_killed_is_gone() {
    let case = Case::new();
    let running = ready(&case, shell("echo ready; sleep 60; echo survived"));
    killpg(running.pid(), Signal::SIGKILL).unwrap();
    let ran = running.ends_within(LIMIT);
    ran.exits(137);
    assert_eq!(ran.stdout, "");
}

/// Steps: tp is killed under a program with an open connection; the connection ends, new ones and lookups fail at
/// once, none goes to the laptop's own network, and the next run removes what the killed one left.
#[test]
fn a_program_whose_tp_was_killed_gets_errors_and_no_other_network() {
    let case = Case::new();
    let mut running = Running::start(case.web_command(python("orphan", &[])).stdin(Stdio::null()));
    let mut lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let folder = running.folder();
    kill(running.pid(), Signal::SIGKILL).unwrap();
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    running.ends_within(LIMIT).exits(137);
    // A filter that nobody answers for fails every call that it catches.
    let loopback = if methods::lost() == "ENOSYS" { "loopback fails" } else { "loopback works" };
    assert_eq!(said, ["the open connection ended", "a new connection failed", "a lookup failed", loopback]);
    case.web(["true"]).prints("");
    assert!(!folder.exists(), "{folder:?} was not swept");
}

#[test]
fn a_terminal_stays_one_and_the_command_is_in_its_foreground() {
    let case = Case::new();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size && ps -o tpgid=,pgid= -p $$ | \
                  awk '{print ($1 == $2) ? \"in the foreground\" : \"in the background\"}'; exit 7";
    terminal(&case, "", script).says(&["33 101", "in the foreground", "exit code 7"]);
    // Without a terminal there is none.
    case.shell("test -t 0").exits(1);
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    let case = Case::new();
    let count = r#"import signal, sys, time
hits = []
signal.signal(signal.SIGINT, lambda *_: hits.append(1))
print("ready", flush=True)
while not hits: time.sleep(0.01)
time.sleep(1)
print("interrupted", len(hits), "times")"#;
    terminal(&case, "\\x03", &format!("exec /usr/bin/python3 -c '{count}'"))
        .says(&["interrupted 1 times", "exit code 0"]);
    terminal(&case, "\\x03", "echo ready; exec sleep 60").says(&["exit code 130"]);
    terminal(&case, "\\x1c", "ulimit -c 0; echo ready; exec sleep 60").says(&["exit code 131"]);
}

/// Runs `sh -c SCRIPT` under tp on a terminal of its own, and types `keys` when the script has said `ready`.
fn terminal(case: &Case, keys: &str, script: &str) -> tp_tests::case::Ran {
    let mut words = python("terminal", &[keys]);
    let tp = case.web_command(["sh", "-c", script]);
    words.push(tp.get_program().to_string_lossy().into_owned());
    words.extend(tp.get_args().map(|word| word.to_string_lossy().into_owned()));
    let (program, arguments) = words.split_first().unwrap();
    ran(case.target().command(program).unwrap().args(arguments))
}

#[test]
fn a_background_child_may_outlive_the_command_no_longer_than_its_pipes() {
    let case = Case::new();
    let running = ready(&case, shell("sleep 0.3 & echo ready; exit 4"));
    running.ends_within(Duration::from_secs(20)).exits(4);
}
