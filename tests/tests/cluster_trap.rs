//! `--method trap`: another process makes a program's calls, and the program is told what it is told in the pod.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use tp_tests::case::{Folder, LIMIT, PYTHON, Running, app, ran};
use tp_tests::{Case, Laptop, PodNetwork, Target};

/// `apps/NAME.c`, static.
fn built(laptop: &Laptop, name: &str) -> (Folder, String) {
    let folder = Folder::new(laptop);
    let binary = folder.file(name);
    let mut compiler = Command::new("/usr/bin/gcc");
    compiler.args(["-O1", "-Wall", "-Werror", "-pthread", "-static", "-o", &binary]);
    ran(compiler.arg(app(&format!("{name}.c")))).succeeds();
    (folder, binary)
}

fn address(case: &Case, service: &str) -> String {
    case.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
}

/// Messages in parts, rooms too short, memory that is not there, signals while a call waits, threads, filters of its own: line
/// for line what the kernel says in the pod.
#[test]
fn calls_are_answered_as_the_kernel_does() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let pod = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let (_folder, binary) = built(laptop, "trapped");
    let addresses = ["backend", "refuse", "blackhole"].map(|service| address(&case, service));
    let mut in_pod = pod.command(&binary).unwrap();
    in_pod.args(&addresses).stdin(Stdio::null());
    let mut words = vec![binary];
    words.extend(addresses);
    let mut trapped = case.by("trap", words);
    trapped.stdin(Stdio::null());
    let (truth, told) = thread::scope(|scope| {
        let truth = scope.spawn(|| ran(&mut in_pod));
        let told = ran(&mut trapped);
        (truth.join().unwrap(), told)
    });
    truth.says(&["two at once: 2 51 51", "interrupted: connect EINTR", "restarted: 100 of 100 right"]);
    told.prints(&truth.stdout);
}

/// Steps: a program starts 1,000 others, some at a time, each of which connects; before and after, the launcher counts as many
/// descriptors and threads.
#[test]
fn a_thousand_short_processes_leave_nothing_in_the_launcher() {
    let case = Case::new();
    let script = r#"
        count() { ls /proc/$PPID/fd | wc -l; ls /proc/$PPID/task | wc -l; }
        connect='exec 3<>/dev/tcp/$0/80; printf "GET / HTTP/1.0\r\n\r\n" >&3; read -r line <&3; echo "$line"'
        some() { for n in $(seq $1); do bash -c "$connect" $ip & [ $((n % 8)) = 0 ] && wait; done; wait; }
        ip=$0
        some 8 >/dev/null; sleep 1; before=$(count)
        some 1000 | sort | uniq -c | tr -d '\r' | sed 's/^ *//'
        for try in $(seq 50); do after=$(count); [ "$after" = "$before" ] && break; sleep 0.1; done
        [ "$after" = "$before" ] && echo as before || echo "$before, then $after""#;
    let words = ["bash", "-c", script, &address(&case, "backend")];
    ran(&mut case.by("trap", words)).prints("1000 HTTP/1.0 200 OK\nas before");
}

/// io_uring would go past every filter; a second listener is what a sandbox inside would ask for.
#[test]
fn there_is_no_way_around_the_filter() {
    let script = r#"
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    ctypes.set_errno(0)
    libc.syscall(*numbers)
    return errno.errorcode.get(ctypes.get_errno())
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
allow = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"))
SECCOMP, SET_MODE_FILTER, NEW_LISTENER, IO_URING_SETUP, X32 = 317, 1, 8, 425, 0x40000000
print(call(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, ctypes.byref(Filter(1, ctypes.addressof(allow)))))
print(call(IO_URING_SETUP, 4, 0), call(X32 | 39))
"#;
    ran(&mut Case::new().by("trap", [PYTHON, "-c", script])).prints("EBUSY\nENOSYS ENOSYS");
}

/// Steps: tp is killed while a program waits in one connect(); that one and the next fail, and none goes anywhere.
#[test]
fn calls_fail_when_the_launcher_is_killed() {
    let case = Case::new();
    let script = r#"
import errno, os, socket, sys
def connect(to):
    try:
        socket.create_connection((to, 80)).close()
        return "open"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
print("waits", flush=True)
print(connect(sys.argv[1]), connect(sys.argv[2]), connect("127.0.0.1"), flush=True)
"#;
    let arguments = [address(&case, "blackhole"), address(&case, "backend")];
    let mut words = vec![PYTHON.to_owned(), "-uc".to_owned(), script.to_owned()];
    words.extend(arguments);
    let mut running = Running::start(case.by("trap", words).stdin(Stdio::null()));
    let mut lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "waits");
    kill(running.pid(), Signal::SIGKILL).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "ENOSYS ENOSYS ENOSYS");
    running.ends_within(LIMIT).exits(137);
}
