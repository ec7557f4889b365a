//! After connect() a socket is the kernel's: whatever moves data over it works, and costs no system call more than
//! without tp.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use tp_tests::case::{Folder, built, ran};
use tp_tests::{Case, Laptop, PodNetwork, Target};

/// The laptop, and the network of the pod that tp runs programs in.
fn pod(case: &Case) -> Option<(&Laptop, PodNetwork)> {
    let laptop = case.laptop("the network of a pod")?;
    let Target::Laptop(cluster, _) = case.target() else { return None };
    Some((laptop, PodNetwork::find(cluster, laptop, "default", "app=web").unwrap()))
}

/// A program of `apps/` says what it says in the pod's own network.
fn says_what_it_says_in_the_pod(name: &str, the_oracle_must_say: &[&str]) {
    let case = Case::new();
    let Some((laptop, pod)) = pod(&case) else { return };
    let (_folder, binary) = built(laptop, name);
    let truth = ran(&mut pod.command(&binary).unwrap());
    truth.says(the_oracle_must_say);
    case.web([&binary]).prints(&truth.stdout);
}

#[test]
fn an_io_uring_reads_and_writes_a_connected_socket() {
    says_what_it_says_in_the_pod(
        "ring",
        &["IPv4: 100 rounds, then 0 and 0", "IPv6: 100 rounds, then 0 and 0"],
    );
}

#[test]
fn a_child_of_vfork_connects_its_parents_socket() {
    says_what_it_says_in_the_pod(
        "vfork",
        &["talker.default: child Success, peer right, \"220\"", "refuse.default: child Connection refused"],
    );
}

/// The names of the system calls that the program made between its two marks.
fn path(trace: &str) -> Vec<String> {
    let name = |line: &str| line.split_whitespace().nth(1)?.split('(').next().map(str::to_owned);
    let calls: Vec<String> = trace.lines().filter_map(name).collect();
    let marks: Vec<usize> =
        calls.iter().enumerate().filter(|(_, call)| *call == "getppid").map(|(at, _)| at).collect();
    assert_eq!(marks.len(), 2, "{trace}");
    calls[marks[0] + 1..marks[1]].to_vec()
}

/// Steps: a program moves data by every call there is for that, over TCP and connected UDP, watched by strace; without tp
/// in the pod's own network, and with tp. Both lists of calls are one.
#[test]
fn the_data_path_has_no_system_call_that_it_has_not_without_tp() {
    let case = Case::new();
    let Some((laptop, pod)) = pod(&case) else { return };
    let (_folder, binary) = built(laptop, "path");
    let folder = Folder::new(laptop);
    let traces = ["without", "with"].map(|name| folder.file(name));
    let watched = |trace: &str| ["-f".to_owned(), "-o".to_owned(), trace.to_owned(), binary.clone()];
    ran(pod.command("strace").unwrap().args(watched(&traces[0]))).prints("moved");
    case.web(["strace".to_owned()].into_iter().chain(watched(&traces[1]))).prints("moved");
    let [without, with] = traces.map(|trace| path(&std::fs::read_to_string(trace).unwrap()));
    assert!(without.len() > 40, "{without:?}");
    assert_eq!(with, without);
}

/// Steps: curl and a program of our own choose the laptop's device, its address or a port before they connect; they reach
/// the cluster all the same, and nothing leaves by the device.
#[test]
fn a_socket_that_is_bound_to_the_laptop_reaches_the_cluster() {
    let case = Case::new();
    if case.laptop("a network of known devices").is_none() {
        return;
    }
    let script = "device=$(ip -o link | sed -n 's/^[0-9]*: \\([^@:]*\\).*/\\1/p' | grep -vx lo | head -n 1)
address() { ip -o \"$1\" addr show dev \"$device\" scope global | sed -n 's|.*inet6* \\([^/]*\\)/.*|\\1|p' | head -n 1; }
fetch() { curl -sS -o /dev/null -w '%{http_code} %{local_ip}\\n' \"$@\"; }
fetch -4 --interface \"$device\" http://backend/ | sed 's/ .*//'
fetch -4 --interface \"$(address -4)\" http://backend/ | sed \"s/$(address -4)/the address/\"
fetch -6 --interface \"$(address -6)\" http://backend/ | sed \"s/$(address -6)/the address/\"
fetch -4 --local-port 40000-50000 http://backend/ | sed 's/ .*//'
fetch -4 --tcp-fastopen http://backend/ | sed 's/ .*//'";
    case.shell(script).prints("200\n200 the address\n200 the address\n200\n200");
}
