//! What comes to the pods is the program's: ports of every kind, pods that come and go, and the port given back whatever
//! way a session ends.
//!
//! Each case has a namespace of its own with a deployment `web`, whose app says `service=web` where the laptop's program says
//! `laptop`; the clients are this machine's programs in the network of another pod.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tp_tests::case::{Folder, LIMIT, PYTHON, Ran, Running, app, python, ran, ran_within};
use tp_tests::gobuild::{self, Build};
use tp_tests::{Apart, Case, Laptop, Layout, PodNetwork, Sandbox, Target, containerd, run};

/// Within which a port is the app's again when its laptop is gone without a word.
const GIVEN_BACK: Duration = Duration::from_secs(15);

/// A namespace with `web` in it, and a client in another pod.
struct Shop {
    case: Case,
    sandbox: Sandbox,
    laptop: Laptop,
    client: PodNetwork,
}

/// A program under `tp run --expose`, which has said that it is ready.
struct Exposed {
    running: Running,
    lines: Receiver<String>,
}

impl Shop {
    fn new(name: &str, replicas: u32) -> Option<Self> {
        let case = Case::cold();
        let laptop = case.laptop("a client in a pod's network")?.clone();
        let Target::Laptop(cluster, _) = case.target() else { return None };
        // The files of a pod are copied for whoever is to stand in it, once.
        static CLIENT: OnceLock<PodNetwork> = OnceLock::new();
        let find = || PodNetwork::find(cluster, &laptop, "default", "app=web").unwrap();
        let client = CLIENT.get_or_init(find).clone();
        let sandbox = Sandbox::create(case.target(), name).unwrap();
        sandbox.apply(&manifest(replicas).to_string()).unwrap();
        run::output(sandbox.kubectl().args(["rollout", "status", "--timeout=60s", "deployment/web"]))
            .unwrap();
        let shop = Self { case, sandbox, laptop, client };
        shop.client.reaches(&shop.host(), 80).unwrap();
        Some(shop)
    }

    fn host(&self) -> String {
        format!("web.{}", self.sandbox.namespace())
    }

    fn place(&self) -> [&str; 4] {
        ["-n", self.sandbox.namespace(), "--deployment", "web"]
    }

    fn command(&self, options: &[&str], program: &[String]) -> Command {
        self.case.command(self.place().iter().chain(options).copied(), program)
    }

    /// Starts `exposed.py` with these servers, and waits until it listens.
    #[track_caller]
    fn exposes(&self, options: &[&str], servers: &[&str]) -> Exposed {
        Exposed::start(&mut self.command(options, &python("exposed", servers)))
    }

    /// What a client in a pod gets.
    fn fetch(&self, url: &str) -> String {
        let mut curl = self.client.command("curl").unwrap();
        let answer = run::attempt(curl.args(["-sS", "-m", "30", url])).unwrap();
        String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr)
    }

    /// Waits until a client is answered by that one.
    #[track_caller]
    fn is_answered_by(&self, url: &str, who: &str, limit: Duration) {
        let began = Instant::now();
        loop {
            let answer = self.fetch(url);
            // An answer that was waited for comes too late, too.
            assert!(began.elapsed() < limit, "{url}: not {who} within {limit:?} but {answer}");
            if answer.starts_with(who) {
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        run::output(self.sandbox.kubectl().args(arguments)).unwrap().trim().to_owned()
    }

    fn spec(&self) -> String {
        self.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.metadata.annotations} {.spec}"])
    }

    /// The addresses of the pods that run.
    fn pods(&self) -> Vec<String> {
        let all = "jsonpath={range .items[*]}{.status.podIP} {end}";
        let running = ["get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "-o", all];
        self.kubectl(&running).split_whitespace().map(str::to_owned).collect()
    }

    /// The process of the one agent that may make rules. A pod's status tells of a container a second later.
    fn agent(&self) -> Pid {
        let until = Instant::now() + LIMIT;
        loop {
            match self.agents()[..] {
                [agent] => return agent,
                ref others => assert!(others.is_empty() && Instant::now() < until, "{others:?}"),
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// The processes of the agents that may make rules.
    fn agents(&self) -> Vec<Pid> {
        let Target::Laptop(cluster, _) = self.case.target() else { return Vec::new() };
        let pods: Value = serde_json::from_str(&self.kubectl(&["get", "pods", "-o", "json"])).unwrap();
        let mut found = Vec::new();
        for pod in pods["items"].as_array().unwrap() {
            for agent in pod["spec"]["ephemeralContainers"].as_array().into_iter().flatten() {
                if !agent["env"].to_string().contains("net_admin") {
                    continue;
                }
                let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().into_iter().flatten();
                let mut running =
                    statuses.filter(|s| s["name"] == agent["name"] && s["state"]["running"].is_object());
                let Some(status) = running.next() else { continue };
                let id = status["containerID"].as_str().unwrap().strip_prefix("containerd://").unwrap();
                if let Ok(pid) = containerd::pid(cluster.layout(), id) {
                    found.push(Pid::from_raw(i32::try_from(pid).unwrap()));
                }
            }
        }
        found
    }
}

impl Exposed {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let mut running = Running::start(command.stdin(Stdio::null()));
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        let (lines_tx, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines_tx.send(line)));
        match lines.recv_timeout(LIMIT) {
            Ok(line) if line == "ready" => Self { running, lines },
            other => {
                let _ = kill(running.pid(), Signal::SIGTERM);
                panic!("not ready but {other:?}: {}", running.ends_within(LIMIT));
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(self.running.pid(), signal).unwrap();
    }

    /// Ends all that is left: the program of a tp that was killed goes on, and has its port.
    fn kill(&self) {
        let _ = killpg(self.running.pid(), Signal::SIGKILL);
    }

    #[track_caller]
    fn ends(self) -> Ran {
        drop(self.lines);
        self.running.ends_within(LIMIT)
    }
}

/// A port of the laptop that no other case takes: below those that kernels give to connections, and above what cases name.
fn port() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 40, "more ports than a process has here");
    (24_000 + u16::try_from(std::process::id() % 200).unwrap() * 40 + number).to_string()
}

fn manifest(replicas: u32) -> Value {
    let labels = json!({"app": "web"});
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "other", "port": 81, "targetPort": 8081},
        {"name": "echo", "port": 7007},
        {"name": "talker", "port": 7008},
        {"name": "datagrams", "port": 7007, "protocol": "UDP"},
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "app", "image": "localhost/tp-sample:1",
                    "args": ["http=8080", "tcp-echo=7007", "udp-echo=7007", "talker=7008"],
                    "env": [{"name": "SERVICE", "value": "web"}],
                    "ports": [
                        {"name": "http", "containerPort": 8080},
                        {"name": "other", "containerPort": 8081},
                        {"name": "grpc", "containerPort": 9090},
                        {"name": "datagrams", "containerPort": 7007, "protocol": "UDP"},
                    ],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
                    "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
                }]},
            }},
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "selector": labels, "ports": ports,
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            },
        },
    ]})
}

/// Steps: ports of all kinds are exposed at once, one by its name, all on other ports of the laptop; clients in a pod use them
/// by both families, with ends of one side, and with a server that talks first; the program ends, and all is as it was.
#[test]
fn ports_of_every_kind_lead_to_the_program_and_are_given_back() {
    let Some(shop) = Shop::new("ports", 1) else { return };
    let spec = shop.spec();
    let ports: Vec<_> = (0..5).map(|_| port()).collect();
    let [http, ws, echo, talker, udp] = &ports[..] else { unreachable!() };
    let exposed = [
        format!("{http}:http"),
        format!("{ws}:8081"),
        format!("{echo}:7007"),
        format!("{talker}:7008"),
        format!("{udp}:datagrams/udp"),
    ];
    let options: Vec<&str> = exposed.iter().flat_map(|port| ["--expose", port]).chain(["-v"]).collect();
    let servers = [("http", http), ("ws", ws), ("echo", echo), ("talker", talker), ("udp", udp)];
    let servers = servers.map(|(name, port)| format!("{name}={port}"));
    let running = shop.exposes(&options, &servers.each_ref().map(String::as_str));
    let host = shop.host();
    let shell = |script: &str| {
        let script = script.replace("HOST", &host);
        ran(shop.client.command("bash").unwrap().args(["-c", &script]))
    };
    shell("curl -sS -4 http://HOST/a; curl -sS -6 http://HOST/b").says(&["laptop /a", "laptop /b"]);
    shell("head -c 300000 /dev/zero | nc -N -w 20 HOST 7007 | wc -c").prints("300013");
    shell("nc -w 20 HOST 7008 </dev/null | head -n 1").prints("laptop talks first");
    shell("echo -n datagram | nc -u -w 2 HOST 7007").prints("laptop heard datagram");
    let socket = format!("{}\n", std::fs::read_to_string(app("websocket.py")).unwrap());
    let mut websocket = shop.client.command(PYTHON).unwrap();
    ran(websocket.args(["-c", &socket, &host, "81"])).prints("101 laptop hello");
    assert_eq!(
        shop.kubectl(&["get", "pods", "-l", "app=web", "-o", READY]),
        "True",
        "the probes are the app's"
    );
    let own = ran(shop.client.command("hostname").unwrap().arg("-I"));
    running.signal(Signal::SIGTERM);
    let ended = running.ends();
    let peer = own.stdout.split_whitespace().next().map(|ip| format!("from {ip}:"));
    ended.exits(0).complains(&[peer.as_deref().unwrap_or("from "), &format!("to {http}")]);
    assert!(shop.fetch(&format!("http://{host}/")).starts_with("service=web"));
    shell("echo -n app | nc -N -w 20 HOST 7007").prints("app");
    assert_eq!(shop.spec(), spec);
}

const READY: &str = "jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].status}";

/// Steps: the program listens on port 80, as it would in the pod; it sees its clients' own addresses.
#[test]
fn a_port_below_1024_is_had_in_a_private_network() {
    let Some(shop) = Shop::new("low", 1) else { return };
    let running = shop.exposes(&["--expose", "80:8080"], &["http=80"]);
    let own = ran(shop.client.command("hostname").unwrap().arg("-I"));
    let peer = own.succeeds().split_whitespace().next().unwrap().to_owned();
    assert_eq!(
        shop.fetch(&format!("http://{}/", shop.pods()[0].clone() + ":8080")),
        format!("laptop / {peer}\n")
    );
    running.signal(Signal::SIGINT);
    running.ends();
    assert!(shop.fetch(&format!("http://{}/", shop.host())).starts_with("service=web"));
}

/// Steps: two pods are taken; a third comes and is taken; two go.
#[test]
fn all_pods_are_taken_as_they_come_and_go() {
    let Some(shop) = Shop::new("pods", 2) else { return };
    let port = port();
    let running = shop.exposes(&["--expose", &format!("{port}:8080")], &[&format!("http={port}")]);
    let url = |ip: &String| format!("http://{ip}:8080/");
    let first = shop.pods();
    assert_eq!(first.len(), 2);
    first.iter().for_each(|ip| assert!(shop.fetch(&url(ip)).starts_with("laptop"), "{ip}"));
    let scale = |replicas: &str| {
        shop.kubectl(&["scale", "deployment", "web", replicas]);
        shop.kubectl(&["rollout", "status", "--timeout=60s", "deployment/web"]);
    };
    scale("--replicas=3");
    let third = shop.pods().into_iter().find(|ip| !first.contains(ip)).unwrap();
    shop.is_answered_by(&url(&third), "laptop", LIMIT);
    scale("--replicas=1");
    shop.is_answered_by(&format!("http://{}/", shop.host()), "laptop", LIMIT);
    shop.kubectl(&[
        "wait",
        "--for=delete",
        "pod",
        "--timeout=60s",
        "-l",
        "app=web",
        "--field-selector=status.phase=Succeeded",
    ]);
    running.signal(Signal::SIGTERM);
    running.ends().exits(0).complains(&["took port 8080 of pod", "is gone"]);
}

/// Steps: a connection is open before; it stays the app's while new ones are the program's. The agent is killed: the port is
/// the app's, and taken again. tp is killed: it is the app's.
#[test]
fn connections_that_were_open_stay_the_apps_and_a_killed_side_gives_the_port_back() {
    let Some(shop) = Shop::new("killed", 1) else { return };
    let spec = shop.spec();
    let host = shop.host();
    let mut before = shop.client.command("nc").unwrap();
    let mut before =
        before.args([&host, "7007"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut said, heard) = (before.stdin.take().unwrap(), before.stdout.take().unwrap());
    let mut heard = BufReader::new(heard);
    let mut echoes = |word: &str| {
        writeln!(said, "{word}").unwrap();
        let mut line = String::new();
        heard.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    };
    echoes("before");
    let (http, echo) = (port(), port());
    let options = [format!("{http}:8080"), format!("{echo}:7007")];
    let options = ["--expose", &options[0], "--expose", &options[1]];
    let servers = [format!("http={http}"), format!("echo={echo}")];
    let running = shop.exposes(&options, &servers.each_ref().map(String::as_str));
    let url = format!("http://{host}/");
    assert!(shop.fetch(&url).starts_with("laptop"));
    echoes("during");
    kill(shop.agent(), Signal::SIGKILL).unwrap();
    shop.is_answered_by(&url, "service=web", GIVEN_BACK);
    shop.is_answered_by(&url, "laptop", LIMIT);
    echoes("after the agent's end");
    running.signal(Signal::SIGKILL);
    shop.is_answered_by(&url, "service=web", GIVEN_BACK);
    echoes("at the end");
    running.kill();
    running.ends().complains(&["lost ports 8080, 7007 of pod", "took ports 8080, 7007 of pod"]);
    assert_eq!(shop.spec(), spec);
    before.kill().unwrap();
    before.wait().unwrap();
}

/// Steps: a laptop of its own loses its wire; the app serves; the wire is back, and so is the program.
#[test]
fn a_laptop_that_is_cut_off_gives_the_port_back_and_takes_it_again() {
    let Some(shop) = Shop::new("cut", 1) else { return };
    let apart = Apart::new(&shop.laptop).unwrap();
    let port = port();
    let tp = shop.laptop.prefix().join("bin/tp").display().to_string();
    let mut command = apart.command(&tp).unwrap();
    command.arg("run").args(shop.place()).args(["--expose", &format!("{port}:8080"), "--"]);
    let running = Exposed::start(command.args(python("exposed", &[&format!("http={port}")])));
    let url = format!("http://{}/", shop.host());
    assert!(shop.fetch(&url).starts_with("laptop"));
    apart.cut().unwrap();
    shop.is_answered_by(&url, "service=web", GIVEN_BACK);
    apart.mend().unwrap();
    shop.is_answered_by(&url, "laptop", LIMIT);
    running.signal(Signal::SIGTERM);
    running.ends().exits(0);
}

/// A load generator in a pod, and what it has counted last.
struct Visits {
    child: std::process::Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Visits {
    fn start(shop: &Shop, at_once: &str) -> Self {
        let source = std::fs::read_to_string(app("visits.py")).unwrap();
        let mut command = shop.client.command(PYTHON).unwrap();
        command
            .args(["-c", &source, &shop.host(), "80", at_once])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (lines_tx, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines_tx.send(line)));
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, lines }
    }

    /// Waits until what it has counted (laptop, app, failed) is so.
    #[track_caller]
    fn until(&self, wanted: impl Fn([u32; 3]) -> bool) -> [u32; 3] {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap();
            let mut counts = line.split(' ').map(|count| count.parse().unwrap());
            let counts = [(); 3].map(|()| counts.next().unwrap());
            if wanted(counts) {
                return counts;
            }
        }
    }
}

/// Steps: clients ask without a pause while a session begins, is killed, begins again and ends in order. What was under way
/// at a side that was killed may fail, and nothing else.
#[test]
fn ten_thousand_requests_across_start_kill_and_end() {
    const AT_ONCE: u32 = 10;
    let Some(shop) = Shop::new("load", 1) else { return };
    let visits = Visits::start(&shop, &AT_ONCE.to_string());
    let [_, before, _] = visits.until(|[_, app, _]| app > 500);
    let port = port();
    let (expose, server) = (format!("{port}:8080"), format!("http={port}"));
    let begin = || shop.exposes(&["--expose", &expose], &[&server]);
    let running = begin();
    let [laptop, app, failed] = visits.until(|[laptop, ..]| laptop > 2000);
    assert_eq!(failed, 0, "none fails at the start");
    assert!(app >= before);
    running.signal(Signal::SIGKILL);
    let [_, _, killed] = visits.until(|[_, now, _]| now > app + 1000);
    assert!(killed <= 2 * AT_ONCE, "{killed} failed at a kill");
    running.kill();
    running.ends();
    let running = begin();
    let [_, app, failed] = visits.until(|[now, ..]| now > laptop + 2000);
    assert_eq!(failed, killed, "none fails at the start");
    running.signal(Signal::SIGTERM);
    running.ends().exits(0);
    let [_, _, failed] = visits.until(|[laptop, now, _]| now > app + 1000 && laptop + now > 10_000);
    // A connection that the program's kernel accepts in the moment in which it stops to listen is reset by that.
    assert!(failed <= killed + 2, "{failed} failed at the end");
    drop(visits.stdin);
    let mut child = visits.child;
    assert!(child.wait().unwrap().success());
}

/// Steps: a Node server and a JVM's, at once; then a Go server of HTTP/1.1, HTTP/2 and gRPC, with its own client in the pod.
#[test]
fn servers_of_many_makes_serve_the_clusters_requests() {
    let Some(shop) = Shop::new("makes", 1) else { return };
    let host = shop.host();
    let folder = Folder::new(&shop.laptop);
    let source = std::fs::read_to_string(app("Exposed.java")).unwrap();
    let java = folder.write("Exposed.java", &source, 0o644);
    let (one, other) = (port(), port());
    let node = format!(
        "require('http').createServer((q, a) => a.end('node ' + q.url + '\\n')).listen({one}, () => console.log('ready'))"
    );
    let both = format!("node -e \"$0\" & exec java \"$1\" {other} >/dev/null");
    let program = ["sh", "-c", &both, &node, &java].map(str::to_owned);
    let options = [format!("{one}:8080"), format!("{other}:8081")];
    let options = ["--expose", &options[0], "--expose", &options[1]];
    let running = Exposed::start(&mut shop.command(&options, &program));
    assert_eq!(shop.fetch(&format!("http://{host}/a")), "node /a\n");
    shop.is_answered_by(&format!("http://{host}:81/b"), "jvm /b", LIMIT);
    killpg(running.running.pid(), Signal::SIGTERM).unwrap();
    running.ends();
    let go = gobuild::app(&Layout::from_env(), "web", Build::Static).unwrap().display().to_string();
    let script = "\"$0\" serve & echo ready; wait";
    let program = ["sh", "-c", script, &go].map(str::to_owned);
    let running = Exposed::start(&mut shop.command(&["--expose", "8080", "--expose", "9090"], &program));
    shop.is_answered_by(&format!("http://{host}/"), "HTTP/1.1, 0 bytes", LIMIT);
    let asked = ran(shop.client.command(&go).unwrap().args(["ask", &shop.pods()[0]]));
    let one = ["HTTP/1.1 connections 1", "HTTP/2.0 200 OK HTTP/2.0, 3145728 bytes", "HTTP/2.0 connections 1"];
    let rpc = ["gRPC SERVING <nil>", "gRPC NotFound", "gRPC stream SERVING <nil>", "gRPC stream Canceled"];
    asked.says(&[&one[..], &rpc[..]].concat());
    killpg(running.running.pid(), Signal::SIGTERM).unwrap();
    running.ends();
}

/// Steps: a thousand clients are connected at once, while one writes slowly and one moves 100 MiB there and back.
#[test]
fn many_clients_and_many_bytes_come_through_a_port() {
    let Some(shop) = Shop::new("many", 1) else { return };
    let port = port();
    let running = shop.exposes(&["--expose", &format!("{port}:7007")], &[&format!("echo={port}")]);
    let source = std::fs::read_to_string(app("many_clients.py")).unwrap();
    let mut clients = shop.client.command(PYTHON).unwrap();
    let clients = clients.args(["-c", &source, &shop.host(), "7007", "1000", "100"]);
    let clients = ran_within(clients, LIMIT * 3);
    running.signal(Signal::SIGTERM);
    running.ends();
    clients.prints("1000 at once\nslow True large True");
}

/// Steps: the app answers all that comes, and the program sees it, too.
#[test]
fn a_mirror_leaves_the_answers_to_the_app() {
    let Some(shop) = Shop::new("mirror", 1) else { return };
    let port = port();
    let options = ["--mirror", "-v", "--expose", &format!("{port}:8080")];
    let running = shop.exposes(&options, &[&format!("http={port}")]);
    let url = format!("http://{}/", shop.host());
    (0..5).for_each(|_| assert!(shop.fetch(&url).starts_with("service=web")));
    running.signal(Signal::SIGTERM);
    running.ends().exits(0).complains(&[&format!("to {port}")]);
}

/// Steps: two people take requests with their own header; others are the app's.
#[test]
fn two_people_with_headers_of_their_own_share_a_port() {
    let Some(shop) = Shop::new("header", 1) else { return };
    let sessions: Vec<_> = ["alice", "bob"]
        .into_iter()
        .map(|name| {
            let port = port();
            let header = format!("X-User={name}");
            let options = ["--expose", &format!("{port}:8080"), "--http-header", &header];
            (name, shop.exposes(&options, &[&format!("http={port}")]))
        })
        .collect();
    let host = shop.host();
    let ask = |name: &str| {
        let mut curl = shop.client.command("curl").unwrap();
        ran(curl.args(["-sS", "-H", &format!("x-user: {name}"), &format!("http://{host}/{name}")])).stdout
    };
    for (name, _) in &sessions {
        assert!(ask(name).starts_with(&format!("laptop /{name}")), "{name}");
    }
    assert!(ask("carol").starts_with("404"), "the app has no such page");
    assert!(shop.fetch(&format!("http://{host}/")).starts_with("service=web"));
    for (_, running) in sessions {
        running.signal(Signal::SIGTERM);
        running.ends().exits(0);
    }
}

/// Steps: each wrong option, and what is said of it. Nothing is taken by any.
#[test]
fn what_cannot_be_exposed_is_said() {
    let Some(shop) = Shop::new("wrong", 1) else { return };
    let refused = |options: &[&str], words: &[&str]| {
        let refused = ran(&mut shop.command(options, &["echo", "started"].map(str::to_owned)));
        refused.exits(125).complains(words);
        assert_eq!(refused.stdout, "");
    };
    let objects = || shop.kubectl(&["get", "deployments,services,endpointslices,pods", "-o", "yaml"]);
    let before = objects();
    refused(&["--expose", "8080", "--expose", "81:8080"], &["port 8080 of the pod is exposed twice"]);
    refused(&["--expose", "7007", "--expose", "7007/TCP"], &["port 7007 of the pod is exposed twice"]);
    for port in ["70000", "65536", "0", "8080:", "8080:8081:8082", "http_alt", ""] {
        let pod = port.split_once(':').map_or(port, |(_, pod)| pod);
        refused(&["--expose", port], &[&format!("`{pod}` is not a port of the pod"), "1 to 65535"]);
    }
    for (port, here) in
        [(":8080", ""), ("0:8080", "0"), ("http:8080", "http"), ("127.0.0.1:8080", "127.0.0.1")]
    {
        refused(&["--expose", port], &[&format!("`{here}` is not a port of this machine"), "1 to 65535"]);
    }
    refused(&["--expose", "80/icmp"], &["`icmp` is neither tcp nor udp"]);
    refused(&["--mirror"], &["--expose"]);
    refused(&["--http-header", "x=y"], &["--expose"]);
    refused(&["--http-path", "/x"], &["--expose"]);
    refused(&["--expose", "8080", "--mirror", "--http-header", "x=y"], &["--mirror", "cannot be used with"]);
    refused(&["--expose", "8080", "--http-header", "x"], &["`x` is not NAME=VALUE"]);
    refused(&["--expose", "8080", "--http-header", "a b=c"], &["`a b` is no name of an HTTP header"]);
    for value in ["x=\u{1}", "x=y\r\nz: 1", "x=y\n", "x= y"] {
        refused(&["--expose", "8080", "--http-header", value], &["the value of `x` has a character"]);
    }
    refused(&["--expose", "8080", "--http-path", "x"], &["a path begins with `/`"]);
    refused(
        &["--expose", "datagrams/udp", "--http-path", "/x"],
        &["only HTTP requests have headers and paths"],
    );
    refused(&["--method", "shim", "--expose", "80:8080"], &["cannot listen on port 80", "--expose 8080:80"]);
    refused(&["--expose", "8080", "--expose", "81:http"], &["port 8080 of the pod is exposed twice"]);
    refused(&["--expose", "htp"], &["no port with the name `htp`", "did you mean: http?"]);
    refused(&["--expose", "http/udp"], &["no port with the name `http`", "datagrams"]);
    assert_eq!(objects(), before, "nothing is made for what is refused");
    // Who listens in a pod is known when there is an agent, which ends by itself.
    refused(&["--expose", "9999"], &["nobody listens on port 9999", "kubectl get pod"]);
    let port = port();
    let expose = format!("{port}:8080");
    let running = shop.exposes(&["--expose", &expose], &[&format!("http={port}")]);
    refused(&["--expose", &expose], &[&format!("port {port} of this machine is in use by"), "(process "]);
    refused(
        &["--expose", &format!("{}:8080", self::port())],
        &["port 8080 of pod", "is exposed by dev@", "--http-header"],
    );
    assert!(shop.fetch(&format!("http://{}/", shop.host())).starts_with("laptop"));
    running.signal(Signal::SIGTERM);
    running.ends().exits(0);
    let label = "pod-security.kubernetes.io/enforce=baseline";
    shop.kubectl(&["label", "namespace", shop.sandbox.namespace(), label]);
    shop.kubectl(&["delete", "pods", "--all"]);
    shop.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pods", "-l", "app=web"]);
    refused(
        &["--expose", "8080", "--mirror"],
        &["not admitted to pod", "PodSecurity", "a mirror needs rules in the app's own pod", "NET_ADMIN"],
    );
}
