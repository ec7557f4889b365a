//! Where blocking sockets come in: a SOCKS5 server (RFC 1928) on loopback, for the shim alone.
//!
//! A program that waits in connect() anyway can as well wait for an answer on the socket itself: one connection instead of a
//! question, a park and a simultaneous open, so that a connect() wakes half as many threads. What the shim does is what it does with
//! any SOCKS5 server, but for the request, which comes with the greeting, and the reply, which can carry any errno.
//!
//! Nobody else is served: the kernel says whose the other socket is (sock_diag(7)). A launcher without descriptors says so with one
//! that it keeps for that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use socket2::{Domain, Protocol, Socket, Type};
use socks_proxy::proto::{self, Command, ProtoError, Reply, Request, Target, decode_greeting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tp_abi::env::GATE_V4;
use tp_abi::errno::{code, reply, to_reply};
use tracing::{Instrument as _, debug, info_span, warn};

use crate::gate::unmapped;
use crate::pod::spoken::{Spoken, SpokenKind};
use crate::services::Services;
use crate::sys::socket::{defer_accept, is_exhausted, reserve};

/// The shim asks at once.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Connections that may wait to be taken; the kernel makes less of it (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// How long nothing is taken when there is not even the reserve.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens, for as long as the runtime that this is called in runs; what the shim is told of it.
///
/// # Errors
/// Those of bind(2).
pub(crate) fn open(services: Arc<Services>) -> io::Result<Spoken> {
    let v4 = listen(IpAddr::V4(Ipv4Addr::from(GATE_V4)))?;
    let address = v4.local_addr()?;
    if !services.gate.knows_sockets(address) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut v6_port = 0;
    let mut sign = [0; 16];
    getrandom::fill(&mut sign)?;
    let sign = Ipv6Addr::from(sign);
    // A machine without `::1` has none there.
    if let Ok(v6) = listen(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
        v6_port = v6.local_addr()?.port();
        tokio::spawn(serve(v6, sign, Arc::clone(&services)));
    }
    tokio::spawn(serve(v4, sign, services));
    Ok(Spoken { address, kind: SpokenKind::Launchers(v6_port, sign.into()) })
}

fn listen(ip: IpAddr) -> io::Result<TcpListener> {
    let at = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    // Who is taken has said what it wants: one wake-up for both.
    defer_accept(&socket)?;
    TcpListener::from_std(socket.into())
}

async fn serve(listener: TcpListener, sign: Ipv6Addr, services: Arc<Services>) {
    let mut spare = reserve().ok();
    loop {
        match listener.accept().await {
            Ok((app, _)) => {
                tokio::spawn(answer(app, sign, Arc::clone(&services)));
                spare = spare.or_else(|| reserve().ok());
            }
            Err(error) if is_exhausted(&error) && spare.take().is_some() => {
                warn!(%error, "there is hardly a descriptor left");
                if let Ok((app, _)) = listener.accept().await {
                    let _ = app.try_write(&said(sign, to_reply(code::ENOBUFS)));
                }
                spare = reserve().ok();
            }
            Err(error) => {
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(app: TcpStream, sign: Ipv6Addr, services: Arc<Services>) {
    if let Err(error) = converse(app, sign, &services).await {
        debug!(%error, "a connection was not answered");
    }
}

async fn converse(mut app: TcpStream, sign: Ipv6Addr, services: &Services) -> io::Result<()> {
    let whose = services.gate.other_end(&app)?;
    // A socket that nobody has any more is nobody's, which reads as root's.
    if !whose.is_held || whose.user != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!("it is another user's ({}), or nobody's", whose.user)));
    }
    app.set_nodelay(true)?;
    let request = tokio::time::timeout(REQUEST_LIMIT, request(&mut app))
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let (Command::Connect, Target::Ip(asked)) = (request.command, request.target) else {
        return Err(io::Error::other("it is no request of ours"));
    };
    let asked = unmapped(asked);
    if !services.scope.is_pods(asked) {
        // The gate says what becomes of it.
        return app.write_all(&said(sign, reply::COMMAND_NOT_SUPPORTED)).await;
    }
    let span = info_span!("connection", id = format_args!("{:x}", whose.cookie), %asked);
    services.gate.admit(app, whose.cookie, asked, |code| said(sign, code)).instrument(span).await
}

/// Greeting and request, which come in one piece.
async fn request(app: &mut TcpStream) -> io::Result<Request> {
    let odd = |error: ProtoError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut room = [0; 3 + proto::MESSAGE_MAX];
    let mut length = 0;
    loop {
        let rest = room.get_mut(length..).unwrap_or_default();
        // It came with the connection; the runtime would only know of it after its next look.
        let more = match nix::sys::socket::recv(app.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => app.read(rest).await?,
            more => more?,
        };
        if more == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        length += more;
        let said = room.get(..length).unwrap_or_default();
        let Some((_methods, used)) = decode_greeting(said).map_err(odd)? else { continue };
        let rest = said.get(used..).unwrap_or_default();
        if let Some((request, _)) = Request::decode(rest).map_err(odd)? {
            return Ok(request);
        }
    }
}

/// The method and the reply, as one message, with the sign that it is ours.
fn said(sign: Ipv6Addr, code: u8) -> Vec<u8> {
    let mut message = vec![proto::VERSION, proto::METHOD_NONE];
    let encoded = Reply { code, ..Reply::with((IpAddr::V6(sign), 0)) }.encode(&mut message);
    debug_assert!(encoded.is_ok(), "a reply with an address always fits");
    message
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    async fn request_in(pieces: &[&[u8]]) -> io::Result<Request> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut shim = TcpStream::connect(listener.local_addr()?).await?;
        let (mut app, _) = listener.accept().await?;
        let ask = async {
            for piece in pieces {
                shim.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(shim);
        };
        tokio::join!(request(&mut app), ask).0
    }

    #[tokio::test]
    async fn a_request_is_read_whole_or_in_pieces_and_nothing_else_is_taken_for_one() {
        let whole = [5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80];
        let asked = Target::Ip(SocketAddr::from(([10, 0, 0, 1], 80)));
        for pieces in [vec![&whole[..]], vec![&whole[..2], &whole[2..6], &whole[6..]]] {
            let request = request_in(&pieces).await.unwrap();
            assert_eq!((request.command, request.target), (Command::Connect, asked.clone()));
        }
        assert_eq!(request_in(&[&whole[..9]]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            request_in(&[b"GET / HTTP/1.1\r\n"]).await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_reply_has_the_method_before_it() {
        let sign = Ipv6Addr::from([7; 16]);
        assert_eq!(said(sign, 0), [&[5, 0, 5, 0, 0, 4][..], &[7; 16], &[0, 0]].concat());
        assert_eq!(said(sign, to_reply(code::ENOBUFS))[3], 0x80 | 105);
    }
}
