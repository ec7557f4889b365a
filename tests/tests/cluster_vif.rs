//! What only a private network can be wrong about: whose it is, what is in it, and what becomes of it. Everything else
//! that a program sees is the other files' business, which run under this method too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what is not as expected is a failed case")]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{ChildStdout, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tp_tests::Case;
use tp_tests::case::{Folder, LIMIT, PYTHON, Running, ran};

const VIF: &str = "vif";

/// A program inside that has said something and waits for a line.
struct Inside {
    running: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Inside {
    fn start(case: &Case, program: &str) -> Self {
        let mut command = case.by(VIF, [PYTHON, "-u", "-c", program]);
        let mut running = Running::start(command.stdin(Stdio::piped()));
        let lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
        Self { running, lines }
    }

    #[track_caller]
    fn says(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn goes_on(&mut self) {
        self.running.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// The child of tp that holds the network.
    fn holder(&self) -> Pid {
        let tp = self.running.pid();
        let children = fs::read_to_string(format!("/proc/{tp}/task/{tp}/children")).unwrap();
        let others = fs::read_dir(format!("/proc/{tp}/task")).unwrap().flatten();
        let all: String = others
            .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default())
            .chain([children])
            .collect();
        let holds = |pid: &&str| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).nth(1) == Some(b"hold")
        };
        Pid::from_raw(all.split_whitespace().find(holds).unwrap().parse().unwrap())
    }
}

/// Steps: the pod's addresses can be bound and no others; all interfaces have these and loopback.
#[test]
fn the_addresses_are_the_pods_and_no_others() {
    let case = Case::new();
    let own =
        case.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIPs[*].ip}"]);
    let program = "import socket, sys, errno
for ip in sys.argv[1].split() + ['10.96.0.1', 'fd00:10:96::1', '10.88.0.2']:
    with socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET) as s:
        try: s.bind((ip, 0)); print('bound', ip)
        except OSError as error: print(errno.errorcode[error.errno], ip)
print(open('/proc/net/if_inet6').read().count('\\n'))";
    let said = ran(&mut case.by(VIF, [PYTHON, "-c", program, &own]));
    let mut expected: Vec<String> = own.split(' ').map(|ip| format!("bound {ip}")).collect();
    for ip in ["10.96.0.1", "fd00:10:96::1", "10.88.0.2"] {
        expected.push(format!("EADDRNOTAVAIL {ip}"));
    }
    // The pod's and ::1; no link-local one that the pod does not have.
    expected.push((usize::from(own.contains(':')) + 1).to_string());
    said.prints(&expected.join("\n"));
}

/// Steps: a service, and an address that nobody has.
#[test]
fn a_ping_is_never_answered_by_anybody_but_the_pinged() {
    let case = Case::new();
    for host in ["backend", "192.0.2.1", "2001:db8::1"] {
        let ping = ran(&mut case.by(VIF, ["ping", "-c", "1", "-W", "5", host]));
        assert_eq!(ping.code, 1, "{ping}");
        assert!(ping.stdout.contains("0 received"), "{ping}");
        let told = ["Packet filtered", "Administratively prohibited"];
        assert!(told.iter().any(|told| ping.stdout.contains(told)), "{ping}");
    }
}

#[test]
fn files_user_and_group_are_as_outside() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let file = folder.write("file", "outside\n", 0o644);
    let script = "id -u; id -g; stat -c '%u %i' \"$1\"; cat \"$1\"; echo inside >> \"$1\"; pwd";
    let mut command = case.by(VIF, ["sh", "-c", script, "sh", &file]);
    let said = ran(&mut command);
    let outside = fs::metadata(&file).unwrap();
    let (uid, gid, inode) = (outside.uid(), outside.gid(), outside.ino());
    let here = std::env::current_dir().unwrap();
    let here = here.display();
    said.prints(&format!("{uid}\n{gid}\n{uid} {inode}\noutside\n{here}"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "outside\ninside\n");
}

/// Steps: the holder is killed under an open connection, one that is being opened, and one that is yet to be. All end
/// with errors, and tp with the program.
#[test]
fn a_holder_that_is_killed_takes_the_network_with_it() {
    let case = Case::new();
    let program = "import errno, socket, sys
s = socket.create_connection(('tcp-echo', 7)); s.sendall(b'x'); print(s.recv(1))
sys.stdin.readline()
def told(call):
    try: return call()
    except OSError as error: return errno.errorcode.get(error.errno)
print(told(lambda: s.recv(1)))
while (said := told(lambda: socket.create_connection(('10.96.0.1', 443), 1).close())) != 'ENETUNREACH': pass
print(said)";
    let mut inside = Inside::start(&case, program);
    assert_eq!(inside.says(), "b'x'");
    kill(inside.holder(), Signal::SIGKILL).unwrap();
    inside.goes_on();
    assert_eq!(inside.says(), "ECONNRESET");
    assert_eq!(inside.says(), "ENETUNREACH");
    inside.running.ends_within(LIMIT).exits(0);
}

/// Steps: the launcher is killed over a program that takes no SIGTERM. It sees errors, and is ended.
#[test]
fn a_launcher_that_is_killed_leaves_no_program_behind() {
    let case = Case::new();
    let program = "import os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = socket.create_connection(('tcp-echo', 7))
print(os.getpid())
try: s.recv(1)
except OSError as error: print(type(error).__name__)
while True: signal.pause()";
    let mut inside = Inside::start(&case, program);
    let pid = inside.says();
    kill(inside.running.pid(), Signal::SIGKILL).unwrap();
    assert_eq!(inside.says(), "ConnectionResetError");
    let deadline = Instant::now() + LIMIT;
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "process {pid} goes on");
        sleep(Duration::from_millis(50));
    }
}

/// As the shim's programs have it: it goes on, without a network.
#[test]
fn a_process_that_outlives_the_run_has_no_network() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a folder of the laptop's user") else { return };
    let folder = Folder::new(laptop);
    let told = folder.file("told");
    let program = "import errno, os, socket, sys
if os.fork(): sys.exit(7)
for fd in 0, 1, 2: os.close(fd)
while True:
    try: socket.create_connection(('10.96.0.1', 443), 1).close()
    except OSError as error:
        if error.errno == errno.ENETUNREACH: break
open(sys.argv[1] + '.new', 'w').write('no network')
os.rename(sys.argv[1] + '.new', sys.argv[1])";
    ran(&mut case.by(VIF, [PYTHON, "-c", program, &told])).exits(7);
    let deadline = Instant::now() + LIMIT;
    while !fs::exists(&told).unwrap() {
        assert!(Instant::now() < deadline, "it was told nothing");
        sleep(Duration::from_millis(20));
    }
}

/// A debugger of the same user, outside, where it is installed: `ptrace_scope` may want rights that the owner of the
/// program's user namespace has.
#[test]
fn a_debugger_attaches_from_outside() {
    let case = Case::new();
    let Some(laptop) = case.laptop("a debugger beside the program") else { return };
    let mut inside = Inside::start(&case, "import os, sys; print(os.getpid()); sys.stdin.readline()");
    let pid = inside.says();
    // PTRACE_SEIZE and PTRACE_INTERRUPT, as gdb and strace do.
    let attach = "import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0x4206, int(sys.argv[1]), 0, 0), os.strerror(ctypes.get_errno()))";
    ran(laptop.command(PYTHON).unwrap().args(["-c", attach, &pid])).prints("0 Success");
    inside.goes_on();
    inside.running.ends_within(LIMIT).exits(0);
}

/// By UDP and TCP; all other questions are the pod's nameserver's.
#[test]
fn questions_about_names_that_are_kept_local_are_the_laptops() {
    let case = Case::new();
    for transport in ["+notcp", "+tcp"] {
        let options = ["--method", VIF, "--deployment", "web", "--local", "localhost"];
        case.tp(options, ["dig", "+short", transport, "localhost", "A"]).prints("127.0.0.1");
        let srv = ["dig", "+short", transport, "_http._tcp.backend.default.svc.cluster.local", "SRV"];
        case.tp(options, srv).says(&["backend.default.svc.cluster.local."]);
    }
}
