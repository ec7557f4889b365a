//! Datagrams: what a program sends and receives, and is told, is what it would be in the pod.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use tp_tests::case::{Folder, LIMIT, PYTHON, Ran, Running, app, python, ran};
use tp_tests::{Case, Layout, PodNetwork, Target, gobuild, methods, packages};

/// Builds a C program of `apps/` where the laptop's user can run it; its path.
fn build(folder: &Folder, name: &str) -> String {
    let path = folder.file(name);
    let source = app(&format!("{name}.c"));
    // Fortified, as distributions build: that calls `__recvfrom_chk`.
    let flags = ["-O2", "-D_FORTIFY_SOURCE=2", "-Wall", "-Werror", "-pthread", "-o", path.as_str()];
    ran(std::process::Command::new("cc").args(flags).arg(source)).succeeds();
    path
}

/// Steps: one program in the pod's own network and one under `tp run` send and receive in every way that libc has, over
/// both families: sources, sizes up to 65,507 bytes, MSG_PEEK and MSG_TRUNC, connected and not, many at once, refused
/// ports, one port bound again at once, control messages. They print the same.
#[test]
fn every_way_to_send_and_receive_does_what_it_does_in_the_pod() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let folder = Folder::new(laptop);
    let program = build(&folder, "udp");
    let oracle = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let truth = ran(oracle.command(&program).unwrap().args(["udp-echo", "refuse"]));
    let truth = truth.succeeds();
    for line in
        ["v6 connect 0, send 1, recv ECONNREFUSED", "v4 sendto 65507, recvfrom 65507 whole from the service"]
    {
        assert!(truth.contains(line), "the pod's own network has no {line:?}:\n{truth}");
    }
    case.web([program.as_str(), "udp-echo", "refuse"]).prints(truth);
}

/// aioquic and all that it needs.
const AIOQUIC: &[&str] = &[
    "aioquic==1.2.0",
    "attrs==24.2.0",
    "certifi==2024.8.30",
    "cffi==1.17.1",
    "cryptography==43.0.3",
    "pyasn1==0.6.1",
    "pyasn1-modules==0.4.1",
    "pycparser==2.22",
    "pylsqpack==0.3.18",
    "pyopenssl==24.2.1",
    "service-identity==24.2.0",
];

/// Steps: an HTTP/3 server (quic-go) starts in the network of a pod behind service `quic`; a client (aioquic) fetches
/// 5 MB over each family and compares each byte.
#[test]
fn quic_fetches_whole_bodies_over_both_families() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a server in the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let server = gobuild::app(&Layout::from_env(), "quic", gobuild::Build::Static).unwrap();
    let packages = packages::pypi(AIOQUIC).unwrap();
    let pod = PodNetwork::find(cluster, laptop, "default", "app=backend").unwrap();
    // Whatever becomes of this case, the port is free again for the next.
    let mut command = pod.command("timeout").unwrap();
    command.arg("120").arg(server).arg(":4433");
    let mut server = Running::start(command.stdin(Stdio::null()));
    let mut said = BufReader::new(server.child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let service = case.kubectl(&["get", "service", "quic", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let addresses: Vec<_> = ["quic"].into_iter().chain(service.split(' ')).collect();
    assert_eq!(addresses.len(), 3, "{service}");
    for address in addresses {
        let client = python("quic", &[address, "5000000"]);
        ran(case.web_command(client).env("PYTHONPATH", &packages)).prints("200 5000000 as sent");
    }
    killpg(server.pid(), Signal::SIGKILL).unwrap();
    server.child.wait().unwrap();
}

fn udp(case: &Case, arguments: &[&str]) -> Ran {
    case.python("udp", arguments)
}

#[test]
fn two_thousand_sockets_have_a_flow_each() {
    udp(&Case::new(), &["thousands"]).prints("2000 of 2000 flows");
}

#[test]
fn threads_send_side_by_side_and_by_one_socket() {
    udp(&Case::new(), &["threads"]).prints("1000 of 1000");
}

#[test]
fn one_socket_has_many_destinations_and_one_destination_many_sockets() {
    udp(&Case::new(), &["many_destinations"]).prints("[True, True, True]\n[True, True]");
}

#[test]
fn pythons_event_loop_sends_receives_and_is_told_of_a_refused_port() {
    udp(&Case::new(), &["loop"]).prints("True\nTrue\nECONNREFUSED");
}

#[test]
fn sockets_that_were_told_to_use_a_network_card_reach_the_cluster_all_the_same() {
    let right =
        "25 True\n62 True\n50 True\nbound True\n25 True\n62 True\n50 True\n76 True\n50 True\nbound True";
    udp(&Case::new(), &["by_a_card"]).prints(right);
}

#[test]
fn a_program_that_is_out_of_descriptors_sends_on() {
    udp(&Case::new(), &["out_of_descriptors"]).prints("EMFILE\nit sends on");
}

#[test]
fn a_process_that_nobody_may_look_into_is_told_of_a_refused_port_as_well() {
    udp(&Case::new(), &["closed_to_others"]).prints("ECONNREFUSED");
}

/// Steps: one program sends and receives in rounds under `tp run` and without it, traced: after the first round the
/// system calls are the same. (It has two destinations: beside a connected socket, others that send to the same one look
/// at their own peer first.)
#[test]
fn the_data_path_has_no_system_call_of_its_own() {
    let case = Case::new();
    let Some(laptop) = case.laptop("strace, as the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let program = build(&folder, "udp_rounds");
    let traced = |trace: &str, words: Vec<&str>| {
        let strace = ["strace", "-f", "-qq", "-e", "trace=all", "-e", "signal=none", "-o", trace];
        [strace.to_vec(), vec![program.as_str()], words]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let calls = |trace: &str| -> Vec<String> {
        let text = std::fs::read_to_string(trace).unwrap();
        let calls = text.lines().filter_map(|line| line.split_once(' ')?.1.trim().split_once('('));
        let calls: Vec<_> = calls.map(|(name, _)| name.to_owned()).collect();
        // `getpid` marks the rounds.
        let marks: Vec<_> = calls.iter().enumerate().filter(|(_, name)| *name == "getpid").collect();
        assert_eq!(marks.len(), 2, "{text}");
        calls[marks[0].0..marks[1].0].to_vec()
    };
    let (with, without) = (folder.file("with"), folder.file("without"));
    case.web(traced(&with, vec!["udp-echo", "udp-echo", "7"])).prints("100");
    let mut server =
        Running::start(laptop.command(PYTHON).unwrap().args(["-u", "-c", ECHO_SERVER]).stdin(Stdio::null()));
    let mut said = BufReader::new(server.child.stdout.take().unwrap());
    let mut port = String::new();
    said.read_line(&mut port).unwrap();
    let words = traced(&without, vec!["127.0.0.1", "::1", port.trim()]);
    ran(laptop.command(&words[0]).unwrap().args(&words[1..])).prints("100");
    killpg(server.pid(), Signal::SIGKILL).unwrap();
    server.child.wait().unwrap();
    assert_eq!(calls(&with), calls(&without));
}

const ECHO_SERVER: &str = "import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); server.bind(('::', 0))
server.settimeout(60); print(server.getsockname()[1])
while True: server.sendto(*server.recvfrom(9999))";

#[test]
fn bash_perl_and_node_send_datagrams() {
    let case = Case::new();
    let bash = "exec 3<>/dev/udp/udp-echo/7; echo from bash >&3; head -c 10 <&3";
    case.web(["bash", "-c", bash]).prints("from bash");
    let perl = r#"$s = IO::Socket::IP->new(PeerHost => "udp-echo", PeerPort => 7, Type => SOCK_DGRAM) or die;
        $s->send("from perl"); $s->recv($text, 100); print $text"#;
    case.web(["perl", "-MIO::Socket::IP", "-e", perl]).prints("from perl");
    let node = "const client = require('dgram').createSocket('udp4');
        client.on('message', (text, from) => { console.log(`${text}`, from.port); client.close(); refused(); });
        client.send('from node', 7, 'udp-echo');
        function refused() {
            const other = require('dgram').createSocket('udp6');
            other.on('error', error => { console.log(error.code); other.close(); });
            other.connect(80, 'refuse', () => other.send('x'));
        }";
    if tp_tests::fake_launcher::has_tool("/usr/bin/node") {
        case.web(["/usr/bin/node", "-e", node]).prints("from node 7\nECONNREFUSED");
    }
}

/// Steps: plain questions, with EDNS and a long answer, to the pod's nameserver, named and not.
#[test]
fn dig_asks_by_datagrams() {
    let case = Case::new();
    let backend = case.kubectl(&["get", "service", "backend", "-o", "jsonpath={.spec.clusterIP}"]);
    let name = "backend.default.svc.cluster.local";
    case.web(["dig", "+short", "+time=5", "@10.96.0.10", name]).prints(&backend);
    case.web(["dig", "+short", "+time=5", name]).prints(&backend);
    case.web(["dig", "+time=5", "+bufsize=4096", "+ignore", "many.test", "TXT"])
        .says(&["ANSWER: 6", "(UDP)"]);
}

/// Steps: the launcher is killed; a connected socket is told, new ones cannot be used, and one that knew its way is
/// told when its lease is over. Nothing leaves.
#[test]
fn a_launcher_that_dies_is_told_and_nothing_goes_elsewhere() {
    let case = Case::new();
    let mut running = Running::start(case.web_command(python("udp", &["orphan"])).stdin(Stdio::null()));
    let said = BufReader::new(running.child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<String> = said.collect();
    let lost = methods::lost();
    // The route may go before what is behind it, or after.
    let told = &said[2];
    assert!([lost, "ECONNREFUSED"].contains(&told.as_str()), "{said:?}");
    assert_eq!(said, ["b'x'", "True", told, lost, lost, lost]);
    running.ends_within(LIMIT).exits(137);
}

/// Steps: a receiver waits in a pod; a program sends ten datagrams to it and ends. All arrive.
#[test]
fn what_a_program_sends_as_its_last_deed_arrives() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a receiver in the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let pod = PodNetwork::find(cluster, laptop, "default", "app=backend").unwrap();
    let ip = case.kubectl(&["get", "pods", "-l", "app=backend", "-o", "jsonpath={.items[0].status.podIP}"]);
    let receiver = "import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('', 0)); server.settimeout(30)
print(server.getsockname()[1], flush=True)
print([server.recv(100) for _ in range(10)] == [b'last words'] * 10)";
    let mut receiver =
        Running::start(pod.command(PYTHON).unwrap().args(["-c", receiver]).stdin(Stdio::null()));
    let mut said = BufReader::new(receiver.child.stdout.take().unwrap());
    let mut port = String::new();
    said.read_line(&mut port).unwrap();
    udp(&case, &["last_words", &ip, port.trim()]).prints("");
    let mut all = String::new();
    said.read_line(&mut all).unwrap();
    assert_eq!(all, "True\n");
    receiver.child.wait().unwrap();
}
