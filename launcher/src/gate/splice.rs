//! Moves bytes between two TCP sockets of this machine without looking at them.
//!
//! What stays on the laptop, or goes to a SOCKS5 server, crosses the launcher only because the program's network ends there.
//! splice(2) hands the kernel's own pages from one socket to the other, so that the launcher costs two system calls a megabyte
//! instead of two copies. It needs a pipe for each direction: two descriptors and the user's share of pipe memory (pipe(7)), which a
//! connection has only once it has shown that it is worth it.
//!
//! The contract is that of [`relay`](socks_proxy::relay): ends are passed on one by one, an error ends both.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use socket2::SockRef;
use socks_proxy::relay::{Relayed, Side};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes after which a direction gets a pipe.
const WORTH_A_PIPE: u64 = 1 << 20;
/// Bytes of a pipe; a user without rights may have that much by default (`fs.pipe-max-size`).
const PIPE: usize = 1 << 20;
/// Bytes of a read before that.
const CHUNK: usize = 16 * 1024;

/// Copies both ways until both directions have ended, or one side fails.
pub(crate) async fn relay(a: &TcpStream, b: &TcpStream) -> Relayed {
    let (mut a_to_b, mut b_to_a) = (0, 0);
    let both = async {
        tokio::try_join!(
            direction((Side::A, a), (Side::B, b), &mut a_to_b),
            direction((Side::B, b), (Side::A, a), &mut b_to_a)
        )
    };
    let error = both.await.err();
    Relayed { a_to_b, b_to_a, left: false, error }
}

type End<'a> = (Side, &'a TcpStream);

async fn direction(from: End<'_>, to: End<'_>, moved: &mut u64) -> Result<(), (Side, io::Error)> {
    let ended = copy(from, to, moved).await?;
    if !ended {
        match pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) {
            Ok(pipe) => pass(from, to, pipe, moved).await?,
            // Without one it is slower.
            Err(_) => while !copy(from, to, moved).await? {},
        }
    }
    SockRef::from(to.1).shutdown(std::net::Shutdown::Write).map_err(|error| (to.0, error))
}

/// Copies about as much as makes a pipe worth it; whether that was all.
async fn copy(from: End<'_>, to: End<'_>, moved: &mut u64) -> Result<bool, (Side, io::Error)> {
    let until = *moved + WORTH_A_PIPE;
    while *moved < until {
        // Nothing is held while there is nothing to move.
        from.1.readable().await.map_err(|error| (from.0, error))?;
        let mut room = vec![0; CHUNK];
        let length = match from.1.try_read(&mut room) {
            Ok(0) => return Ok(true),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err((from.0, error)),
        };
        let mut rest = room.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = to.1.async_io(Interest::WRITABLE, || to.1.try_write(rest));
            let written = written.await.map_err(|error| (to.0, error))?;
            rest = rest.get(written..).unwrap_or_default();
            *moved += written as u64;
        }
    }
    Ok(false)
}

/// Passes everything on through a pipe.
async fn pass(
    from: End<'_>,
    to: End<'_>,
    (outlet, inlet): (OwnedFd, OwnedFd),
    moved: &mut u64,
) -> Result<(), (Side, io::Error)> {
    // Where the user has no more of that, a pipe of sixteen pages does it, too.
    let _ = fcntl(&inlet, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    loop {
        let take = || Ok(splice(from.1, None, &inlet, None, PIPE, flags)?);
        let mut inside = from.1.async_io(Interest::READABLE, take).await.map_err(|error| (from.0, error))?;
        if inside == 0 {
            return Ok(());
        }
        while inside > 0 {
            let give = || Ok(splice(&outlet, None, to.1, None, inside, flags)?);
            let given = to.1.async_io(Interest::WRITABLE, give).await.map_err(|error| (to.0, error))?;
            inside = inside.saturating_sub(given);
            *moved += given as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn much_goes_both_ways_in_order_and_each_end_is_passed_on() {
        let ((mut app, a), (b, service)) = (connection().await, connection().await);
        let relaying = tokio::spawn(async move { relay(&a, &b).await });
        let all: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
        let (mut from_service, mut to_service) = service.into_split();
        let echo = tokio::spawn(async move {
            let copied = tokio::io::copy(&mut from_service, &mut to_service).await.unwrap();
            to_service.write_all(b"that was all").await.unwrap();
            copied
        });
        let (mut answers, mut questions) = app.split();
        let expected = all.clone();
        let ask = async {
            questions.write_all(&all).await.unwrap();
            questions.shutdown().await.unwrap();
        };
        let mut answer = Vec::new();
        let (read, ()) = tokio::join!(answers.read_to_end(&mut answer), ask);
        read.unwrap();
        assert_eq!(echo.await.unwrap(), 5_000_000);
        assert!(answer.strip_prefix(&*expected).is_some_and(|rest| rest == b"that was all"));
        let relayed = relaying.await.unwrap();
        assert_eq!((relayed.a_to_b, relayed.b_to_a), (5_000_000, 5_000_012));
        assert!(relayed.error.is_none());
    }

    #[tokio::test]
    async fn a_reset_ends_both_directions() {
        let ((app, a), (b, mut service)) = (connection().await, connection().await);
        let relaying = tokio::spawn(async move {
            let relayed = relay(&a, &b).await;
            (relayed, a, b)
        });
        service.write_all(b"hello").await.unwrap();
        SockRef::from(&app).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        app.readable().await.unwrap();
        drop(app);
        let (relayed, ..) = relaying.await.unwrap();
        assert!(matches!(relayed.error, Some((Side::A, _))));
    }
}
