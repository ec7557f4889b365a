//! An attempt that the program gives up is given up in the pod, too: the kernel there sends no SYN for it any more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tp_tests::case::{LIMIT, Running, python, ran};
use tp_tests::{Case, PodNetwork, Target};

/// The cluster drops what goes there, and no other case connects to these two.
const BLACK_HOLES: [&str; 2] = ["192.0.2.77", "2001:db8:2::77"];
const SYN_SENT: &str = "02";

/// A program that says what it has done, one line a step, and is told to go on.
struct Steps {
    running: Running,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
}

impl Steps {
    fn start(case: &Case, arguments: &[&str]) -> Self {
        let mut command = case.web_command(python("given_up", arguments));
        let mut running = Running::start(command.stdin(Stdio::piped()));
        let lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
        let stdin = running.child.stdin.take().unwrap();
        Self { running, lines, stdin }
    }

    #[track_caller]
    fn says(&mut self, said: &str) {
        assert_eq!(self.lines.next().unwrap().unwrap(), said);
    }

    fn goes_on(&mut self) {
        self.stdin.write_all(b"\n").unwrap();
    }
}

/// Waits until the ports to which the pod's kernel is connecting, at that address, are these.
#[track_caller]
fn wait_for(pod: &PodNetwork, address: &str, ports: &[u16]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let dialed = dialed(pod, address);
        if dialed == ports {
            return;
        }
        assert!(Instant::now() < deadline, "the pod dials {dialed:?} and not {ports:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// As proc(5) has them: addresses in hexadecimal words of the machine's order, then a colon and the port.
fn dialed(pod: &PodNetwork, address: &str) -> Vec<u16> {
    let (table, words) = match address.parse().unwrap() {
        std::net::IpAddr::V4(ip) => ("/proc/net/tcp", ip.octets().to_vec()),
        std::net::IpAddr::V6(ip) => ("/proc/net/tcp6", ip.octets().to_vec()),
    };
    let word = |bytes: &[u8]| format!("{:08X}", u32::from_ne_bytes(bytes.try_into().unwrap()));
    let address: String = words.chunks(4).map(word).collect();
    let sockets = ran(pod.command("cat").unwrap().arg(table));
    let mut ports: Vec<u16> = sockets
        .succeeds()
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (to, port) = columns.get(2)?.split_once(':')?;
            let port = (to == address && columns[3] == SYN_SENT).then_some(port)?;
            u16::from_str_radix(port, 16).ok()
        })
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn a_dial_ends_when_nobody_wants_it_any_more() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let pod = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    thread::scope(|scope| {
        for address in BLACK_HOLES {
            let (case, pod) = (&case, &pod);
            scope.spawn(move || each_way_of_giving_up_ends_the_dial(case, pod, address));
        }
    });
}

#[track_caller]
fn each_way_of_giving_up_ends_the_dial(case: &Case, pod: &PodNetwork, address: &str) {
    let mut program = Steps::start(case, &[address]);
    for (port, said) in [(1001, "closed"), (1002, "taken back"), (1003, "shut"), (1004, "sent elsewhere")] {
        program.says("pending");
        wait_for(pod, address, &[port]);
        program.goes_on();
        program.says(said);
        // The last one went on to another port.
        wait_for(pod, address, if port == 1004 { &[1005] } else { &[] });
        program.goes_on();
        if port == 1001 {
            program.says("the port is free");
        }
    }
    program.says("pending");
    wait_for(pod, address, &[1006]);
    program.goes_on();
    program.says("ended");
    wait_for(pod, address, &[]);
    program.goes_on();
    program.says("kept by another");
    wait_for(pod, address, &[1007]);
    // Long enough for the launcher to have looked several times; nothing tells when it has.
    thread::sleep(Duration::from_millis(700));
    assert_eq!(dialed(pod, address), [1007]);
    program.goes_on();
    program.says("kept by nobody");
    wait_for(pod, address, &[]);
    program.goes_on();
    program.running.ends_within(LIMIT).exits(0);
}
