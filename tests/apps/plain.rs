//! Uses the network by Rust's standard library and prints what it is told: one line a step, the same wherever the network
//! is the same.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a program can make out of an error; messages of resolvers differ from run to run.
fn told<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| "no such name".to_owned(), |_| error.to_string()),
    }
}

fn find(name: &str) -> io::Result<BTreeSet<SocketAddr>> {
    Ok(name.to_socket_addrs()?.collect())
}

fn fetch(address: SocketAddr) -> io::Result<String> {
    let mut client = TcpStream::connect_timeout(&address, PATIENCE)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    Ok(format!("{status} from {} by {}", client.peer_addr()?, client.local_addr()?.ip()))
}

fn echo(address: SocketAddr) -> io::Result<String> {
    let client = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; 100];
    client.connect(address)?;
    client.send(b"connected")?;
    let count = client.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
}

fn main() {
    for name in ["backend:80", "external:80", "no-such-service:80", "localhost:80"] {
        let found = find(name);
        println!("name {name} {:?} {}", found.as_ref().ok(), told(found.as_ref().map_err(copy)));
    }
    for name in ["backend:80", "refuse:80", "unreachable:80", "netunreachable:80", "v6only:80"] {
        for address in find(name).unwrap_or_default() {
            let fetched = fetch(address);
            println!("tcp {address} {:?} {}", fetched.as_ref().ok(), told(fetched.as_ref().map_err(copy)));
            println!("tcp {address} without a time limit: {}", told(TcpStream::connect(address)));
        }
    }
    for name in ["udp-echo:7", "refuse:80"] {
        for address in find(name).unwrap_or_default() {
            let answer = echo(address);
            println!("udp {address} {:?} {}", answer.as_ref().ok(), told(answer.as_ref().map_err(copy)));
        }
    }
    let backend = find("backend:80").unwrap_or_default();
    let all: Vec<_> = (0..20).flat_map(|_| backend.clone()).map(|one| thread::spawn(move || fetch(one))).collect();
    let well = all.into_iter().map(|one| one.join()).filter(|one| matches!(one, Ok(Ok(_)))).count();
    println!("at once: {well}");
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)
}
