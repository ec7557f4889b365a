//! The shim fails closed: no launcher, a false one, a dying one, and traffic that is not carried.

use std::os::unix::process::CommandExt as _;
use tp_abi::errno::LAUNCHER_GONE;
use tp_tests::fake_launcher::{Asked, FakeLauncher, Far, required, succeeded};

const POD: &str = "10.96.0.7:80";

const TRY: &str = "import socket
print(socket.socket().connect_ex(('10.96.0.7', 80)))
try: socket.getaddrinfo('backend', 80)
except socket.gaierror as e: print(e.errno)
try: socket.gethostbyname('backend')
except OSError as e: print(e.errno)
print(socket.getnameinfo(('10.96.0.7', 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV))";

fn closed() -> String {
    format!("{LAUNCHER_GONE}\n-3\n-3\n('10.96.0.7', '80')\n")
}

#[test]
fn without_a_launcher_nothing_is_reached() {
    let mut launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo).name("backend", "", &["10.96.0.7"]);
    launcher.die();
    assert_eq!(launcher.python(TRY), closed());
}

#[test]
fn a_launcher_whose_socket_is_no_more_is_gone_too() {
    let launcher = FakeLauncher::start();
    std::fs::remove_file(launcher.socket()).unwrap();
    assert_eq!(launcher.python(TRY), closed());
}

#[test]
fn an_answer_that_is_none_is_not_believed() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Garbage);
    let said = launcher.python("import socket; print(socket.socket().connect_ex(('10.96.0.7', 80)))");
    assert_eq!(said, format!("{LAUNCHER_GONE}\n"));
}

#[test]
fn a_launcher_that_dies_while_it_is_asked_ends_the_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    // A launcher that reads the question and goes without a word.
    let dying = std::process::Command::new("/usr/bin/python3")
        .args([
            "-c",
            "import socket, sys
l = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); l.bind(sys.argv[1]); l.listen(1); print(flush=True)
c, _ = l.accept(); c.recv(4096); print('asked', flush=True)",
        ])
        .arg(&path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut dying = dying;
    let mut line = String::new();
    let mut ready = std::io::BufReader::new(dying.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut ready, &mut line).unwrap();
    let launcher = FakeLauncher::start();
    let mut command = launcher.command("/usr/bin/python3");
    command.env("TP_SOCKET", &path);
    let said = succeeded(
        command.args(["-c", "import socket; print(socket.socket().connect_ex(('10.96.0.7', 80)))"]),
    );
    assert_eq!(said, format!("{LAUNCHER_GONE}\n"));
    // A shim that did not ask must not hang the test.
    let _ = dying.kill();
    line.clear();
    std::io::Read::read_to_string(&mut ready, &mut line).unwrap();
    let _ = dying.wait();
    assert_eq!(line, "asked\n");
}

/// Another user who got hold of the path is not the launcher. Needs root to be two users.
#[test]
fn a_launcher_of_another_user_is_not_asked() {
    if !nix::unistd::Uid::current().is_root() {
        assert!(!required("root"), "TP_REQUIRE=root, and this is not root");
        eprintln!("not run: two users need root");
        return;
    }
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    // The path may be walked and written by anybody: only SO_PEERCRED is left to refuse.
    for path in [launcher.folder().to_path_buf(), launcher.socket()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let shim = launcher.folder().join("shim.so");
    std::fs::copy(tp_tests::shim_under_test(), &shim).unwrap();
    let mut command = launcher.command("/usr/bin/python3");
    command.env("LD_PRELOAD", &shim).uid(65534).gid(65534);
    let said = succeeded(
        command.args(["-c", "import socket; print(socket.socket().connect_ex(('10.96.0.7', 80)))"]),
    );
    assert_eq!(said, format!("{LAUNCHER_GONE}\n"));
    assert_eq!(launcher.asked(), []);
}

/// Steps: datagrams to elsewhere for which there is no relay are refused by each call that can send them; those to
/// loopback go.
#[test]
fn datagrams_do_not_leave() {
    let launcher = FakeLauncher::start();
    let program = launcher.build("datagrams");
    assert_eq!(succeeded(&mut launcher.command(program)), "ok\n");
    let elsewhere = Asked::Flow("10.96.0.7:53".parse().unwrap());
    assert!(launcher.asked().iter().all(|asked| *asked == elsewhere), "{:?}", launcher.asked());
}

/// Steps: TCP fast open by sendto, sendmsg and sendmmsg goes by the gate; options that would keep a socket from it
/// are taken without effect.
#[test]
fn fast_open_goes_by_the_gate() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo).far("10.96.0.8:80", Far::Fails(111));
    let said = launcher.python(
        "import socket
for send in (lambda s, to: s.sendto(b'x', socket.MSG_FASTOPEN, to), lambda s, to: s.sendmsg([b'x'], [], socket.MSG_FASTOPEN, to)):
    with socket.socket() as s: print(send(s, ('10.96.0.7', 80)), s.recv(9), s.getpeername())
    with socket.socket() as s:
        s.setblocking(False)
        try: send(s, ('10.96.0.7', 80))
        except BlockingIOError as e: print(e.errno)
    with socket.socket() as s:
        try: send(s, ('10.96.0.8', 80))
        except OSError as e: print(e.errno)
with socket.socket() as s:
    s.setsockopt(socket.IPPROTO_TCP, 30, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0\\0')
    s.setsockopt(socket.SOL_SOCKET, 62, max(index for index, _ in socket.if_nameindex()))
    print(s.connect_ex(('10.96.0.7', 80)))",
    );
    assert_eq!(said, format!("{}0\n", "1 b'x' ('10.96.0.7', 80)\n115\n111\n".repeat(2)));
}

/// Steps: a process without TP_SOCKET has the shim loaded and is left alone.
#[test]
fn a_process_that_is_nobodys_is_left_alone() {
    let launcher = FakeLauncher::start();
    let mut command = launcher.command("/usr/bin/python3");
    command.env_remove("TP_SOCKET");
    let said = succeeded(command.args([
        "-c",
        "import socket
l = socket.create_server(('127.0.0.1', 0)); s = socket.create_connection(l.getsockname())
print(s.getpeername() == l.getsockname(), socket.getaddrinfo('127.0.0.1', 80)[0][4])
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))
print(u.connect_ex(('10.96.0.7', 80)) in (22, 101, 113))",
    ]));
    assert_eq!(said, "True ('127.0.0.1', 80)\nTrue\n");
    assert_eq!(launcher.asked(), []);
}
