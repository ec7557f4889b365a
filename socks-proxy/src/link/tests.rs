//! Hello with right and wrong token, order of bytes, pings, and death by silence, on a paused clock.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const TOKEN: [u8; TOKEN_LEN] = [7; TOKEN_LEN];
const FLAGS: Flags = Flags { ipv4: true, ipv6: false };

async fn pair() -> (Link<DuplexStream>, Link<DuplexStream>) {
    let (laptop, pod) = duplex(64 * 1024);
    let mut client = connect(laptop, &TOKEN);
    client.flush().await.unwrap();
    (client, accept(pod, &TokenDigest::of(&TOKEN), FLAGS).await.unwrap())
}

fn reason(error: &io::Error) -> Option<&LinkError> {
    error.get_ref()?.downcast_ref()
}

#[tokio::test]
async fn bytes_cross_in_order_and_the_first_ones_do_not_wait_for_the_answer() {
    let (laptop, pod) = duplex(64 * 1024);
    let mut client = connect(laptop, &TOKEN);
    client.write_all(b"at once").await.unwrap();
    client.flush().await.unwrap();
    let flags = client.flags();
    assert_eq!(*flags.borrow(), None);

    let mut server = accept(pod, &TokenDigest::of(&TOKEN), FLAGS).await.unwrap();
    let mut got = [0; 7];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"at once");

    server.write_all(b"back").await.unwrap();
    server.flush().await.unwrap();
    let mut got = [0; 4];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"back");
    assert_eq!(*flags.borrow(), Some(FLAGS));
}

#[tokio::test]
async fn a_megabyte_each_way_comes_through_whole() {
    let (client, server) = pair().await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let echo = tokio::spawn(async move { echo(server).await });
    let (got, _) = exchange(client, &sent).await;
    assert!(got == sent);
    echo.await.unwrap();
}

async fn echo(server: Link<DuplexStream>) {
    let mut kept = Vec::new();
    let (mut read, mut write) = tokio::io::split(server);
    read.read_to_end(&mut kept).await.unwrap();
    write.write_all(&kept).await.unwrap();
    write.shutdown().await.unwrap();
}

async fn exchange(client: Link<DuplexStream>, sent: &[u8]) -> (Vec<u8>, Link<DuplexStream>) {
    let (mut read, mut write) = tokio::io::split(client);
    write.write_all(sent).await.unwrap();
    write.shutdown().await.unwrap();
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.unwrap();
    (got, read.unsplit(write))
}

#[tokio::test]
async fn a_wrong_token_is_refused_on_both_sides() {
    let (laptop, pod) = duplex(1024);
    let server = tokio::spawn(async move { accept(pod, &TokenDigest::of(&TOKEN), FLAGS).await });
    let mut client = connect(laptop, &[8; TOKEN_LEN]);
    client.write_all(&[0; 2048]).await.unwrap();
    client.flush().await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(reason(&error), Some(&LinkError::Refused));

    drop(client);
    let refused = server.await.unwrap().unwrap_err();
    assert_eq!(reason(&refused), Some(&LinkError::Refused));
}

#[tokio::test]
async fn another_protocol_is_told_from_a_link() {
    let (laptop, mut pod) = duplex(1024);
    let mut client = connect(laptop, &TOKEN);
    pod.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(reason(&error), Some(&LinkError::NotALink));

    let (mut laptop, pod) = duplex(1024);
    laptop.write_all(&[b't'; frames::CLIENT_HELLO_LEN]).await.unwrap();
    let error = accept(pod, &TokenDigest::of(&TOKEN), FLAGS).await.unwrap_err();
    assert_eq!(reason(&error), Some(&LinkError::NotALink));
}

#[tokio::test]
async fn a_link_cut_in_a_frame_is_not_an_end() {
    let (client, server) = pair().await;
    let mut raw = server.io;
    raw.write_all(&frames::server_hello(Some(FLAGS))).await.unwrap();
    raw.write_all(&frames::Header::Data(10).encode()).await.unwrap();
    raw.write_all(b"12345").await.unwrap();
    drop(raw);
    let mut client = client;
    let mut got = Vec::new();
    let error = client.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(got, b"12345");
    assert_eq!(reason(&error), Some(&LinkError::Cut));
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_lives_by_its_pings() {
    let (mut client, mut server) = pair().await;
    let started = Instant::now();
    let idle = Duration::from_secs(300);
    let outcome = tokio::time::timeout(idle, async {
        tokio::select! {
            read = client.read_u8() => read,
            read = server.read_u8() => read,
        }
    })
    .await;
    assert!(outcome.is_err(), "{outcome:?} after {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_declared_dead_by_either_side() {
    let (mut client, mut server) = pair().await;
    let started = Instant::now();
    // Nobody polls the other end, so no ping of the client is answered.
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(reason(&error), Some(&LinkError::Silent(SILENCE)));
    assert!(started.elapsed() >= SILENCE && started.elapsed() < SILENCE + PING_EVERY);

    // The pings that the client sent are heard first; then nothing.
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(reason(&error), Some(&LinkError::Silent(SILENCE)));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_stuck_notices_the_death_too() {
    let (mut client, _server) = pair().await;
    let error = client.write_all(&vec![0; 1_000_000]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_digest_is_read_as_it_is_printed() {
    let digest = TokenDigest::of(&TOKEN);
    assert_eq!(TokenDigest::from_hex(&digest.to_hex()), Some(digest.clone()));
    assert!(digest.matches(&TOKEN) && !digest.matches(&[8; 32]) && !digest.matches(b""));
    assert_eq!(TokenDigest::from_hex("12"), None);
    assert_eq!(TokenDigest::from_hex(&"g".repeat(64)), None);
    // SHA-256 of nothing, as FIPS 180-4's examples give it.
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(TokenDigest::of(b"").to_hex(), empty);
}
