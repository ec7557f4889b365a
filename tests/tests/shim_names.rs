//! Names under the shim: every lookup function of libc, and the memory that they hand out.

use tp_abi::errno::eai;
use tp_abi::wire::{WANT_CONFIGURED, WANT_V4, WANT_V6};
use tp_tests::fake_launcher::{Asked, FakeLauncher, Name, has_tool, succeeded};

/// What `apps/names.c` says about its launcher.
fn scripted() -> FakeLauncher {
    let launcher = FakeLauncher::start();
    let many: Vec<String> = (1..=100).map(|number| format!("10.1.1.{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    launcher
        .name("backend", "backend.default.svc", &["10.96.0.7", "fd00::7"])
        .name("v4only", "", &["10.96.0.8"])
        .name("_srv._tcp.backend", "", &["10.96.0.9"])
        .name("many", "", &many)
        .name_is("later", Name::Fails(eai::AGAIN))
        .reverse("10.96.0.7", Name::Is("backend.default", Vec::new()))
        .reverse("10.96.0.98", Name::Fails(eai::AGAIN));
    launcher
}

#[test]
fn every_lookup_function_says_what_the_pod_says() {
    let launcher = scripted();
    let program = launcher.build("names");
    assert_eq!(succeeded(&mut launcher.command(program)), "ok\n");
}

/// libc's own freeaddrinfo() must free the joined lists: valgrind sees each lost or twice freed block.
#[test]
fn what_getaddrinfo_gives_is_freed_whole() {
    if !has_tool("valgrind") {
        return;
    }
    let launcher = scripted();
    let program = launcher.build("names");
    let mut command = launcher.command("valgrind");
    let flags = [
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect,possible",
    ];
    assert_eq!(succeeded(command.args(flags).arg(program)), "ok\n");
}

/// Steps: what is good for a while is asked once for each kind of question, by whatever function and in a child, too; a
/// failure is asked again.
#[test]
fn an_answer_that_is_still_good_is_not_asked_for_again() {
    let launcher = scripted();
    launcher.names_stay(3600);
    let said = launcher.python(
        "import os, socket as s
for _ in range(3):
    print(s.getaddrinfo('backend', 80, 0, s.SOCK_STREAM)[0][4][0], s.gethostbyname('v4only'))
    try: s.getaddrinfo('later', 80)
    except s.gaierror: pass
if os.fork() == 0:
    s.getaddrinfo('backend', 81, 0, s.SOCK_STREAM)
    os._exit(0)
os.wait()",
    );
    assert_eq!(said, "10.96.0.7 10.96.0.8\n".repeat(3));
    let asked = launcher.asked();
    let times =
        |name: &str| asked.iter().filter(|asked| matches!(asked, Asked::Lookup(it, _) if it == name)).count();
    assert_eq!((times("backend"), times("v4only"), times("later")), (1, 1, 3), "{asked:?}");
}

/// Steps: each kind of hints asks for just the families it needs; numbers, NULL and localhost ask nobody.
#[test]
fn only_what_is_wanted_is_asked_for() {
    let launcher = scripted();
    let said = launcher.python(
        "import socket as s
for family, flags in ((0, 0), (2, 0), (10, 0), (10, s.AI_V4MAPPED), (0, s.AI_ADDRCONFIG)):
    s.getaddrinfo('backend', 80, family, s.SOCK_STREAM, 0, flags)
for node in ('10.0.0.1', '::1', 'fd00::1', 'localhost', 'a.localhost', None): s.getaddrinfo(node, 80)
print(s.gethostbyname('v4only'))",
    );
    assert_eq!(said, "10.96.0.8\n");
    let backend = |want| Asked::Lookup("backend".to_owned(), want);
    let expected = [
        backend(WANT_V4 | WANT_V6),
        backend(WANT_V4),
        backend(WANT_V6),
        backend(WANT_V4 | WANT_V6),
        backend(WANT_V4 | WANT_V6 | WANT_CONFIGURED),
        Asked::Lookup("v4only".to_owned(), WANT_V4),
    ];
    assert_eq!(launcher.asked(), expected);
}

/// Steps: the launcher lets a name pass; libc looks in /etc/hosts and asks neither a name server nor nscd.
#[test]
fn a_name_that_passes_is_looked_up_in_the_hosts_file_alone() {
    if !has_tool("strace") {
        return;
    }
    let launcher = FakeLauncher::start();
    launcher.name_is("no.such.name.invalid", Name::Passes);
    let log = launcher.folder().join("trace");
    let program = "import socket
try: socket.getaddrinfo('no.such.name.invalid', 80)
except socket.gaierror as e: print(e.errno)";
    let mut command = launcher.command("strace");
    command.args(["-f", "-e", "trace=connect,sendto,sendmmsg,openat", "-o"]).arg(&log);
    assert_eq!(succeeded(command.args(["/usr/bin/python3", "-c", program])), "-2\n");
    let trace = std::fs::read_to_string(log).unwrap();
    assert!(trace.contains("/etc/hosts"), "{trace}");
    assert!(!trace.contains("nscd") && !trace.contains("AF_INET"), "{trace}");
}

#[test]
fn getent_prints_the_pods_addresses() {
    let launcher = scripted();
    let said = succeeded(launcher.command("getent").args(["ahostsv4", "backend"]));
    assert!(said.starts_with("10.96.0.7       STREAM backend.default.svc\n"), "{said}");
    let said = succeeded(launcher.command("getent").args(["hosts", "v4only"]));
    assert_eq!(said, "10.96.0.8       v4only\n");
    let output = launcher.command("getent").args(["ahosts", "nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
