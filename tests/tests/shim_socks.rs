//! connect() under the shim behind a SOCKS5 server: blocking sockets speak with it themselves, and all else goes by the gate.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a broken server is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use tp_abi::env;
use tp_abi::errno::code;
use tp_tests::fake_launcher::{Asked, FakeLauncher, Far, Name, succeeded};

/// What the launcher's server shows of itself.
const SIGN: [u8; 16] = [7; 16];
const POD: &str = "10.96.0.7:80";

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Does {
    /// Connects: says so and talks first, in one piece, then sends back all it gets.
    Opens,
    /// Replies with this code.
    Refuses(u8),
    /// Says nothing more.
    Stalls,
    /// Hangs up.
    HangsUp,
    /// Is a web server.
    OtherWords,
    /// Is tp: takes greeting and request together, and replies with this code.
    Launcher(u8),
}

/// A SOCKS5 server, and the requests that it got.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    fn at(address: &str, does: Does) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let noted = Arc::clone(&requests);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let noted = Arc::clone(&noted);
                thread::spawn(move || serve(client, does, &noted));
            }
        });
        Self { address, requests }
    }

    /// Python under a launcher that knows this server.
    fn command(&self, launcher: &FakeLauncher, kind: &str) -> Command {
        let hex = match self.address.ip() {
            std::net::IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
            std::net::IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
        };
        let mut command = launcher.command("/usr/bin/python3");
        command.env(env::PROXY, format!("{hex},{}{kind}", self.address.port()));
        command
    }

    fn python(&self, launcher: &FakeLauncher, program: &str) -> String {
        succeeded(self.command(launcher, "").args(["-c", program]))
    }

    fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }
}

/// Each step is one message of the client's: servers may read what comes with the greeting as part of it.
fn serve(mut client: TcpStream, does: Does, noted: &Mutex<Vec<Vec<u8>>>) {
    let mut room = [0; 1024];
    if let Does::Launcher(code) = does {
        let Ok(length @ 1..) = client.read(&mut room) else { return };
        noted.lock().unwrap().push(room[..length].to_vec());
        client.write_all(&[&[5, 0, 5, code, 0, 4][..], &SIGN, &[0, 0]].concat()).unwrap();
        while let Ok(length @ 1..) = client.read(&mut room) {
            client.write_all(&room[..length]).unwrap();
        }
        return;
    }
    let Ok(3) = client.read(&mut room) else { return };
    assert_eq!(room[..3], [5, 1, 0]);
    if matches!(does, Does::OtherWords) {
        let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        return;
    }
    client.write_all(&[5, 0]).unwrap();
    let Ok(length @ 1..) = client.read(&mut room) else { return };
    noted.lock().unwrap().push(room[..length].to_vec());
    let reply = |code| [5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    match does {
        Does::Opens => {
            client.write_all(&[&reply(0), &b"220 hello\n"[..]].concat()).unwrap();
            while let Ok(length @ 1..) = client.read(&mut room) {
                client.write_all(&room[..length]).unwrap();
            }
        }
        Does::Refuses(code) => client.write_all(&reply(code)).unwrap(),
        Does::Stalls => drop(client.read(&mut room)),
        Does::HangsUp | Does::OtherWords | Does::Launcher(_) => {}
    }
}

/// What was asked but for peers, which a program may ask for as often as it likes.
fn asked(launcher: &FakeLauncher) -> Vec<Asked> {
    launcher.asked_of_the_network().into_iter().filter(|asked| *asked != Asked::Peer).collect()
}

/// What the gate was asked for. What the launcher is told may come later than the program's end.
fn connects(launcher: &FakeLauncher) -> Vec<Asked> {
    asked(launcher).into_iter().filter(|asked| matches!(asked, Asked::Connect(..))).collect()
}

fn opened(address: &str) -> Asked {
    Asked::Opened(address.parse().unwrap())
}

fn parked(address: &str) -> Asked {
    Asked::Connect(address.parse().unwrap(), false)
}

/// Steps: a server that talks first; what it says behind the reply is the program's; data goes both ways; the program, its
/// copy of the socket, and a child that inherits it know the true peer; the launcher was told and not asked.
#[test]
fn a_blocking_socket_is_opened_by_the_server_itself() {
    let (launcher, server) = (FakeLauncher::start(), Server::at("127.0.0.1:0", Does::Opens));
    let said = server.python(
        &launcher,
        "import socket, subprocess, sys, time
s = socket.create_connection(('10.96.0.7', 80)); f = s.makefile('rb'); print(f.readline())
s.sendall(b'question\\n'); print(f.readline())
while s.getpeername()[1] != 80: time.sleep(0.01)
print(s.getpeername(), s.dup().getpeername(), flush=True)
s.set_inheritable(True)
child = 'import socket; s = socket.socket(fileno=%d); print(s.getpeername()); s.sendall(b\"child\\\\n\")' % s.fileno()
subprocess.run([sys.executable, '-c', child], close_fds=False, check=True); print(f.readline(), flush=True)",
    );
    let peer = "('10.96.0.7', 80)";
    assert_eq!(said, format!("b'220 hello\\n'\nb'question\\n'\n{peer} {peer}\n{peer}\nb'child\\n'\n"));
    assert_eq!(asked(&launcher), [opened(POD)]);
    assert_eq!(server.requests(), [vec![5, 1, 0, 1, 10, 96, 0, 7, 0, 80]]);
}

/// Steps: every family of socket with a server of each family, and of both; the request has the address as it is, and a server of
/// another family than the target's is left to the gate, since a v6 socket that was connected to a v4-mapped address is no good for
/// IPv6 any more.
#[test]
fn every_family_reaches_a_server_that_it_can_reach() {
    let program = "import socket
for family, ip in ((socket.AF_INET, '10.96.0.7'), (socket.AF_INET6, '::ffff:10.96.0.7'), (socket.AF_INET6, 'fd00::7')):
    with socket.socket(family) as s: s.connect((ip, 80)); s.sendall(b'x')";
    let v6 = [&[5, 1, 0, 4, 0xfd][..], &[0; 14], &[7, 0, 80]].concat();
    let v4 = vec![5, 1, 0, 1, 10, 96, 0, 7, 0, 80];
    let to = |address: &str, v6_socket| Asked::Connect(address.parse().unwrap(), v6_socket);
    let six = "[fd00::7]:80";
    let launcher = FakeLauncher::start();
    launcher.far(six, Far::Echo);
    let server = Server::at("127.0.0.1:0", Does::Opens);
    assert_eq!(server.python(&launcher, program), "");
    assert_eq!(server.requests(), [v4.clone(), v4.clone()]);
    assert_eq!(connects(&launcher), [to(six, true)]);
    let launcher = FakeLauncher::start();
    launcher.far(POD, Far::Echo);
    let server = Server::at("[::1]:0", Does::Opens);
    assert_eq!(server.python(&launcher, program), "");
    assert_eq!(server.requests(), std::slice::from_ref(&v6));
    assert_eq!(connects(&launcher), [parked(POD), to(POD, true)]);
    let launcher = FakeLauncher::start();
    let (server, on_v6) =
        (Server::at("127.0.0.1:0", Does::Launcher(0)), Server::at("[::1]:0", Does::Launcher(0)));
    let kind = format!(",tp,{},{}", on_v6.address.port(), "07".repeat(16));
    assert_eq!(succeeded(server.command(&launcher, &kind).args(["-c", program])), "");
    let greeted = |request: &Vec<u8>| [&[5, 1, 0][..], request].concat();
    assert_eq!(server.requests(), [greeted(&v4), greeted(&v4)]);
    assert_eq!(on_v6.requests(), [greeted(&v6)]);
    assert_eq!(asked(&launcher), []);
}

/// Steps: each code of a reply is its errno; SO_ERROR is 0 after it; the same socket connects to the next server's target.
#[test]
fn each_reply_is_an_errno_and_the_socket_can_be_used_again() {
    for (reply, errno) in [
        (2, code::EACCES),
        (3, code::ENETUNREACH),
        (4, code::EHOSTUNREACH),
        (5, code::ECONNREFUSED),
        (6, code::ETIMEDOUT),
        (1, code::EHOSTUNREACH),
        (0xef, code::EHOSTUNREACH),
    ] {
        let launcher = FakeLauncher::start();
        launcher.far("10.96.0.8:80", Far::Echo);
        let server = Server::at("127.0.0.1:0", Does::Refuses(reply));
        let said = server.python(
            &launcher,
            "import socket
s = socket.socket(); print(s.connect_ex(('10.96.0.7', 80)), s.getsockopt(1, 4), s.getsockname()[0])
s.setblocking(False); s.connect_ex(('10.96.0.8', 80)); s.setblocking(True)
s.sendall(b'x'); print(s.recv(1), s.getpeername())",
        );
        assert_eq!(said, format!("{errno} 0 0.0.0.0\nb'x' ('10.96.0.8', 80)\n"));
    }
}

/// Steps: an event loop's socket goes by the gate, and the server hears nothing.
#[test]
fn a_non_blocking_socket_goes_by_the_gate() {
    let (launcher, server) = (FakeLauncher::start(), Server::at("127.0.0.1:0", Does::Opens));
    launcher.far(POD, Far::Echo);
    let said = server.python(
        &launcher,
        "import asyncio
async def main():
    r, w = await asyncio.open_connection('10.96.0.7', 80)
    w.write(b'x'); print(await r.read(1)); w.close()
asyncio.run(main())",
    );
    assert_eq!(said, "b'x'\n");
    assert_eq!((asked(&launcher), server.requests().len()), (vec![parked(POD)], 0));
}

/// Steps: the server hangs up on the request, speaks something else, is not there: the gate is asked, and what it says counts.
#[test]
fn what_the_server_does_not_settle_the_gate_does() {
    let gone = Server::at("127.0.0.1:0", Does::HangsUp);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let servers = [
        gone,
        Server::at("127.0.0.1:0", Does::OtherWords),
        Server { address: nobody, requests: Arc::default() },
    ];
    for server in servers {
        let launcher = FakeLauncher::start();
        launcher.far(POD, Far::Echo).far("10.96.0.8:80", Far::Fails(code::ETIMEDOUT));
        let said = server.python(
            &launcher,
            "import socket
s = socket.create_connection(('10.96.0.7', 80)); s.sendall(b'x'); print(s.recv(1), s.getpeername())
print(socket.socket().connect_ex(('10.96.0.8', 80)))",
        );
        assert_eq!(said, "b'x' ('10.96.0.7', 80)\n110\n");
        assert_eq!(asked(&launcher).first(), Some(&parked(POD)));
    }
}

/// Steps: the server stalls; connect() ends by the socket's own time-out for sending, and by a signal, with the errno that the
/// kernel has for each; the connection goes on by the gate, and is there later. The time-out for receiving is as it was.
#[test]
fn timeouts_and_signals_end_a_connect_that_goes_on() {
    let (launcher, server) = (FakeLauncher::start(), Server::at("127.0.0.1:0", Does::Stalls));
    launcher.far(POD, Far::Echo);
    let said = server.python(
        &launcher,
        "import socket, struct, ctypes, signal, select
libc = ctypes.CDLL(None, use_errno=True)
to = struct.pack('=HH4s8x', socket.AF_INET, socket.htons(80), socket.inet_aton('10.96.0.7'))
def goes_on(s):
    select.select([], [s], [], 20); print(s.getsockopt(1, 4), s.gettimeout()); s.sendall(b'x'); print(s.recv(1))
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack('ll', 0, 200000))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 77, 0))
print(libc.connect(s.fileno(), to, 16), ctypes.get_errno()); goes_on(s)
print(struct.unpack('ll', s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)))
signal.signal(signal.SIGALRM, lambda *a: None); signal.siginterrupt(signal.SIGALRM, True)
s = socket.socket(); signal.setitimer(signal.ITIMER_REAL, 0.2)
print(libc.connect(s.fileno(), to, 16), ctypes.get_errno()); goes_on(s)",
    );
    let goes_on = "0 None\nb'x'\n";
    assert_eq!(said, format!("-1 115\n{goes_on}(77, 0)\n-1 4\n{goes_on}"));
}

/// Steps: a signal handler that restarts calls does not end a connect(): it waits on, and the server's word ends it.
#[test]
fn a_signal_that_restarts_calls_does_not_end_a_connect() {
    let launcher = FakeLauncher::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { address: listener.local_addr().unwrap(), requests: Arc::default() };
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut room = [0; 64];
        assert_eq!(client.read(&mut room).unwrap(), 3);
        client.write_all(&[5, 0]).unwrap();
        assert!(client.read(&mut room).unwrap() > 0);
        thread::sleep(std::time::Duration::from_millis(400));
        client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        drop(client.read(&mut room));
    });
    let said = server.python(
        &launcher,
        "import socket, struct, ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
to = struct.pack('=HH4s8x', socket.AF_INET, socket.htons(80), socket.inet_aton('10.96.0.7'))
signal.signal(signal.SIGALRM, lambda *a: None); signal.siginterrupt(signal.SIGALRM, False)
s = socket.socket(); signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
print(libc.connect(s.fileno(), to, 16), ctypes.get_errno())",
    );
    assert_eq!(said, "-1 111\n");
    assert_eq!(asked(&launcher), []);
}

/// Steps: an address that stands for a name is asked about, and the server is given the name; where there are no such
/// addresses it is given the address.
#[test]
fn a_name_goes_to_the_server_as_a_name() {
    let program = "import socket; print(socket.create_connection(('198.18.0.9', 80)).recv(3))";
    let launcher = FakeLauncher::start();
    launcher.reverse("198.18.0.9", Name::Is("web.internal", Vec::new()));
    let server = Server::at("127.0.0.1:0", Does::Opens);
    assert_eq!(succeeded(server.command(&launcher, ",names").args(["-c", program])), "b'220'\n");
    assert_eq!(server.requests(), [b"\x05\x01\0\x03\x0cweb.internal\0\x50".to_vec()]);
    assert_eq!(server.python(&launcher, program), "b'220'\n");
    assert_eq!(server.requests()[1], [5, 1, 0, 1, 198, 18, 0, 9, 0, 80]);
}

/// Steps: the launcher has gone; a connect() that the server would open fails.
#[test]
fn without_a_launcher_nothing_is_opened() {
    let mut launcher = FakeLauncher::start();
    let server = Server::at("127.0.0.1:0", Does::Opens);
    launcher.die();
    let said =
        server.python(&launcher, "import socket; print(socket.socket().connect_ex(('10.96.0.7', 80)))");
    assert_eq!(said, format!("{}\n", code::ENETDOWN));
}

/// Steps: while the server stalls another thread shuts the socket down; connect() ends, and no other connection is made.
#[test]
fn another_thread_can_end_a_connect() {
    let (launcher, server) = (FakeLauncher::start(), Server::at("127.0.0.1:0", Does::Stalls));
    let said = server.python(
        &launcher,
        "import socket, threading
s = socket.socket()
threading.Timer(0.2, lambda: s.shutdown(socket.SHUT_RDWR)).start()
print(s.connect_ex(('10.96.0.7', 80)) != 0)",
    );
    assert_eq!(said, "True\n");
    assert_eq!(asked(&launcher), []);
}

/// Steps: the server is the launcher: one message has all of the request, nobody else is told of the socket, and every errno
/// comes as it is; what it leaves to the gate the gate does.
#[test]
fn the_launchers_own_server_is_asked_in_one_message() {
    let connect = "import socket; s = socket.socket(); print(s.connect_ex(('10.96.0.7', 80)), end=' ')";
    let signed = |launcher: &FakeLauncher, code, sign: &str| {
        let server = Server::at("127.0.0.1:0", Does::Launcher(code));
        let kind = format!(",tp,0,{sign}");
        let said = succeeded(server.command(launcher, &kind).args(["-c", connect]));
        (said, server.requests())
    };
    let said = |launcher: &FakeLauncher, code| signed(launcher, code, &"07".repeat(16));
    let request = vec![5, 1, 0, 5, 1, 0, 1, 10, 96, 0, 7, 0, 80];
    let launcher = FakeLauncher::start();
    assert_eq!(said(&launcher, 0), ("0 ".to_owned(), vec![request.clone()]));
    assert_eq!(said(&launcher, 0x80 | 105), ("105 ".to_owned(), vec![request.clone()]));
    assert_eq!(asked(&launcher), []);
    launcher.far(POD, Far::Refuses(code::EACCES));
    assert_eq!(said(&launcher, 7), ("13 ".to_owned(), vec![request.clone()]));
    assert_eq!(asked(&launcher), [parked(POD)]);
    // Whoever has the port and does not know the sign is not believed.
    assert_eq!(signed(&launcher, 0, &"08".repeat(16)), ("13 ".to_owned(), vec![request]));
}

/// Steps: a socket whose non-blocking connect() failed, and nobody has been told: a blocking connect() tells it, and the server
/// hears nothing.
#[test]
fn a_failure_that_was_not_told_is_the_gates_to_tell() {
    let (launcher, server) = (FakeLauncher::start(), Server::at("127.0.0.1:0", Does::Opens));
    launcher.far(POD, Far::Fails(code::EHOSTUNREACH));
    let said = server.python(
        &launcher,
        "import socket, select
s = socket.socket(); s.setblocking(False); s.connect_ex(('10.96.0.7', 80)); select.select([], [s], [], 20)
s.setblocking(True); print(s.connect_ex(('10.96.0.7', 80)) != 0)",
    );
    assert_eq!((said.as_str(), server.requests().len()), ("True\n", 0));
}
