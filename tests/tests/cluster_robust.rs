//! What goes wrong around a program is an error for it, in time, and never another network: a launcher that is killed, is
//! stopped, has no descriptors left or is talked to by somebody else; signals without end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{ChildStdout, Stdio};

use nix::sys::signal::{Signal, kill};
use tp_abi::errno::code;
use tp_abi::wire::{Address, Answer, Ip, MAGIC, MESSAGE_MAX, Question};
use tp_tests::case::{LIMIT, PYTHON, Running, built, python, ran};
use tp_tests::{Case, methods};

const ASKED: Address = Address { ip: Ip::V4([10, 96, 0, 7]), port: 80, scope: 0 };

fn encoded(question: &Question<'_>) -> Vec<u8> {
    let mut room = [0; MESSAGE_MAX];
    let length = question.encode(&mut room).unwrap();
    room[..length].to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A program under tp that says something before it goes on.
fn start(case: &Case, program: Vec<String>) -> (Running, Lines<BufReader<ChildStdout>>) {
    let mut running = Running::start(case.web_command(program).stdin(Stdio::piped()));
    let lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
    (running, lines)
}

#[test]
fn a_transfer_and_connects_end_with_the_launcher() {
    let case = Case::new();
    let (running, mut lines) = start(&case, python("killed", &[]));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(running.pid(), Signal::SIGKILL).unwrap();
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    running.ends_within(LIMIT).exits(137);
    let blocking = format!("blocking: {}", methods::cut_off());
    assert_eq!(said, [&blocking, "non_blocking: EINPROGRESS, then failed", "transfer: broke"]);
}

/// Steps: the launcher is stopped, hundreds ask it, it goes on; each of them has its answer.
#[test]
fn everybody_who_asked_a_launcher_that_stood_still_is_answered() {
    let case = Case::new();
    let (mut running, mut lines) = start(&case, python("crowd", &["450"]));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(running.pid(), Signal::SIGSTOP).unwrap();
    running.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "asking");
    kill(running.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "[('ECONNREFUSED', 150), ('connected', 150), ('found', 150)]");
    running.ends_within(LIMIT).exits(0);
}

#[test]
fn a_storm_of_signals_changes_no_result() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder for a program of its own") else { return };
    let (_folder, storm) = built(laptop, "storm");
    case.web([&storm]).prints("looked up 200, accepted 100, answered 10, refused 100, many signals");
}

/// Steps: tp with few descriptors; the program connects until it is refused, closes some, and can connect again.
#[test]
fn a_launcher_without_descriptors_says_so() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a limit for tp alone") else { return };
    let greedy = "import errno, socket
to = socket.getaddrinfo('backend.default', 80, socket.AF_INET)[0][4]
held = []
while True:
    held.append(socket.socket())
    error = held[-1].connect_ex(to)
    if error:
        break
print(errno.errorcode[error], len(held) > 5)
for client in held:
    client.close()
while socket.socket().connect_ex(to):
    pass
print('again')";
    let tp: OsString = laptop.prefix().join("bin/tp").into();
    let mut limited = laptop.command("/usr/bin/prlimit").unwrap();
    // More than a private network takes to begin with.
    limited.arg("--nofile=256:256").arg(tp).args(["run", "--deployment", "web", "--", PYTHON, "-c", greedy]);
    ran(&mut limited).prints(&format!("{} True\nagain", methods::full()));
}

#[test]
fn whoever_writes_to_the_launchers_socket_disturbs_nobody() {
    let case = Case::new();
    let connect = Question::Connect { cookie: 1, asked: ASKED, v6_socket: false };
    let ran = case.python("questions", &[&hex(&MAGIC.to_ne_bytes()), &hex(&encoded(&connect))]);
    let mut lines = ran.succeeds().lines();
    for _what_is_no_such_socket in 0..2 {
        let answer = unhex(lines.next().unwrap());
        assert_eq!(Answer::decode(&answer), Some(Answer::Errno(code::EACCES)), "{ran}");
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["random ones were answered", "HTTP/1.0 200"], "{ran}");
}

/// Steps: the user asks the launcher by hand and is answered; root, who may enter the folder, is not.
#[test]
fn a_question_of_another_user_is_not_answered() {
    let case = Case::new();
    let Some(laptop) = case.laptop("two users") else { return };
    let (mut running, mut lines) =
        start(&case, ["sh", "-c", "echo $TP_SOCKET; read line"].map(str::to_owned).to_vec());
    let socket = lines.next().unwrap().unwrap();
    let ask = "import socket, sys
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
client.settimeout(20)
try:
    client.connect(sys.argv[1])
    client.send(bytes.fromhex(sys.argv[2]))
    print(client.recv(99).hex() or 'nothing')
except OSError as error:
    print(type(error).__name__)";
    let question = hex(&encoded(&Question::Local { v6: false }));
    let of_the_user = ran(laptop.command(PYTHON).unwrap().args(["-c", ask, &socket, &question]));
    let answer = unhex(of_the_user.succeeds());
    assert!(matches!(Answer::decode(&answer), Some(Answer::Local(_))), "{of_the_user}");
    let of_root = ran(std::process::Command::new(PYTHON).args(["-c", ask, &socket, &question]));
    assert!(
        ["nothing", "ConnectionResetError", "BrokenPipeError"].contains(&of_root.succeeds()),
        "{of_root}"
    );
    running.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    running.ends_within(LIMIT).exits(0);
}
