//! `tp run --proxy`: any SOCKS5 server, and no cluster. The server is Debian's microsocks on the laptop; behind it
//! stands a web server on an address of the laptop that is not loopback, for loopback is never carried.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tp_tests::case::{PYTHON, Ran, ran, ran_within};
use tp_tests::layout::{LAPTOP_V4, LAPTOP_V6};
use tp_tests::{Case, Laptop};

/// Answers every request with who asked, on all addresses; says its port.
const SERVER: &str = r#"import http.server, socket, socketserver
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    # Without the lookup of its own name, which would ask the laptop's nameserver.
    server_bind = socketserver.TCPServer.server_bind
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"host={self.headers['Host']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = Server(("::", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()"#;
/// Finds a free port, and waits until something listens there.
const FREE_PORT: &str = "import socket; print(socket.create_server(('127.0.0.1', 0)).getsockname()[1])";
const WAIT: &str = r#"import socket, sys, time
until = time.monotonic() + 20
while time.monotonic() < until:
    try: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5); break
    except OSError: time.sleep(0.02)
else: sys.exit("nobody listens")"#;

/// A server that ends with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A web server and a SOCKS5 server before it, and their ports.
struct Servers {
    web: u16,
    socks: u16,
    _running: [Server; 2],
}

impl Servers {
    fn start(laptop: &Laptop, credentials: &[&str]) -> Self {
        let python = |arguments: &[&str]| {
            let mut command = laptop.command(PYTHON).unwrap();
            command.arg("-c").args(arguments);
            command
        };
        let mut web = Server(python(&[SERVER]).stdout(Stdio::piped()).spawn().unwrap());
        let mut port = String::new();
        BufReader::new(web.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let socks = ran(&mut python(&[FREE_PORT])).succeeds().to_owned();
        let mut microsocks = laptop.command("microsocks").unwrap();
        microsocks.args(["-i", "127.0.0.1", "-p", &socks]).args(credentials);
        let running = Server(microsocks.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        ran(&mut python(&[WAIT, &socks])).succeeds();
        Self { web: port.trim().parse().unwrap(), socks: socks.parse().unwrap(), _running: [web, running] }
    }

    fn tp(&self, case: &Case, user: &str, program: &[&str]) -> Command {
        let proxy = format!("socks5://{user}127.0.0.1:{}", self.socks);
        let mut tp = case.target().tp().unwrap();
        tp.args(["run", "--proxy", &proxy, "--"]).args(program).env("KUBECONFIG", "/nowhere");
        tp
    }

    fn curl(&self, case: &Case, host: &str) -> Ran {
        let url = format!("http://{host}:{}/", self.web);
        ran(&mut self.tp(case, "", &["curl", "-sS", "--connect-timeout", "5", &url]))
    }
}

#[test]
fn addresses_of_both_families_are_reached_through_the_proxy() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a server beside the program") else { return };
    let servers = Servers::start(laptop, &[]);
    servers.curl(&case, LAPTOP_V4).says(&["host=10."]);
    servers.curl(&case, &format!("[{LAPTOP_V6}]")).says(&["host=[fd00"]);
}

/// Steps: the proxy does not resolve for others, so the name goes to it with the connect, and it alone knows what the
/// name means: on the laptop `laptop` is loopback, where a direct connect would go.
#[test]
fn a_name_is_the_proxys_to_resolve() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a server beside the program") else { return };
    let servers = Servers::start(laptop, &[]);
    let url = format!("http://laptop:{}/", servers.web);
    let words = ["curl", "-sS", "-w", "%{remote_ip}", &url];
    let ran = ran(&mut servers.tp(&case, "", &words));
    ran.says(&["host=laptop:", "198.18."]);
}

#[test]
fn a_refused_connect_is_refused_and_the_environment_is_the_laptops() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a server beside the program") else { return };
    let servers = Servers::start(laptop, &[]);
    let closed = format!("http://{LAPTOP_V4}:1/");
    ran(&mut servers.tp(&case, "", &["curl", "-sS", &closed])).exits(7);
    ran(&mut servers.tp(&case, "", &["printenv", "TELEPRESENCE_POD"])).exits(1);
    ran(&mut servers.tp(&case, "", &["sh", "-c", "exit 9"])).exits(9);
}

#[test]
fn a_proxy_with_a_password_takes_the_right_one_only() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("a server beside the program") else { return };
    let servers = Servers::start(laptop, &["-u", "me", "-P", "p@ss word"]);
    let url = format!("http://{LAPTOP_V4}:{}/", servers.web);
    let with = |user: &str| ran(&mut servers.tp(&case, user, &["curl", "-sS", &url]));
    with("me:p%40ss%20word@").says(&["host="]);
    for user in ["", "me:wrong@", "you:p%40ss%20word@"] {
        with(user).exits(125).complains(&["does not take us as its client", "user and password"]);
    }
}

#[test]
fn a_proxy_that_is_not_there_or_none_at_all_is_told_before_anything_starts() {
    let case = Case::cold();
    let tp = |proxy: &str| {
        let mut tp = case.target().tp().unwrap();
        tp.args(["run", "--proxy", proxy, "--", "echo", "started"]);
        let ran = ran_within(&mut tp, Duration::from_secs(10));
        assert_eq!(ran.stdout, "", "{ran}");
        ran.exits(125);
        ran
    };
    tp("socks5://127.0.0.1:1")
        .complains(&["SOCKS5 server at 127.0.0.1:1 cannot be reached", "onnection refused"]);
    tp("http://127.0.0.1:1").complains(&["its scheme is `http`", "socks5"]);
    let Some(laptop) = case.laptop("a server beside the program") else { return };
    let servers = Servers::start(laptop, &[]);
    tp(&format!("socks5://127.0.0.1:{}", servers.web))
        .complains(&["does not take us as its client", "is a SOCKS5 server"]);
}
