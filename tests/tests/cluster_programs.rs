//! Programs as they are, in the ways that people start them: each reaches the cluster, and its input, output and exit
//! code are its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use tp_tests::case::{Folder, LIMIT, PYTHON, Running, fed, python, ran};
use tp_tests::{Case, packages};

const BACKEND: &str = "service=backend\n";
/// aiohttp with all that it is made of, and uvloop.
const ASYNC: &[&str] = &[
    "aiohappyeyeballs==2.7.1",
    "aiohttp==3.14.5",
    "aiosignal==1.4.0",
    "async-timeout==5.0.1",
    "attrs==26.1.0",
    "frozenlist==1.8.0",
    "idna==3.20",
    "multidict==7.2.1",
    "propcache==0.5.4",
    "typing-extensions==4.16.0",
    "uvloop==0.23.0",
    "yarl==1.25.1",
];

#[test]
fn pythons_own_http_client_works() {
    let case = Case::new();
    case.python("clients", &["urllib"]).says(&[BACKEND]);
    case.python("clients", &["asyncio"]).says(&[BACKEND]);
}

#[test]
fn requests_works_alone_and_with_a_pool_of_threads() {
    let case = Case::new();
    case.python("clients", &["requests"]).says(&[BACKEND]);
    case.python("clients", &["threads", "200"]).prints("200 answers, all from backend");
}

/// uvloop resolves in threads of libuv's own and connects with libuv's calls, not Python's.
#[test]
fn aiohttp_works_on_pythons_event_loop_and_on_libuvs() {
    let case = Case::new();
    let folder = packages::pypi(ASYNC).unwrap();
    let run = |name: &str| ran(case.web_command(python("clients", &[name])).env("PYTHONPATH", &folder));
    run("aiohttp").prints("service=backend");
    run("uvloop").prints("service=backend\nservice=backend");
}

#[test]
fn wget_works() {
    let case = Case::new();
    let wget = |url| case.web(["wget", "-nv", "-T", "3", "-t", "1", "-O", "-", url]);
    wget("http://backend/").says(&[BACKEND]);
    wget("http://refuse/").exits(4).complains(&["failed: Connection refused."]);
    wget("http://blackhole/").exits(4).complains(&["failed: Connection timed out."]);
    wget("http://no-such-service/").exits(4).complains(&["unable to resolve host address"]);
}

#[test]
fn netcat_finds_open_ports_and_hears_who_talks_first() {
    let case = Case::new();
    case.web(["nc", "-z", "-w", "20", "backend", "80"]).prints("");
    case.web(["nc", "-z", "-v", "-w", "20", "refuse", "80"]).exits(1).complains(&["Connection refused"]);
    case.web(["nc", "-z", "-v", "-w", "1", "blackhole", "80"]).exits(1).complains(&["timed out"]);
    case.web(["nc", "-d", "-w", "2", "talker", "25"]).says(&["220 backend-", "talks first"]);
    fed(&mut case.web_command(["nc", "-N", "tcp-echo", "7"]), b"echoed\n").prints("echoed");
}

#[test]
fn perl_and_bash_reach_services_without_any_http_client() {
    let case = Case::new();
    let perl = r#"use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => "tcp-echo", PeerPort => 7) or die $@;
        print $s "from perl\n"; $s->shutdown(1); print while <$s>;"#;
    case.web(["perl", "-e", perl]).prints("from perl");
    case.web([
        "bash",
        "-c",
        "exec 3<>/dev/tcp/tcp-echo/7; echo from bash >&3; read -r line <&3; echo \"$line\"",
    ])
    .prints("from bash");
}

#[test]
fn pipes_subshells_and_background_children_keep_the_network() {
    let case = Case::new();
    case.web(["bash", "-c", "curl -sS http://backend | cat"]).says(&[BACKEND]);
    case.web(["bash", "-c", "(sh -c 'exec curl -sS http://backend' | grep service) 2>&1"])
        .prints("service=backend");
    case.web(["bash", "-c", "curl -sS http://backend >/dev/null & wait $!; echo ended with $?"])
        .prints("ended with 0");
    case.web(["xargs", "--version"]).says(&["xargs"]);
}

#[test]
fn a_child_with_an_emptied_environment_keeps_the_network() {
    let case = Case::new();
    case.web(["env", "-i", "/usr/bin/curl", "-sS", "http://backend/"]).says(&[BACKEND]);
    case.web([
        "bash",
        "-c",
        "env -i LD_PRELOAD= /bin/sh -c 'unset LD_PRELOAD; /usr/bin/curl -sS http://backend/'",
    ])
    .says(&[BACKEND]);
    case.python("clients", &["children"]).prints(
        "subprocess service=backend\nclose_fds and no environment service=backend\nfork service=backend\n\
         os.system 0",
    );
}

#[test]
fn standard_input_goes_through_to_the_program() {
    let case = Case::new();
    fed(&mut case.web_command(["cat"]), b"one\ntwo\n").prints("one\ntwo");
    fed(&mut case.web_command(["curl", "-sS", "-T", "-", "-H", "Expect:", "http://backend/echo"]), b"upload")
        .prints("upload");
    let big = vec![b'x'; 3 << 20];
    fed(&mut case.web_command(["wc", "-c"]), &big).prints(&big.len().to_string());
    ran(&mut case.web_command(["cat"])).prints("");
}

#[test]
fn curl_can_name_its_own_end_of_the_connection() {
    let case = Case::new();
    case.web(["curl", "-sS", "--local-port", "40000-40999", "http://backend/"]).says(&[BACKEND]);
    case.web(["curl", "-sS", "--interface", "0.0.0.0", "http://backend/"]).says(&[BACKEND]);
    case.web(["curl", "-sS", "--tcp-fastopen", "http://backend/"]).says(&[BACKEND]);
    case.web(["curl", "-sS", "--keepalive-time", "5", "http://backend/", "http://backend/"]).says(&[BACKEND]);
}

#[test]
fn a_server_of_the_developer_is_reached_as_ever() {
    let case = Case::new();
    let script = format!(
        "{PYTHON} -u -m http.server --bind 127.0.0.1 0 >$0/log 2>&1 & server=$!
         while ! port=$(sed -n 's/.* port \\([0-9]*\\) .*/\\1/p' $0/log | grep .); do sleep 0.05; done
         curl -sS -o /dev/null -w '%{{http_code}} %{{remote_ip}}' http://127.0.0.1:$port/
         curl -sS http://backend/ -o /dev/null -w ' %{{http_code}}'
         kill $server"
    );
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let _log = folder.write("log", "", 0o600);
    let path = folder.path().display().to_string();
    case.web(["sh", "-c", &script, &path]).prints("200 127.0.0.1 200");
}

/// Steps: a program under tp listens at a Unix socket and for its debugger; the laptop's own programs, and others under
/// tp, reach both.
#[test]
fn unix_sockets_and_a_debuggers_port_stay_the_laptops() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the laptop's own loopback") else { return };
    let folder = Folder::new(laptop);
    let socket = folder.file("socket");
    let script =
        "require('http').createServer((_, answer) => answer.end('by path')).listen(process.argv[1], () => {
            require('inspector').open(0, '127.0.0.1');
            console.log(require('inspector').url().match(/:[0-9]+/)[0]);
        })";
    let mut server = case.web_command(["/usr/bin/node", "-e", script, &socket]);
    let mut running = Running::start(server.stdin(Stdio::null()));
    let mut port = String::new();
    BufReader::new(running.child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let debugger = format!("http://127.0.0.1{}/json/version", port.trim());
    // A port that is opened in a private network is on the laptop some hundredths of a second later.
    let patient = ["curl", "-sS", "--retry", "9", "--retry-connrefused", "--retry-delay", "1"];
    for target in [["-g", &debugger].as_slice(), &["--unix-socket", &socket, "http://x/"]] {
        let words = [patient.as_slice(), target].concat();
        let plain = ran(laptop.command(words[0]).unwrap().args(&words[1..]));
        case.web(&words).prints(plain.succeeds());
        assert!(plain.stdout.contains("node.js") || plain.stdout == "by path", "{plain}");
    }
    kill(running.pid(), Signal::SIGTERM).unwrap();
    running.ends_within(LIMIT);
}

#[test]
fn node_programs_reach_services_and_keep_their_connections() {
    let case = Case::new();
    let node = |script: &str| case.web(["/usr/bin/node", "-e", script]);
    node("require('http').get('http://backend/', a => a.pipe(process.stdout))").says(&[BACKEND]);
    // The server sees the client's port. The first connection is not free yet when the second request is made.
    let kept = node(
        "(async () => {
            const ports = new Set();
            for (let i = 0; i < 10; i++) {
                const answer = await (await fetch('http://backend/')).text();
                ports.add(answer.match(/peer=.*:([0-9]+)/)[1]);
            }
            console.log(ports.size < 3 ? 'kept' : ports);
        })()",
    );
    kept.prints("kept");
}

#[test]
fn java_programs_reach_services_and_get_the_exceptions_that_tell_why_not() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let source = std::fs::read_to_string(tp_tests::case::app("Clients.java")).unwrap();
    let source = folder.write("Clients.java", &source, 0o644);
    let path = folder.path().display().to_string();
    ran(laptop.command("javac").unwrap().args(["-d", &path, &source])).succeeds();
    case.web(["java", "-cp", &path, "Clients"]).prints(
        "service=backend\nSocket tcp-echo connected\nSocketChannel tcp-echo connected\n\
         Socket refuse ConnectException: Connection refused\n\
         SocketChannel refuse ConnectException: Connection refused\n\
         Socket unreachable NoRouteToHostException: No route to host\n\
         SocketChannel unreachable NoRouteToHostException: No route to host\n\
         Socket blackhole SocketTimeoutException: Connect timed out",
    );
}

/// Steps: a connection that works and one that is refused; each has its line, with where it went and how it ended.
#[test]
fn the_log_has_a_line_for_what_became_of_each_connection() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let log = folder.file("tp.log");
    let script = "curl -sS4 http://backend/ >/dev/null; curl -sS4 http://refuse/ 2>/dev/null; true";
    case.tp(["--deployment", "web", "--log-file", &log], ["sh", "-c", script]).prints("");
    let text = std::fs::read_to_string(&log).unwrap();
    let address = |service: &str| {
        let ip = case.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]);
        format!("asked={ip}:80")
    };
    for words in [
        [address("backend").as_str(), "app_to_pod=", "pod_to_app="],
        [&address("refuse"), "refused", "errno=111"],
    ] {
        let line = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
        assert!(line.is_some(), "no line with {words:?} in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}
