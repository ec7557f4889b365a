//! Loopback in a private network is the laptop's, both ways, and the programs' own among themselves.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tp_tests::case::{self, LIMIT, Ran, Running, ran};
use tp_tests::run::Background;
use tp_tests::{Case, Laptop};

const VIF: [&str; 4] = ["--deployment", "web", "--method", "vif"];
const REFUSED: &str = "tcp Connection refused\nudp Connection refused\nudp Connection refused";
/// Nobody serves there (RFC 863 would be an answer that is none).
const CLOSED: &str = "9";

/// A port that the kernel gives to nobody by itself, and no other case has.
fn port() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    (20_000 + number % 12_000).to_string()
}

/// What a client hears, by TCP, by connected UDP and by UDP, that reaches `name`.
fn answers(name: &str, peer: &str) -> String {
    format!("tcp {name} {peer} True\nudp {name} {peer} True\nudp {name} {peer} True")
}

/// A service on the laptop's loopback that tp knows nothing of; its port.
fn service(laptop: &Laptop, address: &str, port: &str, name: &str) -> (Background, String) {
    let mut python = laptop.command("env").unwrap();
    python.args(case::python("loopback_server", &[address, port, name]));
    let mut process = Background::start(&mut python).unwrap();
    let port = process.line().unwrap();
    (process, port)
}

/// A client on the laptop.
fn outside(laptop: &Laptop, words: &[&str]) -> Ran {
    let mut python = laptop.command("env").unwrap();
    ran(python.args(case::python("loopback_client", words)))
}

/// Repeats until a client on the laptop hears this.
fn until_outside(laptop: &Laptop, words: &[&str], expected: &str) {
    let until = Instant::now() + LIMIT;
    loop {
        let said = outside(laptop, words);
        if said.stdout == expected {
            return;
        }
        assert!(Instant::now() < until, "expected:\n{expected}\n{said}");
        sleep(Duration::from_millis(20));
    }
}

/// A program under tp whose standard output is read line by line; its whole group is killed in the end.
struct Inside {
    running: Running,
    stdin: ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Inside {
    fn start(command: &mut Command) -> Self {
        let mut running = Running::start(command.stdin(Stdio::piped()));
        let stdin = running.child.stdin.take().unwrap();
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        Self { running, stdin, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn tell(&mut self) {
        self.stdin.write_all(b"\n").unwrap();
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let group: Pid = self.running.pid();
        // It may have ended by itself.
        let _ = killpg(group, Signal::SIGTERM);
        let _ = self.running.child.wait();
    }
}

fn inside(case: &Case, words: &[&str]) -> Ran {
    case.tp(VIF, case::python("loopback_client", words))
}

fn server(case: &Case, words: &[&str]) -> Inside {
    Inside::start(&mut case.command(VIF, case::python("loopback_server", words)))
}

#[test]
fn a_developers_service_is_reached_on_loopback_and_a_closed_port_refuses() {
    let case = Case::new();
    let Some(laptop) = case.laptop("services of the laptop") else { return };
    let (_v4, v4_port) = service(laptop, "127.0.0.1", "0", "four");
    let (_v6, v6_port) = service(laptop, "::1", "0", "six");
    let mapped = ["::ffff:127.0.0.1", &v4_port];
    let words = ["127.0.0.1", &v4_port, "::1", &v6_port, "127.0.0.1", CLOSED, "::1", CLOSED];
    let (four, six) = (answers("four", "127.0.0.1"), answers("six", "::1"));
    let expected = [&four, &six, REFUSED, REFUSED, &four].join("\n");
    let words: Vec<&str> = words.into_iter().chain(mapped).collect();
    inside(&case, &words).prints(&expected);
}

#[test]
fn a_programs_ports_are_on_the_laptop_for_as_long_as_it_listens() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the laptop's loopback") else { return };
    for (address, reached, unreached) in [
        ("127.0.0.1", &["127.0.0.1"][..], &["::1"][..]),
        ("0.0.0.0", &["127.0.0.1"], &["::1"]),
        ("::1", &["::1"], &["127.0.0.1"]),
        ("dual", &["127.0.0.1", "::1"], &[]),
    ] {
        let port = port();
        let mut program = server(&case, &[address, &port, "inside"]);
        assert_eq!(program.line(), port, "{address}");
        for _ in 0..2 {
            for at in reached {
                let peer = if address == "dual" && *at == "127.0.0.1" { "::ffff:127.0.0.1" } else { at };
                until_outside(laptop, &[at, &port], &answers("inside", peer));
            }
            for at in unreached {
                until_outside(laptop, &[at, &port], REFUSED);
            }
            program.tell();
            assert_eq!(program.line(), "closed");
            for at in reached {
                until_outside(laptop, &[at, &port], REFUSED);
            }
            program.tell();
            assert_eq!(program.line(), port);
        }
    }
}

#[test]
fn programs_talk_to_each_other_on_loopback_with_no_detour() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the laptop's loopback") else { return };
    // The laptop's service at the same port is another one, and keeps it.
    let (_service, port) = service(laptop, "127.0.0.1", &port(), "outside");
    let (server, client) = ("loopback_server", "loopback_client");
    let quoted = |name: &str, words: &[&str]| {
        let words = case::python(name, words);
        words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" ")
    };
    let script = format!(
        "mkfifo \"$HOME/$0\"; {} </dev/null >\"$HOME/$0\" & read port <\"$HOME/$0\"; rm \"$HOME/$0\"; {}; kill $!",
        quoted(server, &["127.0.0.1", &port, "inside"]),
        quoted(client, &["127.0.0.1", &port]),
    );
    let fifo = format!("loopback-{port}");
    let said = case.tp(["-v"].into_iter().chain(VIF), ["bash", "-c", &script, &fifo]);
    said.prints(&answers("inside", "127.0.0.1"));
    assert!(!said.stderr.contains("connection{"), "the launcher had to do with it: {said}");
    until_outside(laptop, &["127.0.0.1", &port], &answers("outside", "127.0.0.1"));
}

#[test]
fn the_pods_own_address_is_the_pods_where_no_program_listens() {
    let case = Case::new();
    let script = "import http.client, socket
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect(('backend', 1))
own = probe.getsockname()[0]
def ask(port):
    connection = http.client.HTTPConnection(own, port, timeout=20)
    connection.request('GET', '/')
    return connection.getresponse().read().decode().split()[0]
print(ask(8080))
try: ask(9)
except OSError as error: print(error.strerror)
listener = socket.create_server((own, 9))
client = socket.create_connection((own, 9), 20)
print(client.getpeername()[0] == listener.accept()[1][0] == own)";
    case.tp(VIF, [case::PYTHON, "-c", script]).prints("service=web\nConnection refused\nTrue");
}

#[test]
fn unix_sockets_reach_the_other_side_with_descriptors() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the laptop's abstract names") else { return };
    let name = format!("tp-case-{}", port());
    let path = laptop.home().join(&name).display().to_string();
    for kind in ["stream", "seqpacket"] {
        for name in [&name, &path] {
            let listens = case::python("unix_socket", &["serve", kind, name]);
            let asks = case::python("unix_socket", &["ask", kind, name]);
            let mut there = laptop.command("env").unwrap();
            let mut there = Background::start(there.args(&listens)).unwrap();
            assert_eq!(there.line().unwrap(), "listens");
            // What listened before the run is there at once.
            case.tp(VIF, &asks).prints("a descriptor came, and one went");
            drop(there);
            let mut here = Inside::start(&mut case.command(VIF, &listens));
            assert_eq!(here.line(), "listens");
            let mut outside = laptop.command("env").unwrap();
            ran(outside.args(&asks)).prints("a descriptor came, and one went");
        }
    }
    let _ = std::fs::remove_file(path);
}

#[test]
fn a_debugger_on_the_laptop_finds_the_debug_port() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the laptop's loopback") else { return };
    let port = port();
    let inspect = format!("--inspect=127.0.0.1:{port}");
    let node = ["/usr/bin/node", &inspect, "-e", "console.log('ready'); setTimeout(() => {}, 100000)"];
    let mut program = Inside::start(&mut case.command(VIF, node));
    assert_eq!(program.line(), "ready");
    let url = format!("http://127.0.0.1:{port}/json/version");
    let wait = ["--retry", "200", "--retry-connrefused", "--retry-delay", "0", "--retry-max-time", "30"];
    let mut curl = laptop.command("/usr/bin/curl").unwrap();
    ran(curl.args(["-sS", "--max-time", "30"]).args(wait).arg(url)).says(&["\"Browser\": \"node.js"]);
}
