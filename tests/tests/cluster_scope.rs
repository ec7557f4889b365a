//! `--local` and `--only`: what the user keeps on the laptop stays there, and the rest is the pod's as ever.
#![allow(clippy::unwrap_used, reason = "what is not as expected is a failed case")]

use tp_tests::case::{self, Ran};
use tp_tests::laptop::NEIGHBOUR;
use tp_tests::run::Background;
use tp_tests::{Case, Laptop, layout};

const LAPTOP: &str = layout::LAPTOP_V4;

/// A service on the laptop's address that tells its peer's, as the developer's own would be: not started by tp.
struct Service {
    _process: Background,
    port: String,
}

impl Service {
    fn start(laptop: &Laptop) -> Self {
        let mut python = laptop.command("env").unwrap();
        let mut process = Background::start(python.args(case::python("tell_peer", &[LAPTOP]))).unwrap();
        let port = process.line().unwrap();
        Self { _process: process, port }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.port)
    }
}

fn tell(case: &Case, rules: &[&str], url: &str) -> Ran {
    let options = ["--deployment", "web"].iter().chain(rules).copied();
    case.tp(options, ["curl", "-sS", "--max-time", "10", url])
}

#[test]
fn an_address_that_is_kept_local_is_reached_by_the_laptops_own_network() {
    let case = Case::new();
    let Some(laptop) = case.laptop("services of the laptop") else { return };
    let service = Service::start(laptop);
    let this_port = format!("{LAPTOP}:{}", service.port);
    for rule in [LAPTOP, "10.88.0.0/16", &this_port] {
        tell(&case, &["--local", rule], &service.url(LAPTOP)).prints(&format!("peer={LAPTOP}"));
    }
}

#[test]
fn a_name_that_is_kept_local_is_the_laptops_and_so_are_its_addresses() {
    let case = Case::new();
    let Some(laptop) = case.laptop("services of the laptop") else { return };
    let service = Service::start(laptop);
    for rule in [NEIGHBOUR, "*.test", &format!("{NEIGHBOUR}:{}", service.port)] {
        tell(&case, &["--local", rule], &service.url(NEIGHBOUR)).prints(&format!("peer={LAPTOP}"));
    }
    // The rule takes nothing else out.
    tell(&case, &["--local", NEIGHBOUR], "http://backend/").says(&["service=backend"]);
    // In the pod nobody has heard of it.
    tell(&case, &[], &service.url(NEIGHBOUR)).exits(6);
    case.tp(["--deployment", "web", "--local", LAPTOP], ["getent", "hosts", LAPTOP]).says(&[NEIGHBOUR]);
}

#[test]
fn only_what_is_named_goes_to_the_cluster() {
    let case = Case::new();
    let Some(laptop) = case.laptop("services of the laptop") else { return };
    let service = Service::start(laptop);
    for rule in ["backend", layout::SERVICES_V4] {
        let only = ["--only", rule];
        tell(&case, &only, "http://backend/").says(&["service=backend"]);
        tell(&case, &only, &service.url(LAPTOP)).prints(&format!("peer={LAPTOP}"));
        tell(&case, &only, &service.url(NEIGHBOUR)).prints(&format!("peer={LAPTOP}"));
    }
    // What both name is local: it is the laptop's to refuse.
    let kept = ["--only", layout::SERVICES_V4, "--local", LAPTOP];
    tell(&case, &kept, &service.url(NEIGHBOUR)).prints(&format!("peer={LAPTOP}"));
}

#[test]
fn datagrams_go_where_connections_go() {
    let case = Case::new();
    let Some(laptop) = case.laptop("services of the laptop") else { return };
    let echo = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
print(s.getsockname()[1], flush=True)
while True: s.sendto(b'laptop', s.recvfrom(99)[1])";
    let mut server = laptop.command(case::PYTHON).unwrap();
    let mut server = Background::start(server.args(["-c", echo, LAPTOP])).unwrap();
    let port = server.line().unwrap();
    let ask = "import socket, sys
here = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.sendto(b'x', here); print(*s.recvfrom(99))
s.connect(here); s.send(b'x'); print(s.recv(99), s.getpeername())
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.sendto(b'pod', (socket.gethostbyname('udp-echo'), 7)); print(s.recv(99))";
    let said = case.tp(["--deployment", "web", "--local", LAPTOP], [case::PYTHON, "-c", ask, LAPTOP, &port]);
    let here = format!("('{LAPTOP}', {port})");
    said.prints(&format!("b'laptop' {here}\nb'laptop' {here}\nb'pod'"));
}

#[test]
fn a_rule_that_is_none_is_refused() {
    let case = Case::cold();
    for rule in ["http://db", "db:0", "10.0.0.0/40"] {
        case.tp(["--deployment", "web", "--local", rule], ["true"]).exits(125).complains(&["--local", rule]);
    }
}
