//! Programs that no library can be loaded into, or that make their system calls themselves: Go, Rust and C, static, with
//! another libc, of another architecture. Each says what it says in the pod's own network.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::process::Command;
use std::thread;

use tp_tests::case::{Folder, app, ran};
use tp_tests::gobuild::{self, Build};
use tp_tests::{Case, Layout, PodNetwork, Sandbox, Target, packages, web_server};

/// Runs the command in the network of the pod, which tells what is true, and through tp: they say the same, and all of
/// these words are in it.
#[track_caller]
fn says_what_it_says_in_the_pod(
    case: &Case,
    words: &[&str],
    environment: &[(&str, &str)],
    expected: &[&str],
) {
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let pod = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let mut in_pod = pod.command(words[0]).unwrap();
    in_pod.args(&words[1..]).envs(environment.iter().copied());
    let mut through_tp = case.web_command(words);
    through_tp.envs(environment.iter().copied());
    let (truth, told) = thread::scope(|scope| {
        let truth = scope.spawn(|| ran(&mut in_pod));
        let told = ran(&mut through_tp);
        (truth.join().unwrap(), told)
    });
    // The oracle itself must have met what this case is about.
    truth.says(expected);
    told.prints(&truth.stdout);
}

fn go(program: &str, build: Build) -> String {
    gobuild::app(&Layout::from_env(), program, build).unwrap().display().to_string()
}

/// What `apps/go/plain` says of the cluster, whoever built it.
const GO: &[&str] = &[
    "tcp4 backend:80 HTTP/1.0 200 OK from 10.96.",
    "tcp6 backend:80 HTTP/1.0 200 OK from [fd00:10:96:",
    "tcp4 refuse:80 connection refused",
    "tcp6 unreachable:80 no route to host",
    "tcp4 netunreachable:80 network is unreachable",
    "tcp4 no-such-service:80 DNSError not found true",
    "tcp4 blackhole timeout true",
    "tcp6 resetter connection reset by peer",
    "udp4 refuse:80 ok  connection refused",
    "udp6 ok not connected [fd00:10:96:",
    "TXT [first stringsecond string] ok",
    "long TXT 6 ok",
    "by 10.244.0.",
];

#[test]
fn a_static_go_program() {
    says_what_it_says_in_the_pod(&Case::new(), &[&go("plain", Build::Static)], &[], GO);
}

/// With its own resolver, and with libc's, which asks by connections and datagrams of libc's.
#[test]
fn a_go_program_with_cgo() {
    let case = Case::new();
    let program = go("plain", Build::Cgo);
    for resolver in ["netdns=go", "netdns=cgo"] {
        says_what_it_says_in_the_pod(&case, &[&program], &[("GODEBUG", resolver)], GO);
    }
}

/// On i386 all calls about sockets are one, socketcall(2), whose arguments lie in memory.
#[test]
fn a_static_i386_program() {
    says_what_it_says_in_the_pod(&Case::new(), &[&go("plain", Build::For("386"))], &[], GO);
}

#[test]
fn a_static_arm64_program_in_an_emulator() {
    let emulator = packages::debian_file("qemu-user-static", "usr/bin/qemu-aarch64-static").unwrap();
    let emulator = emulator.display().to_string();
    says_what_it_says_in_the_pod(&Case::new(), &[&emulator, &go("plain", Build::For("arm64"))], &[], GO);
}

/// Steps: a server of its own project starts in a pod; HTTP/1.1 and HTTP/2 with bodies and many at once, gRPC with calls,
/// an error and a stream that the client ends.
#[test]
fn a_go_client_of_http_and_grpc() {
    let case = Case::new();
    if case.laptop("an image of a server").is_none() {
        return;
    }
    let sandbox = Sandbox::create(case.target(), "go").unwrap();
    let host = web_server::start(case.target(), &sandbox).unwrap();
    let expected = [
        "HTTP/1.1 200 OK HTTP/1.1, 3145728 bytes",
        "HTTP/2.0 200 OK HTTP/2.0, 3145728 bytes",
        "HTTP/2.0 connections 1",
        "at once map[200 OK HTTP/1.1, 0 bytes:50]",
        "gRPC SERVING <nil> 10.96.",
        "gRPC NotFound",
        "gRPC stream Canceled",
        "http://refuse.default/ [connection refused]",
        "http://no-such-service/ [DNSError not found true timeout false]",
    ];
    for build in [Build::Static, Build::Cgo] {
        says_what_it_says_in_the_pod(&case, &[&go("web", build), "ask", &host], &[], &expected);
    }
}

#[test]
fn busybox_fetches_and_looks_up() {
    let case = Case::new();
    let fetched = case.web(["/bin/busybox", "wget", "-q", "-O", "-", "http://backend/"]);
    fetched.says(&["service=backend\n"]);
    case.web(["/bin/busybox", "wget", "-q", "-O", "-", "http://refuse/"])
        .exits(1)
        .complains(&["Connection refused"]);
    case.web(["/bin/busybox", "wget", "-q", "-O", "-", "http://no-such-service/"])
        .exits(1)
        .complains(&["bad address"]);
    // Its shell starts its own applets. In what order the two families are answered is chance.
    let script = "nslookup backend.default.svc.cluster.local | sort; nslookup no-such-service | sort
        nslookup -type=srv _web._tcp.test | sort; echo heard | nc -w 5 tcp-echo 7; wget -q -O - http://v6only/ | head -n 1";
    let expected = ["10.96.", "fd00:10:96:", "NXDOMAIN", "1 2 8080 outside.test", "heard", "service=backend"];
    says_what_it_says_in_the_pod(&case, &["/bin/busybox", "sh", "-c", script], &[], &expected);
}

/// Compiles `apps/NAME`; what the compiler warns of is looked at where the file is compiled dynamically.
fn compiled(folder: &Folder, compiler: &str, options: &[&str], name: &str) -> String {
    let path = folder.file("program");
    ran(Command::new(compiler).args(options).args(["-o", &path]).arg(app(name))).succeeds();
    path
}

#[test]
fn a_static_rust_program() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let options = ["--edition", "2024", "-O", "-C", "target-feature=+crt-static"];
    let program = compiled(&folder, "rustc", &options, "plain.rs");
    let expected = [
        "tcp 10.96.",
        "HTTP/1.0 200 OK from [fd00:10:96:",
        "None Connection refused (os error 111)",
        "No route to host (os error 113)",
        "Network is unreachable (os error 101)",
        "name no-such-service:80 None no such name",
        "Some(\"connected\") ok",
        "at once: 40",
    ];
    says_what_it_says_in_the_pod(&case, &[&program], &[], &expected);
}

/// What `apps/plain.c` says of the cluster, whatever its libc.
const C: &[&str] = &[
    "name backend: 10.96.",
    "name no-such-service: error -2",
    "tcp4 backend: ok, from 10.96.",
    "tcp6 backend: ok, from fd00:10:96:",
    "then errno 115, poll 1, ok, HTTP/1.0 200 OK",
    "tcp4 refuse: errno 111,",
    "tcp6 unreachable: errno 113,",
    "tcp4 netunreachable: errno 101,",
    "udp4 udp-echo: ok ok, \"not connected\" from 10.96.",
    "udp6 refuse: ok ok errno 111",
    "\nchild tcp4 backend: ok,",
];

#[test]
fn a_static_program_of_this_machines_libc() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    for link in ["-static", "-static-pie"] {
        let program = compiled(&folder, "/usr/bin/gcc", &["-O1", link], "plain.c");
        says_what_it_says_in_the_pod(&case, &[&program], &[], C);
    }
}

#[test]
fn programs_of_another_libc() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    for options in [["-O1", "-Wall", "-Werror"], ["-O1", "-Wall", "-static"]] {
        let program = compiled(&folder, "/usr/bin/musl-gcc", &options, "plain.c");
        says_what_it_says_in_the_pod(&case, &[&program], &[], C);
    }
}
