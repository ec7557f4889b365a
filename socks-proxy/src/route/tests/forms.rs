//! The forms that HTTP/1 takes: what has no body, what is no message, what is asked before it is sent.

use super::*;

/// A port before an app that this test is itself, and a client that has asked and been heard.
async fn conversation(asked: &str) -> (TcpStream, TcpStream, Registration) {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let elsewhere = port.add("x-user", "alice", nobody().await);
    let mut client = port.client().await;
    client.write_all(asked.as_bytes()).await.unwrap();
    let (mut far, _) = timeout(HANG, listener.accept()).await.unwrap().unwrap();
    expect(&mut far, asked).await;
    (client, far, elsewhere)
}

/// Each direction passes what the other side says now.
async fn talk(one: &mut TcpStream, other: &mut TcpStream, said: &str) {
    one.write_all(said.as_bytes()).await.unwrap();
    expect(other, said).await;
}

#[tokio::test]
async fn a_client_that_waits_for_continue_is_told_and_then_sends() {
    let asked = "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let (mut client, mut far, _elsewhere) = conversation(asked).await;
    talk(&mut far, &mut client, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
    talk(&mut far, &mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    talk(&mut client, &mut far, "body").await;
    talk(&mut far, &mut client, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    talk(&mut client, &mut far, "GET /b HTTP/1.1\r\n\r\n").await;
}

#[tokio::test]
async fn a_program_that_answers_before_the_body_has_come_gets_the_rest_of_it() {
    let asked = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET ";
    let (mut client, mut far, _elsewhere) = conversation(asked).await;
    talk(&mut far, &mut client, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    talk(&mut client, &mut far, "\r\n0\r\nTrailer: x\r\n\r\n").await;
    talk(&mut client, &mut far, "GET /b HTTP/1.1\r\n\r\n").await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    for (method, head) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        let (mut client, mut far, _elsewhere) = conversation(&format!("{method} / HTTP/1.1\r\n\r\n")).await;
        talk(&mut far, &mut client, head).await;
        talk(&mut client, &mut far, "GET /next HTTP/1.1\r\n\r\n").await;
    }
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let (mut client, mut far, _elsewhere) = conversation("GET / HTTP/1.1\r\n\r\n").await;
        talk(&mut far, &mut client, head).await;
        talk(&mut far, &mut client, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        drop(far);
        assert_eq!(rest(&mut client).await, "");
    }
}

#[tokio::test]
async fn the_last_answer_of_a_connection_ends_it() {
    for (asked, head) in [
        ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: CLOSE\r\nContent-Length: 0\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        // A coding beside a length: the coding holds, and nothing may follow.
        (
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
    ] {
        let (mut client, mut far, _elsewhere) = conversation(asked).await;
        talk(&mut far, &mut client, head).await;
        assert_eq!(rest(&mut client).await, "", "{asked:?} {head:?}");
        assert_eq!(rest(&mut far).await, "");
    }
}

#[tokio::test]
async fn after_a_change_of_protocol_bytes_go_both_ways_and_each_way_ends_by_itself() {
    for (asked, answered) in [
        (
            "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        ),
        ("CONNECT there:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"),
    ] {
        let (mut client, mut far, _elsewhere) = conversation(asked).await;
        talk(&mut far, &mut client, answered).await;
        let request = "GET / HTTP/1.1\r\nx-user: alice\r\n\r\n";
        talk(&mut client, &mut far, request).await;
        talk(&mut far, &mut client, "\0\r\n\r\n HTTP/1.1 200 OK\r\n\r\n").await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut far).await, "");
        talk(&mut far, &mut client, "and one more").await;
        drop(far);
        assert_eq!(rest(&mut client).await, "");
    }
}

#[tokio::test]
async fn a_refused_change_of_protocol_changes_nothing() {
    let asked = "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let (mut client, mut far, elsewhere) = conversation(asked).await;
    talk(&mut far, &mut client, "HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n").await;
    client.write_all(b"GET / HTTP/1.1\r\nx-user: alice\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.0, 502);
    drop(elsewhere);
}

#[tokio::test]
async fn half_a_request_is_told_as_half_and_its_answer_comes() {
    let asked = "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf";
    let (mut client, mut far, _elsewhere) = conversation(asked).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await, "");
    talk(&mut far, &mut client, "HTTP/1.1 400 Half\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn an_app_that_talks_first_is_heard() {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let _elsewhere = port.add("x-user", "alice", nobody().await);
    let mut client = port.client().await;
    let (mut far, _) = timeout(HANG, listener.accept()).await.unwrap().unwrap();
    talk(&mut far, &mut client, "220 ready\r\n").await;
    talk(&mut client, &mut far, "GET / HTTP/1.1\r\nx-user: alice\r\n\r\n").await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await, "");
}

#[tokio::test]
async fn a_client_that_thinks_for_long_is_routed_all_the_same() {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let _alice = port.add("x-user", "alice", named("alice").await);
    let mut client = port.client().await;
    // The app was asked for whether it talks first.
    let (mut far, _) = timeout(HANG, listener.accept()).await.unwrap().unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nx-user: alice\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut client).await.1, "alice /");
    talk(&mut client, &mut far, "GET / HTTP/1.1\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_says_nothing_and_goes_reaches_nobody() {
    let (listener, app) = listener().await;
    let port = Port::before(app).await;
    let _elsewhere = port.add("x-user", "alice", nobody().await);
    let mut client = port.client().await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    assert!(listener.accept().now_or_never().is_none());
}
