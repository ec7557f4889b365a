//! Requests of one port to several people's programs and to the app, each by its own headers.
//!
//! The app and the clients are this machine's programs in the network of pods, since all of them are to say who they are by
//! HTTP/1.1, HTTP/2, gRPC and WebSocket; the people's run under `tp run --expose`, with a port of the laptop each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use tp_tests::case::{LIMIT, Running, app, ran};
use tp_tests::gobuild::{self, Build};
use tp_tests::workload::Workload;
use tp_tests::{Case, Layout, PodNetwork, Sandbox, Target, packages, run};

/// The app's port in the pod, which its deployment does not declare.
const PORT: &str = "9090";

/// A deployment `shop` whose pod serves [`PORT`], too.
struct Shop {
    case: Case,
    sandbox: Sandbox,
    pod: PodNetwork,
    client: PodNetwork,
    /// Where clients find it.
    address: String,
}

/// A program that is stopped at the end of its case.
struct Server(Running);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = killpg(self.0.pid(), Signal::SIGKILL);
        let _ = self.0.child.wait();
    }
}

/// Somebody's program under `tp run --expose`.
struct Person(Server);

impl Person {
    /// They stop it, and tp gives back what it took.
    fn ends(mut self) {
        kill(self.0.0.pid(), Signal::SIGTERM).unwrap();
        self.0.0.child.wait().unwrap();
    }
}

impl Shop {
    fn new(name: &str) -> Option<Self> {
        let case = Case::cold();
        let laptop = case.laptop("programs in a pod's network")?.clone();
        let Target::Laptop(cluster, _) = case.target() else { return None };
        let sandbox = Sandbox::create(case.target(), name).unwrap();
        Workload::new("shop").apply(&sandbox).unwrap();
        let pod = PodNetwork::find(cluster, &laptop, sandbox.namespace(), "app=shop").unwrap();
        let client = PodNetwork::find(cluster, &laptop, "default", "app=web").unwrap();
        let ip = ["get", "pods", "-l", "app=shop", "-o", "jsonpath={.items[0].status.podIP}"];
        let ip = run::output(sandbox.kubectl().args(ip)).unwrap();
        let address = format!("{}:{PORT}", ip.trim());
        Some(Self { case, sandbox, pod, client, address })
    }

    /// Starts the app's server, and waits until clients reach it.
    fn serves(&self, program: &[String]) -> Server {
        let server = start(self.pod.command(&program[0]).unwrap().args(&program[1..]));
        let (ip, port) = self.address.split_once(':').unwrap();
        self.client.reaches(ip, port.parse().unwrap()).unwrap();
        server
    }

    /// Starts somebody's program, which listens at that port of the laptop.
    fn person(&self, name: &str, port: &str, program: &[String]) -> Person {
        let (expose, header) = (format!("{port}:{PORT}"), format!("x-user={name}"));
        let place = ["-n", self.sandbox.namespace(), "--deployment", "shop"];
        let options = place.into_iter().chain(["--expose", &expose, "--http-header", &header]);
        Person(start(&mut self.case.command(options, program)))
    }

    /// What a client in another pod prints.
    fn asks(&self, program: &[String]) -> String {
        ran(self.client.command(&program[0]).unwrap().args(&program[1..])).succeeds().to_owned()
    }

    /// Waits until requests of that user are answered by them.
    fn is_answered_by(&self, user: &str, who: &str, ask: impl Fn(&str) -> String) {
        let began = Instant::now();
        loop {
            let answer = ask(user);
            if answer.contains(who) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{user} is not answered by {who} but {answer}");
            sleep(Duration::from_millis(50));
        }
    }
}

fn start(command: &mut Command) -> Server {
    Server(Running::start(command.stdin(Stdio::null())))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Lines that a program prints.
fn lines(running: &mut Running) -> Receiver<String> {
    let stdout = BufReader::new(running.child.stdout.take().unwrap());
    let (lines_tx, lines) = mpsc::channel();
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines_tx.send(line)));
    lines
}

/// Steps: bob takes his requests; a client asks for alice by one connection of each kind, and goes on; alice comes, and a load of
/// mixed requests finds everybody; alice goes. The client has seen the app, alice and the app, by the same connections.
#[test]
fn requests_of_one_connection_go_to_whom_they_belong_and_follow_who_comes_and_goes() {
    let Some(shop) = Shop::new("filter") else { return };
    let go = gobuild::app(&Layout::from_env(), "filter", Build::Static).unwrap().display().to_string();
    let _app = shop.serves(&words(&[&go, "serve", "app", &format!(":{PORT}")]));
    let fetch = |user: &str| {
        let url = format!("http://{}/", shop.address);
        let header = format!("X-User: {user}");
        ran(shop.client.command("curl").unwrap().args(["-sS", "-m", "30", "-H", &header, &url])).stdout
    };
    let bob = shop.person("bob", "9391", &words(&[&go, "serve", "bob", ":9391"]));
    shop.is_answered_by("bob", "bob HTTP/1.1", fetch);

    let mut follow = shop.client.command(&go).unwrap();
    let follow = follow.args(["follow", &shop.address, "alice"]).stdin(Stdio::piped());
    let mut follow = Server(Running::start(follow));
    let seen = lines(&mut follow.0);
    let both = |who: &str| {
        let mut said = [seen.recv_timeout(LIMIT).unwrap(), seen.recv_timeout(LIMIT).unwrap()];
        said.sort();
        assert_eq!(said, [format!("HTTP/1.1 {who}"), format!("HTTP/2.0 {who}")]);
    };
    both("app");
    let alice = shop.person("alice", "9392", &words(&[&go, "serve", "alice", ":9392"]));
    both("alice");

    let said = shop.asks(&words(&[&go, "ask", &shop.address, "alice", "bob", "nobody"]));
    let all = "map[alice:30 app:30 bob:30]";
    assert_eq!(
        said,
        format!(
            "HTTP/1.1 {all} connections 1\npipelined {all}\nHTTP/2.0 {all} connections 1\n\
             gRPC {all} streams map[alice:SERVING bob:SERVING nobody:SERVING]"
        )
    );

    alice.ends();
    both("app");
    drop(follow.0.child.stdin.take());
    both("connections 1");
    bob.ends();
    shop.is_answered_by("bob", "app HTTP/1.1", fetch);
}

/// Steps: alice takes her WebSockets, and three clients talk at once.
#[test]
fn web_sockets_go_to_whom_they_belong() {
    let Some(shop) = Shop::new("filter-ws") else { return };
    let packages = packages::npm("2026-06-01", &["ws@8.18.0"]).unwrap();
    let module = packages.join("node_modules/ws").display().to_string();
    let source = std::fs::read_to_string(app("filter_ws.js")).unwrap();
    let node = |arguments: &[&str]| words(&[&["/usr/bin/node", "-e", &source, &module], arguments].concat());
    let _app = shop.serves(&node(&["serve", "app", PORT]));
    let alice = shop.person("alice", "9393", &node(&["serve", "alice", "9393"]));
    let url = format!("ws://{}/", shop.address);
    let ask = |user: &str| shop.asks(&node(&["ask", &url, user]));
    shop.is_answered_by("alice", "alice 5\":100", ask);
    let said = shop.asks(&node(&["ask", &url, "alice", "nobody", "bob"]));
    let line = |user: &str, who: &str| format!("{user} {{\"{who} 70000\":100,\"{who} 5\":100}} 1000");
    assert_eq!(said, [line("alice", "alice"), line("nobody", "app"), line("bob", "app")].join("\n"));
    alice.ends();
    shop.is_answered_by("alice", "app 5\":100", ask);
}
