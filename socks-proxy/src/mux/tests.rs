//! Streams over an in-process pipe: many at once, half-close, reset, the session's death, a stalled reader.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc as channel;
use tokio::task::JoinHandle;

use super::*;

struct Pair {
    opener: Opener,
    arrivals: Arrivals,
    /// The server's.
    there: Opener,
    /// server driver --stream--> test
    streams_rx: channel::Receiver<MuxStream>,
    driver: JoinHandle<io::Result<()>>,
    server: JoinHandle<io::Result<()>>,
}

fn pair() -> Pair {
    let (laptop, pod) = duplex(64 * 1024);
    let (opener, arrivals, driver) = client(laptop);
    let (streams_tx, streams_rx) = channel::channel(1024);
    let session = server(pod);
    let there = session.opener();
    let server = tokio::spawn(serve(session, streams_tx));
    Pair { opener, arrivals, there, streams_rx, driver: tokio::spawn(driver), server }
}

async fn serve(mut session: Server<DuplexStream>, streams_tx: channel::Sender<MuxStream>) -> io::Result<()> {
    while let Some(stream) = session.accept().await? {
        streams_tx.send(stream).await.unwrap();
    }
    Ok(())
}

impl Pair {
    async fn stream(&mut self) -> (MuxStream, MuxStream) {
        let mut here = self.opener.open().await.unwrap();
        here.write_all(b"!").await.unwrap();
        let mut there = self.streams_rx.recv().await.unwrap();
        assert_eq!(there.read_u8().await.unwrap(), b'!');
        (here, there)
    }
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    here.write_all(b"question").await.unwrap();
    here.shutdown().await.unwrap();
    let mut got = Vec::new();
    there.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    there.write_all(b"answer").await.unwrap();
    there.shutdown().await.unwrap();
    let mut got = Vec::new();
    here.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"answer");
}

#[tokio::test]
async fn a_dropped_stream_is_a_reset_and_not_an_end() {
    let mut pair = pair();
    let (here, mut there) = pair.stream().await;
    drop(here);
    assert_eq!(there.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(there.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_after_the_own_end_is_still_a_reset() {
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    here.shutdown().await.unwrap();
    assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
    there.write_all(b"half of i").await.unwrap();
    there.flush().await.unwrap();
    drop(there);
    let mut got = Vec::new();
    assert_eq!(here.read_to_end(&mut got).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(got, b"half of i");
}

#[tokio::test]
async fn whoever_writes_to_a_stream_that_ended_and_went_is_told() {
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    there.shutdown().await.unwrap();
    drop(there);
    assert_eq!(here.read(&mut [0]).await.unwrap(), 0);
    let chunk = [0; 4096];
    let error = loop {
        if let Err(error) = here.write_all(&chunk).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_session_ends_when_nobody_uses_it_and_what_was_written_has_arrived() {
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    here.write_all(b"last words").await.unwrap();
    here.shutdown().await.unwrap();
    drop((here, pair.opener));
    pair.driver.await.unwrap().unwrap();
    pair.server.await.unwrap().unwrap();
    let mut got = Vec::new();
    there.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
}

#[tokio::test]
async fn the_end_of_the_session_resets_its_streams() {
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    here.shutdown().await.unwrap();
    pair.server.abort();
    drop(pair.server.await);
    assert_eq!(here.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(there.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    pair.driver.await.unwrap().unwrap();
    pair.opener.closed().await;
    assert_eq!(pair.opener.open().await.unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn a_reader_that_stalls_does_not_stall_the_others() {
    let mut pair = pair();
    let (mut stalled, _unread) = pair.stream().await;
    let flood = tokio::spawn(async move {
        let chunk = [0; 4096];
        while stalled.write_all(&chunk).await.is_ok() {}
    });
    for _ in 0..20 {
        let (mut here, mut there) = pair.stream().await;
        let sent = vec![5; 300_000];
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            here.write_all(&copy).await.unwrap();
            here.shutdown().await.unwrap();
            here
        });
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
        drop(writer.await.unwrap());
    }
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn two_thousand_streams_at_once_each_get_their_own_echo() {
    let pair = pair();
    let mut streams_rx = pair.streams_rx;
    let echo = tokio::spawn(async move {
        while let Some(mut stream) = streams_rx.recv().await {
            tokio::spawn(async move {
                let mut four = [0; 4];
                stream.read_exact(&mut four).await.unwrap();
                stream.write_all(&four).await.unwrap();
                stream.shutdown().await.unwrap();
                drop(stream.read(&mut four).await);
            });
        }
    });
    let mut open = Vec::new();
    for number in 0..2_000_u32 {
        let mut stream = pair.opener.open().await.unwrap();
        stream.write_all(&number.to_be_bytes()).await.unwrap();
        open.push(stream);
    }
    for (number, mut stream) in (0..).zip(open) {
        assert_eq!(stream.read_u32().await.unwrap(), number);
        stream.shutdown().await.unwrap();
    }
    pair.driver.abort();
    drop(pair.driver.await);
    pair.server.await.unwrap().unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn the_server_opens_streams_too_and_more_than_may_wait_for_a_first_word() {
    let mut pair = pair();
    let mut open = Vec::new();
    for number in 0..600_u32 {
        let mut there = pair.there.open().await.unwrap();
        there.write_all(&number.to_be_bytes()).await.unwrap();
        open.push(there);
    }
    let mut taken = Vec::new();
    for number in 0..600 {
        let mut here = pair.arrivals.next().await.unwrap();
        assert_eq!(here.read_u32().await.unwrap(), number);
        taken.push(here);
    }
    for (number, (mut here, mut there)) in (0..).zip(taken.into_iter().zip(open)) {
        here.write_u32(number).await.unwrap();
        here.shutdown().await.unwrap();
        assert_eq!(there.read_u32().await.unwrap(), number);
        assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
        there.shutdown().await.unwrap();
        assert_eq!(here.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_the_server_opens_is_reset_when_nobody_takes_it() {
    let Pair { arrivals, there, opener, driver, .. } = pair();
    drop(arrivals);
    let mut stream = there.open().await.unwrap();
    stream.write_all(b"anybody?").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    drop((opener, driver));
}

#[tokio::test]
async fn a_stream_that_the_server_opened_keeps_the_session() {
    let Pair { mut arrivals, there, opener, driver, .. } = pair();
    let mut stream = there.open().await.unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut here = arrivals.next().await.unwrap();
    drop((opener, arrivals));
    assert_eq!(here.read_u8().await.unwrap(), b'?');
    here.write_all(b"!").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
    drop(here);
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn bytes_that_are_not_frames_end_the_session_with_an_error() {
    let (mut laptop, pod) = duplex(1024);
    let mut session = server(pod);
    laptop.write_all(&[0xEE; 64]).await.unwrap();
    assert!(session.accept().await.is_err());
}

/// A transport that counts what it is given to write.
struct Counted(DuplexStream, Arc<std::sync::atomic::AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn what_streams_say_at_the_same_moment_leaves_in_one_message() {
    const TOKEN: [u8; crate::link::TOKEN_LEN] = [7; crate::link::TOKEN_LEN];
    let (here, there) = duplex(64 * 1024);
    let written = Arc::default();
    let (opener, _arrivals, driver) =
        client(crate::link::connect(Counted(here, Arc::clone(&written)), &TOKEN));
    let _driver = tokio::spawn(driver);
    let digest = crate::link::TokenDigest::of(&TOKEN);
    let link = crate::link::accept(there, &digest, crate::link::Flags::default()).await.unwrap();
    let (streams_tx, mut streams_rx) = channel::channel(16);
    let _server = tokio::spawn(async move {
        let mut session = server(link);
        while let Some(stream) = session.accept().await? {
            streams_tx.send(stream).await.unwrap();
        }
        Ok::<_, io::Error>(())
    });
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(opener.open().await.unwrap());
    }
    let before = written.load(std::sync::atomic::Ordering::Relaxed);
    for stream in &mut streams {
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
    }
    // One that is dropped after its end says both at once, too.
    let mut last = streams.remove(0);
    last.shutdown().await.unwrap();
    drop(last);
    for _ in 0..10 {
        assert_eq!(streams_rx.recv().await.unwrap().read_u8().await.unwrap(), b'h');
    }
    assert_eq!(written.load(std::sync::atomic::Ordering::Relaxed) - before, 1);
}

#[tokio::test]
async fn a_stream_that_is_left_ends_by_itself_and_takes_no_answer() {
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    here.write_all(b"last words").await.unwrap();
    here.leave();
    let mut got = Vec::new();
    there.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
    // The reset is right behind the end.
    while there.write_all(b"x").await.is_ok() {
        tokio::task::yield_now().await;
    }
    there.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_end_leaves_with_what_leaves_next() {
    let mut pair = pair();
    let ((here, mut there), (mut other, _other)) = (pair.stream().await, pair.stream().await);
    tokio::time::pause();
    here.leave();
    other.flush().await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(there.read(&mut [0]).await.unwrap(), 0);
    assert!(begun.elapsed().is_zero());
}

#[tokio::test]
async fn what_a_full_window_keeps_back_is_said_before_the_end() {
    const MUCH: usize = 600 * 1024;
    let mut pair = pair();
    let (mut here, mut there) = pair.stream().await;
    let write = tokio::spawn(async move {
        here.write_all(&vec![7; MUCH]).await.unwrap();
        here.leave();
    });
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let mut got = Vec::new();
    there.read_to_end(&mut got).await.unwrap();
    write.await.unwrap();
    assert_eq!(got.len(), MUCH);
}
