//! Who gets which request, and what happens when somebody goes.

use super::*;

fn get(target: &str, header: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{header}\r\n")
}

#[tokio::test]
async fn two_people_and_the_app_share_a_connection_and_answers_keep_their_order() {
    let port = Port::before(named("app").await).await;
    let _alice = port.add("x-user", "alice", named("alice").await);
    let _bob = port.add("x-user", "bob*", named("bob").await);
    let mut client = port.client().await;
    let (mut asked, mut wanted) = (String::new(), Vec::new());
    for round in 0..40 {
        let (header, name) =
            [("", "app"), ("X-User: alice\r\n", "alice"), ("x-useR: bob2\r\n", "bob")][round % 3];
        let target = format!("/{round}");
        asked += &match round % 4 {
            0 => get(&target, header),
            1 => format!("POST {target} HTTP/1.1\r\n{header}Content-Length: 5\r\n\r\nGET /"),
            2 => format!(
                "POST {target} HTTP/1.1\r\n{header}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nGET\r\n0\r\n\r\n"
            ),
            _ => format!("DELETE {target} HTTP/1.0\r\n{header}Connection: keep-alive\r\n\r\n"),
        };
        wanted.push(format!("{name} {target}"));
    }
    client.write_all(asked.as_bytes()).await.unwrap();
    for wanted in wanted {
        assert_eq!(answer(&mut client).await, (200, wanted));
    }
}

#[tokio::test]
async fn a_filter_that_comes_or_goes_holds_for_the_next_request() {
    let port = Port::before(named("app").await).await;
    let mut client = port.client().await;
    let mut ask = async |wanted: &str| {
        client.write_all(get("/", "x-user: alice\r\n").as_bytes()).await.unwrap();
        assert_eq!(answer(&mut client).await.1, wanted);
    };
    ask("app /").await;
    let filter = port.add("x-user", "alice", named("alice").await);
    assert!(port.routes.filtered());
    ask("alice /").await;
    let rest = port.routes.add(None, Arc::new(At(named("unfiltered").await)));
    ask("alice /").await;
    drop(filter);
    ask("unfiltered /").await;
    drop(rest);
    ask("app /").await;
    assert!(!port.routes.filtered());
}

#[tokio::test]
async fn the_connection_to_a_program_whose_filter_went_is_closed_while_the_client_is_idle() {
    let port = Port::before(named("app").await).await;
    let (listener, program) = listener().await;
    let filter = port.add("x-user", "alice", program);
    let mut client = port.client().await;
    client.write_all(get("/", "x-user: alice\r\n").as_bytes()).await.unwrap();
    let (mut kept, _) = listener.accept().await.unwrap();
    expect(&mut kept, &get("/", "x-user: alice\r\n")).await;
    drop(filter);
    kept.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.0, 204);
    assert_eq!(rest(&mut kept).await, "");
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_only_its_own_requests() {
    let port = Port::before(named("app").await).await;
    let _alice = port.add("x-user", "alice", nobody().await);
    let mut client = port.client().await;
    let asked = get("/1", "x-user: alice\r\n")
        + "POST / HTTP/1.1\r\nx-user: alice\r\nContent-Length: 9\r\n\r\nGET / HTT"
        + "POST / HTTP/1.1\r\nx-user: alice\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        + &get("/2", "");
    client.write_all(asked.as_bytes()).await.unwrap();
    for _ in 0..3 {
        let (status, text) = answer(&mut client).await;
        assert!(status == 502 && text.contains("refused"), "{status} {text}");
    }
    assert_eq!(answer(&mut client).await.1, "app /2");

    client.write_all(b"HEAD / HTTP/1.1\r\nx-user: alice\r\n\r\n").await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(timeout(HANG, client.read_u8()).await.unwrap().unwrap().into());
    }
    client.write_all(get("/3", "").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut client).await.1, "app /3");

    // A client that waits for a word before it sends the body may never send it.
    client
        .write_all(b"PUT / HTTP/1.1\r\nx-user: alice\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        .await
        .unwrap();
    assert!(rest(&mut client).await.contains("Connection: close"));
}

#[tokio::test]
async fn a_program_that_gives_its_clients_back_leaves_them_to_the_app() {
    let port = Port::before(named("app").await).await;
    let _alice = port.routes.add(Some(by("x-user", "alice")), Arc::new(Gone));
    let mut client = port.client().await;
    client.write_all(get("/", "x-user: alice\r\n").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut client).await.1, "app /");
    let _rest = port.routes.add(None, Arc::new(At(named("unfiltered").await)));
    client.write_all(get("/", "x-user: alice\r\n").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut client).await.1, "unfiltered /");
}

#[tokio::test]
async fn probes_are_the_apps_when_they_may_be_the_kubelets() {
    let probe = get("/", "User-Agent: kube-probe/1.34\r\nx-user: alice\r\n");
    for (probed, first) in [(Probed::ByHttp, "app /"), (Probed::No, "alice /")] {
        let port = Port::visited(named("app").await, probed).await;
        let _alice = port.add("x-user", "alice", named("alice").await);
        let _rest = port.routes.add(None, Arc::new(At(named("unfiltered").await)));
        let mut client = port.client().await;
        client.write_all(probe.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut client).await.1, first);
        client.write_all(get("/", "").as_bytes()).await.unwrap();
        assert_eq!(answer(&mut client).await.1, "unfiltered /");
    }
}

#[tokio::test]
async fn the_apps_end_of_an_idle_connection_ends_the_clients() {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let mut client = port.client().await;
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    expect(&mut far, &get("/", "")).await;
    far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.0, 204);
    // Some say why before they end it.
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
    drop(far);
    assert_eq!(rest(&mut client).await, "HTTP/1.1 408 Request Timeout\r\n\r\n");
}

#[tokio::test]
async fn a_programs_end_of_a_kept_connection_is_no_matter_of_the_clients() {
    let port = Port::before(named("app").await).await;
    let (listener, program) = listener().await;
    let _alice = port.add("x-user", "alice", program);
    let mut client = port.client().await;
    for _ in 0..3 {
        client.write_all(get("/", "x-user: alice\r\n").as_bytes()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        expect(&mut far, &get("/", "x-user: alice\r\n")).await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut client).await.0, 204);
        drop(far);
        client.write_all(get("/", "").as_bytes()).await.unwrap();
        assert_eq!(answer(&mut client).await.1, "app /");
    }
}

#[tokio::test]
async fn a_kept_connection_that_ends_under_a_question_is_asked_again_elsewhere() {
    let port = Port::before(nobody().await).await;
    let (listener, program) = listener().await;
    let _alice = port.add("x-user", "alice", program);
    let mut client = port.client().await;
    let question = get("/", "x-user: alice\r\n");
    client.write_all(question.as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    expect(&mut far, &question).await;
    far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.0, 204);
    // It has the question, and says nothing.
    client.write_all(question.as_bytes()).await.unwrap();
    expect(&mut far, &question).await;
    drop(far);
    let (mut far, _) = listener.accept().await.unwrap();
    expect(&mut far, &question).await;
    far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.0, 204);
    // What changes something is not said twice: the client is told as the program told it.
    client.write_all(b"POST / HTTP/1.1\r\nx-user: alice\r\n\r\n").await.unwrap();
    expect(&mut far, "POST").await;
    drop(far);
    assert!(timeout(HANG, client.read(&mut [0; 9])).await.unwrap().map_or(true, |length| length == 0));
}

#[tokio::test]
async fn a_question_to_a_program_that_goes_is_asked_of_the_next_one() {
    let port = Port::before(named("app").await).await;
    let (listener, program) = listener().await;
    let alice = port.add("x-user", "alice", program);
    let mut client = port.client().await;
    let question = get("/", "x-user: alice\r\n");
    client.write_all(question.as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    expect(&mut far, &question).await;
    drop((far, listener));
    tokio::task::yield_now().await;
    drop(alice);
    assert_eq!(answer(&mut client).await, (200, "app /".to_owned()));
}

#[tokio::test]
async fn the_clients_end_is_an_end_in_order_for_the_program() {
    /// A program whose connection is reset when it is merely dropped.
    struct Torn(SocketAddr);
    impl Upstream for Torn {
        fn connect(&self, _: Visitor) -> BoxFuture<'_, Result<Stream, Refusal>> {
            async {
                let mut dialed = TcpStream::connect(self.0).await.map_err(Refusal::Failed)?;
                dialed.reset_on_drop();
                Ok(Box::new(dialed) as Stream)
            }
            .boxed()
        }
    }
    let port = Port::before(named("app").await).await;
    let (listener, program) = listener().await;
    let _alice = port.routes.add(Some(by("x-user", "alice")), Arc::new(Torn(program)));
    for header in ["", "Connection: close\r\n"] {
        let mut client = port.client().await;
        let question = get("/", &format!("x-user: alice\r\n{header}"));
        client.write_all(question.as_bytes()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        expect(&mut far, &question).await;
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut client).await.0, 204);
        drop(client);
        assert_eq!(rest(&mut far).await, "");
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side_and_half_an_answer_stays_half() {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    for torn in [true, false] {
        let mut client = port.client().await;
        client.write_all(get("/", "").as_bytes()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        expect(&mut far, &get("/", "")).await;
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        expect(&mut client, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        if torn {
            far.set_zero_linger().unwrap();
        }
        drop(far);
        let end = timeout(HANG, client.read(&mut [0; 9])).await.unwrap();
        assert_eq!(
            end.map_err(|error| error.kind()),
            if torn { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) }
        );
    }
    let mut client = port.client().await;
    client.write_all(get("/", "").as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    expect(&mut far, &get("/", "")).await;
    client.set_zero_linger().unwrap();
    drop(client);
    let end = timeout(HANG, far.read(&mut [0; 9])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_may_end_its_half_and_still_gets_its_answers() {
    let port = Port::before(named("app").await).await;
    let _alice = port.add("x-user", "alice", named("alice").await);
    let mut client = port.client().await;
    let asked = get("/1", "x-user: alice\r\n") + &get("/2", "");
    client.write_all(asked.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let answers = rest(&mut client).await;
    assert!(answers.contains("alice /1") && answers.ends_with("app /2"), "{answers}");
}

#[tokio::test]
async fn nobody_is_read_faster_than_the_other_side_takes_it() {
    const ALL: u64 = 256 * 1024 * 1024;
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let mut client = port.client().await;
    client.write_all(format!("PUT / HTTP/1.1\r\nContent-Length: {ALL}\r\n\r\n").as_bytes()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = sent.clone();
    let writer = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 * 1024];
        while counted.load(std::sync::atomic::Ordering::Relaxed) < ALL {
            client.write_all(&chunk).await.unwrap();
            counted.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::Relaxed);
        }
        answer(&mut client).await.0
    });
    let mut before = u64::MAX;
    while before != sent.load(std::sync::atomic::Ordering::Relaxed) {
        before = sent.load(std::sync::atomic::Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < ALL / 4, "{before} bytes are on their way to a program that reads nothing");
    let mut sink = vec![0; 1024 * 1024];
    let head = format!("PUT / HTTP/1.1\r\nContent-Length: {ALL}\r\n\r\n").len() as u64;
    let mut left = ALL + head;
    while left > 0 {
        left -= timeout(HANG, far.read(&mut sink)).await.unwrap().unwrap() as u64;
    }
    far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(writer.await.unwrap(), 204);
}
