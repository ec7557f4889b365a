//! What is passed on is what was sent, and what could be read in two ways is one program's from there on.

use proptest::prelude::*;

use super::*;

const ODD: &str = "pOsT /a%20b?c HTTP/1.1\r\nHOST: h\r\nx-b: 1\r\nX-A:2  \r\nX-b:\t3\r\nTRANSFER-encoding: Chunked\r\n\r\n\
    00a;ext=\"q\" ;b\r\n0123456789\r\n1 \r\nx\r\n000\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n";
const ODD_ANSWER: &str = "HTTP/1.1  299  Odd, is it?\r\nB: 1\r\na:2\r\nb:3 \r\ntransfer-ENCODING: gzip, chunked\r\n\r\n\
    A;x\r\n0123456789\r\n0;last\r\nEtag: y\r\n\r\n";

#[tokio::test]
async fn messages_arrive_as_they_were_sent_byte_for_byte() {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let _alice = port.add("x-user", "alice", nobody().await);
    let mut client = port.client().await;
    client.write_all(ODD.as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    for _ in 0..3 {
        expect(&mut far, ODD).await;
        far.write_all(ODD_ANSWER.as_bytes()).await.unwrap();
        expect(&mut client, ODD_ANSWER).await;
        client.write_all(ODD.as_bytes()).await.unwrap();
    }
}

/// Requests that two programs could take for different ones, or that are none.
const BROKEN: &[&str] = &[
    "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 0x4\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length : 4\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nContent-Length: 4\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\r\n Content-Length: 4\r\n\r\n",
    "GET / HTTP/1.1\r\n Content-Length: 4\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\r\n\tb\r\n\r\n",
    "GET / HTTP/1.1\nX: a\n\n",
    "GET / HTTP/1.1\r\nX: a\nContent-Length: 4\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\rContent-Length: 4\r\n\r\n",
    "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
    "GET / HTTP/1.1\r\nno colon\r\n\r\n",
    "GET  / HTTP/1.1\r\n\r\n",
    "GET /a b HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.2\r\n\r\n",
    "GET /\r\n",
    "SSH-2.0-x\r\n",
    "EHLO x\r\n",
    "*1\r\n$4\r\nPING\r\n",
    "\x16\x03\x01\x02",
    "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
];

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_the_apps_whole() {
    let hidden = "GET /hidden HTTP/1.1\r\nx-user: alice\r\n\r\n";
    for broken in BROKEN {
        for before in ["", "GET /first HTTP/1.1\r\n\r\n"] {
            let (listener, app) = listener().await;
            let port = Port::before(app).await;
            let (others, program) = super::listener().await;
            let _alice = port.add("x-user", "alice", program);
            let mut client = port.client().await;
            client.write_all(format!("{before}{broken}{hidden}").as_bytes()).await.unwrap();
            let (mut far, _) = timeout(HANG, listener.accept()).await.expect(broken).unwrap();
            if !before.is_empty() {
                expect(&mut far, before).await;
                far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                assert_eq!(answer(&mut client).await.0, 204);
            }
            expect(&mut far, &format!("{broken}{hidden}")).await;
            far.write_all(b"HTTP/1.1 400 ?\r\n\r\n").await.unwrap();
            expect(&mut client, "HTTP/1.1 400 ?\r\n\r\n").await;
            client.shutdown().await.unwrap();
            assert_eq!(rest(&mut far).await, "");
            assert!(others.accept().now_or_never().is_none(), "{broken:?} is read by two");
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_on_the_way_makes_the_rest_its_programs() {
    for body in [
        "5\nhello\n0\n\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "x\r\n",
        "\r\n",
        "-5\r\n",
        "5 5\r\nhello\r\n",
        "5;a\nb\r\nhello\r\n",
        "10000000000000000\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\n X: a\r\n\r\n",
        "0\r\nX: a\r\n: b\r\n\r\n",
        "0\r\n\rX\r\n\r\n",
    ] {
        let (listener, app) = listener().await;
        let port = Port::before(app).await;
        let (others, program) = super::listener().await;
        let _alice = port.add("x-user", "alice", program);
        let mut client = port.client().await;
        let sent = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET / HTTP/1.1\r\nx-user: alice\r\n\r\n"
        );
        client.write_all(sent.as_bytes()).await.unwrap();
        let (mut far, _) = timeout(HANG, listener.accept()).await.unwrap().unwrap();
        expect(&mut far, &sent).await;
        far.write_all(b"HTTP/1.1 400 ?\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        drop(far);
        assert_eq!(rest(&mut client).await, "HTTP/1.1 400 ?\r\nContent-Length: 0\r\n\r\n");
        assert!(others.accept().now_or_never().is_none(), "{body:?} is read by two");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_reaches_its_client_as_it_is() {
    for said in [
        "ICY 200 OK\r\n\r\nmusic",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nmusic",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nmusic",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 4\r\n\r\nmusic",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmusic",
        "HTTP/1.1 20",
        "",
    ] {
        let (listener, app) = listener().await;
        let port = Port::before(app).await;
        let _alice = port.add("x-user", "alice", nobody().await);
        let mut client = port.client().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        expect(&mut far, "GET / HTTP/1.1\r\n\r\n").await;
        far.write_all(said.as_bytes()).await.unwrap();
        drop(far);
        assert_eq!(rest(&mut client).await, said);
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_or_does_not_end_is_the_apps() {
    for long in [true, false] {
        let (listener, app) = listener().await;
        let port = Port::before(app).await;
        let _alice = port.add("x-user", "alice", nobody().await);
        let mut client = port.client().await;
        let sent =
            format!("GET / HTTP/1.1\r\nX-User: alice\r\nX: {}", "x".repeat(if long { HEAD_MAX } else { 1 }));
        client.write_all(sent.as_bytes()).await.unwrap();
        let (mut far, _) = timeout(HANG, listener.accept()).await.unwrap().unwrap();
        expect(&mut far, &sent).await;
        client.write_all(b"\r\n\r\n").await.unwrap();
        expect(&mut far, "\r\n\r\n").await;
    }
}

/// A request that everybody reads alike, and whose it is.
fn request() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let chunk = (prop::collection::vec(any::<u8>(), 1..300), "(;[a-z]{1,9}(=[a-z]{1,5})?)?");
    let chunks = (prop::collection::vec(chunk, 0..4), "([A-Z][a-z]{1,5}: ?[ -~]{0,20}\r\n){0,2}").prop_map(
        |(chunks, trailers)| {
            let mut body = Vec::new();
            for (data, extension) in chunks {
                body.extend(format!("{:x}{extension}\r\n", data.len()).bytes());
                body.extend(data);
                body.extend(b"\r\n");
            }
            body.extend(format!("0\r\n{trailers}\r\n").bytes());
            ("Transfer-Encoding: chunked\r\n".to_owned(), body)
        },
    );
    let sized = prop::collection::vec(any::<u8>(), 0..2000)
        .prop_map(|body| (format!("content-length:{}\r\n", body.len()), body));
    let none = Just((String::new(), Vec::new()));
    (
        0..3_usize,
        "[A-Z]{3,6}",
        "/[a-z]{0,9}",
        "([A-W][a-z-]{1,9}:[ -~]{0,30}\r\n){0,4}",
        prop_oneof![chunks, sized, none],
    )
        .prop_filter("those are spoken otherwise", |(_, method, ..)| method != "HEAD" && method != "CONNECT")
        .prop_map(|(whose, method, target, headers, (length, body))| {
            let user = ["", "X-User: alice\r\n", "x-user: bob\r\n"][whose];
            let headers = headers.replace("Connection", "Connexion");
            let mut request =
                format!("{method} {target} HTTP/1.1\r\n{headers}{user}{length}\r\n").into_bytes();
            request.extend(body);
            (whose, request)
        })
}

/// A program that keeps every byte it was sent.
async fn recorder() -> (SocketAddr, Arc<std::sync::Mutex<Vec<u8>>>) {
    let (listener, address) = listener().await;
    let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = kept.clone();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let record = record.clone();
            tokio::spawn(async move {
                let (mut had, mut seen) = (Vec::new(), 0);
                while connection.read_buf(&mut had).await.is_ok_and(|length| length > 0) {
                    record.lock().unwrap().extend(&had[seen..]);
                    seen = had.len();
                    while let Some(length) = whole(&had) {
                        had.drain(..length);
                        seen -= length;
                        connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                    }
                }
            });
        }
    });
    (address, kept)
}

fn whole(bytes: &[u8]) -> Option<usize> {
    let framing::Found::Whole((request, ())) = framing::request(bytes, |_, _| ()) else { return None };
    let mut body = request.body;
    let taken = body.take(&bytes[request.length..]).unwrap();
    body.is_complete().then_some(request.length + taken)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_program_gets_its_own_requests_and_every_byte_of_them(
        requests in prop::collection::vec(request(), 1..12),
        cuts in prop::collection::vec(1..700_usize, 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let programs = [recorder().await, recorder().await, recorder().await];
            let port = Port::before(programs[0].0).await;
            let _alice = port.add("x-user", "alice", programs[1].0);
            let _bob = port.add("x-user", "bob", programs[2].0);
            let client = port.client().await;
            let (mut answers, mut asked) = client.into_split();
            let all: Vec<u8> = requests.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let writer = tokio::spawn(async move {
                let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
                while at < all.len() {
                    let end = (at + cuts.next().unwrap()).min(all.len());
                    asked.write_all(&all[at..end]).await.unwrap();
                    tokio::task::yield_now().await;
                    at = end;
                }
                asked
            });
            let mut got = vec![0; b"HTTP/1.1 204 No Content\r\n\r\n".len() * requests.len()];
            timeout(HANG, answers.read_exact(&mut got)).await.unwrap().unwrap();
            drop(writer.await.unwrap());
            for (whose, (_, kept)) in programs.iter().enumerate() {
                let wanted: Vec<u8> =
                    requests.iter().filter(|(of, _)| *of == whose).flat_map(|(_, bytes)| bytes.clone()).collect();
                assert!(*kept.lock().unwrap() == wanted, "program {whose}");
            }
        });
    }
}
