//! Requests of one port to several people's programs and to the app, each by its own headers.
//!
//! The app and the clients are this machine's programs in the network of pods, since all of them are to say who they are by
//! HTTP/1.1, HTTP/2, gRPC and WebSocket; the people's run under `tp run --expose`, with a port of the laptop each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use serde_json::json;
use tp_tests::case::{Folder, LIMIT, Lines, PYTHON, Running, app, python, ran};
use tp_tests::gobuild::{self, Build};
use tp_tests::pki::Authority;
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

/// A program that is stopped at the end of its case, and what it complains of.
struct Server(Running, Option<Lines>);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = killpg(self.0.pid(), Signal::SIGKILL);
        let _ = self.0.child.wait();
    }
}

/// Somebody's program under `tp run --expose`.
struct Person(Server);

impl Person {
    /// What tp and the program have written on standard error, whose end this is.
    fn complains(&mut self) -> String {
        let _ = killpg(self.0.0.pid(), Signal::SIGKILL);
        self.0.1.take().unwrap().all().join("\n")
    }

    /// They stop it, and tp gives back what it took. No client has torn a connection to it.
    fn ends(mut self) {
        kill(self.0.0.pid(), Signal::SIGTERM).unwrap();
        self.0.0.child.wait().unwrap();
        let said = self.complains();
        assert!(!said.contains("ResetError"), "{said}");
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
        Person(start(&mut self.exposing(port, &["--http-header", &format!("x-user={name}")], program)))
    }

    /// A program that listens at that port of the laptop, not yet started.
    fn exposing(&self, port: &str, options: &[&str], program: &[String]) -> Command {
        let expose = format!("{port}:{PORT}");
        let place = ["-n", self.sandbox.namespace(), "--deployment", "shop", "--expose", &expose];
        self.case.command(place.into_iter().chain(options.iter().copied()), program)
    }

    /// Who has the port, as `tp list` says it.
    fn listed(&self) -> Vec<String> {
        let mut tp = self.case.target().tp().unwrap();
        let listed = ran(tp.args(["list", "-n", self.sandbox.namespace()]));
        let row = listed.succeeds().lines().find_map(|line| line.strip_prefix("deployment/shop  1/1    "));
        let exposed = row.unwrap_or_else(|| panic!("{listed}"));
        exposed.trim().split("; ").map(str::to_owned).collect()
    }

    /// Waits until these, and no others, are listed: an agent says who has what a moment after it is so.
    #[track_caller]
    fn is_had_by(&self, whose: &[&str]) {
        let began = Instant::now();
        loop {
            let listed = self.listed();
            let has = |word: &&str| listed.iter().filter(|row| row.contains(*word)).count() == 1;
            if listed.len() == whose.len() && whose.iter().all(has) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{listed:?} and not {whose:?}");
            sleep(Duration::from_millis(50));
        }
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
    served(command.stdin(Stdio::null()))
}

fn served(command: &mut Command) -> Server {
    let mut running = Running::start(command);
    let stderr = running.stderr();
    Server(running, Some(stderr))
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
    let bob = shop.person("bob", "19391", &words(&[&go, "serve", "bob", ":19391"]));
    shop.is_answered_by("bob", "bob HTTP/1.1", fetch);

    let mut follow = shop.client.command(&go).unwrap();
    let follow = follow.args(["follow", &shop.address, "alice"]).stdin(Stdio::piped());
    let mut follow = served(follow);
    let seen = lines(&mut follow.0);
    let next = || seen.recv_timeout(LIMIT).unwrap();
    let both = |who: &str| {
        let mut said = [next(), next()];
        said.sort();
        assert_eq!(said, [format!("HTTP/1.1 {who}"), format!("HTTP/2.0 {who}")]);
    };
    both("app");
    let alice = shop.person("alice", "19392", &words(&[&go, "serve", "alice", ":19392"]));
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
    let alice = shop.person("alice", "19393", &node(&["serve", "alice", "19393"]));
    let url = format!("ws://{}/", shop.address);
    let ask = |user: &str| shop.asks(&node(&["ask", &url, user]));
    shop.is_answered_by("alice", "alice 5\":100", ask);
    let said = shop.asks(&node(&["ask", &url, "alice", "nobody", "bob"]));
    let line = |user: &str, who: &str| format!("{user} {{\"{who} 70000\":100,\"{who} 5\":100}} 1000");
    assert_eq!(said, [line("alice", "alice"), line("nobody", "app"), line("bob", "app")].join("\n"));
    alice.ends();
    shop.is_answered_by("alice", "app 5\":100", ask);
}

/// Steps: a client asks in every odd way of HTTP/1 before anybody takes requests, which tells what is true; then alice takes hers,
/// and the same is asked for her and for nobody: it comes back the same, but for who answered.
#[test]
fn odd_requests_are_answered_as_if_nobody_looked_at_them() {
    let Some(shop) = Shop::new("filter-odd") else { return };
    let source = std::fs::read_to_string(app("odd_http.py")).unwrap();
    let odd = |arguments: &[&str]| words(&[&[PYTHON, "-u", "-c", &source], arguments].concat());
    let _app = shop.serves(&odd(&["serve", "app", PORT]));
    let (ip, _) = shop.address.split_once(':').unwrap();
    let ask = |user: &str| shop.asks(&odd(&["ask", ip, PORT, user]));
    let truth = ask("alice");
    assert!(truth.contains("later") && truth.lines().count() > 20, "{truth}");
    let alice = shop.person("alice", "19394", &odd(&["serve", "alice", "19394"]));
    let curl = |user: &str| {
        let header = format!("x-user: {user}");
        shop.asks(&words(&["curl", "-sS", "-m", "30", "-H", &header, &format!("http://{}/", shop.address)]))
    };
    shop.is_answered_by("alice", "[alice]", curl);
    let hers = truth.lines().map(|line| match line.starts_with("pipelined for nobody") {
        true => line.to_owned(),
        false => line.replace("[app]", "[alice]"),
    });
    assert_eq!(ask("alice"), hers.collect::<Vec<_>>().join("\n"));
    assert_eq!(ask("nobody"), truth.replace("for them", "for nobody"));
    alice.ends();
}

/// What of a person's requests each has answered.
type Counts = BTreeMap<String, BTreeMap<String, u32>>;

/// Steps: alice and bob take their requests; carol takes the rest; dave wants all of it, and is told who has it; bob's tp is killed.
/// All the time three people ask: of alice's requests none goes astray, nobody's are the app's or carol's, and bob's that were not
/// under way when he was killed are answered.
#[test]
fn four_people_do_not_disturb_each_other() {
    const ENOUGH: u32 = 2000;
    let Some(shop) = Shop::new("filter-four") else { return };
    let source = std::fs::read_to_string(app("odd_http.py")).unwrap();
    let serve = |who: &str, port: &str| words(&[PYTHON, "-u", "-c", &source, "serve", who, port]);
    let _app = shop.serves(&serve("app", PORT));
    shop.is_had_by(&["-"]);
    let curl = |user: &str| {
        let header = format!("x-user: {user}");
        shop.asks(&words(&["curl", "-sS", "-m", "30", "-H", &header, &format!("http://{}/", shop.address)]))
    };
    let alice = shop.person("alice", "19395", &serve("alice", "19395"));
    let bob = shop.person("bob", "19396", &serve("bob", "19396"));
    shop.is_answered_by("alice", "[alice]", curl);
    shop.is_answered_by("bob", "[bob]", curl);
    shop.is_had_by(&["(x-user=alice)", "(x-user=bob)"]);

    let people = std::fs::read_to_string(app("people.py")).unwrap();
    let (ip, _) = shop.address.split_once(':').unwrap();
    let mut asking = shop.client.command(PYTHON).unwrap();
    asking.args(["-u", "-c", &people, ip, PORT, "alice", "bob", "nobody"]);
    let mut asking = served(asking.stdin(Stdio::piped()));
    let counts = lines(&mut asking.0);
    let until = |wanted: &dyn Fn(&Counts) -> bool| loop {
        let counted: Counts = serde_json::from_str(&counts.recv_timeout(LIMIT).unwrap()).unwrap();
        if wanted(&counted) {
            return counted;
        }
    };
    let of = |counts: &Counts, user: &str, who: &str| counts[user].get(who).copied().unwrap_or(0);
    until(&|now| of(now, "bob", "[bob]") > ENOUGH && of(now, "alice", "[alice]") > ENOUGH / 2);
    let carol = Person(start(&mut shop.exposing("19397", &[], &serve("carol", "19397"))));
    shop.is_answered_by("nobody", "[carol]", curl);
    let hers = format!("(tp {})", carol.0.0.pid());
    let dave = ran(&mut shop.exposing("19398", &[], &words(&["echo", "started"])));
    dave.exits(125).complains(&["port 9090 of pod `shop-", "is exposed by dev@", &hers, "--http-header"]);
    assert_eq!(dave.stdout, "");
    shop.is_had_by(&["(x-user=alice)", "(x-user=bob)", &hers]);
    let before = until(&|now| of(now, "nobody", "[carol]") > 100);
    assert!(before.values().all(|whose| whose.keys().all(|who| who.starts_with('['))), "{before:?}");

    kill(bob.0.0.pid(), Signal::SIGKILL).unwrap();
    until(&|now| of(now, "bob", "[carol]") > 100);
    shop.is_had_by(&["(x-user=alice)", &hers]);
    carol.ends();
    shop.is_answered_by("nobody", "[app]", curl);
    shop.is_had_by(&["(x-user=alice)"]);
    let now = until(&|now| of(now, "alice", "[alice]") > ENOUGH);
    drop(asking.0.child.stdin.take());
    let end =
        until(&|counts| counts.values().flat_map(BTreeMap::values).sum::<u32>() % 100 != 0 || counts == &now);
    let astray = |user: &str, own: &[&str]| -> u32 {
        end[user].iter().filter(|(who, _)| !own.contains(&who.as_str())).map(|(_, count)| count).sum()
    };
    assert_eq!(astray("alice", &["[alice]"]), 0, "{end:?}");
    // One at a time: the one that a server had when it was ended, and one more by a connection that was kept.
    assert!(astray("bob", &["[bob]", "[carol]", "[app]"]) <= 2, "{end:?}");
    assert_eq!(astray("nobody", &["[app]", "[carol]"]), 0, "{end:?}");
    alice.ends();
    shop.is_answered_by("alice", "[app]", curl);
}

/// A pod whose three ports the kubelet asks at every second, each in another way.
fn probed() -> String {
    let get = |port: u16, scheme: &str| json!({"port": port, "path": "/", "scheme": scheme});
    let probe = |kind: &str, what: serde_json::Value, failures: u32| json!({kind: what, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": failures});
    // Who listens there comes a moment later.
    let (ready, live) = (3, 120);
    let container = |name: &str, port: u16, is_ready: serde_json::Value, is_live: serde_json::Value| {
        json!({
            "name": name, "image": "localhost/tp-sample:1", "args": [format!("http={port}")],
            "readinessProbe": is_ready, "livenessProbe": is_live,
        })
    };
    let app = container(
        "app",
        8080,
        probe("httpGet", get(9090, "HTTP"), ready),
        probe("httpGet", get(9443, "HTTPS"), live),
    );
    let connects = json!({"port": 9091});
    let side = container(
        "side",
        8081,
        probe("tcpSocket", connects.clone(), ready),
        probe("tcpSocket", connects, live),
    );
    let metadata = json!({"name": "probed", "labels": {"app": "probed"}});
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [app, side]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string()
}

/// Steps: the kubelet asks a pod's app by HTTP, by HTTPS and by connecting; all three ports are exposed, then some of their
/// requests. The app goes on to be asked by requests of both kinds, and a connection says nothing of it; the pod was ready all
/// the time.
#[test]
fn the_kubelet_goes_on_to_ask_the_app() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("programs in a pod's network").cloned() else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let sandbox = Sandbox::create(case.target(), "probes").unwrap();
    sandbox.apply(&probed()).unwrap();
    let kubectl = |arguments: &[&str]| run::output(sandbox.kubectl().args(arguments)).unwrap();
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "--timeout=60s", "pod/probed"]);
    let folder = Folder::new(&laptop);
    let identity = Authority::create(folder.path()).unwrap().issue("app", "", &["app"]).unwrap();
    let certificate = folder.write("app.pem", &(identity.certificate + &identity.key), 0o644);
    let serving = |name: &str, ports: [u16; 3]| {
        let [http, https, tcp] = ports.map(|port| port.to_string());
        let ports = [format!("http={http}"), format!("https={https}"), format!("tcp={tcp}")];
        python("probed", &[name, &certificate, &ports[0], &ports[1], &ports[2]])
    };
    let pod = PodNetwork::find(cluster, &laptop, sandbox.namespace(), "app=probed").unwrap();
    let program = serving("app", [9090, 9443, 9091]);
    let mut server = start(pod.command(&program[0]).unwrap().args(&program[1..]));
    let app_told = lines(&mut server.0);
    kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pod/probed"]);
    let ready = || {
        // When it became so, which changes if it was not meanwhile.
        let is = "{.status.conditions[?(@.type=='Ready')]['status','lastTransitionTime']}";
        let of = format!("jsonpath={{.status.podIP}} {is} {{.status.containerStatuses[*].restartCount}}");
        kubectl(&["get", "pod", "probed", "-o", &of])
    };
    let before = ready();
    let ip = before.split_once(' ').unwrap().0;
    let client = PodNetwork::find(cluster, &laptop, "default", "app=web").unwrap();
    let fetch = |scheme: &str, port: u16| {
        let url = format!("{scheme}://{ip}:{port}/");
        ran(client.command("curl").unwrap().args(["-ksS", "-m", "30", "-H", "X-User: alice", &url])).stdout
    };
    let options = ["-n", sandbox.namespace(), "--pod", "probed", "--container", "app"];
    let ports = ["--expose", "19399:9090", "--expose", "19400:9443", "--expose", "19401:9091"];
    for filter in [&[][..], &["--http-header", "x-user=alice"][..]] {
        let options = options.iter().chain(&ports).chain(filter).copied();
        let mut person =
            Person(start(&mut case.command(options, serving("laptop", [19_399, 19_400, 19_401]))));
        let laptop_told = lines(&mut person.0.0);
        let began = Instant::now();
        while fetch("http", 9090) != "laptop http" {
            assert!(began.elapsed() < LIMIT, "{filter:?}: not the laptop but: {}", person.complains());
            sleep(Duration::from_millis(50));
        }
        // Nobody can look into TLS, so a filter leaves all of it to the app.
        let by = if filter.is_empty() { "laptop https" } else { "app https" };
        assert_eq!(fetch("https", 9443), by, "{filter:?}");
        while app_told.try_recv().is_ok() {}
        // The second of each has begun after that.
        let mut awaited = vec!["http probe", "http probe", "https probe", "https probe"];
        while !awaited.is_empty() {
            let line = app_told.recv_timeout(LIMIT).unwrap();
            assert!(began.elapsed() < LIMIT, "{filter:?}: the app is not asked: {awaited:?}");
            if let Some(at) = awaited.iter().position(|awaited| *awaited == line) {
                awaited.remove(at);
            }
        }
        if filter.is_empty() {
            while laptop_told.recv_timeout(LIMIT).unwrap() != "tcp client" {}
        }
        person.ends();
        let told: Vec<_> = laptop_told.try_iter().collect();
        assert!(!told.iter().any(|line| line.ends_with("probe")), "{filter:?}: {told:?}");
        assert!(filter.is_empty() || !told.contains(&"tcp client".to_owned()), "{told:?}");
        assert_eq!(ready(), before, "{filter:?}");
    }
}
