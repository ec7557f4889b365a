//! Half-close each way, errors of each side, back pressure, and that everything arrives.

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_test_io::Failing;

use super::*;

mod tokio_test_io {
    //! A connection that fails where it is told to.

    use super::*;

    /// Reads fail with `ConnectionReset` at once; writes go nowhere.
    pub(super) struct Failing;

    impl AsyncRead for Failing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (mut app, near) = duplex(1024);
    let (far, mut service) = duplex(1024);
    let relayed = tokio::spawn(relay(near, far));

    app.write_all(b"request").await.unwrap();
    app.shutdown().await.unwrap();
    let mut got = Vec::new();
    service.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"request");

    service.write_all(b"late answer").await.unwrap();
    service.shutdown().await.unwrap();
    let mut got = Vec::new();
    app.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"late answer");

    let relayed = relayed.await.unwrap();
    assert!(relayed.error.is_none());
    assert_eq!((relayed.a_to_b, relayed.b_to_a), (7, 11));
}

#[tokio::test]
async fn an_error_of_one_side_ends_the_relay_and_names_the_side() {
    let (_app, mut near) = duplex(1024);
    let relayed = relay(&mut near, Failing).await;
    let (side, error) = relayed.error.unwrap();
    assert_eq!((side, error.kind()), (Side::B, io::ErrorKind::ConnectionReset));
    let relayed = relay(Failing, &mut near).await;
    assert_eq!(relayed.error.unwrap().0, Side::A);
}

#[tokio::test]
async fn a_writer_that_is_gone_is_an_error_of_its_side() {
    let (mut app, near) = duplex(1024);
    let (far, service) = duplex(1024);
    drop(service);
    app.write_all(b"x").await.unwrap();
    let relayed = relay(near, far).await;
    assert_eq!(relayed.error.unwrap().0, Side::B);
}

#[tokio::test]
async fn everything_arrives_through_a_narrow_pipe_both_ways_at_once() {
    let (app, near) = duplex(100);
    let (far, service) = duplex(70);
    let relayed = tokio::spawn(relay(near, far));
    let up: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let down: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let (got_down, got_up) = tokio::join!(talk(app, &up), talk(service, &down));
    assert!(got_down == down && got_up == up);
    let relayed = relayed.await.unwrap();
    assert_eq!((relayed.a_to_b, relayed.b_to_a), (300_000, 200_000));
}

async fn talk(io: tokio::io::DuplexStream, say: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(io);
    let mut heard = Vec::new();
    let speak = async {
        write.write_all(say).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, listened) = tokio::join!(speak, read.read_to_end(&mut heard));
    listened.unwrap();
    heard
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_that_cannot_be_written() {
    let (mut app, near) = duplex(CHUNK);
    let (far, _unread) = duplex(10);
    let relayed = tokio::spawn(relay(near, far));
    let mut sent = 0;
    let chunk = [0; 1024];
    while let Ok(written) =
        tokio::time::timeout(std::time::Duration::from_millis(50), app.write(&chunk)).await
    {
        sent += written.unwrap();
    }
    assert!(sent <= 2 * CHUNK + 10 + 1024, "{sent} bytes were taken from a reader that nobody empties");
    relayed.abort();
}

#[tokio::test]
async fn an_app_that_has_left_is_read_to_its_end_and_not_waited_for() {
    let (mut app, near) = duplex(1024);
    let (mut far, mut service) = duplex(1024);
    app.write_all(b"last words").await.unwrap();
    drop(app);
    let relayed = relay_until(near, &mut far, |_| true).await;
    assert!(relayed.left && relayed.error.is_none());
    far.shutdown().await.unwrap();
    let mut got = Vec::new();
    service.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"last words");
}

#[tokio::test]
async fn an_app_that_is_still_there_is_waited_for() {
    let (mut app, near) = duplex(1024);
    let (far, mut service) = duplex(1024);
    let relayed = tokio::spawn(relay_until(near, far, |_| false));
    app.shutdown().await.unwrap();
    assert_eq!(service.read(&mut [0; 8]).await.unwrap(), 0);
    service.write_all(b"late").await.unwrap();
    drop(service);
    let mut got = Vec::new();
    app.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"late");
    assert!(!relayed.await.unwrap().left);
}
