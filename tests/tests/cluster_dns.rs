//! DNS: raw messages, resolv.conf and hosts are the pod's, for programs and libraries that resolve by themselves.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use tp_tests::case::{LIMIT, PYTHON, Ran, Running, app, built, ran};
use tp_tests::methods::VARIABLE;
use tp_tests::{Case, PodNetwork, Sandbox, Target, Workload, containerd};

/// What a program of `apps/` says must be what it says in the pod's own network.
fn says_what_it_says_in_the_pod(name: &str, the_oracle_must_say: &[&str]) {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let (_folder, binary) = built(laptop, name);
    let oracle = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let in_pod = || ran(&mut oracle.command(&binary).unwrap());
    // The oracle itself must have met what this case is about.
    same_lines(in_pod, || case.web([&binary]), the_oracle_must_say, &unsorted(&case));
}

/// The addresses whose order is not compared: under vif and trap it is the program's own libc that sorts, and it does not
/// know the network of the pod, by which of two pods the nearer one goes first (RFC 6724, rule 9).
fn unsorted(case: &Case) -> Vec<String> {
    if !std::env::var(VARIABLE).is_ok_and(|method| method != "auto") {
        return Vec::new();
    }
    let ips = ["get", "pods", "-l", "app=headless", "-o", "jsonpath={.items[*].status.podIPs[*].ip}"];
    case.kubectl(&ips).split(' ').map(str::to_owned).collect()
}

/// How often the cluster may change its mind, for instance about the order of a headless service's addresses.
const CHANGES: u32 = 5;

/// Both succeeded and said the same; the first line that differs is told. An oracle that says something else the next
/// time is none, and both are asked again.
#[track_caller]
fn same_lines(
    oracle: impl Fn() -> Ran,
    ours: impl Fn() -> Ran,
    the_oracle_must_say: &[&str],
    unsorted: &[String],
) {
    let mut truth = oracle();
    for _ in 0..CHANGES {
        let told = ours();
        let again = oracle();
        if told.stdout == again.stdout || truth.stdout == again.stdout {
            again.says(the_oracle_must_say);
            return assert_same_lines(&told, &again.stdout, unsorted);
        }
        truth = again;
    }
    panic!("the oracle says something else every time: {truth}");
}

#[track_caller]
fn assert_same_lines(told: &Ran, truth: &str, unsorted: &[String]) {
    let (told, mut heading) = (told.succeeds(), "");
    let without = |line: &str| {
        let line = unsorted.iter().fold(line.to_owned(), |line, address| line.replace(address, "POD"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for (told, truth) in told.lines().zip(truth.lines()) {
        if unsorted.is_empty() || without(told) != without(truth) {
            assert_eq!(told, truth, "after {heading}");
        }
        heading = if truth.starts_with(' ') { heading } else { truth };
    }
    assert_eq!(told.lines().count(), truth.lines().count());
}

#[test]
fn every_resolver_function_says_what_it_says_in_the_pod() {
    says_what_it_says_in_the_pod(
        "resolv",
        &[
            "_http._tcp.headless.default.svc.cluster.local 33: rcode 0, cut 0, 4 answers",
            "many.test 16: rcode 0, cut 0, 6 answers",
            "res_nquery at nobody text.test 16: failed, h_errno 2\n  10.244.255.77",
            "res_nquery, cut many.test 16: rcode 0, cut 1",
            "res_query nowhere.test 1: failed, h_errno 1",
        ],
    );
}

#[test]
fn getaddrinfo_says_what_it_says_in_the_pod() {
    says_what_it_says_in_the_pod(
        "addrinfo",
        &[
            "b\u{fc}cher.test 80 flags 40",
            "nowhere 80 flags 0 family 0 type 1 protocol 0: EAI -2",
            ". 80 flags 0 family 0 type 1 protocol 0: EAI -5",
        ],
    );
}

#[test]
fn the_older_functions_and_getnameinfo_say_what_they_say_in_the_pod() {
    says_what_it_says_in_the_pod(
        "hostent",
        &[
            "  alias external.default.svc.cluster.local",
            "gethostbyname BackEnd: BackEnd.default.svc.cluster.local",
            "getnameinfo 1: 0 10.96.0.10 domain",
        ],
    );
}

#[test]
fn getent_says_what_it_says_in_the_pod() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let oracle = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let script = "for name in backend headless alias.test external v6only outside.test nowhere 10.96.0.10; do
        for database in hosts ahosts ahostsv4 ahostsv6; do getent $database $name; echo $database $name $?; done; done";
    let in_pod = || ran(oracle.command("sh").unwrap().args(["-c", script]));
    same_lines(in_pod, || case.shell(script), &["192.0.2.80", "ahosts nowhere 2"], &unsorted(&case));
}

#[test]
fn a_question_that_nobody_answers_is_in_the_way_of_no_other() {
    let case = Case::new();
    case.python("slow_dns", &[]).prints("answers of 95 bytes; 0 silent ones ended before them");
}

/// A pod with a nameserver of each family, asked in turn.
const OTHER_NAMESERVERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  terminationGracePeriodSeconds: 1
  dnsPolicy: None
  dnsConfig:
    nameservers: ["fd00:10:96::a", "10.96.0.10"]
    searches: [default.svc.cluster.local, test]
    options: [{name: ndots, value: "2"}, {name: timeout, value: "1"}, {name: attempts, value: "1"}, {name: rotate}]
  hostAliases: [{ip: 10.9.8.7, hostnames: [aliased.example]}]
  containers:
  - {name: app, image: localhost/tp-sample:1, args: [http=8080]}
"#;

#[test]
fn a_pods_own_nameservers_options_and_host_aliases_are_taken() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let sandbox = Sandbox::create(case.target(), "dns").unwrap();
    sandbox.apply(OTHER_NAMESERVERS).unwrap();
    ran(sandbox.kubectl().args(["wait", "--for=condition=Ready", "pod/other", "--timeout=50s"])).succeeds();
    let (_folder, binary) = built(laptop, "resolv");
    let oracle = PodNetwork::find(cluster, laptop, sandbox.namespace(), "app=other").unwrap();
    let place = ["--namespace", sandbox.namespace(), "--pod", "other"];
    same_lines(
        || ran(&mut oracle.command(&binary).unwrap()),
        || case.tp(place, [&binary]),
        &["_res: 2 nameservers, ndots 2, retrans 1, retry 1, options 42c0"],
        &[],
    );
    case.tp(place, ["getent", "ahostsv4", "aliased.example"]).says(&["10.9.8.7"]);
}

/// Steps: a pod loses its IPv6 address but for the link-local one, as most pods of IPv4 clusters have it; IPv6 addresses come
/// last then, and AI_ADDRCONFIG still asks for them, as glibc does.
#[test]
fn a_pod_without_ipv6_has_another_order() {
    let case = Case::cold();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let sandbox = Sandbox::create(case.target(), "v4").unwrap();
    Workload::new("web").apply(&sandbox).unwrap();
    let oracle = PodNetwork::find(cluster, laptop, sandbox.namespace(), "app=web").unwrap();
    let id = "jsonpath={.items[0].status.containerStatuses[0].containerID}";
    let id = ran(sandbox.kubectl().args(["get", "pods", "-o", id]));
    let id = id.succeeds().trim_start_matches("containerd://").to_owned();
    let pid = containerd::pid(cluster.layout(), &id).unwrap().to_string();
    let flush = ["--net", "--target", &pid, "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"];
    ran(Command::new("nsenter").args(flush)).succeeds();
    let (_folder, binary) = built(laptop, "addrinfo");
    let service = case.kubectl(&["get", "service", "backend", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let (v4, v6) = service.split_once(' ').unwrap();
    let v4_first = format!("  2 1 6 {v4}:80/16 flags 0\n  10 1 6 {v6}%0:80/28 flags 0\n");
    let place = ["--namespace", sandbox.namespace(), "--deployment", "web"];
    same_lines(
        || ran(&mut oracle.command(&binary).unwrap()),
        || case.tp(place, [&binary]),
        &[&v4_first],
        &[],
    );
}

/// Steps: wait; a hundred at once; a signal, a thread and nothing as the notice; a name that takes long beside one that does
/// not.
#[test]
fn getaddrinfo_a_works_in_all_its_modes() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a program built for it") else { return };
    let (_folder, binary) = built(laptop, "addrinfo_a");
    let backend = case.kubectl(&["get", "service", "backend", "-o", "jsonpath={.spec.clusterIP}"]);
    let found = format!("backend 0 {backend}\n");
    case.web([&binary]).prints(&format!("{found}nowhere -2 -\n10.1.2.3 0 10.1.2.3\n{}ok", found.repeat(5)));
}

/// Steps: sockets of nscd and systemd-resolved that count; without tp they are asked, with tp they are not.
#[test]
fn the_laptops_own_resolvers_are_not_asked() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a /run of its own") else { return };
    let fake = |words: &[&str]| {
        let source = std::fs::read_to_string(app("fake_resolvers.py")).unwrap();
        let mut command = laptop.command("unshare").unwrap();
        command.args(["--user", "--map-current-user", "--keep-caps", "--mount", PYTHON, "-c", &source]);
        ran(command.args(words))
    };
    let without = fake(&["getent", "ahosts", "localhost"]);
    without.says(&["/run/nscd/socket "]);
    assert!(!without.stdout.contains("/run/nscd/socket 0"), "nobody asks the fake: {without}");
    let program = "import errno, socket
print(socket.gethostbyname('db-0.db').count('.'), socket.getnameinfo(('10.96.0.10', 80), 0)[0])
for path in '/var/run/nscd/socket', '/run/systemd/resolve/io.systemd.Resolve':
    error = socket.socket(socket.AF_UNIX).connect_ex(path)
    print('no daemon' if error in (errno.ENOENT, errno.ECONNREFUSED) else error)";
    let tp = laptop.prefix().join("bin/tp").display().to_string();
    let script =
        format!("getent ahosts backend; getent hosts nowhere; getent ahosts localhost; {PYTHON} -c \"$1\"");
    let ran = fake(&[&tp, "run", "--deployment", "web", "--", "sh", "-c", &script, "sh", program]);
    ran.says(&[
        "backend.default.svc.cluster.local\n",
        "3 kube-dns.kube-system.svc.cluster.local\nno daemon\nno daemon\n",
        "/run/nscd/socket 0\n/run/systemd/resolve/io.systemd.Resolve 0",
    ]);
}

#[test]
fn dig_asks_the_clusters_nameserver_by_udp_and_tcp() {
    for transport in ["+notcp", "+tcp"] {
        every_type_by(transport);
    }
    let case = Case::new();
    let by = |transport| format!("SERVER: 10.96.0.10#53(10.96.0.10) ({transport})");
    case.web(["dig", "+tcp", "nowhere.test"]).says(&["status: NXDOMAIN", &by("TCP")]);
    case.web(["dig", "nowhere.test"]).says(&["status: NXDOMAIN", &by("UDP")]);
    // 1.5 kB: too much without EDNS and for its usual size, and not for a larger one.
    case.web(["dig", "+noedns", "+ignore", "many.test", "TXT"]).says(&[" tc ", &by("UDP")]);
    case.web(["dig", "many.test", "TXT"]).says(&["ANSWER: 6", &by("TCP")]);
    case.web(["dig", "+bufsize=4096", "many.test", "TXT"]).says(&["ANSWER: 6", &by("UDP")]);
}

fn every_type_by(transport: &str) {
    let case = Case::new();
    let dig = |words: &[&str]| case.web([&["dig", transport, "+short"], words].concat());
    let service = case.kubectl(&["get", "service", "backend", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let (v4, v6) = service.split_once(' ').unwrap();
    dig(&["+search", "backend", "A"]).prints(v4);
    dig(&["backend.default.svc.cluster.local", "AAAA"]).prints(v6);
    dig(&["_web._tcp.test", "SRV"]).prints("1 2 8080 outside.test.");
    dig(&["text.test", "TXT"]).prints("\"first string\" \"second string\"");
    dig(&["mail.test", "MX"]).prints("10 outside.test.");
    dig(&["alias.test", "CNAME"]).prints("backend.default.svc.cluster.local.");
    dig(&["-x", "10.96.0.10"]).prints("kube-dns.kube-system.svc.cluster.local.");
}

#[test]
fn nslookup_host_and_node_find_the_clusters_records() {
    let case = Case::new();
    let service = case.kubectl(&["get", "service", "backend", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let (v4, v6) = service.split_once(' ').unwrap();
    let name = "backend.default.svc.cluster.local";
    for options in [&["nslookup"][..], &["nslookup", "-vc"]] {
        case.web([options, &["backend"]].concat()).says(&[&format!("Name:\t{name}"), v4, v6]);
    }
    for options in [&["host"][..], &["host", "-T"]] {
        let address = [format!("{name} has address {v4}"), format!("{name} has IPv6 address {v6}")];
        case.web([options, &["backend"]].concat()).says(&[&address[0], &address[1]]);
    }
    // c-ares: it reads resolv.conf and sends by itself.
    let program = "const dns = require('dns').promises;
        (async () => {
            console.log(dns.getServers(), await dns.resolveSrv('_web._tcp.test'), await dns.resolveTxt('text.test'));
            console.log(await dns.resolve4(process.argv[1]), await dns.resolve6(process.argv[1]), await dns.resolveMx('mail.test'));
            console.log(await dns.lookup('backend', {all: true, verbatim: true}), await dns.reverse('10.96.0.10'));
            await dns.resolve4('nowhere.test').catch(error => console.log(error.code));
        })();";
    let program = program.replace("console.log(", "say(").replace(
        "const dns",
        "const say = (...all) => all.forEach(one => console.log(JSON.stringify(one))); const dns",
    );
    case.web(["node", "-e", &program, name]).prints(&format!(
        "[\"10.96.0.10\"]
[{{\"name\":\"outside.test\",\"port\":8080,\"priority\":1,\"weight\":2}}]
[[\"first string\",\"second string\"]]
[\"{v4}\"]
[\"{v6}\"]
[{{\"exchange\":\"outside.test\",\"priority\":10}}]
[{{\"address\":\"{v6}\",\"family\":6}},{{\"address\":\"{v4}\",\"family\":4}}]
[\"kube-dns.kube-system.svc.cluster.local\"]
\"ENOTFOUND\""
    ));
}

#[test]
fn the_files_are_the_pods_by_whatever_function_they_are_opened() {
    let case = Case::new();
    let Some(laptop) = case.laptop("the network of a pod") else { return };
    let Target::Laptop(cluster, _) = case.target() else { return };
    let oracle = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let in_pod = |file: &str| ran(oracle.command("cat").unwrap().arg(file)).succeeds().to_owned();
    let [resolv_conf, hosts] = ["/etc/resolv.conf", "/etc/hosts"].map(in_pod);
    case.web(["cat", "/etc/resolv.conf"]).prints(&resolv_conf);
    // The laptop's own name stays the laptop's, and comes after the pod's lines.
    let said = case.shell("cat /etc/hosts; echo ---; uname -n");
    let (with_own, own) = said.succeeds().rsplit_once("\n---\n").unwrap();
    assert!(with_own.starts_with(&hosts), "{with_own}");
    let rest = with_own.get(hosts.len()..).unwrap();
    assert!(rest.lines().all(|line| line.is_empty() || line.contains(own)), "{rest}");
    case.python("open_files", &["/etc/resolv.conf"]).prints(&resolv_conf);
    case.python("open_files", &["/etc/hosts"]).prints(with_own);
    // Nothing else is touched, nor is writing.
    case.web([PYTHON, "-c", "open('/etc/resolv.conf', 'a')"]).exits(1).complains(&["PermissionError"]);
    case.python("open_files", &["/etc/hostname"]).prints(own);
}

#[test]
fn the_files_go_with_the_run() {
    let case = Case::new();
    let mut command = case.web_command(["sh", "-c", "echo ready; read line"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(running.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let folder = running.folder();
    for name in ["hosts", "resolv.conf"] {
        assert!(folder.join(name).exists(), "{name} is not in {folder:?}");
    }
    drop(running.child.stdin.take());
    running.ends_within(LIMIT);
    assert!(!folder.exists(), "{folder:?}");
}
