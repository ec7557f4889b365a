//! Streams of one connection of HTTP/2 to several programs, with peers that speak it by the library alone.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::*;

/// A program that serves each stream with this.
async fn program<F, S>(serve: S) -> SocketAddr
where
    S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let serve = serve.clone();
            tokio::spawn(async move {
                // Room for more than one stream that is not read.
                let mut builder = h2::server::Builder::new();
                builder.initial_connection_window_size(1024 * 1024);
                let mut connection = builder.handshake(connection).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve(request, respond));
                }
            });
        }
    });
    address
}

/// Sends back what comes, as it comes, and says in the trailers who it is and how many bytes that were.
async fn echo(name: &'static str, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut answer = Response::new(());
    if let Some(host) = request.headers().get("host") {
        answer.headers_mut().insert("had-host", host.clone());
    }
    if let Some(authority) = request.uri().authority() {
        answer.headers_mut().insert("had-authority", authority.as_str().parse().unwrap());
    }
    let mut body = request.into_body();
    let mut back = respond.send_response(answer, false).unwrap();
    let mut count = 0;
    while let Some(Ok(chunk)) = body.data().await {
        count += chunk.len();
        send(&mut back, chunk.clone()).await;
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
    trailers.insert("name", name.parse().unwrap());
    trailers.insert("count", count.into());
    back.send_trailers(trailers).unwrap();
}

async fn send(to: &mut SendStream<Bytes>, mut chunk: Bytes) {
    while !chunk.is_empty() {
        to.reserve_capacity(chunk.len());
        if to.capacity() == 0 {
            timeout(HANG, std::future::poll_fn(|cx| to.poll_capacity(cx))).await.unwrap().unwrap().unwrap();
        }
        let part = chunk.split_to(to.capacity().min(chunk.len()));
        to.send_data(part, false).unwrap();
    }
}

async fn named_echo(name: &'static str) -> SocketAddr {
    program(move |request, respond| echo(name, request, respond)).await
}

async fn connect(port: &Port) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(port.client().await).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn post(user: &str) -> Request<()> {
    let request = Request::builder().method(Method::POST).uri("http://web.shop/x?y");
    if user.is_empty() { request } else { request.header("x-user", user) }.body(()).unwrap()
}

async fn next(body: &mut RecvStream) -> Bytes {
    let chunk = timeout(HANG, body.data()).await.unwrap().unwrap().unwrap();
    body.flow_control().release_capacity(chunk.len()).unwrap();
    chunk
}

async fn trailers(body: &mut RecvStream) -> HeaderMap {
    while let Some(chunk) = timeout(HANG, body.data()).await.unwrap() {
        body.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
    }
    body.trailers().await.unwrap().unwrap()
}

#[tokio::test]
async fn streams_of_one_connection_go_to_whom_they_belong_and_talk_both_ways_for_long() {
    let port = Port::before(named_echo("app").await).await;
    let _alice = port.add("X-User", "alice", named_echo("alice").await);
    let _bob = port.add("X-User", "bob", named_echo("bob").await);
    let mut client = connect(&port).await;
    let mut open = Vec::new();
    for round in 0..60 {
        let name = ["app", "alice", "bob"][round % 3];
        let (answer, up) = client.send_request(post(if name == "app" { "" } else { name }), false).unwrap();
        open.push((name, answer.await.unwrap().into_body(), up));
    }
    for round in 0..5 {
        for (_, down, up) in &mut open {
            let said = Bytes::from(format!("message {round}"));
            send(up, said.clone()).await;
            assert_eq!(next(down).await, said);
        }
    }
    for (name, mut down, mut up) in open {
        up.send_trailers(HeaderMap::from_iter([("sum".parse().unwrap(), "1".parse().unwrap())])).unwrap();
        let trailers = trailers(&mut down).await;
        assert_eq!(
            (&trailers["name"], &trailers["sum"], &trailers["count"]),
            (&name.parse().unwrap(), &"1".parse().unwrap(), &45.into())
        );
    }
}

/// Asks once, without a body.
async fn who(client: &mut SendRequest<Bytes>, user: &str) -> String {
    let (answer, _) = client.send_request(post(user), true).unwrap();
    let answer = timeout(HANG, answer).await.unwrap().unwrap();
    if answer.status() == StatusCode::BAD_GATEWAY {
        return "502".into();
    }
    trailers(&mut answer.into_body()).await["name"].to_str().unwrap().into()
}

#[tokio::test]
async fn a_filter_that_comes_or_goes_holds_for_the_next_stream() {
    let port = Port::before(named_echo("app").await).await;
    let mut client = connect(&port).await;
    assert_eq!(who(&mut client, "alice").await, "app");
    let alice = port.add("x-user", "alice", named_echo("alice").await);
    assert_eq!(who(&mut client, "alice").await, "alice");
    let (answer, mut up) = client.send_request(post("alice"), false).unwrap();
    let mut long = answer.await.unwrap().into_body();
    drop(alice);
    assert_eq!(who(&mut client, "alice").await, "app");
    // What was being carried goes on to its end.
    send(&mut up, "still here".into()).await;
    assert_eq!(next(&mut long).await, "still here");
    up.send_data(Bytes::new(), true).unwrap();
    assert_eq!(trailers(&mut long).await["name"], "alice");
}

#[tokio::test]
async fn a_program_that_is_not_there_or_speaks_otherwise_fails_only_its_own_streams() {
    let port = Port::before(named_echo("app").await).await;
    let _alice = port.add("x-user", "alice", nobody().await);
    let _bob = port.add("x-user", "bob", named("HTTP/1").await);
    let _gone = port.routes.add(Some(by("x-user", "carol")), Arc::new(Gone));
    let mut client = connect(&port).await;
    for _ in 0..3 {
        assert_eq!(who(&mut client, "alice").await, "502");
        assert_eq!(who(&mut client, "carol").await, "app");
        assert_eq!(who(&mut client, "").await, "app");
    }
    // It waits for a request that it understands, and takes the preface for none.
    assert_eq!(who(&mut client, "bob").await, "502");
    assert_eq!(who(&mut client, "").await, "app");
}

#[tokio::test]
async fn a_program_that_goes_is_dialed_again() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            let served = tokio::spawn(echo("once", request, respond));
            // One stream a connection; those that come meanwhile are told to come again.
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
            served.await.unwrap();
        }
    });
    let port = Port::before(named_echo("app").await).await;
    let _alice = port.add("x-user", "alice", address);
    let mut client = connect(&port).await;
    for _ in 0..5 {
        assert_eq!(who(&mut client, "alice").await, "once");
        assert_eq!(who(&mut client, "").await, "app");
    }
}

#[tokio::test]
async fn a_question_to_a_program_that_goes_is_asked_of_the_next_one() {
    let port = Port::before(named_echo("app").await).await;
    let (listener, program) = listener().await;
    let alice = port.add("x-user", "alice", program);
    let mut client = connect(&port).await;
    let question = Request::get("http://h/").header("x-user", "alice").body(()).unwrap();
    let (answer, _) = client.send_request(question, true).unwrap();
    let mut far = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
    drop(far.accept().await.unwrap().unwrap());
    drop((far, listener));
    tokio::task::yield_now().await;
    drop(alice);
    let answer = timeout(HANG, answer).await.unwrap().unwrap();
    assert_eq!(trailers(&mut answer.into_body()).await["name"], "app");
}

#[tokio::test]
async fn resets_are_passed_on_with_their_reasons_both_ways() {
    let (seen_tx, mut seen_rx) = tokio::sync::mpsc::channel(1);
    let app = program(move |request, mut respond| {
        let seen_tx = seen_tx.clone();
        async move {
            match request.uri().path() {
                "/before" => respond.send_reset(Reason::REFUSED_STREAM),
                "/within" => {
                    let mut body = respond.send_response(Response::new(()), false).unwrap();
                    send(&mut body, "half".into()).await;
                    // A reset overtakes what has not left yet.
                    request.into_body().data().await;
                    body.send_reset(Reason::ENHANCE_YOUR_CALM);
                }
                "/there" => drop(respond.send_response(Response::new(()), true).unwrap()),
                "/dropped" => {
                    seen_tx.send(None).await.unwrap();
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                    seen_tx.send(Some(reason)).await.unwrap();
                }
                _ => {
                    seen_tx.send(None).await.unwrap();
                    let error = request.into_body().data().await.unwrap().unwrap_err();
                    seen_tx.send(error.reason()).await.unwrap();
                }
            }
        }
    })
    .await;
    let port = Port::before(app).await;
    let mut client = connect(&port).await;
    let ask = |path: &str| Request::post(format!("http://web{path}")).body(()).unwrap();
    let (answer, _up) = client.send_request(ask("/before"), false).unwrap();
    assert_eq!(timeout(HANG, answer).await.unwrap().unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    let (answer, mut up) = client.send_request(ask("/within"), false).unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(next(&mut body).await, "half");
    up.send_data("go on".into(), false).unwrap();
    let error = timeout(HANG, body.data()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    let (_answer, mut up) = client.send_request(ask("/by-client"), false).unwrap();
    assert_eq!(timeout(HANG, seen_rx.recv()).await.unwrap().unwrap(), None);
    up.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(timeout(HANG, seen_rx.recv()).await.unwrap().unwrap(), Some(Reason::INTERNAL_ERROR));
    // A client that does not want its answer any more, and has said all.
    let (answer, _up) = client.send_request(ask("/dropped"), true).unwrap();
    assert_eq!(timeout(HANG, seen_rx.recv()).await.unwrap().unwrap(), None);
    drop((answer, _up));
    assert_eq!(timeout(HANG, seen_rx.recv()).await.unwrap().unwrap(), Some(Reason::CANCEL));
    let (answer, _) = client.send_request(ask("/there"), true).unwrap();
    assert_eq!(timeout(HANG, answer).await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn interim_answers_come_before_the_answer() {
    let app = program(|request, mut respond| async move {
        assert_eq!(request.headers()["expect"], "100-continue");
        for status in [103, 100] {
            respond.send_informational(Response::builder().status(status).body(()).unwrap()).unwrap();
        }
        echo("app", request, respond).await;
    })
    .await;
    let port = Port::before(app).await;
    let mut client = connect(&port).await;
    let mut request = post("");
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let (mut answer, mut up) = client.send_request(request, false).unwrap();
    for status in [103, 100] {
        let interim = timeout(HANG, std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
        assert_eq!(interim.unwrap().unwrap().unwrap().status(), status);
    }
    up.send_data("body".into(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(next(&mut body).await, "body");
    assert_eq!(trailers(&mut body).await["name"], "app");
}

#[tokio::test]
async fn authority_and_host_stay_what_they_were_and_both_can_be_filtered() {
    let port = Port::before(named_echo("app").await).await;
    let _web = port.add("Host", "web.*", named_echo("web").await);
    let mut client = connect(&port).await;
    let (answer, _) = client.send_request(post(""), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["had-authority"], "web.shop");
    assert!(!answer.headers().contains_key("had-host"));
    assert_eq!(trailers(&mut answer.into_body()).await["name"], "web");
    // As a gateway from HTTP/1 sends it: only a host.
    let request =
        Request::get("/x").version(http::Version::HTTP_11).header("host", "web.x").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["had-host"], "web.x");
    assert!(!answer.headers().contains_key("had-authority"));
    assert_eq!(trailers(&mut answer.into_body()).await["name"], "web");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stalls_itself_and_no_other() {
    let app = program(|request, mut respond| async move {
        if request.uri().path() == "/stall" {
            let _body = (request.into_body(), respond.send_response(Response::new(()), false).unwrap());
            return std::future::pending().await;
        }
        echo("app", request, respond).await;
    })
    .await;
    let port = Port::before(app).await;
    let mut client = connect(&port).await;
    let stall = Request::post("http://web/stall").body(()).unwrap();
    let (answer, mut up) = client.send_request(stall, false).unwrap();
    let _stalled = timeout(HANG, answer).await.unwrap().unwrap();
    let mut sent = 0;
    // Until there is no room for as long as everything else here takes.
    loop {
        up.reserve_capacity(64 * 1024);
        if up.capacity() == 0
            && timeout(Duration::from_secs(1), std::future::poll_fn(|cx| up.poll_capacity(cx))).await.is_err()
        {
            break;
        }
        let room = up.capacity();
        sent += room;
        up.send_data(vec![0; room].into(), false).unwrap();
    }
    assert!(sent <= 2 * 1024 * 1024, "{sent} bytes are on their way to a program that reads nothing");
    // 20 MiB through the same connection.
    let (answer, mut up) = client.send_request(post(""), false).unwrap();
    let mut body = timeout(HANG, answer).await.unwrap().unwrap().into_body();
    let writer = tokio::spawn(async move {
        for _ in 0..320 {
            send(&mut up, vec![7; 64 * 1024].into()).await;
        }
        up.send_data(Bytes::new(), true).unwrap();
    });
    assert_eq!(trailers(&mut body).await["count"], "20971520");
    writer.await.unwrap();
}

#[tokio::test]
async fn hypers_client_and_server_meet_over_both_versions() {
    use http_body_util::{BodyExt as _, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let (listener, app) = listener().await;
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let first = {
                    let mut first = [0; 3];
                    connection.peek(&mut first).await.unwrap();
                    first
                };
                let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                    let body = request.into_body().collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                });
                let connection = TokioIo::new(connection);
                if &first == b"PRI" {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(connection, service).await.unwrap();
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(connection, service).await.unwrap();
                }
            });
        }
    });
    let port = Port::before(app).await;
    let _alice = port.add("x-user", "alice", nobody().await);
    let body = Bytes::from(vec![b'x'; 3 * 1024 * 1024]);
    let ask = || Request::post("http://web/").header("host", "web").body(Full::new(body.clone())).unwrap();
    let io = TokioIo::new(port.client().await);
    let (mut one, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let io = TokioIo::new(port.client().await);
    let (mut two, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        one.ready().await.unwrap();
        let got = timeout(HANG, one.send_request(ask())).await.unwrap().unwrap();
        assert!(got.into_body().collect().await.unwrap().to_bytes() == body);
        let got = timeout(HANG, two.send_request(ask())).await.unwrap().unwrap();
        assert!(got.into_body().collect().await.unwrap().to_bytes() == body);
    }
}
