//! The cluster serves and the laptop is what the other cases take it for: unprivileged, cut off but for the API
//! server, and watched.
//!
//! The leak counter is one for the whole laptop, so cases that send packets on purpose and cases that count them
//! hold a lock; other test binaries run before or after this one, as cargo does by itself.
#![allow(clippy::unwrap_used, reason = "a cluster that cannot be asked is a failed case")]

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tp_tests::{PodNetwork, Sandbox, Target, run, target};

/// Who holds this may send packets that are counted.
static COUNTER: Mutex<()> = Mutex::new(());

fn counter() -> MutexGuard<'static, ()> {
    COUNTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The laptop, or `None` (said aloud) when the cases run against the caller's own cluster.
fn laptop() -> Option<tp_tests::Laptop> {
    let target = Target::attach().unwrap();
    match target {
        Target::Laptop(_, laptop) => Some(laptop),
        Target::Context(context, _) => {
            eprintln!(
                "{}={context}: there is no laptop namespace, so there is nothing to look at here",
                target::CONTEXT
            );
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

fn succeeded(command: &mut Command) -> String {
    let output: Output = run::attempt(command).unwrap();
    assert!(output.status.success(), "{}: {}\n{}", run::shown(command), output.status, text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn the_sample_application_serves_in_the_cluster() {
    let target = Target::attach().unwrap();
    let ready = r"jsonpath={.status.readyReplicas}";
    for workload in ["deployment/web", "deployment/backend", "statefulset/db"] {
        assert_eq!(succeeded(target.kubectl().args(["get", workload, "-o", ready])), "1", "{workload}");
    }
    let families = r"jsonpath={.spec.ipFamilies}";
    let backend = succeeded(target.kubectl().args(["get", "service", "backend", "-o", families]));
    assert_eq!(backend, r#"["IPv4","IPv6"]"#);
}

#[test]
fn in_the_pod_every_service_behaves_as_it_is_called() {
    let target = Target::attach().unwrap();
    let Target::Laptop(cluster, laptop) = &target else {
        eprintln!("{} is set: pods of another machine cannot be entered", target::CONTEXT);
        return;
    };
    let pod = PodNetwork::find(cluster, laptop, "default", "app=web").unwrap();
    let curl = |url: &str| {
        let arguments = ["-sS", "--connect-timeout", "3", url];
        run::attempt(pod.command("curl").unwrap().args(arguments)).unwrap()
    };
    for url in
        ["http://backend", "http://v6only", "http://external", "http://headless:8080", "http://db-0.db:8080"]
    {
        let answer = curl(url);
        assert!(text(&answer.stdout).starts_with("service="), "{url}: {}", text(&answer.stderr));
    }
    for (url, code) in [("http://refuse", 7), ("http://blackhole", 28), ("http://no-such-name", 6)] {
        assert_eq!(curl(url).status.code(), Some(code), "{url}");
    }
    let script = "import errno, socket, sys\nfor name in sys.argv[1:]:\n  s = socket.socket(); s.settimeout(10)\n  \
                  print(errno.errorcode[s.connect_ex((name, 80))])";
    let names = ["refuse", "unreachable", "netunreachable"];
    let answer = succeeded(pod.command("/usr/bin/python3").unwrap().args(["-c", script]).args(names));
    assert_eq!(answer, "ECONNREFUSED\nEHOSTUNREACH\nENETUNREACH");
}

#[test]
fn the_laptops_user_is_nobody_special() {
    let Some(laptop) = laptop() else { return };
    let status = succeeded(laptop.command("cat").unwrap().arg("/proc/self/status"));
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let id = tp_tests::laptop::UID;
    assert_eq!(field("Uid:"), format!("{id} {id} {id} {id}"));
    assert_eq!(field("Gid:"), format!("{id} {id} {id} {id}"));
    assert_eq!(field("Groups:"), "");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "0");
    assert_eq!(succeeded(laptop.command("id").unwrap().arg("-un")), tp_tests::laptop::USER);
    let write =
        "test -w $HOME && test -w $XDG_RUNTIME_DIR && test -w /dev/null && ! test -w /etc/hosts && pwd";
    succeeded(laptop.command("sh").unwrap().args(["-c", write]));
}

#[test]
fn the_laptop_reaches_the_api_server_and_that_is_no_leak() {
    let Some(laptop) = laptop() else { return };
    let _counter = counter();
    laptop.reset_leaks().unwrap();
    let answer =
        succeeded(laptop.command("kubectl").unwrap().args(["auth", "can-i", "create", "pods/portforward"]));
    assert_eq!(answer, "yes");
    assert_eq!(laptop.leaks().unwrap(), 0);
}

#[test]
fn every_other_packet_is_dropped_and_counted() {
    let Some(laptop) = laptop() else { return };
    let target = Target::attach().unwrap();
    let _counter = counter();
    let clusters = r"jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}";
    let service = succeeded(target.kubectl().args(["get", "service", "backend", "-o", clusters]));
    let (v4, v6) = service.split_once(' ').unwrap();
    let v6 = format!("[{v6}]");
    for address in [v4, &v6, tp_tests::layout::GATEWAY_V4, "192.0.2.1"] {
        laptop.reset_leaks().unwrap();
        let url = format!("http://{address}/");
        let curl =
            run::attempt(laptop.command("curl").unwrap().args(["-sS", "--connect-timeout", "1", &url]))
                .unwrap();
        assert_eq!(curl.status.code(), Some(28), "{address}: {}", text(&curl.stderr));
        assert_ne!(laptop.leaks().unwrap(), 0, "{address}");
    }
    laptop.reset_leaks().unwrap();
    let lookup = run::attempt(laptop.command("getent").unwrap().args(["hosts", "backend"])).unwrap();
    assert_eq!(lookup.status.code(), Some(2));
    assert_ne!(laptop.leaks().unwrap(), 0, "a lookup must ask the nameserver on the wire");
    laptop.reset_leaks().unwrap();
}

#[test]
fn exit_codes_signals_and_pipes_are_those_of_the_command() {
    let Some(laptop) = laptop() else { return };
    let shell =
        |script: &str| run::attempt(laptop.command("sh").unwrap().args(["-c", script])).unwrap().status;
    assert_eq!(shell("exit 3").code(), Some(3));
    assert_eq!(shell("kill -TERM $$").signal(), Some(15));
    let missing = laptop.command("no-such-program").unwrap().spawn().unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let mut cat =
        laptop.command("cat").unwrap().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut cat.stdin.take().unwrap(), b"through").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through");
}

#[test]
fn a_user_with_few_permissions_has_no_more() {
    let target = Target::attach().unwrap();
    let Some(laptop) = laptop() else { return };
    let sandbox = Sandbox::create(&target, "few-permissions").unwrap();
    let config = sandbox.user("reader", &[("", "pods", &["get", "list"])]).unwrap();
    let can = |verb: &str, what: &str| {
        let question = ["auth", "can-i", verb, what];
        let answer =
            run::attempt(laptop.command("kubectl").unwrap().env("KUBECONFIG", &config).args(question))
                .unwrap();
        text(&answer.stdout)
    };
    assert_eq!(can("list", "pods"), "yes");
    assert_eq!(can("create", "pods/portforward"), "no");
    assert_eq!(can("patch", "pods/ephemeralcontainers"), "no");
}
