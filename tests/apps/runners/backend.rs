//! What `cargo test` builds and runs: the standard library's own harness, with its threads.
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::Command;
use std::time::Duration;

fn ask(mut stream: TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\nHost: backend\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn connects_by_name() {
    assert!(ask(TcpStream::connect("backend:80").unwrap()).contains("service=backend"));
}

#[test]
fn connects_within_a_time() {
    let address = "backend:80".to_socket_addrs().unwrap().next().unwrap();
    assert!(ask(TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap()).contains("service=backend"));
}

#[test]
fn starts_children() {
    let output = Command::new("curl").args(["-sS", "http://backend/"]).env_clear().output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("service=backend"));
}

#[test]
fn is_refused() {
    let error = TcpStream::connect("refuse:80").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
