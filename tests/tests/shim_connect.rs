//! connect() under the shim: what a program sees of a socket that goes by the gate.

use tp_abi::errno::code;
use tp_tests::fake_launcher::{Asked, FakeLauncher, Far};

const POD: &str = "10.96.0.7:80";
const POD6: &str = "[fd00::7]:80";

fn connects(launcher: &FakeLauncher) -> Vec<Asked> {
    launcher.asked().into_iter().filter(|asked| matches!(asked, Asked::Connect(..))).collect()
}

#[allow(clippy::unwrap_used, reason = "an address of the test's own")]
fn connect_of(address: &str, v6_socket: bool) -> Asked {
    Asked::Connect(address.parse().unwrap(), v6_socket)
}

/// Steps: the pod accepts; a blocking socket connects; data goes both ways; the launcher was asked once.
#[test]
fn a_blocking_connect_reaches_the_pod() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let said = launcher.python(
        "import socket
with socket.create_connection(('10.96.0.7', 80)) as s:
    s.sendall(b'hello'); print(s.recv(10).decode())",
    );
    assert_eq!(said, "hello\n");
    assert_eq!(launcher.asked(), [connect_of(POD, false)]);
}

/// Steps: each family of socket and spelling of address connects; data goes both ways; getpeername() is what was
/// asked for, in the socket's own family.
#[test]
fn every_family_connects_and_knows_its_peer() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo).far(POD6, Far::Echo);
    let said = launcher.python(
        "import socket
for family, ip in ((socket.AF_INET, '10.96.0.7'), (socket.AF_INET6, '::ffff:10.96.0.7'), (socket.AF_INET6, 'fd00::7')):
    with socket.socket(family) as s:
        s.connect((ip, 80)); s.sendall(b'x'); assert s.recv(10) == b'x'
        print(s.getpeername()[:2], socket.socket(fileno=s.dup().detach()).getpeername()[:2])",
    );
    assert_eq!(
        said,
        "('10.96.0.7', 80) ('10.96.0.7', 80)\n\
         ('::ffff:10.96.0.7', 80) ('::ffff:10.96.0.7', 80)\n\
         ('fd00::7', 80) ('fd00::7', 80)\n"
    );
    assert_eq!(connects(&launcher), [connect_of(POD, false), connect_of(POD, true), connect_of(POD6, true)]);
}

/// Steps: the pod fails with each errno a dial can have; a blocking connect(), and SO_ERROR after a non-blocking one,
/// say that errno; so does a second connect() on the pending socket.
#[test]
fn each_errno_of_the_pod_is_the_programs() {
    for errno in [code::ECONNREFUSED, code::ETIMEDOUT, code::EHOSTUNREACH, code::ENETUNREACH, code::EACCES] {
        let launcher = FakeLauncher::start();
        launcher.far(POD, Far::Fails(errno)).far(POD6, Far::Fails(errno));
        let said = launcher.python(
            "import socket, select
for family, ip in ((socket.AF_INET, '10.96.0.7'), (socket.AF_INET6, '::ffff:10.96.0.7'), (socket.AF_INET6, 'fd00::7')):
    with socket.socket(family) as s: print(s.connect_ex((ip, 80)), end=' ')
    with socket.socket(family) as s:
        s.setblocking(False); assert s.connect_ex((ip, 80)) == 115
        assert select.select([], [s], [], 20)[1]
        print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), end=' ')",
        );
        assert_eq!(said, format!("{errno} {errno} 0 ").repeat(3));
    }
}

/// Steps: an epoll registration is made before connect(); nothing is writable while the pod is silent; a second
/// connect() says EALREADY; when the pod accepts, one edge comes, connect() says 0 and then EISCONN.
#[test]
fn a_pending_socket_is_pending_until_the_pod_accepts() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Held);
    let mut child = launcher
        .command("/usr/bin/python3")
        .args([
            "-c",
            "import socket, select, sys
s = socket.socket(); s.setblocking(False); e = select.epoll()
e.register(s, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET); e.poll(0)
to = ('10.96.0.7', 80)
print(s.connect_ex(to), e.poll(0), s.connect_ex(to), s.getsockopt(1, 4), flush=True)
events = e.poll(20)
print([mask for _, mask in events], s.connect_ex(to), s.connect_ex(to), s.getsockopt(1, 4), flush=True)
s.setblocking(True); s.sendall(b'x'); print(s.recv(1)); s.close()",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "115 [] 114 0");
    launcher.release();
    assert_eq!(lines.next().unwrap().unwrap(), "[4] 0 106 0");
    assert_eq!(lines.next().unwrap().unwrap(), "b'x'");
    assert!(child.wait().unwrap().success());
}

/// Steps: a pending socket whose pod refuses; SO_ERROR tells it; the next connect() reaches a pod that accepts.
#[test]
fn a_failed_socket_can_be_used_again() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Fails(code::EHOSTUNREACH)).far("10.96.0.8:80", Far::Echo);
    let said = launcher.python(
        "import socket, select
s = socket.socket(); s.setblocking(False)
first = s.connect_ex(('10.96.0.7', 80)); select.select([], [s], [], 20)
error = s.getsockopt(1, 4); s.setblocking(True)
to = ('10.96.0.8', 80)
print(first, error, s.connect_ex(to)); s.sendall(b'x'); print(s.recv(1), s.getpeername())",
    );
    assert_eq!(said, "115 113 0\nb'x' ('10.96.0.8', 80)\n");
}

/// Steps: the pod is silent; a blocking connect() with a time-out of the socket's own ends by that time-out; one that
/// a signal interrupts says EINTR.
#[test]
fn a_blocking_connect_keeps_its_timeout_and_its_signals() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Held);
    let said = launcher.python(
        "import socket, struct, ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
to = struct.pack('=HH4s8x', socket.AF_INET, socket.htons(80), socket.inet_aton('10.96.0.7'))
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 100000))
print(libc.connect(s.fileno(), to, 16), ctypes.get_errno())
signal.signal(signal.SIGALRM, lambda *a: None); signal.siginterrupt(signal.SIGALRM, True)
s = socket.socket(); signal.setitimer(signal.ITIMER_REAL, 0.1)
print(libc.connect(s.fileno(), to, 16), ctypes.get_errno())",
    );
    assert_eq!(said, "-1 115\n-1 4\n");
}

/// Steps: programs of each event style fetch from the pod: curl with a peer it can name, asyncio with many at once.
#[test]
fn real_programs_fetch_over_the_gate() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Http("from the pod")).name("backend", "", &["10.96.0.7"]);
    let said = tp_tests::fake_launcher::succeeded(launcher.command("curl").args([
        "-sS",
        "--tcp-fastopen",
        "-w",
        " %{remote_ip}:%{remote_port}",
        "http://backend/",
    ]));
    assert_eq!(said, "from the pod 10.96.0.7:80");
    let said = launcher.python(
        "import asyncio
async def one():
    r, w = await asyncio.open_connection('backend', 80)
    w.write(b'GET / HTTP/1.1\\r\\n\\r\\n'); data = await r.read(); w.close(); return data.endswith(b'from the pod')
async def main(): print(sum(await asyncio.gather(*[one() for _ in range(100)])))
asyncio.run(main())",
    );
    assert_eq!(said, "100\n");
}

/// Steps: what is not for the pod is left alone: loopback in each spelling, unspecified, AF_UNIX, AF_UNSPEC.
#[test]
fn what_is_the_machines_own_never_reaches_the_launcher() {
    let launcher = FakeLauncher::start();
    let said = launcher.python(
        "import socket, ctypes, struct
l = socket.socket(socket.AF_INET6); l.setsockopt(41, 26, 0); l.bind(('::', 0)); l.listen(9); port = l.getsockname()[1]
for family, ip in ((2, '127.0.0.1'), (2, '127.5.5.5'), (2, '0.0.0.0'), (10, '::1'), (10, '::'), (10, '::ffff:127.0.0.1')):
    with socket.socket(family) as s:
        s.connect((ip, port)); assert s.getpeername()[1] == port
u = socket.socketpair(); u[0].send(b'x')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9))
print(ctypes.CDLL(None).connect(s.fileno(), struct.pack('H14x', 0), 16))",
    );
    assert_eq!(said, "0\n");
    assert_eq!(launcher.asked(), []);
}

/// Steps: the launcher's own words: an errno at once, and no gate at all.
#[test]
fn an_answer_can_refuse_or_pass() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Refuses(13)).far("10.96.0.9:80", Far::Passes);
    // The original goes to the address itself; a socket without a route there says so at once.
    let said = launcher.python(
        "import socket
print(socket.socket().connect_ex(('10.96.0.7', 80)))
s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.connect_ex(('10.96.0.9', 80)) in (22, 101, 113))",
    );
    assert_eq!(said, "13\nTrue\n");
}

/// Steps: threads connect while the main thread forks; every connection works in parent and children.
#[test]
fn forks_and_threads_do_not_disturb_each_other() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let program = launcher.build("fork_threads");
    assert_eq!(tp_tests::fake_launcher::succeeded(&mut launcher.command(program)), "ok\n");
}

/// Steps: a program that has no descriptor left gets EMFILE, as from the kernel.
#[test]
fn a_program_without_descriptors_is_told_so() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let said = launcher.python(
        "import socket, resource, os
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); s = socket.socket(); held = []
try:
    while True: held.append(os.dup(0))
except OSError: pass
print(s.connect_ex(('10.96.0.7', 80)))
os.close(held.pop()); print(s.connect_ex(('10.96.0.7', 80)))",
    );
    assert_eq!(said, "24\n0\n");
}

/// Steps: a socket is bound to an address and a port before it connects; it keeps both, and reaches the pod.
#[test]
fn a_socket_bound_before_connect_keeps_its_own_address() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let said = launcher.python(
        "import socket
s = socket.socket(); s.bind(('127.0.0.2', 0)); own = s.getsockname()
s.connect(('10.96.0.7', 80)); s.sendall(b'x'); print(s.recv(1), s.getsockname() == own, s.getpeername())",
    );
    assert_eq!(said, "b'x' True ('10.96.0.7', 80)\n");
}

/// Steps: half of a connection is closed; the other half still brings what the pod sends.
#[test]
fn half_a_connection_can_be_closed() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let said = launcher.python(
        "import socket
s = socket.create_connection(('10.96.0.7', 80)); s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR)
n = 0
while data := s.recv(65536): n += len(data)
print(n)",
    );
    assert_eq!(said, "100000\n");
}

/// A buffer shorter than the address gets its beginning and the whole length, as from the kernel (getpeername(2)).
#[test]
fn a_short_buffer_gets_a_truncated_peer() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let said = launcher.python(
        "import socket, ctypes
s = socket.create_connection(('10.96.0.7', 80)); room = ctypes.create_string_buffer(b'\\xff' * 16, 16)
length = ctypes.c_uint32(6); print(ctypes.CDLL(None).getpeername(s.fileno(), room, ctypes.byref(length)))
print(room.raw[:8].hex(), length.value)",
    );
    assert_eq!(said, "0\n020000500a60ffff 16\n");
}

/// With TP_DEBUG each decision is one line on standard error, and nothing else changes.
#[test]
fn a_program_can_be_debugged() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let output = launcher
        .command("/usr/bin/python3")
        .env("TP_DEBUG", "1")
        .args(["-c", "import socket; socket.create_connection(('10.96.0.7', 80)).close()"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "tp: connect [10.96.0.7]:80 parked\n");
}

/// Linux does not finish a simultaneous open of MPTCP, so a program that wants MPTCP gets TCP, as from such a peer.
#[test]
fn mptcp_falls_back_to_tcp() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let said = launcher.python(
        "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.settimeout(20)
s.connect(('10.96.0.7', 80)); s.sendall(b'x'); print(s.recv(1))",
    );
    assert_eq!(said, "b'x'\n");
}

/// The park lets packets of the highest time to live in; a socket that asks for it must not be accepted by the park.
#[test]
fn a_socket_with_the_highest_ttl_waits_for_the_pod_too() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Held).far(POD6, Far::Held);
    let said = launcher.python(
        "import socket, select
for family, ip, level, name in ((2, '10.96.0.7', 0, 2), (10, '::ffff:10.96.0.7', 0, 2), (10, 'fd00::7', 41, 16)):
    s = socket.socket(family); s.setsockopt(level, name, 255); s.setblocking(False)
    print(s.connect_ex((ip, 80)), select.select([], [s], [], 0.2)[1])",
    );
    assert_eq!(said, "115 []\n".repeat(3));
}

/// Steps: a socket that reached the pod, and one on its way, is at the pod's address and its own port; one that is
/// nowhere, bound, listening or connected here is where the kernel says; so is one of a family that the pod has not.
#[test]
fn a_carried_socket_is_at_the_pods_address() {
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo).far("10.96.0.8:80", Far::Held).far(POD6, Far::Echo);
    let said = launcher.python(
        "import socket
to = socket.create_connection
for family, ip in ((2, '10.96.0.7'), (10, '::ffff:10.96.0.7'), (10, 'fd00::7'), (2, '10.96.0.8')):
    with socket.socket(family) as s:
        print(s.getsockname()[:2], end=' '); s.setblocking(ip[-1] == '7'); s.connect_ex((ip, 80))
        print(s.getsockname()[0], s.getsockname()[1] != 0)
l = socket.create_server(('127.0.0.1', 0)); c = to(l.getsockname())
b = socket.socket(); b.bind(('127.0.0.3', 0)); b.connect(('10.96.0.7', 80))
print(l.getsockname()[0], c.getsockname()[0], b.getsockname()[0])",
    );
    assert_eq!(
        said,
        "('0.0.0.0', 0) 10.244.0.9 True\n('::', 0) ::ffff:10.244.0.9 True\n('::', 0) ::1 True\n\
         ('0.0.0.0', 0) 10.244.0.9 True\n127.0.0.1 127.0.0.1 127.0.0.3\n"
    );
}

/// Steps: a launcher that stands still and has room for one; a hundred threads ask it, interrupted by a signal each
/// millisecond, until none can go on; it goes on; each of them reaches the pod.
#[test]
fn a_full_backlog_and_signals_are_waited_out() {
    let launcher = FakeLauncher::standing_still();
    launcher.far(POD, Far::Echo);
    let mut child = launcher
        .command("/usr/bin/python3")
        .args([
            "-c",
            "import signal, socket, threading
signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, True)
said = []
threads = [threading.Thread(target=lambda: said.append(socket.socket().connect_ex(('10.96.0.7', 80)))) for _ in range(100)]
for thread in threads: thread.start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); signal.setitimer(signal.ITIMER_REAL, .001, .001)
print('asking', flush=True)
for thread in threads: thread.join()
signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(said.count(0), flush=True)",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "asking");
    // A moment in which signals arrive and questions wait; whatever it is too short for only makes the case easier.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(launcher.asked(), []);
    launcher.release();
    assert_eq!(lines.next().unwrap().unwrap(), "100");
    assert!(child.wait().unwrap().success());
}
