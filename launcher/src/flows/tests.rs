//! Relays and flows with a scripted pod behind them; the apps' sockets are this process's own.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::pod::datagrams::Datagrams;
use crate::pod::{DialError, Found, LookupError, Stream, Want};

const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7)), 7);
const REFUSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 8)), 7);
const STALLED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 9)), 7);
const ENDS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11)), 7);
const NO_WAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 7);

/// Echoes, echoes once, refuses each datagram, reads nothing at all, or has no way, by the address.
#[derive(Default)]
struct Scripted {
    opened: AtomicUsize,
}

impl Pod for Scripted {
    fn dial(&self, _: SocketAddr) -> BoxFuture<'_, Result<Stream, DialError>> {
        unreachable!("datagrams are not dialled")
    }

    fn lookup(&self, _: String, _: Want) -> BoxFuture<'_, Result<Found, LookupError>> {
        unreachable!("no name is looked up")
    }

    fn reverse(&self, _: IpAddr) -> BoxFuture<'_, Result<String, LookupError>> {
        unreachable!("no address is looked up")
    }

    fn carries_datagrams(&self, _: SocketAddr) -> bool {
        true
    }

    fn datagrams(&self, target: SocketAddr) -> BoxFuture<'_, Result<Datagrams, DialError>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        async move {
            if target == NO_WAY {
                return Err(DialError::from_reply(3));
            }
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let stream = TcpStream::connect(listener.local_addr()?).await?;
            let (far, _) = listener.accept().await?;
            tokio::spawn(answer(target, far));
            Ok(Datagrams::new(Box::new(stream), None))
        }
        .boxed()
    }
}

async fn answer(target: SocketAddr, mut far: TcpStream) {
    if target == STALLED {
        return std::future::pending().await;
    }
    while let Ok(length) = far.read_u16().await {
        let mut datagram = vec![0; length.into()];
        far.read_exact(&mut datagram).await.unwrap();
        let answer = match target {
            REFUSED => vec![0xff, 0xff, 5],
            _ => [&length.to_be_bytes()[..], &datagram].concat(),
        };
        far.write_all(&answer).await.unwrap();
        if target == ENDS {
            return;
        }
    }
}

fn flows() -> (Arc<Scripted>, Arc<Flows>) {
    let pod = Arc::new(Scripted::default());
    let flows = Flows::new(Arc::clone(&pod) as Arc<dyn Pod>);
    (pod, flows)
}

async fn app() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// A socket that is connected as the shim connects one.
async fn connected(flows: &Arc<Flows>, asked: SocketAddr) -> UdpSocket {
    let app = app().await;
    let copy = std::os::fd::AsFd::as_fd(&app).try_clone_to_owned().unwrap();
    let pid = i32::try_from(std::process::id()).unwrap();
    let way = flows.connected(asked, copy, (pid, app.as_raw_fd())).unwrap();
    app.connect(way.relay).await.unwrap();
    app
}

/// What does not come would otherwise be waited for for ever.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes milliseconds")
}

async fn comes_back(app: &UdpSocket, relay: SocketAddr, datagram: &[u8]) {
    let mut got = vec![0; 70_000];
    app.send_to(datagram, relay).await.unwrap();
    let (length, from) = within(app.recv_from(&mut got)).await.unwrap();
    assert!(got.get(..length) == Some(datagram) && from == relay);
}

#[tokio::test]
async fn all_who_send_to_one_destination_share_a_relay_and_each_has_a_flow() {
    let (pod, flows) = flows();
    let way = flows.shared(ECHO).unwrap();
    assert!(!way.connected);
    assert_eq!(flows.shared(ECHO).unwrap(), way);
    assert_ne!(flows.shared(REFUSED).unwrap().relay, way.relay);
    assert_eq!(flows.behind(way.relay), Some(ECHO));
    assert_eq!(flows.behind(ECHO), None);
    let (one, other) = (app().await, app().await);
    for _ in 0..3 {
        comes_back(&one, way.relay, b"one").await;
        comes_back(&other, way.relay, &[7; 65_507]).await;
    }
    assert_eq!(pod.opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connected_socket_has_a_relay_of_its_own_that_takes_nobody_elses_datagrams() {
    let (_, flows) = flows();
    let app = connected(&flows, ECHO).await;
    let relay = app.peer_addr().unwrap();
    comes_back(&app, relay, b"mine").await;
    assert!(flows.shared(ECHO).unwrap().connected);
    assert_ne!(flows.shared(ECHO).unwrap().relay, relay);
    // Connected as well, so that the kernel tells of the closed door.
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stranger.connect(relay).await.unwrap();
    stranger.send(b"theirs").await.unwrap();
    let refused = within(stranger.recv(&mut [0; 9])).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_refused_port_is_told_to_the_connected_socket_and_it_can_go_on() {
    let (_, flows) = flows();
    let app = connected(&flows, REFUSED).await;
    for _ in 0..3 {
        app.send(b"x").await.unwrap();
        let refused = within(app.recv(&mut [0; 9])).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn a_stalled_flow_loses_datagrams_and_delays_nobody() {
    let (_, flows) = flows();
    let (stalled, echo) = (flows.shared(STALLED).unwrap().relay, flows.shared(ECHO).unwrap().relay);
    let (one, other) = (app().await, app().await);
    for _ in 0..400 {
        one.send_to(&[0; 60_000], stalled).await.unwrap();
        comes_back(&other, echo, b"on").await;
    }
    let queued: usize = flows.state().flows.values().map(|flow| flow.queued()).sum();
    assert!(queued < 1 << 20, "{queued} bytes wait");
}

#[tokio::test]
async fn what_a_connected_socket_sends_too_much_stays_in_its_kernel_and_delays_nobody() {
    let (_, flows) = flows();
    let (stalled, other) = (connected(&flows, STALLED).await, connected(&flows, ECHO).await);
    let echo = other.peer_addr().unwrap();
    for _ in 0..400 {
        stalled.send(&[0; 60_000]).await.unwrap();
        comes_back(&other, echo, b"on").await;
    }
    let relay = stalled.peer_addr().unwrap();
    assert!(flows.state().relays[&relay].has_unread());
    let flow = flows.state().flows.values().find(|flow| flow.back.at == relay).cloned().unwrap();
    assert!((1..1 << 20).contains(&flow.queued()) && flow.dropped() == 0);
    // Nothing waits for ever for a flow that is over.
    flow.end();
    within(async {
        while flows.state().flows.values().all(|other| other.back.at != relay || Arc::ptr_eq(other, &flow)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_flow_that_finds_no_way_is_not_tried_for_each_datagram() {
    let (pod, flows) = flows();
    let relay = flows.shared(NO_WAY).unwrap().relay;
    let (app, echo) = (app().await, flows.shared(ECHO).unwrap().relay);
    for _ in 0..50 {
        app.send_to(b"x", relay).await.unwrap();
        comes_back(&app, echo, b"meanwhile").await;
    }
    assert!(pod.opened.load(Ordering::SeqCst) < 10);
}

#[tokio::test]
async fn a_flow_ends_when_it_was_idle_for_long_enough_and_one_of_dns_sooner() {
    let (pod, flows) = flows();
    let relay = |port| Arc::new(Relay::open(SocketAddr::new(ECHO.ip(), port), None).unwrap());
    let idle_for = |port, seconds| {
        let relay = relay(port);
        let mut flow = Flow::new(Arc::clone(&relay), ECHO, relay.destination);
        flow.used = Used::ago(Duration::from_secs(seconds));
        flow
    };
    for (port, seconds, over) in [(7, 59, false), (7, 60, true), (53, 9, false), (53, 10, true)] {
        assert_eq!(idle_for(port, seconds).idle().now_or_never().is_some(), over, "{port} {seconds}");
    }
    let over = Arc::new(idle_for(7, 60));
    Arc::clone(&flows).carry(Arc::clone(&over)).await;
    assert!(over.has_ended() && over.push(b"x") == Pushed::Over);
    // The next datagram opens another.
    let (app, shared) = (app().await, flows.shared(ECHO).unwrap().relay);
    comes_back(&app, shared, b"x").await;
    let flow = flows.state().flows.values().next().cloned().unwrap();
    flow.end();
    within(flow.ended()).await;
    comes_back(&app, shared, b"x").await;
    assert_eq!(pod.opened.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_flow_that_the_pod_ends_is_over() {
    let (pod, flows) = flows();
    let (app, relay) = (app().await, flows.shared(ENDS).unwrap().relay);
    for opened in 1..=3 {
        comes_back(&app, relay, b"x").await;
        assert_eq!(pod.opened.load(Ordering::SeqCst), opened);
        while !flows.state().flows.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_relay_stays_while_a_socket_is_connected_to_it_and_goes_then() {
    let (_, flows) = flows();
    let app = connected(&flows, ECHO).await;
    let relay = app.peer_addr().unwrap();
    let known = keep::connected().unwrap();
    assert!(known.contains(&relay));
    flows.sweep(Some(&known), Duration::from_secs(3600));
    assert_eq!(flows.behind(relay), Some(ECHO));
    drop(app);
    let known = keep::connected().unwrap();
    flows.sweep(Some(&known), Duration::from_secs(3600));
    assert_eq!(flows.behind(relay), None);
}

#[tokio::test]
async fn what_was_sent_is_delivered_before_the_end() {
    let (_, flows) = flows();
    let relay = flows.shared(ECHO).unwrap().relay;
    let app = app().await;
    for _ in 0..10 {
        app.send_to(b"last words", relay).await.unwrap();
    }
    flows.drain(Duration::from_secs(10)).await;
    let mut got = [0; 32];
    for _ in 0..10 {
        assert_eq!(within(app.recv(&mut got)).await.unwrap(), 10);
    }
}
