//! The built `tp-agent` exposes ports of a pod that is a network namespace: real rules, real sockets, real clients.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use socks_proxy::expose::wire::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[path = "expose/crowd.rs"]
mod crowd;
#[path = "expose/net.rs"]
mod net;
#[path = "expose/strangers.rs"]
mod strangers;

use net::{NODE, POD, Pod, Talk, echo, soon, steal};

#[tokio::test]
async fn what_was_open_stays_the_apps_and_what_was_taken_stays_taken() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let mut agent = pod.agent(&[]).await;
    for (pod_ip, node_ip) in POD.into_iter().zip(NODE) {
        let mut launcher = pod.launcher(&agent).await;
        let mut before = pod.client(pod_ip, 8080).await;
        assert_eq!(before.ask("first").await, "app: first");
        let mut exposing = launcher.exposes(steal(8080)).await;
        assert!(agent.says().await.contains(r#""port":8080"#));
        let mut taken = pod.client(pod_ip, 8080).await;
        taken.say("hello").await;
        let (arrival, mut stream) = launcher.arrival().await;
        assert_eq!((arrival.expose, arrival.to), (7, format!("{pod_ip}:8080").parse().unwrap_or(arrival.to)));
        assert_eq!(
            (arrival.peer.ip().to_string(), arrival.to.ip().to_string()),
            (node_ip.into(), pod_ip.into())
        );
        assert_eq!(arrival.peer, taken.stream().local_addr().unwrap());
        assert_eq!(arrival.to.port(), 8080);
        stream.write_all(&[TAKEN]).await.unwrap();
        tokio::spawn(echo("laptop", stream));
        assert_eq!(taken.hear().await.unwrap(), "laptop: hello");
        assert_eq!(before.ask("second").await, "app: second");
        exposing.done().await;
        assert_eq!(agent.says().await, r#"{"exposed":[]}"#);
        assert_eq!(pod.client(pod_ip, 8080).await.ask("x").await, "app: x");
        assert_eq!(taken.ask("still").await, "laptop: still");
        // Half-close goes through, and the conversation ends with the last connection.
        taken.stream().shutdown().await.unwrap();
        assert_eq!(taken.hear().await.unwrap(), "");
        exposing.is_over().await;
    }
}

#[tokio::test]
async fn a_killed_agent_gives_the_port_back_at_once() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    pod.udp_app(53);
    let agent = pod.agent(&[]).await;
    let launcher = pod.launcher(&agent).await;
    let _tcp = launcher.exposes(steal(8080)).await;
    let _udp = launcher.exposes(Expose { id: 8, protocol: Protocol::Udp, ..steal(53) }).await;
    launcher.serve("laptop");
    let mut taken = pod.client(POD[0], 8080).await;
    assert_eq!(taken.ask("a").await, "laptop: a");
    agent.kill().await;
    assert_eq!(taken.hear().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    for ip in POD {
        assert_eq!(pod.client(ip, 8080).await.ask("b").await, "app: b");
        let client = pod.udp_client(ip, 53).await;
        client.send(b"c").await.unwrap();
        let mut room = [0; 64];
        let length = soon("an answer", client.recv(&mut room)).await.unwrap();
        assert_eq!(&room[..length], b"app: c");
    }
}

#[tokio::test]
async fn a_lost_launcher_resets_what_it_had_and_new_clients_are_the_apps() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let mut agent = pod.agent(&[]).await;
    let mut launcher = pod.launcher(&agent).await;
    let exposing = launcher.exposes(steal(8080)).await;
    agent.says().await;
    let mut taken = pod.client(POD[0], 8080).await;
    let (_, mut stream) = launcher.arrival().await;
    stream.write_all(&[TAKEN]).await.unwrap();
    stream.flush().await.unwrap();
    // One that the launcher has not taken yet, with something said already.
    let mut waiting = pod.client(POD[0], 8080).await;
    waiting.say("early").await;
    let (_, _unanswered) = launcher.arrival().await;
    drop(exposing);
    assert_eq!(taken.hear().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(waiting.hear().await.unwrap(), "app: early");
    assert_eq!(agent.says().await, r#"{"exposed":[]}"#);
    assert_eq!(pod.client(POD[0], 8080).await.ask("x").await, "app: x");
}

#[tokio::test]
async fn a_client_that_is_not_taken_is_the_apps_with_all_it_said_or_is_reset() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    let mut launcher = pod.launcher(&agent).await;
    let _exposing = launcher.exposes(steal(8080)).await;
    let mut client = pod.client(POD[1], 8080).await;
    client.say("one").await;
    let (_, mut stream) = launcher.arrival().await;
    let mut said = [0; 4];
    soon("the line", stream.read_exact(&mut said)).await.unwrap();
    stream.write_all(&[TO_THE_APP]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(client.hear().await.unwrap(), "app: one");
    assert_eq!(client.ask("two").await, "app: two");

    let mut client = pod.client(POD[1], 8080).await;
    drop(launcher.arrival().await);
    assert_eq!(client.hear().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn datagrams_are_answered_from_the_port_that_the_app_holds() {
    let Some(pod) = Pod::make() else { return };
    pod.udp_app(53);
    let agent = pod.agent(&[]).await;
    let mut launcher = pod.launcher(&agent).await;
    let mut exposing = launcher.exposes(Expose { protocol: Protocol::Udp, ..steal(53) }).await;
    for (ip, node) in POD.into_iter().zip(NODE) {
        let client = pod.udp_client(ip, 53).await;
        let mut room = vec![0; 65_536];
        for length in [3, 0, 9000] {
            client.send(&vec![5; length]).await.unwrap();
            if length == 3 {
                let (arrival, stream) = launcher.arrival().await;
                assert_eq!(arrival.peer, client.local_addr().unwrap());
                assert_eq!((arrival.to.ip().to_string(), arrival.to.port()), (ip.to_owned(), 53));
                assert_eq!(arrival.peer.ip().to_string(), node);
                tokio::spawn(net::echo_datagrams("laptop", stream));
            }
            let got = soon("an answer", client.recv(&mut room)).await.unwrap();
            assert_eq!(got, 8 + length);
            assert_eq!(&room[..8], b"laptop: ");
        }
    }
    let client = pod.udp_client(POD[0], 53).await;
    client.send(b"x").await.unwrap();
    launcher.arrival().await;
    exposing.done().await;
    client.send(b"y").await.unwrap();
    let mut room = [0; 64];
    let got = soon("the app's answer", client.recv(&mut room)).await.unwrap();
    assert_eq!(&room[..got], b"app: y");
}

#[tokio::test]
async fn a_mirror_hears_all_and_never_slows_the_app() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    let mut launcher = pod.launcher(&agent).await;
    let mut exposing = launcher.exposes(Expose { way: Way::Mirror, ..steal(8080) }).await;
    let mut client = pod.client(POD[0], 8080).await;
    assert_eq!(client.ask("one").await, "app: one");
    let (arrival, stream) = launcher.arrival().await;
    assert_eq!(arrival.peer, client.stream().local_addr().unwrap());
    let mut copy = Talk::new(stream);
    assert_eq!(copy.hear().await.unwrap(), "one");
    copy.say("nobody hears this").await;
    assert_eq!(client.ask("two").await, "app: two");
    assert_eq!(copy.hear().await.unwrap(), "two");
    // From here on the program takes nothing; the client's megabytes get their answers all the same.
    let line = "x".repeat(100_000);
    for _ in 0..50 {
        assert_eq!(client.ask(&line).await.len(), line.len() + 5);
    }
    let ToLauncher::Note(note) = exposing.hears().await else { panic!("not a note") };
    assert!(note.contains("too slow"), "{note}");
    assert_eq!(client.ask("three").await, "app: three");
}

#[tokio::test]
async fn datagrams_are_mirrored_too() {
    let Some(pod) = Pod::make() else { return };
    pod.udp_app(53);
    let agent = pod.agent(&[]).await;
    let mut launcher = pod.launcher(&agent).await;
    let _exposing = launcher.exposes(Expose { way: Way::Mirror, protocol: Protocol::Udp, ..steal(53) }).await;
    for ip in POD {
        let client = pod.udp_client(ip, 53).await;
        client.send(b"q").await.unwrap();
        let mut room = [0; 64];
        let got = soon("the app's answer", client.recv(&mut room)).await.unwrap();
        assert_eq!(&room[..got], b"app: q");
        let (_, mut stream) = launcher.arrival().await;
        let mut frame = [0; 3];
        soon("the copy", stream.read_exact(&mut frame)).await.unwrap();
        assert_eq!(&frame, b"\0\x01q");
    }
}

fn filtered(who: &str, run: u64) -> Expose {
    let filter = Filter { headers: vec![("x-user".into(), who.into())], path_prefix: None };
    Expose { filter: Some(filter), who: format!("{who}@laptop"), run, ..steal(8080) }
}

#[tokio::test]
async fn two_people_share_a_port_and_the_next_takes_over() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let (first, second, third) = (pod.agent(&[]).await, pod.agent(&[]).await, pod.agent(&[]).await);
    let alice = pod.launcher(&first).await;
    let bob = pod.launcher(&second).await;
    let carol = pod.launcher(&third).await;
    let mut alices = alice.exposes(filtered("alice", 1)).await;
    let _bobs = bob.exposes(filtered("bob", 2)).await;
    let _all = carol.exposes(Expose { who: "carol@laptop".into(), run: 3, ..steal(8080) }).await;
    // Whoever comes second is told, by whichever agent, and disturbs nobody.
    for launcher in [&alice, &bob, &carol] {
        let (_, answer) = launcher.expose(Expose { run: 4, ..steal(8080) }).await;
        assert_eq!(answer, ToLauncher::Held { by: "carol@laptop".into() });
    }
    alice.serve("alice");
    bob.serve("bob");
    carol.serve("carol");
    let mut client = pod.client(POD[0], 8080).await;
    for (headers, name) in [("X-User: bob\r\n", "bob"), ("x-user: alice\r\n", "alice"), ("", "carol")] {
        assert_eq!(client.get(headers).await, name);
    }
    // A person who goes in order leaves the others as they were, on the same connection, too.
    alices.done().await;
    assert_eq!(client.get("x-user: alice\r\n").await, "carol");
    assert_eq!(client.get("x-user: bob\r\n").await, "bob");
    // The agent that holds the port for all is killed.
    first.kill().await;
    for (headers, name) in [("x-user: bob\r\n", "bob"), ("x-user: alice\r\n", "carol")] {
        soon("another holder", async {
            while pod.client(POD[1], 8080).await.get(headers).await != name {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_same_run_takes_its_own_place_and_a_filter_needs_no_owner() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    let old = pod.launcher(&agent).await;
    let mut gone = old.exposes(steal(8080)).await;
    let new = pod.launcher(&agent).await;
    let mut exposing = new.exposes(steal(8080)).await;
    gone.is_over().await;
    new.serve("laptop");
    assert_eq!(pod.client(POD[0], 8080).await.ask("a").await, "laptop: a");
    exposing.done().await;

    let bob = pod.launcher(&agent).await;
    let _bobs = bob.exposes(filtered("bob", 2)).await;
    bob.serve("bob");
    let mut client = pod.client(POD[1], 8080).await;
    assert_eq!(client.get("x-user: bob\r\n").await, "bob");
    assert_eq!(client.get("").await, "app");
}

#[tokio::test]
async fn the_kubelets_probes_are_the_apps() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    let launcher = pod.launcher(&agent).await;
    // By the gateway of the default route, which is where these clients come from.
    let mut exposing = launcher.exposes(Expose { probes: true, ..steal(8080) }).await;
    let other = pod.launcher(&agent).await;
    launcher.serve("laptop");
    let probe = "User-Agent: kube-probe/1.34\r\n";
    for ip in POD {
        let mut client = pod.client(ip, 8080).await;
        assert_eq!(client.get(probe).await, "app");
        assert_eq!(client.get("User-Agent: curl/8\r\n").await, "laptop");
    }
    // What cannot be looked into is no probe, unless there is one of that kind.
    assert_eq!(pod.client(POD[0], 8080).await.ask("\x16hello").await, "laptop: \x16hello");
    exposing.done().await;
    // No probe on this port: the same words are the program's business.
    let _exposing = other.exposes(Expose { nodes: net::node(), ..steal(8080) }).await;
    other.serve("laptop");
    assert_eq!(pod.client(POD[0], 8080).await.get(probe).await, "laptop");
}

#[tokio::test]
async fn probes_by_tls_are_the_apps() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    for filtered in [false, true] {
        let launcher = pod.launcher(&agent).await;
        let probed = if filtered { self::filtered("alice", 1) } else { steal(8080) };
        let mut exposing = launcher.exposes(Expose { probes: true, tls_probes: true, ..probed }).await;
        launcher.serve("laptop");
        for ip in POD {
            assert_eq!(pod.client(ip, 8080).await.ask("\x16hello").await, "app: \x16hello");
            assert_eq!(pod.client(ip, 8080).await.get("x-user: alice\r\n").await, "laptop");
        }
        exposing.done().await;
    }
}

#[tokio::test]
async fn a_refusal_says_which_step_it_was_and_leaves_nothing() {
    let Some(pod) = Pod::make() else { return };
    pod.app(8080);
    let agent = pod.agent(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]).await;
    let launcher = pod.launcher(&agent).await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (mut exposing, answer) = launcher.expose(Expose { protocol, ..steal(8080) }).await;
        let ToLauncher::Refused { errno: libc::EPERM, step } = answer else { panic!("{answer:?}") };
        assert!(step.contains("NET_ADMIN"), "{step}");
        exposing.is_over().await;
    }
    let undeclared = Expose { declared: false, ..steal(81) };
    assert_eq!(launcher.expose(undeclared.clone()).await.1, ToLauncher::NobodyListens);
    let (_, answer) = launcher.expose(Expose { protocol: Protocol::Udp, ..filtered("bob", 2) }).await;
    assert!(matches!(answer, ToLauncher::Refused { errno: libc::EOPNOTSUPP, .. }), "{answer:?}");
    assert_eq!(pod.client(POD[0], 8080).await.ask("x").await, "app: x");
    // Listening needs no rights, and a port that is taken is said to be.
    let (_, answer) = launcher.expose(Expose { way: Way::Listen, ..steal(8080) }).await;
    let ToLauncher::Refused { errno: libc::EADDRINUSE, step } = answer else { panic!("{answer:?}") };
    assert!(step.contains(":8080"), "{step}");
}

#[tokio::test]
async fn a_pod_of_our_own_is_listened_in_and_passes_on_when_the_launcher_is_lost() {
    let Some(pod) = Pod::make() else { return };
    pod.app(9090);
    pod.udp_app(9053);
    let agent = pod.agent(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]).await;
    let mut launcher = pod.launcher(&agent).await;
    let listen = Expose { way: Way::Listen, app: Some(format!("{}:9090", POD[0])), ..steal(8080) };
    let exposing = launcher.exposes(listen.clone()).await;
    let datagrams = Expose { id: 8, protocol: Protocol::Udp, app: None, ..listen.clone() };
    let mut udp = launcher.exposes(datagrams).await;
    for ip in POD {
        let mut client = pod.client(ip, 8080).await;
        client.say("a").await;
        let (arrival, mut stream) = launcher.arrival().await;
        assert_eq!(
            (arrival.peer, arrival.to),
            ((client.stream().local_addr().unwrap()), (client.stream().peer_addr().unwrap()))
        );
        stream.write_all(&[TAKEN]).await.unwrap();
        tokio::spawn(echo("laptop", stream));
        assert_eq!(client.hear().await.unwrap(), "laptop: a");
        let client = pod.udp_client(ip, 8080).await;
        client.send(b"b").await.unwrap();
        let (_, mut stream) = launcher.arrival().await;
        stream.write_all(b"\0\x02ok").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(soon("an answer", client.recv(&mut [0; 8])).await.unwrap(), 2);
    }
    drop(exposing);
    for ip in POD {
        soon("the app's answer", async { while pod.client(ip, 8080).await.ask("b").await != "app: b" {} })
            .await;
    }
    // The launcher comes back, and ends in order this time.
    let mut exposing = launcher.exposes(listen).await;
    exposing.done().await;
    udp.done().await;
    let refused = pod.outside(|| std::net::TcpStream::connect((POD[0], 8080)).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn no_client_fails_while_a_port_is_taken_and_given_back() {
    let Some(pod) = Pod::make() else { return };
    let pod = Arc::new(pod);
    pod.app(8080);
    let agent = pod.agent(&[]).await;
    let launcher = pod.launcher(&agent).await;
    let taken = Arc::new(AtomicU32::new(0));
    let (stop_tx, stop_rx) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = [POD[0], POD[1], POD[0]]
        .into_iter()
        .map(|ip| {
            let (pod, taken, stop_rx) = (pod.clone(), taken.clone(), stop_rx.clone());
            tokio::spawn(async move {
                while !*stop_rx.borrow() {
                    match &*pod.client(ip, 8080).await.ask("x").await {
                        "laptop: x" => drop(taken.fetch_add(1, Ordering::Relaxed)),
                        answer => assert_eq!(answer, "app: x"),
                    }
                }
            })
        })
        .collect();
    let opener = launcher.serve("laptop");
    for _ in 0..10 {
        let before = taken.load(Ordering::Relaxed);
        let (mut exposing, answer) = net::expose(&opener, steal(8080)).await;
        assert_eq!(answer, ToLauncher::Ready);
        soon("some clients", async {
            while taken.load(Ordering::Relaxed) < before + 20 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        exposing.done().await;
    }
    stop_tx.send_replace(true);
    for client in clients {
        client.await.unwrap();
    }
}
